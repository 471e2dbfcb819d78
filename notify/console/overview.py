"""The first page: is it healthy, how much waits since when, how fast does it go."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from litestar import Response, get
from litestar.di import NamedDependency
from litestar.plugins.htmx import HTMXRequest
from markupsafe import Markup

from notify.api.admin.common import now
from notify.api.admin.overview import HOUR_SECONDS, RECENT_SECONDS, ChartPoint, Rates, draw, sum_samples
from notify.api.services import Services
from notify.console.charts import Line, draw_lines
from notify.console.rendering import show
from notify.console.session import require_visitor
from notify.console.wording import say_duration, say_milliseconds
from notify.store.sessions import NodeState

OLD_SECONDS = 300.0
"""Pending for longer than this is worth a look: nobody of the user's devices was there to take it."""

LATE_SECONDS = 10.0
"""A node that was not heard of for so long is late: it reports every two seconds."""

FIRST_QUEUES = 5
"""Queues shown here; the rest have a page of their own."""


@get("/")
async def overview_page(request: HTMXRequest, services: NamedDependency[Services]) -> Response[Any]:
    """Show how everything stands."""
    visitor = await require_visitor(request, services)
    store = services.store
    total = await store.backlog.sum()
    sessions, users = await store.sessions.count()
    samples = await store.activity_log.samples(HOUR_SECONDS)
    nodes = await store.sessions.nodes()
    moment = now()
    recent = [sample for sample in samples if sample.at > moment - timedelta(seconds=RECENT_SECONDS)]
    # A minute that isn't over, or that is cut off at its beginning, would look like a collapse.
    history = [
        point
        for point in draw(samples)
        if moment - timedelta(seconds=HOUR_SECONDS) <= point.at <= moment - timedelta(seconds=60)
    ]
    rates = Rates(*sum_samples(recent, RECENT_SECONDS))
    return show(
        request,
        visitor,
        "overview.html",
        section="overview",
        total=total,
        age=None if total.oldest_at is None else max(0.0, (moment - total.oldest_at).total_seconds()),
        sessions=sessions,
        users=users,
        outbox=await store.activity_log.outbox(),
        rates=rates,
        rates_chart=draw_rates(history),
        latency_chart=draw_latency(history),
        has_history=bool(history),
        nodes=nodes,
        troubles=find_troubles(nodes),
        late=LATE_SECONDS,
        old=OLD_SECONDS,
        queues=await store.backlog.oldest(prefix="", after=None, limit=FIRST_QUEUES),
    )


def find_troubles(nodes: Sequence[NodeState]) -> list[str]:
    """Say what is wrong with the nodes, in words that tell what to do."""
    moment = now()
    troubles = []
    for node in nodes:
        name = f"{node.host}, process {node.pid}"
        silent = (moment - node.seen_at).total_seconds()
        if silent > LATE_SECONDS:
            troubles.append(
                f"{name} was last heard of {say_duration(silent)} ago: is it frozen, or cut off from the database?"
            )
        elif not node.listening and not node.draining:
            troubles.append(
                f"The LISTEN link of {name} is down: its clients get what is new only with its next sweep. See its log."
            )
    if not nodes:
        troubles.append(
            "No node has reported for 30 seconds. The one that shows this page can't write to the database."
        )
    return troubles


def draw_rates(history: list[ChartPoint]) -> Markup:
    """Return the chart of what happens a second."""
    last = history[-1] if history else None
    words = (
        f"now {last.sent:g} sent, {last.delivered:g} delivered, {last.acked:g} acknowledged" if last else "nothing yet"
    )
    return draw_lines(
        f"Recipients a second over the last hour: {words}",
        [
            Line("sent", "one", [(point.at, point.sent) for point in history]),
            Line("delivered", "two", [(point.at, point.delivered) for point in history]),
            Line("acknowledged", "three", [(point.at, point.acked) for point in history]),
        ],
        until=now(),
    )


def draw_latency(history: list[ChartPoint]) -> Markup:
    """Return the chart of the delivery latency."""
    last = next((point for point in reversed(history) if point.p50_ms is not None), None)
    words = (
        f"lately p50 {say_milliseconds(last.p50_ms)}, p95 {say_milliseconds(last.p95_ms)}" if last else "nothing yet"
    )
    return draw_lines(
        f"Delivery latency in milliseconds over the last hour: {words}",
        [
            Line("p50", "two", [(point.at, point.p50_ms) for point in history]),
            Line("p95", "four", [(point.at, point.p95_ms) for point in history]),
        ],
        until=now(),
    )
