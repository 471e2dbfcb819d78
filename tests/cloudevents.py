"""CloudEvents as the tests send them."""

import json
from typing import Any

import httpx

from tests.service import SEND, Address, bearer

EVENT = "application/cloudevents+json"
EVENTS = "application/cloudevents-batch+json"
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def event(identifier: str = "1", **attributes: Any) -> dict[str, Any]:
    """Write an event for alice."""
    whole = {"specversion": "1.0", "id": identifier, "source": "/shops/7", "type": "order.shipped", "subject": "alice"}
    return {**whole, "data": {"order": 7}, **attributes}


async def post(
    service: Address, body: object, media: str = EVENT, *, path: str = "/v1/notifications", **headers: str
) -> httpx.Response:
    """POST events as the app `shop`; header names have underscores here."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    sent = bearer("shop", scope=SEND) | {"Content-Type": media} | named
    return await service.client.post(path, content=content, headers=sent)
