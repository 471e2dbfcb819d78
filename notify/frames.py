"""The wire frames, as tagged structs, and both codecs. The contract's section 5 is this file in words.

Keeps the promise that a frame means the same in both subprotocols: one struct, encoded twice. Unknown fields of a
client's frame are ignored, so that clients may be newer than the service.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated, ClassVar, Protocol
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from notify.context import read_context
from notify.errors import Close, NotifyError, SessionClosed
from notify.model import Codec, Entry, Kind
from notify.momentary import Momentary
from notify.payload import transcode_to_json, transcode_to_msgpack

SUBPROTOCOL_JSON = "notify.v1"
SUBPROTOCOL_MSGPACK = "notify.v1.msgpack"
MAX_SEQS = 1_000
"""Seqs that one read mark names at most: what fits an inbound frame with room to spare."""

QUOTED = 512
"""Types and producers whose JSON is remembered: 255 characters at most, and few of them are what most notifications have."""

Seq = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Seqs = Annotated[list[Seq], Meta(min_length=1, max_length=MAX_SEQS)]


class Frame(msgspec.Struct, tag_field="op", frozen=True, omit_defaults=True):
    """What every frame is: an object whose `op` says which."""


# Server to client


class Welcome(Frame, tag="welcome", frozen=True, omit_defaults=True):
    """The first frame: who this is, where the mailbox stands, and where delivery starts."""

    session: str
    user: str
    device: str
    epoch: str
    after: int
    head: int
    recovered: bool
    unread: int
    ping_interval: float
    expires_in: int


class NotificationFrame(Frame, tag="notification", frozen=True, omit_defaults=True):
    """A notification. `seq` is absent where nothing is stored (`ttl: 0`)."""

    seq: int | UnsetType
    id: UUID
    type: str
    data: Raw
    source: Annotated[str, Meta(description="The app that sent it, or the `source` of the event that it came as.")]
    created_at: Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
    traceparent: (
        Annotated[str, Meta(description="If it was sent with one: the trace it belongs to (W3C Trace Context).")]
        | UnsetType
    ) = UNSET


class CaughtUp(Frame, tag="caught_up", frozen=True, omit_defaults=True):
    """The backlog is through; from here on it is live."""

    seq: int


class Truncated(Frame, tag="truncated", frozen=True, omit_defaults=True):
    """These are gone for good: load the full state another way. Both ends included."""

    from_: int = msgspec.field(name="from")
    to: int


class Retract(Frame, tag="retract", frozen=True, omit_defaults=True):
    """Cancelled or replaced: take the notification that came as `of` off the screen."""

    seq: int
    of: int
    id: UUID


class ReadMark(Frame, tag="read", frozen=True, omit_defaults=True):
    """A device of this user marked notifications read; `unread` are left."""

    seq: int
    up_to: int | UnsetType = UNSET
    seqs: Sequence[int] | UnsetType = UNSET
    unread: int | UnsetType = UNSET


class Authenticated(Frame, tag="authenticated", frozen=True, omit_defaults=True):
    """A fresh token was taken."""

    expires_in: int


class Ping(Frame, tag="ping", frozen=True, omit_defaults=True):
    """Sent after `ping_interval` of silence; needs no answer. From a client: answered with `pong`."""


class Pong(Frame, tag="pong", frozen=True, omit_defaults=True):
    """The answer to a client's `ping`."""


class ErrorFrame(Frame, tag="error", frozen=True, omit_defaults=True):
    """A client's frame was not understood; the session goes on."""

    code: str
    detail: str


class Disconnect(Frame, tag="disconnect", frozen=True, omit_defaults=True):
    """Just before the close: why, and whether and when to come back."""

    code: int
    reason: str
    reconnect: bool
    retry_after_ms: int | UnsetType = UNSET


ServerFrame = (
    Welcome
    | NotificationFrame
    | CaughtUp
    | Truncated
    | Retract
    | ReadMark
    | Authenticated
    | Ping
    | Pong
    | ErrorFrame
    | Disconnect
)


# Client to server


class Ack(Frame, tag="ack", frozen=True, omit_defaults=True):
    """Cumulative: everything up to `seq` has arrived."""

    seq: Seq


class Read(Frame, tag="read", frozen=True, omit_defaults=True):
    """Marks notifications read, on all devices of the user: everything up to a seq, or these seqs."""

    up_to: Seq | UnsetType = UNSET
    seqs: Seqs | UnsetType = UNSET


class Auth(Frame, tag="auth", frozen=True, omit_defaults=True):
    """Credentials: as the first frame, or a fresh token for the same `sub` on an open socket."""

    token: str


ClientFrame = Ack | Read | Auth | Ping


class FrameError(NotifyError):
    """A client's frame is an object with an `op`, but not one that is understood; answered with an `error` frame."""


class WireCodec(Protocol):
    """One of the encodings of the frames. Text frames are str, binary frames bytes."""

    subprotocol: ClassVar[str]

    @property
    def shared_as(self) -> str:
        """Which codecs encode alike: one that does so for a user alone has a name of its own."""
        return self.subprotocol

    def of(self, user: str) -> "WireCodec":  # noqa: ARG002 - for codecs that tell of the user
        """Return the codec for a session of this user."""
        return self

    def encode(self, frame: ServerFrame) -> str | bytes:
        """Return the frame as it goes on the wire."""
        ...

    def decode(self, message: str | bytes) -> ClientFrame:
        """Return a client's frame. Raises FrameError to be answered, SessionClosed (4400) to be closed."""
        ...

    def payload(self, data: bytes, codec: Codec) -> Raw:
        """Return stored data in this encoding."""
        ...

    def encode_entry(self, entry: Entry) -> str | bytes:
        """Return a live entry as it goes on the wire."""
        return self.encode(frame_entry(entry, self))

    def encode_momentary(self, message: Momentary) -> str | bytes:
        """Return a message that is not stored as it goes on the wire."""
        return self.encode(frame_momentary(message, self))


class JsonCodec(WireCodec):
    """`notify.v1`: JSON in text frames."""

    subprotocol: ClassVar[str] = SUBPROTOCOL_JSON
    _encoder = msgspec.json.Encoder()
    _decoder: msgspec.json.Decoder[ClientFrame] = msgspec.json.Decoder(ClientFrame)

    def encode(self, frame: ServerFrame) -> str:
        """Return the frame as JSON text."""
        return self._encoder.encode(frame).decode()

    def decode(self, message: str | bytes) -> ClientFrame:
        """Return a client's frame out of a text message."""
        if isinstance(message, bytes):
            raise SessionClosed(Close.BAD_FRAME, f"{self.subprotocol} takes text frames; this one was binary")
        try:
            return self._decoder.decode(message)
        except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
            raise explain(error, lambda: msgspec.json.decode(message)) from None

    def payload(self, data: bytes, codec: Codec) -> Raw:
        """Return stored data as JSON: as it came, or out of MessagePack with bytes as `{"$bytes": …}`."""
        return Raw(data if codec is Codec.JSON else transcode_to_json(msgspec.msgpack.decode(data)))


class MsgpackCodec(WireCodec):
    """`notify.v1.msgpack`: the same frames as MessagePack in binary frames."""

    subprotocol: ClassVar[str] = SUBPROTOCOL_MSGPACK
    _encoder = msgspec.msgpack.Encoder()
    _decoder: msgspec.msgpack.Decoder[ClientFrame] = msgspec.msgpack.Decoder(ClientFrame)

    def encode(self, frame: ServerFrame) -> bytes:
        """Return the frame as MessagePack."""
        return self._encoder.encode(frame)

    def decode(self, message: str | bytes) -> ClientFrame:
        """Return a client's frame out of a binary message."""
        if isinstance(message, str):
            raise SessionClosed(Close.BAD_FRAME, f"{self.subprotocol} takes binary frames; this one was text")
        try:
            return self._decoder.decode(message)
        except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
            raise explain(error, lambda: msgspec.msgpack.decode(message)) from None

    def payload(self, data: bytes, codec: Codec) -> Raw:
        """Return stored data as MessagePack."""
        return Raw(data if codec is Codec.MSGPACK else transcode_to_msgpack(data))


def explain(error: Exception, decode: Callable[[], object]) -> NotifyError:
    """Tell a frame that deserves an answer from one that deserves a close (contract, section 5)."""
    try:
        value = decode()
    except (msgspec.MsgspecError, RecursionError, UnicodeError):
        value = None
    if isinstance(value, dict) and isinstance(value.get("op"), str):
        return FrameError(str(error))
    return SessionClosed(Close.BAD_FRAME, "a frame is an object with an `op`")


CODECS: dict[str, WireCodec] = {SUBPROTOCOL_JSON: JsonCodec(), SUBPROTOCOL_MSGPACK: MsgpackCodec()}
"""The subprotocols whose messages are the frames themselves; events.py has the one that wraps them."""


def write_time(moment: datetime) -> str:
    """Return a time as RFC 3339 in UTC: text in both codecs, so that both say the same."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


@lru_cache(QUOTED)
def quote(text: str) -> str:
    """Return a text as JSON writes it. Types and producers come again and again."""
    return msgspec.json.encode(text).decode()


def write_notification(  # noqa: PLR0913 - a frame's fields
    seq: int, *, identity: str, kind: str, data: str, source: str, created_at: str
) -> str:
    """Return the frame of a notification without a context just as JsonCodec writes it, from what is text already.

    By hand, because every live notification passes here: through objects it takes five times as long.
    """
    return (
        f'{{"op":"notification","seq":{seq},"id":"{identity}","type":{quote(kind)},"data":{data},'
        f'"source":{quote(source)},"created_at":"{created_at}"}}'
    )


def frame_entry(entry: Entry, codec: WireCodec) -> ServerFrame:
    """Turn a live entry into the frame that tells a device of it."""
    if entry.kind is Kind.NOTIFICATION:
        assert entry.notification_id is not None
        assert entry.created_at is not None
        frame = NotificationFrame(
            seq=entry.seq,
            id=entry.notification_id,
            type=entry.type,
            data=codec.payload(entry.data, entry.codec),
            source=entry.producer,
            created_at=write_time(entry.created_at),
        )
        return frame if entry.context is None else add_context(frame, entry.context)
    if entry.kind is Kind.RETRACT:
        assert entry.notification_id is not None
        assert entry.target is not None
        return Retract(seq=entry.seq, of=entry.target, id=entry.notification_id)
    return ReadMark(
        seq=entry.seq,
        up_to=UNSET if entry.target is None else entry.target,
        seqs=UNSET if entry.seqs is None else entry.seqs,
        unread=UNSET if entry.unread is None else entry.unread,
    )


def add_context(frame: NotificationFrame, text: str) -> NotificationFrame:
    """Return the frame of a notification that has a context, with what a frame tells of it."""
    context = read_context(text)
    return msgspec.structs.replace(
        frame, source=context.source or frame.source, traceparent=context.traceparent or UNSET
    )


def frame_momentary(message: Momentary, codec: WireCodec) -> NotificationFrame:
    """Turn a message that is not stored into its frame."""
    frame = NotificationFrame(
        seq=UNSET,
        id=message.id,
        type=message.type,
        data=codec.payload(message.payload, message.codec),
        source=message.producer,
        created_at=write_time(message.created_at),
    )
    return frame if message.context is None else add_context(frame, message.context)


class MomentaryFrames:
    """A message that is not stored, as a frame: encoded once a codec, however many sessions get it."""

    def __init__(self, message: Momentary) -> None:
        self._message = message
        self._encoded: dict[str, str | bytes] = {}

    def encode(self, codec: WireCodec) -> str | bytes:
        """Return the frame in this encoding."""
        if (known := self._encoded.get(codec.shared_as)) is not None:
            return known
        encoded = self._encoded[codec.shared_as] = codec.encode_momentary(self._message)
        return encoded
