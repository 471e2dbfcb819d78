"""Reading and checking request bodies.

Keeps the promise that a refusal names every bad field at once (contract, section 4): a body that decodes is checked on
the fast path; one that does not is taken apart field by field.
"""

import re
from collections.abc import Awaitable, Callable, Collection, Mapping, MutableMapping, Sequence
from itertools import islice
from types import UnionType
from typing import Any, Generic, TypeVar, Union, get_args, get_origin

import msgspec

from notify.errors import FieldError, InvalidRequest, TooLarge, UnsupportedMedia
from notify.model import Codec

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
StructT = TypeVar("StructT", bound=msgspec.Struct)

MEDIA_TYPES = {"application/json": Codec.JSON, "application/msgpack": Codec.MSGPACK}
MAX_ERRORS = 100
"""Bad fields that one answer names at most: enough to mend by hand, too few to make an answer of megabytes."""

_PLACE = re.compile(r" - at `(?:key in )?\$(?P<path>[^`]*)`$")
_STEP = re.compile(r"\.(?P<name>[^.\[]+)|\[(?P<index>[^\]]*)\]")


class ClientGone(Exception):
    """The client closed the connection before its request was complete."""


async def read_body(headers: Mapping[str, str], receive: Receive, *, max_bytes: int) -> bytes:
    """Return the whole body, at most `max_bytes`. Raises UnsupportedMedia, TooLarge, ClientGone."""
    encoding = headers.get("content-encoding")
    if encoding is not None and encoding.lower() != "identity":
        raise UnsupportedMedia("send the body as it is, without a Content-Encoding")
    length = headers.get("content-length", "0")
    if length.isdigit() and int(length) > max_bytes:
        raise TooLarge(f"the body has {length} bytes; at most {max_bytes} are taken")
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        part: bytes = message.get("body", b"")
        size += len(part)
        if size > max_bytes:
            raise TooLarge(f"the body is longer than {max_bytes} bytes")
        if not message.get("more_body", False):
            return b"".join((*parts, part)) if parts else part
        parts.append(part)


def choose_media(headers: Mapping[str, str], accepted: Collection[str] = MEDIA_TYPES) -> str:
    """Return the media type of a body, without its parameters. Raises UnsupportedMedia."""
    media = headers.get("content-type", "")
    if media not in accepted:
        media = media.partition(";")[0].strip().lower()
        if media not in accepted:
            raise UnsupportedMedia(f"the Content-Type must be one of: {', '.join(accepted)}")
    return media


def media_codec(headers: Mapping[str, str]) -> Codec:
    """Return how a body is encoded. Raises UnsupportedMedia."""
    return MEDIA_TYPES[choose_media(headers)]


Check = Callable[[bytes, Codec, str], Sequence[FieldError]]
"""What else may be wrong with a value, which comes as it stands in the body, at a pointer."""

Checks = Mapping[str | type[msgspec.Struct], Check]
"""By the name of a field, at whatever depth, or by the kind of an object, whose fields may not go together."""

UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class BodyReader(Generic[StructT]):
    """Decodes one type of body out of JSON or MessagePack."""

    def __init__(self, struct: type[StructT], checks: Checks | None = None) -> None:
        self._struct = struct
        self._checks = checks or {}
        self._json = msgspec.json.Decoder(struct)
        self._msgpack = msgspec.msgpack.Decoder(struct)

    def decode(self, body: bytes, codec: Codec) -> StructT:
        """Return the checked body. Raises InvalidRequest that names every bad field."""
        try:
            return self._json.decode(body) if codec is Codec.JSON else self._msgpack.decode(body)
        except msgspec.ValidationError as error:
            raise InvalidRequest(
                "the body is not what this path takes", errors=self._diagnose(body, codec, error)
            ) from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InvalidRequest(f"the body can't be read: {error}", errors=[FieldError("", str(error))]) from None
        except RecursionError:
            raise InvalidRequest(
                "the body is nested too deeply", errors=[FieldError("", "nested too deeply")]
            ) from None

    def read_plain(self, body: bytes) -> StructT | None:
        """Return the checked body of JSON; None if anything is wrong with it: `decode` says what."""
        try:
            return self._json.decode(body)
        except UNREADABLE:
            return None

    def _diagnose(self, body: bytes, codec: Codec, error: msgspec.ValidationError) -> Sequence[FieldError]:
        return list(find_errors(body, codec, self._struct, "", self._checks))[:MAX_ERRORS] or [locate(error, "")]


def decode_as(body: bytes, codec: Codec, kind: Any) -> Any:
    """Return a value as a `kind`. Raises one of UNREADABLE."""
    return msgspec.json.decode(body, type=kind) if codec is Codec.JSON else msgspec.msgpack.decode(body, type=kind)


def find_errors(body: bytes, codec: Codec, kind: Any, pointer: str, checks: Checks) -> Sequence[FieldError]:
    """Return every bad field of a value, which should be a `kind`: a Struct, a list, or anything else."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return find_struct_errors(body, codec, kind, pointer, checks)
    inner = list_element(kind)
    if inner is not None and (errors := find_list_errors(body, codec, inner, pointer, checks)):
        return errors
    try:
        decode_as(body, codec, kind)
    except msgspec.ValidationError as error:
        return [locate(error, pointer)]
    except UNREADABLE as error:
        return [FieldError(pointer, lower_first(str(error)))]
    return []


def find_struct_errors(
    body: bytes, codec: Codec, kind: type[msgspec.Struct], pointer: str, checks: Checks
) -> Sequence[FieldError]:
    """Return every bad field of an object, what is missing and what is not known included."""
    try:
        value = decode_as(body, codec, dict[str, msgspec.Raw])
    except UNREADABLE:
        return [FieldError(pointer, "must be an object")]
    found: list[FieldError] = []
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    for name, field in fields.items():
        if name in value:
            place = f"{pointer}/{name}"
            found.extend(find_errors(value[name], codec, field.type, place, checks))
            found.extend(checks[name](value[name], codec, place) if name in checks else ())
        elif field.required:
            found.append(FieldError(f"{pointer}/{name}", "is required"))
    if kind.__struct_config__.forbid_unknown_fields:
        unknown = (name for name in value if name not in fields)
        found.extend(
            FieldError(f"{pointer}/{escape(name)}", "is not known here") for name in islice(unknown, MAX_ERRORS)
        )
    found.extend(checks[kind](body, codec, pointer) if kind in checks else ())
    return found


def find_list_errors(body: bytes, codec: Codec, inner: Any, pointer: str, checks: Checks) -> Sequence[FieldError]:
    """Return the bad elements of a list, MAX_ERRORS of them or a few more; none when it is no list."""
    found: list[FieldError] = []
    try:
        items = decode_as(body, codec, list[msgspec.Raw])
    except UNREADABLE:
        return found
    for at, item in enumerate(items):
        found.extend(find_errors(item, codec, inner, f"{pointer}/{at}", checks))
        if len(found) >= MAX_ERRORS:
            break
    return found


def list_element(kind: Any) -> Any:
    """Return the type of a list's elements, None when `kind` is no list; of a union its list counts."""
    if hasattr(kind, "__metadata__"):
        return list_element(kind.__origin__)
    if get_origin(kind) is list:
        return get_args(kind)[0]
    if get_origin(kind) in {Union, UnionType}:
        return next((inner for member in get_args(kind) if (inner := list_element(member)) is not None), None)
    return None


def locate(error: msgspec.ValidationError, pointer: str) -> FieldError:
    """Turn msgspec's "… - at `$.a[0]`" into a JSON pointer and a sentence."""
    text = str(error)
    if (place := _PLACE.search(text)) is None:
        return FieldError(pointer, lower_first(text))
    steps = (step.group("name") or step.group("index") for step in _STEP.finditer(place.group("path")))
    return FieldError(pointer + "".join(f"/{escape(step)}" for step in steps), lower_first(text[: place.start()]))


def lower_first(text: str) -> str:
    """Let a sentence go on after a field's name."""
    return text[:1].lower() + text[1:]


def escape(step: object) -> str:
    """Escape one step of a JSON pointer (RFC 6901, section 3)."""
    return str(step).replace("~", "~0").replace("/", "~1").encode("utf-8", "replace").decode()
