"""What the console draws and how it says things, without a service."""

import xml.etree.ElementTree as ET
from datetime import UTC, datetime, timedelta

import pytest

from notify import clock
from notify.console.charts import Line, draw_lines, draw_shares, round_up
from notify.console.rendering import read_next
from notify.console.wording import link, mark_time, say_ago, say_bytes, say_count, say_duration, say_number

NOON = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)


def draw(*points: tuple[int, float | None]) -> ET.Element:
    """Draw one line through (minutes ago, value); the chart has to be well-formed."""
    line = Line("sent", "one", [(NOON - timedelta(minutes=ago), value) for ago, value in points])
    return ET.fromstring(draw_lines("<sent> & received", [line], until=NOON))  # noqa: S314 - drawn right here


def test_a_chart_without_points_is_a_chart() -> None:
    assert draw().findtext("title") == "<sent> & received"
    assert [path.get("d") for path in draw().iter("path")] == [""]


def test_a_line_is_not_drawn_over_time_that_nobody_measured() -> None:
    [path] = draw((30, 1.0), (29, 2.0), (5, 3.0), (4, 4.0)).iter("path")
    assert [step[0] for step in str(path.get("d")).split() if step[0].isalpha()] == ["M", "L", "M", "L"]


def test_a_point_alone_is_seen() -> None:
    assert len(list(draw((30, 1.0), (20, None)).iter("circle"))) == 1


def test_what_is_older_than_the_chart_is_left_out() -> None:
    assert [path.get("d") for path in draw((90, 5.0)).iter("path")] == [""]


@pytest.mark.parametrize(
    ("value", "top"), [(0, 1), (-1, 1), (float("inf"), 1), (1, 1), (1.1, 2), (37, 40), (81, 100), (0.003, 0.004)]
)
def test_an_axis_ends_at_a_round_number_that_is_no_less(value: float, top: float) -> None:
    assert round_up(value) == pytest.approx(top)


def test_shares_fill_the_bar_and_nothing_fills_none() -> None:
    bar = ET.fromstring(draw_shares("two", {"pending": 1, "read": 3, "expired": 0}))  # noqa: S314 - drawn right here
    assert [(rect.get("class"), rect.get("width")) for rect in bar.iter("rect")] == [
        ("share pending", "160.00"),
        ("share read", "480.00"),
    ]
    assert "rect" not in draw_shares("none", {"pending": 0})


def test_lengths_of_time_are_said_in_two_units_at_most() -> None:
    assert [say_duration(seconds) for seconds in (0.4, 59, 61, 3600, 3720, 86_400, 90_000)] == [
        "0 s", "59 s", "1 min", "1 h", "1 h 2 min", "1 d", "1 d 1 h",
    ]  # fmt: skip


def test_a_moment_is_said_both_ways() -> None:
    now = datetime.fromtimestamp(clock.now(), UTC)
    assert say_ago(now) == "just now"
    assert say_ago(now - timedelta(minutes=5, seconds=1)) == "5 min ago"
    assert say_ago(now + timedelta(minutes=5, seconds=1)) == "in 5 min"
    assert "2026-01-02 12:00:00 UTC" in mark_time(NOON)
    assert "never" in mark_time(None)


def test_numbers_are_said_for_people() -> None:
    assert say_number(1234567) == "1\N{NARROW NO-BREAK SPACE}234\N{NARROW NO-BREAK SPACE}567"
    assert (say_count(1, "session"), say_count(0, "session")) == ("1 session", "0 sessions")
    assert [say_bytes(size) for size in (0, 1023, 1536, 20 * 1024**2, 5 * 1024**4)] == [
        "0 B", "1023 B", "1.5 KiB", "20 MiB", "5.0 TiB",
    ]  # fmt: skip


def test_a_link_holds_any_id_and_leaves_out_what_is_empty() -> None:
    assert link("/admin/user", id="a/b?&=é#", q="", cursor=None) == "/admin/user?id=a%2Fb%3F%26%3D%C3%A9%23"


@pytest.mark.parametrize(
    "path", [None, "", "/", "//evil", "https://evil", "/adminx", "/admin/\\x", "/admin/../v1", "/admin/\r\nX: y"]
)
def test_signing_in_never_leads_elsewhere(path: str | None) -> None:
    assert read_next(path) == "/admin"


@pytest.mark.parametrize("path", ["/admin", "/admin/queues?sort=age&q=..", "/admin/user?id=a%2Fb", "/admin?x=1"])
def test_signing_in_leads_back_to_where_one_was(path: str) -> None:
    assert read_next(path) == path
