"""The reference as one page: made on the server out of the two documents, without a script and without the internet.

Keeps the promise that `/docs` works offline and can run nothing: its only resource is the style in the page, which the
policy admits by its hash.
"""

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from typing import Any

from notify.api.reference.markup import Html, inline, join, prose, tag
from notify.api.reference.samples import build_body_sample, write_curl

STYLE = files(__package__).joinpath("page.css").read_text("utf-8")

_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
POLICY = (
    f"default-src 'none'; style-src 'sha256-{_HASH}'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
"""The page's Content-Security-Policy."""

Document = Mapping[str, Any]

BOUNDS = {
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "minItems": "at least {} items",
    "maxItems": "at most {} items",
    "minimum": "from {}",
    "maximum": "to {}",
}
"""How a limit reads."""


def render_page(openapi: Document, asyncapi: Document) -> str:
    """Return the whole page."""
    schemas = openapi["components"]["schemas"]
    groups = group_operations(openapi)
    body = tag(
        "body",
        tag("a", "To the reference", class_="skip", href="#reference"),
        render_contents(groups, openapi, asyncapi),
        tag(
            "main",
            tag("h1", f"{openapi['info']['title']} {openapi['info']['version']}"),
            prose(openapi["info"]["description"]),
            tag("p", "For machines: ", tag("a", "openapi.json", href="openapi.json"), class_="faint"),
            tag("h2", "Authentication", id="authentication"),
            *(prose(scheme["description"]) for scheme in openapi["components"]["securitySchemes"].values()),
            *(part for name, text, found in groups for part in render_group(name, text, found, openapi)),
            *render_socket(asyncapi),
            tag("h2", "Problems", id="problems"),
            *render_problems(openapi),
            tag("h2", "Schemas", id="schemas"),
            *(part for name, schema in schemas.items() for part in render_schema(name, schema, "schema")),
            id="reference",
        ),
    )
    head = tag(
        "head",
        Html('<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'),
        tag("title", f"{openapi['info']['title']} reference"),
        Html('<link rel="icon" href="data:,">'),
        tag("style", Html(STYLE)),
    )
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


Operations = Sequence[tuple[str, str, Document]]


def group_operations(openapi: Document) -> list[tuple[str, str, Operations]]:
    """Return the operations by tag, with each tag's text; tags without any are left out."""
    texts = {group["name"]: group["description"] for group in openapi["tags"]}
    groups: dict[str, list[tuple[str, str, Document]]] = {name: [] for name in texts}
    for path, item in openapi["paths"].items():
        for method, operation in item.items():
            groups.setdefault(operation["tags"][0], []).append((method, path, operation))
    return [(name, texts.get(name, ""), found) for name, found in groups.items() if found]


def label(method: str, operation: Document) -> Html:
    """Return an operation's line in the list."""
    return join(tag("span", method, class_=f"method {method}"), operation["summary"])


def render_contents(groups: Sequence[tuple[str, str, Operations]], openapi: Document, asyncapi: Document) -> Html:
    """Return the list of everything there is."""
    lists = [
        (name, [(operation["operationId"], label(method, operation)) for method, _, operation in found])
        for name, _, found in groups
    ]
    directions = [(name, join(asyncapi["operations"][name]["summary"].rstrip("."))) for name in ("send", "receive")]
    lists.append(("WebSocket", [("socket", join("Connecting")), ("closing", join("Closing")), *directions]))
    lists.append(("Besides", [(name.lower(), join(name)) for name in ("Authentication", "Problems", "Schemas")]))
    return tag(
        "nav",
        tag("strong", str(openapi["info"]["title"])),
        *(
            join(tag("p", name), tag("ul", *(tag("li", tag("a", text, href=f"#{target}")) for target, text in entries)))
            for name, entries in lists
        ),
        aria_label="Contents",
    )


def render_group(name: str, text: str, found: Operations, openapi: Document) -> Iterator[Html]:
    """Yield a tag's operations."""
    yield tag("h2", name)
    yield prose(text)
    for method, path, operation in found:
        yield tag("section", *render_operation(method, path, operation, openapi), id=operation["operationId"])


def render_operation(method: str, path: str, operation: Document, openapi: Document) -> Iterator[Html]:
    """Yield one operation: what it is for, what it takes, what it answers, how to try it."""
    schemas = openapi["components"]["schemas"]
    yield tag("h3", tag("span", method, class_=f"method {method}"), " ", tag("code", path))
    yield tag("p", tag("strong", operation["summary"]))
    yield prose(operation.get("description"))
    scopes = [scope for requirement in operation["security"] for names in requirement.values() for scope in names]
    needs = inline("Needs the scope " + ", ".join(f"`{scope}`" for scope in scopes)) if scopes else "Open to all"
    yield tag("p", needs, ".", class_="faint")
    if parameters := operation.get("parameters"):
        yield tag("h4", "Parameters")
        yield table(
            ("name", "in", "type", ""),
            [
                (
                    join(tag("code", parameter["name"]), " required" if parameter.get("required") else ""),
                    parameter["in"],
                    render_type(parameter["schema"], "schema"),
                    join(prose(parameter.get("description")), render_bounds(parameter["schema"])),
                )
                for parameter in parameters
            ],
        )
    if body := operation.get("requestBody"):
        media = " or ".join(f"`{name}`" for name in body["content"])
        schema = next(iter(body["content"].values()))["schema"]
        yield tag("h4", "Body")
        yield tag("p", render_type(schema, "schema"), " as ", inline(media))
        if "$ref" in schema:
            yield render_fields(resolve(schema, schemas), "schema")
        if (sample := build_body_sample(body, schemas)) is not None:
            yield code(json.dumps(sample, indent=2, ensure_ascii=False))
    yield tag("h4", "Answers")
    yield table(("status", "", "body"), [render_answer(*answer) for answer in operation["responses"].items()])
    for status, response in operation["responses"].items():
        for content in response.get("content", {}).values():
            if "example" in content:
                shown = content["example"]
                yield tag("p", f"A {status}:", class_="faint")
                yield code(shown if isinstance(shown, str) else json.dumps(shown, indent=2, ensure_ascii=False))
    yield tag("h4", "Try it")
    yield code(write_curl(method, path, operation, schemas))


def render_answer(status: str, response: Document) -> tuple[Html | str, ...]:
    """Return an answer's row; a problem's points to its section."""
    if "$ref" in response:
        slug = response["$ref"].rpartition("/")[2]
        return tag("code", status), tag("a", slug, href=f"#problem-{slug}"), tag("code", "application/problem+json")
    text = [prose(response["description"])]
    text += [
        tag("p", tag("code", name), ": ", inline(header["description"]))
        for name, header in response.get("headers", {}).items()
    ]
    content = [
        join(render_type(part["schema"], "schema"), " as ", tag("code", media))
        for media, part in response.get("content", {}).items()
    ]
    return tag("code", status), join(*text), join(*content)


def render_problems(openapi: Document) -> Iterator[Html]:
    """Yield every problem."""
    for slug, response in openapi["components"]["responses"].items():
        for content in response["content"].values():
            example = content["example"]
            yield tag("h3", tag("code", slug), f" {example['status']}", id=f"problem-{slug}")
            yield prose(response["description"])
            yield code(json.dumps(example, indent=2, ensure_ascii=False))


def render_socket(asyncapi: Document) -> Iterator[Html]:
    """Yield the WebSocket: connecting, frames in both directions, closing."""
    channel = asyncapi["channels"]["socket"]
    yield tag("h2", "WebSocket ", tag("code", channel["address"]), id="socket")
    yield prose(asyncapi["info"]["description"])
    yield tag("h4", "Query")
    yield table(
        ("name", "type", ""),
        [
            (tag("code", name), render_type(schema, "frame"), join(prose(schema["description"]), render_bounds(schema)))
            for name, schema in channel["bindings"]["ws"]["query"]["properties"].items()
        ],
    )
    yield tag("h4", "Credentials, the first that is there")
    schemes = asyncapi["components"]["securitySchemes"].values()
    yield tag("ul", *(tag("li", inline(scheme["description"])) for scheme in schemes))
    yield tag("h4", "Subprotocols")
    yield table(
        ("name", ""), [(tag("code", each["name"]), inline(each["description"])) for each in channel["x-subprotocols"]]
    )
    yield tag("h3", "Closing", id="closing")
    yield table(
        ("code", "reason", "", "the client"),
        [
            (tag("code", str(each["code"])), each["reason"], inline(each["meaning"]), inline(each["client"]))
            for each in channel["x-close-codes"]
        ]
        + [("others", "", "", inline(channel["x-other-close-codes"]["client"]))],
    )
    for name in ("send", "receive"):
        operation = asyncapi["operations"][name]
        yield tag("h3", operation["summary"].rstrip("."), id=name)
        for reference in operation["messages"]:
            yield from render_message(reference["$ref"].rpartition("/")[2], asyncapi)


def render_message(name: str, asyncapi: Document) -> Iterator[Html]:
    """Yield one frame."""
    message = asyncapi["components"]["messages"][name]
    yield tag("h4", tag("code", message["name"]))
    yield prose(message["summary"])
    yield render_fields(asyncapi["components"]["schemas"][name], "frame")
    yield code("\n".join(json.dumps(example["payload"], ensure_ascii=False) for example in message["examples"]))


def render_schema(name: str, schema: Document, prefix: str) -> Iterator[Html]:
    """Yield one schema."""
    yield tag("h3", tag("code", name), id=f"{prefix}-{name}")
    yield prose(schema.get("description"))
    yield render_fields(schema, prefix)


def render_fields(schema: Document, prefix: str) -> Html:
    """Return an object's fields as a table, anything else as its type."""
    if "properties" not in schema:
        return tag("p", render_type(schema, prefix))
    required = schema.get("required", ())
    return table(
        ("field", "type", ""),
        [
            (
                join(tag("code", name), " required" if name in required else ""),
                render_type(inner, prefix),
                join(prose(inner.get("description")), render_bounds(inner)),
            )
            for name, inner in schema["properties"].items()
        ],
    )


def render_type(schema: Document, prefix: str) -> Html:
    """Return the words for a schema's type; a reference is a link."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return tag("a", name, href=f"#{prefix}-{name}")
    for several in ("anyOf", "oneOf"):
        if several in schema:
            return separate([render_type(option, prefix) for option in schema[several]], " or ")
    if "enum" in schema:
        return separate([tag("code", json.dumps(value)) for value in schema["enum"]], " or ")
    kind = schema.get("type", "any value")
    if kind == "array":
        return join("list of ", render_type(schema.get("items", {}), prefix))
    if kind == "object" and isinstance(schema.get("additionalProperties"), Mapping):
        return join("map to ", render_type(schema["additionalProperties"], prefix))
    words = " or ".join(kind) if isinstance(kind, list) else str(kind)
    return join(words, f" ({schema['format']})" if "format" in schema else "")


def render_bounds(schema: Document) -> Html:
    """Return a schema's limits and default."""
    words = [text.format(f"{schema[key]:,}") for key, text in BOUNDS.items() if key in schema]
    if schema.get("default") is not None:
        words.append(f"default {json.dumps(schema['default'])}")
    return tag("p", "; ".join(words), class_="faint") if words else Html("")


def resolve(schema: Document, schemas: Document) -> Document:
    """Return what a reference points to."""
    found: Document = schemas[schema["$ref"].rpartition("/")[2]]
    return found


def separate(parts: Sequence[Html], between: str) -> Html:
    """Return parts with something between them."""
    return join(*(part if place == 0 else join(between, part) for place, part in enumerate(parts)))


def table(heads: Sequence[str], rows: Sequence[Sequence[Html | str]]) -> Html:
    """Return a table that scrolls by itself where it is too wide."""
    return tag(
        "div",
        tag(
            "table",
            tag("thead", tag("tr", *(tag("th", head, scope="col") for head in heads))),
            tag("tbody", *(tag("tr", *(tag("td", cell) for cell in row)) for row in rows)),
        ),
        class_="wide",
        tabindex="0",
        role="region",
        aria_label="Table",
    )


def code(text: str) -> Html:
    """Return a block of code."""
    return tag("pre", tag("code", text))
