"""What an answer says stays on its lines."""

import pytest

from notify.api.answers import Headers, write_lines


def test_headers_are_written_each_on_its_line() -> None:
    assert write_lines([(b"x-one", b"1"), (b"x-none", b""), (b"x-tab", b"a\tb \xe4")]) == (
        b"x-one: 1\r\nx-none: \r\nx-tab: a\tb \xe4\r\n"
    )
    assert write_lines([]) == b""


@pytest.mark.parametrize(
    "headers",
    [
        [(b"x", b"1\r\ny: 2")],
        [(b"x\r\ny", b"1")],
        [(b"x", b"1\r\n")],
        [(b"x", b"1\n")],
        [(b"x", b"a\x00b")],
        [(b"", b"1")],
        [(b"x y", b"1")],
        [(b"x:", b"1")],
        [(b"good", b"1"), (b"x", b"1\r\n\r\nbody")],
    ],
    ids=repr,
)
def test_what_would_leave_its_line_is_refused(headers: Headers) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        write_lines(headers)
