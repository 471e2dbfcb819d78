"""CloudEvents 1.0 as they come in: one in a body, several in a body, or one in the headers with its data as the body.

`subject` is the recipient, `source` and `id` together are the idempotency key, and notify's own fields are extension
attributes. Keeps the promise that a refusal names every bad attribute at once, as for any other body.

Sources, all under https://github.com/cloudevents/spec/tree/v1.0.2/cloudevents: spec.md for the attributes,
formats/json-format.md for structured mode, bindings/http-protocol-binding.md for binary mode.
"""

import base64
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, TypeVar
from urllib.parse import unquote, urlsplit

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from notify.api.body import MAX_ERRORS, escape, find_struct_errors, locate
from notify.api.requests import (
    MAX_TTL,
    NO_CONTROLS,
    NULL,
    CollapseKey,
    DeliverAt,
    NotificationType,
    SendRequest,
    Ttl,
    UndeliveredAfter,
)
from notify.context import Context, read_traceparent, write_context
from notify.errors import FieldError, InvalidRequest, Problem, TooLarge
from notify.events import SOURCE
from notify.model import ID_LENGTH, Codec

MEDIA_EVENT = "application/cloudevents+json"
MEDIA_EVENTS = "application/cloudevents-batch+json"

HEADER = "ce-"
"""What the name of an attribute begins with when it is a header."""

MAX_CONTEXT_BYTES = 4_096
"""Of an event's attributes as they are stored and sent with every delivery: many times what events have."""

MAX_ATTRIBUTES = 1_024
"""Of an event: more don't fit MAX_CONTEXT_BYTES, whatever they are called."""

INTEGERS = range(-(2**31), 2**31)
"""The integers that an attribute may be."""

SECONDS = frozenset({"ttl", "undeliveredafter"})
"""Attributes that are integers, also where they come as text."""

OURS = frozenset({"seq", "notificationid"})
"""What notify says of a delivery. An event that went through one notify on its way here loses them."""

_NAME = re.compile(r"[a-z0-9]+")
_TEXT = re.compile(NO_CONTROLS)
_REFERENCE = re.compile(r"(?:[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_MEDIA = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+/[!#$%&'*+.^_`|~0-9A-Za-z-]+\s*(;.*)?")
_DIGITS = re.compile(r"-?[0-9]{1,10}")


class EventRequest(msgspec.Struct):
    """A notification to send, as a CloudEvent 1.0. Further attributes are handed on to clients that take events."""

    published: ClassVar = {
        "properties": {"source": {"format": "uri-reference"}, "dataschema": {"format": "uri"}},
        "propertyNames": {"pattern": "^([a-z0-9]+|data_base64)$"},
        "additionalProperties": {"type": ["string", "integer", "boolean"]},
    }

    specversion: Literal["1.0"]
    id: Annotated[
        str,
        Meta(
            min_length=1,
            pattern=NO_CONTROLS,
            description="With `source` the idempotency key, for 24 hours.",
            examples=["A234-1234"],
        ),
    ]
    source: Annotated[
        str,
        Meta(min_length=1, description="A URI-reference; the `source` that clients see.", examples=["/shops/7/orders"]),
    ]
    type: NotificationType
    subject: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=ID_LENGTH,
            pattern=NO_CONTROLS,
            description="The recipient: a user's id.",
            examples=["alice"],
        ),
    ]
    time: Annotated[datetime, Meta(tz=True, description="When it happened.")] | UnsetType = UNSET
    datacontenttype: Annotated[str, Meta(description="A media type; JSON without one.")] | UnsetType = UNSET
    dataschema: Annotated[str, Meta(description="A URI.")] | UnsetType = UNSET
    data: Annotated[Raw, Meta(description="Any JSON value; handed on as it came.")] = NULL
    data_base64: Annotated[str, Meta(description="Bytes, instead of `data`.")] | UnsetType = UNSET
    ttl: Ttl = MAX_TTL
    collapsekey: CollapseKey | UnsetType = UNSET
    deliverat: DeliverAt | UnsetType = UNSET
    undeliveredafter: UndeliveredAfter | UnsetType = UNSET


DELIVERY = {
    "subject": "to",
    "ttl": "ttl",
    "collapsekey": "collapse_key",
    "deliverat": "deliver_at",
    "undeliveredafter": "undelivered_after",
}
"""Attributes that notify acts on, and what they are called where there is no event."""

_FIELDS = {field.name for field in msgspec.structs.fields(EventRequest)}
_NAMES = {field: attribute for attribute, field in DELIVERY.items()}

ProblemT = TypeVar("ProblemT", bound=Problem)

Attributes = Mapping[str, object]
Data = Raw | bytes | None
"""JSON text, bytes, or none at all."""


class Event(NamedTuple):
    """An event whose attributes are checked, as what notify makes of it."""

    request: SendRequest
    data: bytes | None
    """The data where it is bytes; JSON is in the request."""

    context: str | None
    key: str
    digest: bytes
    """What tells it from another event with the same source and id: its recipient, type and data."""

    @property
    def codec(self) -> Codec:
        """How its data is stored: JSON has no bytes."""
        return Codec.JSON if self.data is None else Codec.MSGPACK


_members = msgspec.json.Decoder(dict[str, Raw])
_batch = msgspec.json.Decoder(list[Raw])


class EventReader:
    """Reads the events of one request. `traceparent` is that of its header, for events without one of their own."""

    def __init__(self, *, max_batch: int, max_data_bytes: int, traceparent: str | None) -> None:
        self._max_batch = max_batch
        self._max_data_bytes = max_data_bytes
        self._traceparent = traceparent
        self._errors: list[FieldError] = []

    def read_one(self, body: bytes) -> Event:
        """Return the event that a body is (structured mode). Raises InvalidRequest, TooLarge."""
        return self._finish([self._read_members(decode(_members, body), "")])[0]

    def read_batch(self, body: bytes) -> Sequence[Event]:
        """Return the events of a body (batched mode). Raises InvalidRequest, TooLarge."""
        batch = decode(_batch, body)
        if not batch:
            raise InvalidRequest("the batch is empty", errors=[FieldError("", "needs at least one event")])
        if len(batch) > self._max_batch:
            raise TooLarge(f"a batch holds at most {self._max_batch} events")
        events: list[Event | None] = []
        for place, raw in enumerate(batch):
            events.append(self._read_members(decode(_members, raw, f"/{place}"), f"/{place}"))
            if len(self._errors) >= MAX_ERRORS:
                break
        return self._finish(events)

    def read_headers(self, headers: Mapping[str, str], body: bytes) -> Event:
        """Return the event whose attributes are headers (binary mode). Raises InvalidRequest, TooLarge."""
        attributes: dict[str, object] = {}
        for name, value in headers.items():
            if name.startswith(HEADER):
                attributes[name.removeprefix(HEADER)] = decode_header(value)
        media = headers.get("content-type")
        if media is not None:
            attributes["datacontenttype"] = media
        try:
            data = read_body_data(media, body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            self._errors.append(FieldError("/data", f"is not what its Content-Type says: {error}"))
            data = None
        try:
            return self._finish([self._build(attributes, data, "")])[0]
        except InvalidRequest as error:
            raise relocate(error, place_in_headers) from None

    def _finish(self, events: Sequence[Event | None]) -> Sequence[Event]:
        if self._errors:
            raise InvalidRequest("this is no event that notify can send", errors=self._errors[:MAX_ERRORS])
        return [event for event in events if event is not None]

    def _read_members(self, members: Mapping[str, Raw], pointer: str) -> Event | None:
        """Return the event that a JSON object is."""
        if len(members) > MAX_ATTRIBUTES:
            raise TooLarge(f"{pointer or 'the event'} has more than {MAX_ATTRIBUTES} attributes")
        attributes: dict[str, object] = {}
        for name, raw in members.items():
            if name in {"data", "data_base64"}:
                continue
            if bytes(raw)[:1] in {b"{", b"["}:
                self._errors.append(
                    FieldError(f"{pointer}/{escape(name)}", "must be a string, an integer or a boolean")
                )
                attributes[name] = ""  # said already; not missing as well
            elif (value := decode_scalar(raw)) is not None:  # null is the same as absent
                attributes[name] = value
        data: Data = members.get("data")
        if "data_base64" in members and decode_scalar(members["data_base64"]) is not None:
            if data is not None and bytes(data) != b"null":
                self._errors.append(FieldError(f"{pointer}/data_base64", "can't go together with `data`"))
            data = self._read_base64(members["data_base64"], f"{pointer}/data_base64")
        return self._build(attributes, data, pointer)

    def _read_base64(self, raw: Raw, pointer: str) -> bytes:
        try:
            return base64.b64decode(msgspec.json.decode(raw, type=str), validate=True)
        except (msgspec.MsgspecError, ValueError):  # of binascii, of text that is no ASCII
            self._errors.append(FieldError(pointer, "must be bytes in base64"))
            return b""

    def _build(self, given: Attributes, data: Data, pointer: str) -> Event | None:
        """Return the event of these attributes, None when something is wrong with them: that is kept for `_finish`."""
        attributes = {
            name: int(value)
            if name in SECONDS and isinstance(value, str) and _DIGITS.fullmatch(value)  # some bindings know text only
            else value
            for name, value in given.items()
        }
        before = len(self._errors)
        known = {name: value for name, value in attributes.items() if name in _FIELDS}
        found = find_struct_errors(msgspec.json.encode(known), Codec.JSON, EventRequest, pointer, {})
        named = {error.pointer for error in found}
        self._errors += [*found, *(error for error in find_faults(attributes, pointer) if error.pointer not in named)]
        if len(self._errors) > before:
            return None
        more = {name: value for name, value in attributes.items() if name not in _FIELDS and name not in OURS}
        own_trace = read_traceparent(more.pop("traceparent", None))
        kept = {name: known.get(name) for name in ("source", "id", "time", "dataschema", "datacontenttype")}
        context = write_context(
            msgspec.convert({"traceparent": own_trace or self._traceparent, "extensions": more, **kept}, Context)
        )
        if context is not None and len(context.encode()) > MAX_CONTEXT_BYTES:
            raise TooLarge(f"the attributes of an event have more than {MAX_CONTEXT_BYTES} bytes together")
        packed = None
        if isinstance(data, bytes):
            packed = msgspec.msgpack.encode(data)
            if len(packed) > self._max_data_bytes:
                raise TooLarge(f"{pointer}/data has {len(packed)} bytes; at most {self._max_data_bytes} are taken")
        fields: dict[str, Any] = {field: known[name] for name, field in DELIVERY.items() if name in known}
        if "deliver_at" in fields:
            fields["deliver_at"] = msgspec.convert(fields["deliver_at"], datetime)
        request = SendRequest(type=str(known["type"]), data=data if isinstance(data, Raw) else NULL, **fields)
        return Event(
            request,
            packed,
            context,
            key=make_key(str(known["source"]), str(known["id"])),
            digest=digest([known["subject"], known["type"], canonicalize(data)]),
        )


def decode(decoder: "msgspec.json.Decoder[Any]", body: bytes | Raw, pointer: str = "") -> Any:
    """Return a decoded body, or the part of it at a pointer. Raises InvalidRequest."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise InvalidRequest("the body is no CloudEvent", errors=[locate(error, pointer)]) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"the body can't be read: {error}", errors=[FieldError("", str(error))]) from None
    except RecursionError:
        raise InvalidRequest("the body is nested too deeply", errors=[FieldError("", "nested too deeply")]) from None


def decode_header(value: str) -> str | bytes:
    """Return the text that a header's value stands for, without quotes around it; as bytes where it is not UTF-8."""
    if len(value) > 1 and value[0] == value[-1] == '"':
        value = value[1:-1].replace(r"\"", '"').replace(r"\\", "\\")
    try:
        return unquote(value, errors="strict")
    except UnicodeDecodeError:
        return value.encode()


def decode_scalar(raw: Raw) -> object:
    """Return what is neither an object nor an array; text that is not UTF-8 as bytes, which no attribute may be."""
    try:
        return msgspec.json.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return bytes(raw)


def read_body_data(media: str | None, body: bytes) -> Data:
    """Return the data that is the body of a request in binary mode: by its media type JSON, text, or bytes."""
    if not body and media is None:
        return None
    kind = (media or "").partition(";")[0].strip().lower()
    if kind.endswith(("/json", "+json")):
        return msgspec.json.decode(body, type=Raw)
    if kind.startswith("text/"):
        return Raw(msgspec.json.encode(body.decode()))
    return body


def find_faults(attributes: Attributes, pointer: str) -> Sequence[FieldError]:
    """Return what the types of the known attributes don't say."""
    found: list[FieldError] = []
    for name, value in attributes.items():
        place = f"{pointer}/{escape(name)}"
        if not _NAME.fullmatch(name):
            found.append(FieldError(place, "is no name of an attribute: those are lower-case letters and digits"))
        elif isinstance(value, str):
            if not _TEXT.match(value):
                found.append(FieldError(place, "must be text without control characters"))
        elif not isinstance(value, bool) and not (isinstance(value, int) and value in INTEGERS):
            found.append(FieldError(place, "must be a string, an integer of 32 bits or a boolean"))
    source, schema, media = (attributes.get(name) for name in ("source", "dataschema", "datacontenttype"))
    if isinstance(source, str) and source and not is_reference(source):
        found.append(FieldError(f"{pointer}/source", "must be a URI-reference"))
    elif source == SOURCE:
        found.append(FieldError(f"{pointer}/source", "is the service's own"))
    if isinstance(schema, str) and not (is_reference(schema) and _SCHEME.match(schema)):
        found.append(FieldError(f"{pointer}/dataschema", "must be a URI"))
    if isinstance(media, str) and not _MEDIA.fullmatch(media):
        found.append(FieldError(f"{pointer}/datacontenttype", "must be a media type"))
    return found


def is_reference(text: str) -> bool:
    """Whether a text is a URI-reference (RFC 3986, section 4.1)."""
    if not _REFERENCE.fullmatch(text):
        return False
    try:
        urlsplit(text)
    except ValueError:
        return False
    return True


def make_key(source: str, identifier: str) -> str:
    """Return the idempotency key of an event. The line end keeps it apart from those of the header, which have none."""
    return f"event\n{digest([source, identifier]).hex()}"


def digest(parts: object) -> bytes:
    """Return what stands for some values."""
    return hashlib.blake2b(msgspec.msgpack.encode(parts), digest_size=16).digest()


def canonicalize(data: Data) -> bytes:
    """Return data without what a second writing of the same event may change: spaces and the order of members."""
    if not isinstance(data, Raw):
        return data or b""
    try:
        return msgspec.json.encode(msgspec.json.decode(data), order="sorted")
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return bytes(data)


def relocate(error: ProblemT, place: Callable[[str], str]) -> ProblemT:
    """Return a refusal whose pointers lead into another form of the request."""
    return type(error)(error.detail, errors=[FieldError(place(each.pointer), each.detail) for each in error.errors])


def place_in_event(pointer: str) -> str:
    """Turn the pointer to a field of a notification into one to the attribute of the event."""
    place, slash, name = pointer.rpartition("/")
    return f"{place}{slash}{_NAMES.get(name, name)}"


def place_in_headers(pointer: str) -> str:
    """Turn the pointer to an attribute into one to its header; the data is the body."""
    name = pointer.removeprefix("/")
    special = {"data": "", "datacontenttype": "/Content-Type"}
    return special.get(name, f"/{HEADER}{name}")
