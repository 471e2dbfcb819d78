"""Parameters that mean the same wherever they appear: handlers only name them, this says what they take."""

from typing import Any

from notify.api.paths import DEFAULT_LIMIT, IDENTIFIER_SCHEMA, MAX_LIMIT
from notify.gateway import DEFAULT_DEVICE, MAX_EPOCH, MAX_SEQ

Schema = dict[str, Any]

IDENTIFIER: Schema = IDENTIFIER_SCHEMA
UUID: Schema = {"type": "string", "format": "uuid"}
SEQ: Schema = {"type": "integer", "minimum": 0, "maximum": MAX_SEQ}
SEGMENT = "Percent-encoded as one segment; none of its characters is a control character."

RESUMING: dict[str, tuple[str, Schema]] = {
    "device": (
        "Which of the user's devices this is. Each has a cursor of its own.",
        {**IDENTIFIER, "default": DEFAULT_DEVICE},
    ),
    "after": ("Resume after this seq rather than at the device's cursor; goes with `epoch`.", SEQ),
    "epoch": ("The epoch that `after` belongs to, from `welcome`.", {"type": "string", "maxLength": MAX_EPOCH}),
    "ack": ("`auto`: what was sent counts as acknowledged.", {"type": "string", "enum": ["auto"]}),
}
"""What a live connection takes, as a socket or as an event stream."""

QUERY: dict[str, tuple[str, Schema]] = {
    "limit": ("Items of a page.", {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT}),
    "cursor": ("Where to go on: `next` of the page before.", {"type": "string"}),
    "before": ("Only what has a lower seq.", SEQ),
    "unread": ("`true`: only what is not marked read.", {"type": "boolean", "default": False}),
    "sort": ("The deepest or the oldest first.", {"type": "string", "enum": ["depth", "age"]}),
    "q": ("Only users whose id begins like this.", {**IDENTIFIER, "minLength": 0}),
    "user": ("Only this user's sessions.", IDENTIFIER),
    "target": ("Only what concerned this user, notification or denied value.", IDENTIFIER),
    "endpoint": ("The push service's URL for this browser.", {"type": "string"}),
    **RESUMING,
}

PATH: dict[str, tuple[str, Schema]] = {
    "user": (f"A user's id. {SEGMENT}", IDENTIFIER),
    "topic": (f"A topic's name. {SEGMENT}", IDENTIFIER),
    "device": (f"A device's name. {SEGMENT}", IDENTIFIER),
    "app": (f"An app's id, the `sub` of its tokens. {SEGMENT}", IDENTIFIER),
    "notification_id": ("The id that sending answered with.", UUID),
    "session": ("The session's id, as `welcome` and the list of sessions have it.", UUID),
    "kind": (
        "`sub` denies every token of a user or app, `jti` a single token.",
        {"type": "string", "enum": ["sub", "jti"]},
    ),
    "value": (f"The subject or the token's id. {SEGMENT}", IDENTIFIER),
}

HEADERS: dict[str, Schema] = {"Idempotency-Key": IDENTIFIER}
"""What a request header may be, where that is less than any text."""

KNOWN = {"query": QUERY, "path": PATH}
"""By where a parameter stands."""


def build_parameter(place: str, name: str) -> Schema:
    """Return one of the known parameters as OpenAPI has it."""
    text, schema = KNOWN[place][name]
    return {"name": name, "in": place, "required": place == "path", "description": text, "schema": schema}


def tidy_parameter(parameter: Schema) -> Schema:
    """Return the framework's parameter with what is known of it here, and without what it says of every parameter."""
    place, name = parameter["in"], parameter["name"]
    known = build_parameter(place, name) if name in KNOWN.get(place, {}) else {}
    schema = dict(parameter.get("schema", {}))
    text = parameter.get("description") or schema.pop("description", None)
    schema.pop("description", None)
    # Handlers take most values as text and read them themselves, so that the refusal is theirs.
    options = [option for option in schema.pop("oneOf", ()) if option != {"type": "null"}]
    schema |= options[0] if len(options) == 1 else ({"oneOf": options} if options else {})
    plain = schema == {"type": "string"}
    whole = {
        "name": name,
        "in": place,
        "required": parameter.get("required", False),
        "description": text or known.get("description"),
        "schema": known["schema"] if plain and known else schema,
    }
    return {key: value for key, value in whole.items() if value is not None}
