"""One notification: its life from accepted to read, for each recipient. Its payload only when asked for."""

from typing import Any
from uuid import UUID

import msgspec
from litestar import Response, get
from litestar.di import NamedDependency
from litestar.plugins.htmx import HTMXRequest

from notify.api.admin.common import read_place, write_place
from notify.api.services import Services
from notify.console.charts import draw_shares
from notify.console.rendering import show
from notify.console.session import require_visitor
from notify.console.wording import say_number
from notify.errors import NotFound
from notify.store.notifications import StoredNotification

PAGE = 50
"""Recipients of a page."""


@get("/notification")
async def notification_page(request: HTMXRequest, services: NamedDependency[Services]) -> Response[Any]:
    """Show what became of a notification."""
    visitor = await require_visitor(request, services)
    wanted = read_uuid(request.query_params.get("id"))
    store = services.store.notifications
    found = await store.find(wanted)
    if found is None:
        raise NotFound(
            "There is no notification with this id: it never was, was sent with ttl 0, or retention has removed it."
        )
    counts = await store.count(found.id)
    after = read_place(request.query_params.get("cursor"), str)
    receipts = await store.list_receipts(found.id, after=after or "", limit=PAGE + 1)
    words = ", ".join(f"{say_number(count)} {status}" for status, count in counts.items() if count)
    return show(
        request,
        visitor,
        "notification.html",
        section="queues",
        item=found,
        counts=counts,
        waiting=counts["pending"] + counts["scheduled"],
        shares=draw_shares(f"Recipients: {words or 'none'}", counts),
        receipts=receipts[:PAGE],
        is_first=after is None,
        next=write_place(receipts[PAGE - 1].user) if len(receipts) > PAGE else None,
        payload=write_payload(found) if request.query_params.get("payload") == "shown" else None,
    )


def read_uuid(text: str | None) -> UUID:
    """Return an id. Raises NotFound: what can't be an id names nothing."""
    try:
        return UUID(text or "")
    except ValueError:
        raise NotFound(
            "That is not the id of a notification: 32 hexadecimal digits, as sending answered with."
        ) from None


def write_payload(found: StoredNotification) -> str:
    """Return the data to be read by a person, as it came where it can't be laid out."""
    try:
        return msgspec.json.format(found.data_as_json(), indent=2).decode()
    except (msgspec.MsgspecError, RecursionError, ValueError):
        return found.data.decode(errors="replace")
