"""Samples to paste: a value that fits a schema, and the `curl` that calls an operation."""

import json
import shlex
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from notify.api.described import JSON
from notify.api.reference.lean import EXAMPLE_ID, EXAMPLE_TIME

TEXTS = {"uuid": EXAMPLE_ID, "date-time": EXAMPLE_TIME, "uri": "https://example.com"}
"""Text by its format."""

NAMES = {"user": "alice", "topic": "news", "device": "phone", "app": "shop", "notification_id": EXAMPLE_ID}
"""Text by the name of what it is."""

MAX_LEVELS = 6  # of a sample: deeper ones are no longer read


def build_sample(schema: Mapping[str, Any], schemas: Mapping[str, Any], name: str = "", level: int = 0) -> Any:  # noqa: C901, PLR0911 - a line a kind
    """Return a value that fits a schema. `schemas` are the components it may refer to, `name` the field that it is."""
    if "$ref" in schema:
        return build_sample(schemas[schema["$ref"].rpartition("/")[2]], schemas, name, level)
    if "example" in schema:
        return schema["example"]
    if schema.get("examples"):
        return schema["examples"][0]
    if "const" in schema or "enum" in schema:
        return schema.get("const", next(iter(schema.get("enum", ())), None))
    for several in ("anyOf", "oneOf"):
        if several in schema:
            return build_sample(schema[several][0], schemas, name, level)
    kind = schema.get("type")
    if kind == "object":
        if level >= MAX_LEVELS:
            return {}
        required = schema.get("required", ())
        properties = schema.get("properties", {})
        wanted = {key: value for key, value in properties.items() if key in required} or properties
        return {key: build_sample(value, schemas, key, level + 1) for key, value in wanted.items()}
    if kind == "array":
        return [build_sample(schema.get("items", {}), schemas, name, level + 1)] if level < MAX_LEVELS else []
    if kind == "string":
        return TEXTS.get(schema.get("format", ""), NAMES.get(name, schema.get("default", name or "text")))
    if kind in {"integer", "number"}:
        return schema.get("default", max(1, schema.get("minimum", 1)))
    return {"boolean": True, "null": None}.get(str(kind), {})


def build_body_sample(body: Mapping[str, Any] | None, schemas: Mapping[str, Any]) -> Any:
    """Return an example of a request body; None where it takes no JSON."""
    content = (body or {}).get("content", {}).get(JSON)
    if content is None:
        return None
    return content["example"] if "example" in content else build_sample(content["schema"], schemas)


def write_curl(method: str, path: str, operation: Mapping[str, Any], schemas: Mapping[str, Any]) -> str:
    """Return the command that calls an operation. It reads NOTIFY_URL and NOTIFY_TOKEN, as the client commands do."""
    query: list[str] = []
    for parameter in operation.get("parameters", ()):
        value = build_sample(parameter["schema"], schemas, parameter["name"])
        if parameter["in"] == "path":
            path = path.replace("{" + parameter["name"] + "}", quote(str(value), safe=""))
        elif parameter["in"] == "query" and parameter.get("required"):
            query.append(f"{parameter['name']}={quote(str(value), safe='')}")
    target = path + ("?" + "&".join(query) if query else "")
    streams = "text/event-stream" in str(operation["responses"].get("200", ""))
    flags = ("-N " if streams else "") + ("" if method == "get" else f"-X {method.upper()} ")
    words = [f'curl {flags}"$NOTIFY_URL{target}"']
    if operation.get("security"):
        words.append('-H "Authorization: Bearer $NOTIFY_TOKEN"')
    if (body := build_body_sample(operation.get("requestBody"), schemas)) is not None:
        words.append(f"-H 'Content-Type: {JSON}'")
        words.append(f"-d {shlex.quote(json.dumps(body, ensure_ascii=False))}")
    return " \\\n  ".join(words)
