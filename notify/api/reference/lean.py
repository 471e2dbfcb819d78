"""The two sending paths, which the framework does not see: they are plain ASGI functions (see producers.py).

Their bodies and answers are the structs that producers.py reads and writes; a test holds that no such path is missing.
"""

from dataclasses import dataclass

from notify.api.described import JSON, MSGPACK, Answer, Description
from notify.api.producers import PATH_BATCH, PATH_SEND, BatchSent, Sent
from notify.api.requests import BatchRequest, SendRequest
from notify.errors import InFlight, KeyReused, RateLimited
from notify.settings import Settings

EXAMPLE_ID = "01943f2e-7c3a-7b21-9d6e-4f0a8c5b2e17"
EXAMPLE_TIME = "2026-01-08T09:30:00Z"
EXAMPLE_SEND = {"to": "alice", "type": "order.shipped", "data": {"order": 7}}

MAX_BATCH: int = Settings.model_fields["max_batch"].default

KEY_HEADER = {
    "Idempotency-Key": "At most 255 characters, kept for 24 hours. The same key and body give the first answer again; "
    "another body is a 422; a key still in flight is a 409. Keys belong to the app that sent them."
}
REPLAYED_HEADER = {"Idempotent-Replayed": "`true` when this is an earlier answer given again."}


@dataclass(frozen=True, slots=True)
class LeanRoute:
    """One operation of a plain ASGI function; its method is always POST."""

    path: str
    operation_id: str
    summary: str
    text: str
    description: Description


LEAN_ROUTES = (
    LeanRoute(
        PATH_SEND,
        "sendNotification",
        "Send a notification",
        "Answered after the commit: what got a 201 is stored and will be delivered, live or when the user is back.\n\n"
        "Bytes in the `data` of a MessagePack body stay bytes for MessagePack clients and read "
        '`{"$bytes": "<base64>"}` in JSON.',
        Description(
            takes=SendRequest,
            media=(JSON, MSGPACK),
            example=EXAMPLE_SEND,
            headers=KEY_HEADER,
            answers={
                201: Answer(
                    "Stored.",
                    Sent,
                    headers={"Location": "Where to follow the notification.", **REPLAYED_HEADER},
                    example={"id": EXAMPLE_ID, "recipients": 1, "created_at": EXAMPLE_TIME},
                )
            },
            problems=(InFlight, KeyReused, RateLimited),
        ),
    ),
    LeanRoute(
        PATH_BATCH,
        "sendBatch",
        "Send several notifications",
        f"All or nothing: 1 to {MAX_BATCH} notifications, stored in one commit. The limit on recipients counts those of "
        "all of them together.",
        Description(
            takes=BatchRequest,
            media=(JSON, MSGPACK),
            example={"notifications": [EXAMPLE_SEND, {"to": ["bob", "carol"], "type": "news"}]},
            headers=KEY_HEADER,
            answers={
                201: Answer(
                    "Stored; the ids are in the order of the notifications.",
                    BatchSent,
                    headers=REPLAYED_HEADER,
                    example={"ids": [EXAMPLE_ID, "01943f2e-7c3a-7b21-9d6e-4f0a8c5b2e18"]},
                )
            },
            problems=(InFlight, KeyReused, RateLimited),
        ),
    ),
)
