"""The published description of the socket says what the codecs do."""

import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from notify.api.reference.examples import CLIENT_EXAMPLES, SERVER_EXAMPLES
from notify.api.reference.socket import CLIENT_FRAMES, CLOSES, PATH_SOCKET, SERVER_FRAMES, build_asyncapi
from notify.app import PATH_SOCKET as SERVED_SOCKET
from notify.errors import Close
from notify.events import WIRES
from notify.frames import CODECS, SUBPROTOCOL_JSON

Document = dict[str, Any]


@pytest.fixture(scope="module")
def live() -> Document:
    """Build the AsyncAPI document."""
    return build_asyncapi()


def test_every_reference_of_the_asyncapi_document_resolves(live: Document) -> None:
    def walk(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            if "$ref" in value:
                yield value["$ref"]
            for inner in value.values():
                yield from walk(inner)
        elif isinstance(value, list):
            for inner in value:
                yield from walk(inner)

    references = list(walk(live))
    assert references
    for reference in references:
        found: Any = live
        for step in reference.removeprefix("#/").split("/"):
            found = found[step]
    assert live["asyncapi"] == "3.0.0"


def test_every_frame_is_a_message_in_its_direction(live: Document) -> None:
    for action, frames in (("send", SERVER_FRAMES), ("receive", CLIENT_FRAMES)):
        operation = live["operations"][action]
        assert operation["action"] == action
        named = [reference["$ref"].rpartition("/")[2] for reference in operation["messages"]]
        assert named == [frame.__name__ for frame in frames]
        for frame in frames:
            assert live["components"]["messages"][frame.__name__]["name"] == frame.__struct_config__.tag
    assert set(SERVER_EXAMPLES) == set(SERVER_FRAMES)
    assert set(CLIENT_EXAMPLES) == set(CLIENT_FRAMES)


def test_every_example_of_a_frame_fits_its_schema(live: Document) -> None:
    for message in live["components"]["messages"].values():
        assert message["examples"]
        for example in message["examples"]:
            schema = {**message["payload"], "components": live["components"]}
            jsonschema.Draft202012Validator(schema).validate(example["payload"])


def test_the_examples_of_client_frames_are_understood_by_the_codec(live: Document) -> None:
    codec = CODECS[SUBPROTOCOL_JSON]
    for frame in CLIENT_FRAMES:
        for example in live["components"]["messages"][frame.__name__]["examples"]:
            assert isinstance(codec.decode(json.dumps(example["payload"])), frame)


def test_a_notification_may_come_without_a_seq(live: Document) -> None:
    assert "seq" not in live["components"]["schemas"]["NotificationFrame"]["required"]


def test_every_close_code_says_what_the_client_does(live: Document) -> None:
    assert set(CLOSES) == set(Close)
    published = {each["code"]: each for each in live["channels"]["socket"]["x-close-codes"]}
    for close in Close:
        assert published[close]["reason"] == close.reason
        assert published[close]["reconnect"] is close.reconnect


def test_the_socket_is_where_it_is_served(live: Document) -> None:
    assert live["channels"]["socket"]["address"] == PATH_SOCKET == SERVED_SOCKET
    names = [each["name"] for each in live["channels"]["socket"]["x-subprotocols"]]
    assert names[: len(WIRES)] == list(WIRES)
