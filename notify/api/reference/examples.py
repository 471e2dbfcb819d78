"""One example of every frame, as the structs themselves: what is published went through the codec."""

import json
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import msgspec

from notify.api.reference.lean import EXAMPLE_EPOCH, EXAMPLE_ID, EXAMPLE_TIME
from notify.errors import Close
from notify.frames import (
    Ack,
    Auth,
    Authenticated,
    CaughtUp,
    Disconnect,
    ErrorFrame,
    Frame,
    NotificationFrame,
    Ping,
    Pong,
    Read,
    ReadMark,
    Retract,
    Truncated,
    Welcome,
)

_ID = UUID(EXAMPLE_ID)

SERVER_EXAMPLES: Mapping[type[Frame], Sequence[Frame]] = {
    Welcome: [
        Welcome(
            session="01943f30-1d52-7e0c-8a41-b1b6f2f0c9d4",
            user="alice",
            device="default",
            epoch=EXAMPLE_EPOCH,
            after=41,
            head=57,
            recovered=True,
            unread=3,
            ping_interval=25,
            expires_in=3600,
        )
    ],
    NotificationFrame: [
        NotificationFrame(
            seq=42,
            id=_ID,
            type="order.shipped",
            data=msgspec.Raw(b'{"order":7}'),
            source="shop",
            created_at=EXAMPLE_TIME,
        )
    ],
    CaughtUp: [CaughtUp(seq=57)],
    Truncated: [Truncated(from_=1, to=41)],
    Retract: [Retract(seq=58, of=42, id=_ID)],
    ReadMark: [ReadMark(seq=59, up_to=57, unread=0), ReadMark(seq=60, seqs=[42, 45], unread=2)],
    Authenticated: [Authenticated(expires_in=3600)],
    Ping: [Ping()],
    Pong: [Pong()],
    ErrorFrame: [ErrorFrame(code="bad_frame", detail="Expected `int`, got `str` - at `$.seq`")],
    Disconnect: [
        Disconnect(
            code=Close.DRAINING, reason=Close.DRAINING.reason, reconnect=Close.DRAINING.reconnect, retry_after_ms=2750
        )
    ],
}
"""What the service says, in the contract's order."""

CLIENT_EXAMPLES: Mapping[type[Frame], Sequence[Frame]] = {
    Ack: [Ack(seq=57)],
    Read: [Read(up_to=57), Read(seqs=[42, 45])],
    Auth: [Auth(token="<JWT>")],  # noqa: S106 - the place of a token, not one
    Ping: [Ping()],
}
"""What a client says."""


def show(frame: Frame) -> Any:
    """Return a frame as the JSON value that travels."""
    return json.loads(msgspec.json.encode(frame))
