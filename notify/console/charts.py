"""Charts as SVG, drawn here: no script, no style attribute, so that the strictest content policy holds.

Every chart says in words what it shows (its <title>), and its numbers stand beside it on the page.
"""

import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

import msgspec
from markupsafe import Markup

WIDTH, HEIGHT = 640, 200
LEFT, RIGHT, TOP, BOTTOM = 48, 8, 12, 26
"""Of the drawing, in its own units: it is scaled to the page."""

STEPS = 4
"""Lines of the grid."""

TICK_MINUTES = 15
"""Between two times on the axis."""

GAP = timedelta(seconds=150)
"""Two points further apart than this are not joined: nobody measured in between."""


class Line(msgspec.Struct, frozen=True):
    """One line of a chart: its name, and a value for each moment, or None where there is none. `mark` is its class."""

    name: str
    mark: str
    points: Sequence[tuple[datetime, float | None]]


def draw_lines(title: str, lines: Sequence[Line], *, until: datetime, hours: float = 1.0, unit: str = "") -> Markup:
    """Return a line chart of the hours before `until`."""
    since = until - timedelta(hours=hours)
    highest = max(
        (value for line in lines for at, value in line.points if value is not None and at >= since), default=0.0
    )
    top = round_up(highest)
    return Markup(
        '<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}"><title>{}</title>{}{}{}</svg>'
    ).format(
        WIDTH,
        HEIGHT,
        title,
        title,
        _draw_grid(top, unit),
        _draw_times(since, until),
        Markup("").join(_draw_line(line, since, until, top) for line in lines),
    )


def draw_shares(title: str, shares: Mapping[str, int]) -> Markup:
    """Return one bar, parted by shares; each part has its name as class."""
    total = sum(shares.values())
    parts = []
    place = 0.0
    for name, count in shares.items():
        if total and count:
            width = count / total * WIDTH
            parts.append(
                Markup('<rect class="share {}" x="{:.2f}" y="0" width="{:.2f}" height="16"/>').format(
                    name, place, width
                )
            )
            place += width
    return Markup(
        '<svg class="shares" viewBox="0 0 {} 16" preserveAspectRatio="none" role="img" aria-label="{}"><title>{}</title>{}</svg>'
    ).format(WIDTH, title, title, Markup("").join(parts))


def round_up(value: float) -> float:
    """Return a round number that is no less, for the top of an axis: 1, 2, 4 or 8 times a power of ten."""
    if value <= 0 or not math.isfinite(value):
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(factor * power for factor in (1, 2, 4, 8, 10) if factor * power >= value * (1 - 1e-9))


def _x(at: datetime, since: datetime, until: datetime) -> float:
    return LEFT + (at - since) / (until - since) * (WIDTH - LEFT - RIGHT)


def _y(value: float, top: float) -> float:
    return HEIGHT - BOTTOM - value / top * (HEIGHT - TOP - BOTTOM)


def _draw_grid(top: float, unit: str) -> Markup:
    marks = [top * step / STEPS for step in range(STEPS + 1)]
    return Markup("").join(
        Markup(
            '<line class="grid" x1="{}" x2="{}" y1="{y:.1f}" y2="{y:.1f}"/><text class="value" x="{}" y="{:.1f}">{}</text>'
        ).format(LEFT, WIDTH - RIGHT, LEFT - 6, _y(mark, top) + 4, f"{mark:g}{unit}", y=_y(mark, top))
        for mark in marks
    )


def _draw_times(since: datetime, until: datetime) -> Markup:
    first = since.replace(minute=since.minute // TICK_MINUTES * TICK_MINUTES, second=0, microsecond=0)
    times = [first + timedelta(minutes=TICK_MINUTES) * step for step in range(1, 6)]
    return Markup("").join(
        Markup('<text class="time" x="{:.1f}" y="{}">{}</text>').format(
            _x(at, since, until), HEIGHT - 6, at.strftime("%H:%M")
        )
        for at in times
        if at <= until - timedelta(minutes=1)
    )


def _draw_line(line: Line, since: datetime, until: datetime, top: float) -> Markup:
    steps: list[str] = []
    dots: list[Markup] = []
    before: datetime | None = None
    shown = [(at, value) for at, value in line.points if value is not None and since <= at <= until]
    for place, (at, value) in enumerate(shown):
        x, y = _x(at, since, until), _y(value, top)
        joined = before is not None and at - before <= GAP
        steps.append(f"{'L' if joined else 'M'}{x:.1f} {y:.1f}")
        before = at
        follows = place + 1 < len(shown) and shown[place + 1][0] - at <= GAP
        if not joined and not follows:  # alone it would be a line without length
            dots.append(Markup('<circle class="dot {}" cx="{:.1f}" cy="{:.1f}" r="2.5"/>').format(line.mark, x, y))
    return Markup('<path class="line {}" d="{}"/>').format(line.mark, " ".join(steps)) + Markup("").join(dots)
