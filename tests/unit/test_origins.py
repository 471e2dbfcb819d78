"""Which pages of which sites may talk to the service."""

import pytest

from notify.origins import OriginPolicy

HOST = "notify.example:8443"


@pytest.mark.parametrize("policy", [OriginPolicy([]), OriginPolicy(["https://app.example"])])
def test_what_is_no_browser_is_not_held_to_an_origin(policy: OriginPolicy) -> None:
    assert policy.admits(None, HOST)


@pytest.mark.parametrize(
    ("origin", "host", "admitted"),
    [
        ("https://notify.example:8443", HOST, True),
        ("http://notify.example:8443", HOST, True),  # behind a proxy that ends TLS, the scheme is not known
        ("HTTPS://Notify.Example:8443", HOST, True),
        ("https://notify.example:8443", "NOTIFY.example:8443", True),
        ("https://notify.example", HOST, False),
        ("https://notify.example:8444", HOST, False),
        ("https://evil.example", HOST, False),
        ("https://notify.example:8443.evil.example", HOST, False),
        ("https://evil.example/notify.example:8443", HOST, False),
        ("ftp://notify.example:8443", HOST, False),
        ("null", HOST, False),
        ("null", "null", False),
        ("", "", False),
        ("https://", "", False),
        ("https://[", HOST, False),
        ("https://user@notify.example:8443", HOST, False),
    ],
)
def test_without_a_list_only_the_same_origin_is_admitted(origin: str, host: str, *, admitted: bool) -> None:
    assert OriginPolicy([]).admits(origin, host) is admitted


@pytest.mark.parametrize(
    ("origin", "admitted"),
    [
        ("https://app.example", True),
        ("https://APP.example", True),
        ("http://app.example", False),
        ("https://app.example:444", False),
        ("https://app.example.evil.example", False),
        ("https://sub.app.example", False),
    ],
)
def test_an_origin_of_the_list_is_compared_as_a_whole(origin: str, *, admitted: bool) -> None:
    assert OriginPolicy(["https://App.example/"]).admits(origin, HOST) is admitted


@pytest.mark.parametrize("origin", ["https://anything.example", "null", "file://"])
def test_a_star_admits_everybody(origin: str) -> None:
    assert OriginPolicy(["*"]).admits(origin, HOST)


@pytest.mark.parametrize(
    ("origin", "loopback"),
    [
        ("http://localhost:3000", True),
        ("http://127.0.0.1:5173", True),
        ("http://[::1]:3000", True),
        ("http://localhost.evil.example", False),
        ("http://192.168.0.7:3000", False),
        ("file://localhost", False),
    ],
)
def test_pages_of_the_same_machine_are_admitted_in_development_only(origin: str, *, loopback: bool) -> None:
    assert OriginPolicy([], loopback=True).admits(origin, HOST) is loopback
    assert not OriginPolicy([]).admits(origin, HOST)
