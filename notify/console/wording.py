"""How the pages say times, sizes and numbers. Pure, except for the clock.

Every time is UTC, beside how long ago that was; nothing depends on where the server or the reader is.
"""

from datetime import UTC, datetime
from urllib.parse import urlencode

from markupsafe import Markup

from notify import clock

MINUTE, HOUR, DAY = 60, 3_600, 86_400
"""Seconds."""

KIB = 1024


def say_duration(seconds: float) -> str:
    """Say a length of time in its largest unit, and the next for hours and days."""
    seconds = abs(seconds)
    if seconds < MINUTE:
        return f"{int(seconds)} s"
    if seconds < HOUR:
        return f"{int(seconds // MINUTE)} min"
    if seconds < DAY:
        hours, minutes = divmod(int(seconds // MINUTE), 60)
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(int(seconds // HOUR), 24)
    return f"{days} d {hours} h" if hours else f"{days} d"


def say_ago(at: datetime) -> str:
    """Say how long ago something was, or how soon it will be."""
    seconds = clock.now() - at.timestamp()
    if abs(seconds) < 1:
        return "just now"
    return f"{say_duration(seconds)} ago" if seconds > 0 else f"in {say_duration(seconds)}"


def say_utc(at: datetime) -> str:
    """Say a moment to the second, in UTC."""
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


def mark_time(at: datetime | None) -> Markup:
    """Return a moment both ways, as a <time>; a dash where there is none."""
    if at is None:
        return Markup('<span class="none">never</span>')
    return Markup('<time datetime="{}"><span>{}</span> <small>{} UTC</small></time>').format(
        at.astimezone(UTC).isoformat(), say_ago(at), say_utc(at)
    )


def say_number(value: float) -> str:
    """Say a count with its thousands apart."""
    return f"{value:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def say_rate(value: float) -> str:
    """Say a rate with as many digits as it has."""
    return say_number(round(value)) if value >= 100 else f"{value:.1f}"  # noqa: PLR2004 - three digits are enough


def say_bytes(size: int) -> str:
    """Say a size in binary units."""
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < KIB:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 10 else f"{value:.1f} {unit}"  # noqa: PLR2004 - two digits
        value /= KIB
    return f"{value:.1f} TiB"


def say_milliseconds(value: float | None) -> str:
    """Say a latency."""
    if value is None:
        return "–"  # noqa: RUF001 - a dash for nothing, not a minus
    return f"{value:.1f} ms" if value < 100 else f"{value:,.0f} ms"  # noqa: PLR2004 - three digits are enough


def say_count(count: int, one: str, many: str = "") -> str:
    """Say how many of something: 1 session, 2 sessions."""
    return f"{say_number(count)} {one if count == 1 else many or one + 's'}"


def link(path: str, **query: object) -> str:
    """Return a path of the console with a query; what is empty or None is left out."""
    wanted = {name: str(value) for name, value in query.items() if value not in {None, ""}}
    return path + ("?" + urlencode(wanted) if wanted else "")
