"""The subprotocol `cloudevents.json`: what a device hears of, each as a CloudEvent 1.0 in a text frame.

A notification is the event that it came as, or one made of it; every other frame travels as the data of an event
`notify.OP`. Clients answer with the frames of `notify.v1`, or with events `notify.OP` of their own. Keeps the promise that
nothing but the envelope differs: order, seqs and acks are those of any session.

https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/websockets-protocol-binding.md and, for the envelope,
formats/json-format.md beside it.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, ClassVar
from urllib.parse import quote
from uuid import UUID

import msgspec
from msgspec import Raw

from notify import clock
from notify.context import read_context
from notify.errors import SessionClosed
from notify.frames import CODECS, ClientFrame, FrameError, JsonCodec, ServerFrame, WireCodec, write_time
from notify.ids import mint_id
from notify.model import Codec, Entry, Kind
from notify.momentary import Momentary
from notify.payload import transcode_to_json

SUBPROTOCOL_EVENTS = "cloudevents.json"

SOURCE = "/v1/ws"
"""The source of what the service says of a session: where it is. Nobody else's events may have it."""

PREFIX = "notify."
"""What the type of such an event begins with; the op follows."""

_REFERENCE = re.compile(r"[A-Za-z0-9._~-][A-Za-z0-9._~/?#@!$&'()*+,;=-]*")


class Said(msgspec.Struct):
    """A client's frame, as an event."""

    type: str
    data: dict[str, Any] = {}


class CloudEventCodec(JsonCodec):
    """`cloudevents.json`, for the sessions of one user."""

    subprotocol: ClassVar[str] = SUBPROTOCOL_EVENTS

    def __init__(self, user: str = "") -> None:
        self._user = user

    def of(self, user: str) -> "CloudEventCodec":
        """Return the codec of a user's session: the user is the subject of its events."""
        return CloudEventCodec(user)

    @property
    def shared_as(self) -> str:
        """What it encodes is the same for all sessions of its user."""
        return f"{self.subprotocol} {self._user}"

    def encode(self, frame: ServerFrame) -> str:
        """Return a frame as the data of an event."""
        moment = datetime.fromtimestamp(clock.now(), UTC)
        attributes: dict[str, object] = {
            "specversion": "1.0",
            "id": mint_id(),
            "source": SOURCE,
            "type": f"{PREFIX}{frame.__struct_config__.tag}",
            "subject": self._user,
            "time": write_time(moment),
            "datacontenttype": "application/json",
        }
        if isinstance(seq := getattr(frame, "seq", None), int):
            attributes["seq"] = seq
        return self._encoder.encode({**attributes, "data": frame}).decode()

    def encode_entry(self, entry: Entry) -> str | bytes:
        """Return an entry as an event."""
        if entry.kind is not Kind.NOTIFICATION:
            return super().encode_entry(entry)
        assert entry.notification_id is not None
        assert entry.created_at is not None
        attributes = self._describe(entry.notification_id, entry.type, entry.producer, entry.created_at, entry.context)
        attributes["seq"] = entry.seq
        return self._finish(attributes, entry.data, entry.codec)

    def encode_momentary(self, message: Momentary) -> str | bytes:
        """Return a message that is not stored as an event; it has no seq."""
        attributes = self._describe(message.id, message.type, message.producer, message.created_at, message.context)
        return self._finish(attributes, message.payload, message.codec)

    def _describe(
        self, notification: UUID, kind: str, producer: str, created_at: datetime, text: str | None
    ) -> dict[str, object]:
        context = read_context(text)
        attributes: dict[str, object] = {
            "specversion": "1.0",
            "id": context.id or notification,
            "source": context.source or write_reference(producer),
            "type": kind,
            "subject": self._user,
            "time": context.time or write_time(created_at),
            "datacontenttype": context.datacontenttype,
            "dataschema": context.dataschema,
            **context.extensions,
            "traceparent": context.traceparent,
            "notificationid": notification if context.id else None,
        }
        return {name: value for name, value in attributes.items() if value is not None}

    def _finish(self, attributes: dict[str, object], data: bytes, codec: Codec) -> str:
        value = None if codec is Codec.JSON else msgspec.msgpack.decode(data)
        if isinstance(value, bytes):
            attributes.setdefault("datacontenttype", "application/octet-stream")
            attributes["data_base64"] = value  # msgspec writes bytes as base64
        else:
            attributes.setdefault("datacontenttype", "application/json")
            attributes["data"] = Raw(data if codec is Codec.JSON else transcode_to_json(value))
        return self._encoder.encode(attributes).decode()

    def decode(self, message: str | bytes) -> ClientFrame:
        """Return a client's frame, be it an event or not."""
        try:
            return super().decode(message)
        except SessionClosed:
            try:
                said = msgspec.json.decode(message, type=Said)
            except (msgspec.MsgspecError, RecursionError, UnicodeError):
                said = None
            if said is None:
                raise
        try:
            frame: ClientFrame = msgspec.convert({**said.data, "op": said.type.removeprefix(PREFIX)}, ClientFrame)
        except msgspec.ValidationError as error:
            raise FrameError(str(error)) from None
        return frame


def write_reference(producer: str) -> str:
    """Return an app's name as a URI-reference (RFC 3986): as it is where it is a relative path, else encoded.

    So that it is never SOURCE.
    """
    return producer if _REFERENCE.fullmatch(producer) else quote(producer, safe="")


WIRES: Mapping[str, WireCodec] = {**CODECS, SUBPROTOCOL_EVENTS: CloudEventCodec()}
"""Every subprotocol there is."""
