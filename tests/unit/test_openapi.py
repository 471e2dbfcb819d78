"""The published reference says what the code does, and no more."""

import difflib
import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import openapi_spec_validator
import pytest
import yaml
from litestar import Litestar, get, post, put
from litestar.handlers import ASGIRouteHandler
from litestar.params import FromPath, FromQuery
from litestar.routes import ASGIRoute, HTTPRoute
from msgspec import UNSET, Raw, UnsetType

from notify import openapi
from notify.api.answers import describe as describe_problem
from notify.api.body import BodyReader
from notify.api.described import Answer, describe
from notify.api.docs import openapi_config
from notify.api.reference.problems import REMEDIES
from notify.api.reference.rest import build_openapi, find_references
from notify.api.reference.schemas import generate
from notify.api.reference.socket import build_asyncapi
from notify.api.requests import BatchRequest, SendRequest
from notify.app import Application
from notify.auth import Scope
from notify.errors import PROBLEMS, FieldError, InFlight
from notify.model import Codec
from notify.settings import Settings

WRITTEN = Path(__file__).parents[2] / "openapi"

WITHOUT_BODY = {
    "PUT /v1/topics/{topic}/subscribers/{user}",
    "POST /v1/admin/users/{user}/disconnect",
    "PUT /v1/admin/denylist/{kind}/{value}",
}
"""What changes something and takes no body: the path says it all."""

Document = dict[str, Any]


@pytest.fixture(scope="module")
def application() -> Application:
    """Build the application; it is never started."""
    return Application(Settings.model_construct())


@pytest.fixture(scope="module")
def document(application: Application) -> Document:
    """Build the OpenAPI document."""
    return build_openapi(application.web)


@pytest.fixture(scope="module")
def live() -> Document:
    """Build the AsyncAPI document."""
    return build_asyncapi()


def list_operations(document: Document) -> Iterator[tuple[str, Document]]:
    """Yield each operation under a name like `GET /livez`."""
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield f"{method.upper()} {path}", operation


def list_examples(document: Document) -> Iterator[tuple[Document, object]]:
    """Yield each example of a body or an answer with the schema that it stands beside."""
    places: list[Document] = [*document["components"]["responses"].values()]
    for _, operation in list_operations(document):
        places += [operation.get("requestBody", {}), *operation["responses"].values()]
    for place in places:
        for content in place.get("content", {}).values():
            if "example" in content:
                yield content["schema"], content["example"]


def check(schema: Document, value: object, document: Document) -> None:
    """Raise ValidationError unless `value` fits a schema of `document`."""
    jsonschema.Draft202012Validator({**schema, "components": document["components"]}).validate(value)


# The files


@pytest.mark.parametrize("name", ["openapi.yaml", "asyncapi.yaml", "problems.md"])
def test_the_written_file_says_what_the_code_does(name: str) -> None:
    path = WRITTEN / name
    written = path.read_text("utf-8") if path.exists() else ""
    drift = list(difflib.unified_diff(written.splitlines(), openapi.render()[name].splitlines(), lineterm="", n=1))
    assert not drift, f"openapi/{name} is not what the code says: run `notify openapi`\n" + "\n".join(drift[:20])


def test_writing_makes_the_directory_and_names_every_file(tmp_path: Path) -> None:
    paths = openapi.write(tmp_path / "deep" / "openapi")
    assert {path.name: path.read_text("utf-8") for path in paths} == openapi.render()


def test_the_contract_does_not_depend_on_where_it_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    before = openapi.render()
    monkeypatch.setenv("NOTIFY_MAX_BATCH", "7")
    monkeypatch.setenv("NOTIFY_JWT_JWKS_URL", "https://no.issuer.example")  # not a valid set of settings
    assert openapi.render() == before


def test_the_written_yaml_reads_back_as_the_documents(document: Document, live: Document) -> None:
    rendered = openapi.render()
    assert yaml.safe_load(rendered["openapi.yaml"]) == document
    assert yaml.safe_load(rendered["asyncapi.yaml"]) == live
    assert "&id" not in rendered["openapi.yaml"]


# REST


def test_the_document_is_openapi_3_1(document: Document) -> None:
    assert document["openapi"].startswith("3.1")
    openapi_spec_validator.validate(document)


def test_every_path_of_the_application_is_published(application: Application, document: Document) -> None:
    published = {name for name, _ in list_operations(document)}
    for route in application.web.routes:
        if isinstance(route, HTTPRoute):
            visible = {
                f"{method} {route.path_format}"
                for method, (handler, _) in route.route_handler_map.items()
                if method != "OPTIONS" and handler.resolve_include_in_schema()
            }
            assert visible <= published
        elif isinstance(route, ASGIRoute) and route.path.startswith("/v1/"):
            assert isinstance(route.route_handler, ASGIRouteHandler)
            assert route.path in document["paths"], f"describe {route.path} in notify/api/reference/lean.py"


def test_what_changes_something_says_what_it_takes(document: Document) -> None:
    silent = {
        name
        for name, operation in list_operations(document)
        if name.startswith(("POST", "PUT")) and "requestBody" not in operation
    }
    assert silent <= WITHOUT_BODY, "say it with opt=describe(takes=...), see notify/api/described.py"


def test_every_operation_has_words_a_place_and_an_answer(document: Document) -> None:
    tags = {group["name"] for group in document["tags"]}
    names = [operation["operationId"] for _, operation in list_operations(document)]
    assert len(set(names)) == len(names)
    for name, operation in list_operations(document):
        assert operation["summary"], name
        assert operation["description"], name
        assert set(operation["tags"]) <= tags, name
        assert any(status.startswith("2") for status in operation["responses"]), name


def test_every_path_under_v1_needs_a_scope_and_the_operators_paths_need_none(document: Document) -> None:
    known = {str(scope) for scope in Scope}
    for name, operation in list_operations(document):
        scopes = [scope for requirement in operation["security"] for scope in requirement["bearerAuth"]]
        if "/v1/" in name:
            assert len(scopes) == 1, name
            assert set(scopes) <= known, name
            assert {"401", "403", "503"} <= set(operation["responses"]), name
        else:
            assert not scopes, name
            assert "401" not in operation["responses"], name


def test_a_body_brings_its_refusals(document: Document) -> None:
    for name, operation in list_operations(document):
        if "requestBody" in operation:
            assert {"400", "413", "415"} <= set(operation["responses"]), name


def test_every_refusal_is_a_problem(document: Document) -> None:
    slugs = {problem.slug: str(problem.status) for problem in PROBLEMS}
    for name, operation in list_operations(document):
        for status, response in operation["responses"].items():
            if status.startswith(("4", "5")) and "/readyz" not in name:
                assert slugs[response["$ref"].rpartition("/")[2]] == status, name


EVENT = "application/cloudevents+json"
EVENTS = "application/cloudevents-batch+json"


@pytest.mark.parametrize(
    ("path", "events"), [("/v1/notifications", {EVENT, EVENTS}), ("/v1/notifications/batch", {EVENTS})]
)
def test_the_sending_paths_publish_keys_media_types_and_the_place(
    document: Document, path: str, events: set[str]
) -> None:
    operation = document["paths"][path]["post"]
    assert set(operation["requestBody"]["content"]) == {"application/json", "application/msgpack"} | events
    assert [parameter["name"] for parameter in operation["parameters"]] == ["Idempotency-Key", "traceparent"]
    assert {"201", "202", "409", "422", "429"} <= set(operation["responses"])
    assert "Idempotent-Replayed" in operation["responses"]["201"]["headers"]
    assert ("Location" in operation["responses"]["201"]["headers"]) == path.endswith("notifications")


def test_the_examples_of_sending_are_taken_by_the_code(document: Document) -> None:
    for path, struct in (("/v1/notifications", SendRequest), ("/v1/notifications/batch", BatchRequest)):
        example = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["example"]
        BodyReader(struct).decode(json.dumps(example).encode(), Codec.JSON)


def test_every_example_fits_its_schema(document: Document) -> None:
    examples = list(list_examples(document))
    assert examples
    for schema, example in examples:
        check(schema, example, document)


def test_nothing_is_referred_to_that_is_not_there_nor_there_for_nothing(document: Document) -> None:
    assert set(find_references(document)) == set(document["components"]["schemas"])


# What handlers may say


class Order(msgspec.Struct, forbid_unknown_fields=True):
    """An order."""

    at: datetime
    note: str | UnsetType = UNSET
    seq: int | UnsetType = UNSET
    extra: Raw = Raw(b'"none"')


class Receipt(msgspec.Struct):
    """A receipt."""

    orders: list[str]


@post("/v1/inbox/orders", summary="Order", opt=describe(takes=Order, example={"at": "2026-01-08T09:30:00Z"}))
async def take_order() -> Receipt:
    """Take an order."""
    return Receipt([])


@put(
    "/v1/admin/orders/{user:str}",
    status_code=200,
    summary="Look again",
    opt=describe(
        needs=Scope.SEND,
        problems=(InFlight,),
        headers={"If-Match": "What it was."},
        answers={202: Answer("Later.", Receipt, headers={"ETag": "What it is."})},
    ),
)
async def look_again(user: FromPath[str], cursor: FromQuery[str | None] = None) -> None:
    """Look again."""


@get("/v1/admin/open", summary="Open", opt=describe(public=True))
async def look_open() -> dict[str, int]:
    """Look."""
    return {}


@pytest.fixture(scope="module")
def described() -> Document:
    """Build the document of three handlers that describe themselves."""
    return build_openapi(Litestar([take_order, look_again, look_open], openapi_config=openapi_config()))


def test_a_handler_that_reads_its_own_body_can_say_which(described: Document) -> None:
    operation = described["paths"]["/v1/inbox/orders"]["post"]
    assert operation["requestBody"]["content"]["application/json"] == {
        "schema": {"$ref": "#/components/schemas/Order"},
        "example": {"at": "2026-01-08T09:30:00Z"},
    }
    assert operation["security"] == [{"bearerAuth": ["notifications:receive"]}]
    assert operation["tags"] == ["Front ends"]
    assert operation["description"] == "Take an order."
    openapi_spec_validator.validate(described)


def test_a_handler_can_name_another_scope_refusals_headers_and_answers(described: Document) -> None:
    operation = described["paths"]["/v1/admin/orders/{user}"]["put"]
    assert operation["security"] == [{"bearerAuth": ["notifications:send"]}]
    assert {"200", "202", "409"} <= set(operation["responses"])
    assert operation["responses"]["202"]["headers"]["ETag"]["description"] == "What it is."
    assert {(parameter["in"], parameter["name"]) for parameter in operation["parameters"]} == {
        ("path", "user"),
        ("query", "cursor"),
        ("header", "If-Match"),
    }
    assert all(parameter["description"] for parameter in operation["parameters"])


def test_a_public_handler_needs_no_token(described: Document) -> None:
    assert described["paths"]["/v1/admin/open"]["get"]["security"] == []


def test_a_schema_tells_what_msgspec_alone_does_not() -> None:
    schema = generate([Order])["Order"]
    assert schema["required"] == ["at"]
    assert schema["properties"]["at"]["format"] == "date-time"
    assert schema["properties"]["extra"] == {"default": "none"}
    assert schema["description"] == "An order."
    assert schema["additionalProperties"] is False


# Problems


def test_every_problem_says_what_to_do() -> None:
    assert set(REMEDIES) == set(PROBLEMS)
    written = openapi.render()["problems.md"]
    for problem in PROBLEMS:
        assert f"\n## {problem.slug}\n" in written
        assert problem.title in written


def test_the_problem_schema_fits_every_problem(document: Document) -> None:
    for problem in PROBLEMS:
        error = problem("said for a test")
        error.errors.append(FieldError("/to/0", "must not be empty"))
        check({"$ref": "#/components/schemas/Problem"}, msgspec.to_builtins(describe_problem(error)), document)
