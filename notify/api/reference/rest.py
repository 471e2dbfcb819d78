"""The OpenAPI 3.1 document: the framework's own schema, completed.

Keeps the promise that a handler is published by existing: every route of the running application is in the document,
with its scope, its refusals and its body. The framework knows paths, parameters and return types; `described.py` and
`audiences.py` say the rest; the lean routes come from `lean.py`.
"""

import re
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Any

import msgspec
from litestar import Litestar
from litestar.handlers import HTTPRouteHandler
from litestar.routes import HTTPRoute

from notify import __version__
from notify.api.described import OPT, Answer, Description
from notify.api.reference.audiences import AUDIENCES, SCOPES, find_audience
from notify.api.reference.lean import LEAN_ROUTES
from notify.api.reference.parameters import HEADERS, build_parameter, tidy_parameter
from notify.api.reference.problems import PROBLEM_SCHEMA, build_response, refer_to
from notify.api.reference.schemas import find_structs, generate, refer
from notify.errors import (
    PROBLEMS,
    FieldError,
    Forbidden,
    InvalidRequest,
    NotFound,
    Problem,
    TooLarge,
    Unauthenticated,
    Unavailable,
    UnsupportedMedia,
)

Document = dict[str, Any]

METHODS = ("get", "post", "put", "patch", "delete")
"""In the order in which the document lists them."""

SECURITY_SCHEME = "bearerAuth"

DONE = {200: "What was asked for.", 201: "Done: it exists now.", 202: "Taken on.", 204: "Done."}
"""What a success means where the handler doesn't say."""

_REFERENCE = re.compile(r"#/components/schemas/(.+)")

CONVENTIONS = """\
Notifications reach their users live or, when they were away, the moment they are back.

**Tokens.** `Authorization: Bearer <JWT>`; `sub` says who calls, `scope` what it may do. 401 means no or bad
credentials, 403 a missing scope.

**Refusals** are `application/problem+json` (RFC 9457) with a stable `type`; openapi/problems.md lists them all. A 400
names every bad field in `errors`. Any path answers 405 to a method it doesn't take, and 431 to headers that are too
long.

**Times** are RFC 3339 in UTC. **Lists** are `{"items": [...], "next": CURSOR or null}`, continued with `?cursor=`.

**Ids in paths** are percent-encoded, one segment each: the user `a/b` is `a%2Fb`.

Live delivery is the WebSocket `/v1/ws`: openapi/asyncapi.yaml describes it.
"""


def build_openapi(web: Litestar) -> Document:
    """Return the OpenAPI document of an application, as JSON-like values in a stable order."""
    raw: Document = web.openapi_schema.to_schema()
    handlers = find_handlers(web)
    operations: dict[str, dict[str, Document]] = {}
    schemas: dict[str, Document] = dict(raw.get("components", {}).get("schemas", {}))
    structs: list[type[msgspec.Struct]] = [FieldError]
    names: set[str] = set()
    for path, method, operation in list_operations(raw):
        handler = handlers[path, method]
        structs += handler_structs(handler)
        description = handler.opt.get(OPT) or Description()
        operation["operationId"] = name_operation(handler, operation, names)
        operations.setdefault(path, {})[method] = complete(operation, path, method, description)
        structs += described_structs(description)
    for lean in LEAN_ROUTES:
        operation = {
            "summary": lean.summary,
            "description": lean.text,
            "operationId": lean.operation_id,
            "parameters": [build_parameter("query", name) for name in lean.query],
            "responses": {},
        }
        finished = complete(operation, lean.path, lean.method, lean.description)
        operations.setdefault(lean.path, {})[lean.method] = finished
        structs += described_structs(lean.description)
    # Where both the framework and msgspec describe a struct, msgspec's word counts: it is what checks and encodes.
    schemas |= generate(structs)
    schemas["Problem"] = PROBLEM_SCHEMA
    return prune(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "notify",
                "version": __version__,
                "description": CONVENTIONS,
                "license": {"name": "MIT", "identifier": "MIT"},
            },
            "servers": [{"url": "/", "description": "Where this document comes from."}],
            "tags": [{"name": audience.tag, "description": audience.text} for audience in AUDIENCES],
            "paths": {path: operations[path] for path in sorted(operations, key=place_path)},
            "components": {
                "securitySchemes": {SECURITY_SCHEME: build_security()},
                "responses": {problem.slug: build_response(problem) for problem in PROBLEMS},
                "schemas": dict(sorted(schemas.items())),
            },
        }
    )


def find_handlers(web: Litestar) -> dict[tuple[str, str], HTTPRouteHandler]:
    """Return the application's handlers by path, as OpenAPI writes it, and method."""
    return {
        (route.path_format, method.lower()): handler
        for route in web.routes
        if isinstance(route, HTTPRoute)
        for method, (handler, _) in route.route_handler_map.items()
    }


def list_operations(document: Mapping[str, Any]) -> Iterator[tuple[str, str, Document]]:
    """Yield each operation of a document with its path and method."""
    for path, item in document["paths"].items():
        for method in METHODS:
            if method in item:
                yield path, method, item[method]


def place_path(path: str) -> tuple[int, str]:
    """Return the place of a path: by audience, then by name."""
    return AUDIENCES.index(find_audience(path)), path


def name_operation(handler: HTTPRouteHandler, operation: Document, taken: set[str]) -> str:
    """Return a short unique name: the handler's, or the framework's long one where two handlers are called the same."""
    first, *rest = handler.handler_name.split("_")
    name = first + "".join(word.capitalize() for word in rest)
    if name in taken:
        name = str(operation["operationId"])
    taken.add(name)
    return name


def handler_structs(handler: HTTPRouteHandler) -> list[type[msgspec.Struct]]:
    """Return the structs in a handler's signature."""
    signature = handler.parsed_fn_signature
    data = signature.parameters.get("data")
    return find_structs(signature.return_type.annotation) + (find_structs(data.annotation) if data else [])


def described_structs(description: Description) -> list[type[msgspec.Struct]]:
    """Return the structs that a description names."""
    taken = [description.takes] if description.takes else []
    taken += [struct for body in description.besides.values() for struct in find_structs(body.kind)]
    return taken + [struct for answer in description.answers.values() for struct in find_structs(answer.body)]


def complete(operation: Document, path: str, method: str, description: Description) -> Document:
    """Return an operation with all that the framework doesn't know."""
    audience = find_audience(path)
    scope = description.needs or (audience.reads if method == "get" else audience.writes)
    scope = None if description.public else scope
    parameters = [tidy_parameter(parameter) for parameter in operation.get("parameters", ())]
    parameters += [
        {
            "name": name,
            "in": "header",
            "required": False,
            "description": text,
            "schema": HEADERS.get(name, {"type": "string"}),
        }
        for name, text in description.headers.items()
    ]
    body = operation.get("requestBody")
    if description.takes is not None:
        body = build_body(description)
    whole: Document = {
        "tags": operation.get("tags") or [audience.tag],
        "operationId": operation["operationId"],
        "summary": operation["summary"],
        "description": operation.get("description"),
        "security": [{SECURITY_SCHEME: [str(scope)]}] if scope else [],
        "parameters": parameters,
        "requestBody": body,
        "responses": None,
    }
    refusals = [*derive_problems(path, method, parameters, has_body=body is not None, guarded=scope is not None)]
    whole["responses"] = build_responses(operation, description, [*refusals, *description.problems])
    return {key: value for key, value in whole.items() if value or key == "security"}


def derive_problems(
    path: str, method: str, parameters: list[Document], *, has_body: bool, guarded: bool
) -> Iterator[type[Problem]]:
    """Yield the refusals that follow from what an operation takes."""
    places = {parameter["in"] for parameter in parameters}
    if has_body or places & {"query", "path", "header"}:
        yield InvalidRequest
    if guarded:
        yield from (Unauthenticated, Forbidden)
    if "path" in places and method != "put":  # a PUT makes what is not there
        yield NotFound
    if has_body:
        yield from (TooLarge, UnsupportedMedia)
    if path.startswith("/v1/"):
        yield from (Problem, Unavailable)


def build_body(description: Description) -> Document:
    """Return the request body that a description declares."""
    schema = refer(description.takes)
    shown: Document = {"example": description.example} if description.example is not None else {}
    # A MessagePack body has the same shape; its example would be bytes.
    content = {media: {"schema": schema, **(shown if media.endswith("json") else {})} for media in description.media}
    content |= {
        media: {"schema": refer(body.kind), "example": body.example} for media, body in description.besides.items()
    }
    return {"required": not description.optional, "content": content}


def build_responses(operation: Document, description: Description, refusals: list[type[Problem]]) -> Document:
    """Return every answer of an operation, by status."""
    found: Document = {}
    for status, response in operation["responses"].items():
        if int(status) == HTTPStatus.BAD_REQUEST and "Validation" in str(response.get("content", "")):
            continue  # what the framework would answer; here handle_exception() does
        found[status] = tidy_response(int(status), response)
    found |= {str(status): build_answer(answer) for status, answer in description.answers.items()}
    for problem in refusals:
        found.setdefault(str(problem.status), refer_to(problem))
    return dict(sorted(found.items()))


def tidy_response(status: int, response: Document) -> Document:
    """Return a response with words of ours in place of the HTTP standard's, and without empty members."""
    text = response["description"]
    if text == HTTPStatus(status).description:
        text = DONE.get(status, HTTPStatus(status).phrase)
    return {"description": text, **{key: value for key, value in response.items() if key != "description" and value}}


def build_answer(answer: Answer) -> Document:
    """Return an answer that a description declares."""
    response: Document = {"description": answer.text}
    if answer.headers:
        response["headers"] = {
            name: {"description": text, "schema": {"type": "string"}} for name, text in answer.headers.items()
        }
    if answer.body is not None:
        response["content"] = {answer.media: {"schema": refer(answer.body)}}
    elif answer.example is not None:
        response["content"] = {answer.media: {"schema": {"type": "string"}}}
    if answer.example is not None:
        response["content"][answer.media]["example"] = answer.example
    return response


def build_security() -> Document:
    """Return the one way to authenticate."""
    scopes = "\n".join(f"- `{scope}`: {text}" for scope, text in SCOPES.items())
    return {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "A token of at most 4,096 bytes with `sub` and `exp`. Its space-separated `scope` claim "
        f"(RFC 8693) says what it may do:\n\n{scopes}",
    }


def prune(document: Document) -> Document:
    """Return the document without schemas that nothing in it refers to."""
    schemas = document["components"]["schemas"]
    wanted: set[str] = set()
    waiting = [*find_references({key: value for key, value in document.items() if key != "components"})]
    waiting += find_references(document["components"]["responses"])
    while waiting:
        name = waiting.pop()
        if name not in wanted and name in schemas:
            wanted.add(name)
            waiting += find_references(schemas[name])
    document["components"]["schemas"] = {name: schema for name, schema in schemas.items() if name in wanted}
    return document


def find_references(value: Any) -> Iterator[str]:
    """Yield the name of every schema that is referred to somewhere in a value."""
    if isinstance(value, Mapping):
        if isinstance(target := value.get("$ref"), str) and (match := _REFERENCE.fullmatch(target)):
            yield match.group(1)
        for inner in value.values():
            yield from find_references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from find_references(inner)
