"""What `listen` hands out: the service's frames, with `data` as plain Python values.

Keeps the promise that a newer service doesn't break an older client: unknown ops and unknown fields are passed over.
"""

from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from msgspec import UNSET, UnsetType

from notify.frames import (
    Authenticated,
    CaughtUp,
    Disconnect,
    ErrorFrame,
    Frame,
    Ping,
    Pong,
    ReadMark,
    Retract,
    Truncated,
    Welcome,
)


class Notification(Frame, tag="notification", frozen=True, omit_defaults=False):
    """A notification. `seq` is UNSET where nothing is stored (`ttl: 0`); such a one is never sent again.

    `data` is what JSON makes of it: dict, list, str, int, float, bool, None. Bytes come as `{"$bytes": "<base64>"}`.
    `source` is the app that sent it, or that of the event it came as. `traceparent` is there if it was sent with one.
    """

    id: UUID
    type: str
    seq: int | UnsetType = UNSET
    data: Any = None
    source: str = ""
    created_at: datetime | UnsetType = UNSET
    traceparent: str | UnsetType = UNSET


Received = Welcome | Notification | CaughtUp | Truncated | Retract | ReadMark | ErrorFrame | Disconnect
"""What the loop body may meet."""

_decoder: msgspec.json.Decoder[Received | Authenticated | Ping | Pong] = msgspec.json.Decoder(
    Received | Authenticated | Ping | Pong
)
_encode = msgspec.json.encode


def decode_frame(message: str | bytes) -> Received | Authenticated | Ping | Pong | None:
    """Return the frame of one message; None for one this client doesn't know."""
    try:
        return _decoder.decode(message)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None


def encode_frame(frame: Frame) -> str:
    """Return the frame as the JSON text that goes on the wire."""
    return _encode(frame).decode()


def seq_of(frame: Received) -> int | None:
    """Return the seq of an entry; None for what is none."""
    if isinstance(frame, Retract | ReadMark):
        return frame.seq
    if isinstance(frame, Notification) and isinstance(frame.seq, int):
        return frame.seq
    return None
