"""The JavaScript client's types name what the service sends: a field that is new here must be new there."""

import re
from pathlib import Path

import msgspec
import pytest

import notify.client
from notify.api.inbox import InboxNotification, InboxPage
from notify.frames import CaughtUp, Frame, NotificationFrame, ReadMark, Retract, Truncated, Welcome

TYPES = Path(notify.client.__file__).with_name("notify.d.ts").read_text()

NAMES: dict[type[msgspec.Struct], str] = {
    NotificationFrame: "Notification",
    Welcome: "Welcome",
    CaughtUp: "CaughtUp",
    Truncated: "Truncated",
    Retract: "Retract",
    ReadMark: "Read",
    InboxNotification: "InboxItem",
    InboxPage: "InboxPage",
}


def read_fields(name: str) -> set[str]:
    """Return the fields of an interface or a type in notify.d.ts."""
    [(interface, alias)] = re.findall(
        rf"^export (?:interface {name}\b[^{{]*\{{(.*?)^\}}|type {name} = (.*?);\n\n)", TYPES, re.MULTILINE | re.DOTALL
    )
    return set(
        re.findall(r"(?:^|[{;\s])(\w+)\??:(?=\s)", re.sub(r"/\*.*?\*/", "", interface or alias, flags=re.DOTALL))
    )


@pytest.mark.parametrize(("struct", "name"), NAMES.items(), ids=NAMES.values())
def test_a_type_has_the_fields_that_are_sent(struct: type[msgspec.Struct], name: str) -> None:
    sent = {field.encode_name for field in msgspec.structs.fields(struct)}
    assert read_fields(name) == (sent | {"op"} if issubclass(struct, Frame) else sent)
