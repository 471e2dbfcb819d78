"""A report as a picture: each target as a bar, its length the ratio to what was asked, the line where it is met."""

from html import escape

from notify.bench.report import number
from notify.bench.result import Goal, Report

WIDTH, ROW, LEFT, TOP = 860, 44, 300, 70
FULL = 480
"""Pixels of the longest bar, which stands for twice the target."""

LONGEST = 2.0
GOOD, BAD, INK, PALE = "#2a9d6f", "#d1495b", "#1d2733", "#dfe5ea"


def draw(report: Report) -> str:
    """Return an SVG."""
    goals = report.targets
    bottom = TOP + ROW * max(1, len(goals))
    height = bottom + 90
    line = LEFT + FULL / LONGEST
    size = f'width="{WIDTH}" height="{height}"'
    style = f'viewBox="0 0 {WIDTH} {height}" font-family="system-ui, sans-serif" font-size="13" fill="{INK}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>',
        f'<rect {size} fill="white"/>',
        text(20, 30, f"notify bench: {report.settings['users']} users, {report.machine['cores']} cores", "start"),
        text(line, TOP - 12, "target", "middle"),
    ]
    for place, goal in enumerate(goals):
        y = TOP + place * ROW
        length = max(2.0, min(score(goal), LONGEST) / LONGEST * FULL)
        parts += [
            text(LEFT - 12, y + 22, f"{goal.name} ({goal.goal})", "end"),
            f'<rect x="{LEFT}" y="{y + 6}" width="{FULL}" height="24" fill="{PALE}"/>',
            f'<rect x="{LEFT}" y="{y + 6}" width="{length:.1f}" height="24" fill="{GOOD if goal.met else BAD}"/>',
            text(LEFT + 8, y + 23, f"{number(goal.measured)} {goal.unit}", "start"),
        ]
    parts += [
        f'<path d="M{line} {TOP - 6}V{bottom}" stroke="{INK}" stroke-dasharray="4 3"/>',
        *(text(20, bottom + 30 + 24 * place, words, "start") for place, words in enumerate(summarize(report))),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def text(x: float, y: float, words: str, anchor: str) -> str:
    """Return a text element."""
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}">{escape(words)}</text>'


def summarize(report: Report) -> list[str]:
    """Return the lines under the bars."""
    latency, single, batch = report.latency, report.single, report.batch
    phases = report.phases.values()
    lost, doubled, disordered = (
        sum(getattr(phase, name) for phase in phases) for name in ("lost", "duplicates", "out_of_order")
    )
    percentiles = f"p50 {latency.p50_ms:.2f}, p95 {latency.p95_ms:.2f}, p99 {latency.p99_ms:.2f} ms"
    rates = f"{single.per_second:,.0f}/s one by one, {batch.per_second:,.0f}/s in batches of {batch.batch}"
    return [
        f"at {latency.rate:g}/s: {percentiles}; {rates}",
        f"lost {lost}, duplicates {doubled}, out of order {disordered}",
    ]


def score(goal: Goal) -> float:
    """Return how well a target is met, 1 being just so; less is better turned round. Without a ratio: met or not."""
    if goal.ratio is None:
        return 1.25 if goal.met else 0.75
    limit = float(goal.goal.split()[1])
    return limit / max(goal.ratio, 1e-9) if goal.goal.startswith("≤") else goal.ratio / limit
