"""The lean paths, which the framework does not see into: sending and the event stream are plain ASGI functions.

Their bodies and answers are the structs that producers.py reads and writes; a test holds that no such path is missing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from notify.api.described import JSON, MSGPACK, Answer, Body, Description
from notify.api.events import MEDIA_EVENT, MEDIA_EVENTS, EventRequest
from notify.api.plain import PATH_SEND, Sent
from notify.api.producers import PATH_BATCH, BatchSent
from notify.api.reference.parameters import RESUMING
from notify.api.requests import BatchRequest, SendRequest
from notify.api.stream import PATH_STREAM
from notify.errors import InFlight, KeyReused, RateLimited
from notify.settings import Settings

EXAMPLE_ID = "01943f2e-7c3a-7b21-9d6e-4f0a8c5b2e17"
EXAMPLE_EPOCH = "5d1f0c9a7be34421"
EXAMPLE_TIME = "2026-01-08T09:30:00Z"
EXAMPLE_SEND = {"to": "alice", "type": "order.shipped", "data": {"order": 7}}

EXAMPLE_EVENT = {
    "specversion": "1.0",
    "id": "A234-1234",
    "source": "/shops/7/orders",
    "type": "order.shipped",
    "subject": "alice",
    "data": {"order": 7},
}
ONE_EVENT = {MEDIA_EVENT: Body(EventRequest, EXAMPLE_EVENT)}
SEVERAL_EVENTS = {MEDIA_EVENTS: Body(Annotated[list[EventRequest], Meta(min_length=1)], [EXAMPLE_EVENT])}

MAX_BATCH: int = Settings.model_fields["max_batch"].default

KEY_HEADER = {
    "Idempotency-Key": "At most 255 characters, kept for 24 hours. The same key and body give the first answer again; "
    "another body is a 422; a key still in flight is a 409. Keys belong to the app that sent them. Not looked at beside an "
    "event, whose `source` and `id` are its key.",
    "traceparent": "The trace this belongs to (W3C Trace Context): carried to the frames; ignored where it is not valid.",
}
REPLAYED_HEADER = {"Idempotent-Replayed": "`true` when this is an earlier answer given again."}


@dataclass(frozen=True, slots=True)
class LeanRoute:
    """One operation of a plain ASGI function. `query` names parameters that parameters.py knows."""

    method: str
    path: str
    operation_id: str
    summary: str
    text: str
    description: Description
    query: Sequence[str] = ()


LEAN_ROUTES = (
    LeanRoute(
        "post",
        PATH_SEND,
        "sendNotification",
        "Send a notification",
        "Answered after the commit: what got a 201 is stored and is delivered live, or when the user is back.\n\n"
        "Bytes in the `data` of a MessagePack body stay bytes for MessagePack clients and read "
        '`{"$bytes": "<base64>"}` in JSON.\n\n'
        "CloudEvents 1.0 are taken as they are, one, several (answered as a batch is), or one in `ce-` headers with its data "
        "as the body. `subject` is the recipient; `source` and `id` are the idempotency key: the same event again is "
        "answered as it was first, another `subject`, `type` or `data` under them is a 422.",
        Description(
            takes=SendRequest,
            media=(JSON, MSGPACK),
            example=EXAMPLE_SEND,
            besides=ONE_EVENT | SEVERAL_EVENTS,
            headers=KEY_HEADER,
            answers={
                201: Answer(
                    "Stored. Several events are answered as a batch is.",
                    Sent | BatchSent,
                    headers={"Location": "Where to follow the notification.", **REPLAYED_HEADER},
                    example={"id": EXAMPLE_ID, "recipients": 1, "created_at": EXAMPLE_TIME},
                ),
                202: Answer("With `ttl: 0`: handed to whoever is connected, not stored.", Sent | BatchSent),
            },
            problems=(InFlight, KeyReused, RateLimited),
        ),
    ),
    LeanRoute(
        "post",
        PATH_BATCH,
        "sendBatch",
        "Send several notifications",
        f"All or nothing: 1 to {MAX_BATCH} notifications, stored in one commit. The limit on recipients counts those "
        "of all of them together.",
        Description(
            takes=BatchRequest,
            media=(JSON, MSGPACK),
            example={"notifications": [EXAMPLE_SEND, {"to": ["bob", "carol"], "type": "news"}]},
            besides=SEVERAL_EVENTS,
            headers=KEY_HEADER,
            answers={
                201: Answer(
                    "Stored; the ids are in the order of the notifications.",
                    BatchSent,
                    headers=REPLAYED_HEADER,
                    example={"ids": [EXAMPLE_ID, "01943f2e-7c3a-7b21-9d6e-4f0a8c5b2e18"]},
                ),
                202: Answer("With `ttl: 0` throughout: handed to whoever is connected, not stored.", BatchSent),
            },
            problems=(InFlight, KeyReused, RateLimited),
        ),
    ),
    LeanRoute(
        "get",
        PATH_STREAM,
        "stream",
        "Follow the mailbox as server-sent events",
        "The frames of the WebSocket, for networks that block it: `event:` is the op, `data:` the JSON frame, `id:` is "
        "`EPOCH:SEQ`. Read it with `fetch`, since EventSource can't send the token, and acknowledge with "
        "`POST /v1/inbox/ack`, naming the epoch.",
        Description(
            headers={"Last-Event-ID": "The last `id:` received, `EPOCH:SEQ`; resumes after it."},
            answers={
                200: Answer(
                    "Frames, until either side leaves; a `disconnect` event says why.",
                    media="text/event-stream",
                    example=f'event: caught_up\nid: {EXAMPLE_EPOCH}:57\ndata: {{"op":"caught_up","seq":57}}\n\n',
                )
            },
        ),
        query=tuple(RESUMING),
    ),
)
