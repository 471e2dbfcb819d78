"""The AsyncAPI 3.0 document: the WebSocket, its frames and its close codes.

Keeps the promise that the published frames are frames.py: messages and schemas are made of the unions that the codecs
encode and decode.
"""

from typing import Any, get_args

from notify import __version__
from notify.api.reference.examples import CLIENT_EXAMPLES, SERVER_EXAMPLES, show
from notify.api.reference.parameters import RESUMING
from notify.api.reference.schemas import generate
from notify.errors import Close
from notify.events import SUBPROTOCOL_EVENTS
from notify.frames import SUBPROTOCOL_JSON, SUBPROTOCOL_MSGPACK, ClientFrame, Frame, ServerFrame
from notify.gateway import BEARER_SUBPROTOCOL

Document = dict[str, Any]

PATH_SOCKET = "/v1/ws"

SERVER_FRAMES: tuple[type[Frame], ...] = get_args(ServerFrame)
CLIENT_FRAMES: tuple[type[Frame], ...] = get_args(ClientFrame)

DESCRIPTION = """\
A user's mailbox, live. After the handshake the service sends `welcome`, then everything the device has not
acknowledged, then `caught_up`; from there on it is live. Everything with a `seq` is an entry in the mailbox: numbered,
sent in order, and sent again until it is acknowledged. Seqs may skip; `seq` is absent where nothing is stored.

The epoch is opaque. When it changes, numbering starts anew: remember (epoch, seq), not seq.

Unknown fields are ignored. An unknown op or a wrong field is answered with `error`; what isn't an object with an `op`
closes with 4400. At most 1,000 entries sent are unacknowledged; the rest wait.

With bad credentials, origin or query values the handshake still succeeds and the socket closes at once with 4401, 4403
or 4400, so that a browser can see why. A process that is full or leaving answers 503 before the handshake.
"""

SUBPROTOCOLS = {
    SUBPROTOCOL_JSON: "JSON in text frames; also what a client gets that offers none.",
    SUBPROTOCOL_MSGPACK: "The same frames as MessagePack in binary frames.",
    SUBPROTOCOL_EVENTS: "Each frame as a CloudEvent 1.0 in a text frame: a notification as the event that it came as, or one "
    "made of it, with `subject` the user; any other frame as the `data` of an event `notify.OP` of source `/v1/ws`. The "
    "attribute `seq` is what to acknowledge; `notificationid` is the `id` here, where the event has its own. A client sends "
    "the frames of `notify.v1`, or events `notify.OP` with the rest of the frame as `data`.",
    f"{BEARER_SUBPROTOCOL}<JWT>": f"Credentials, from a browser. Never echoed: offer `{SUBPROTOCOL_JSON}` beside it.",
}
"""What a client may offer."""

CLOSES: dict[Close, tuple[str, str]] = {
    Close.BAD_FRAME: ("What came was no frame, or the query can't be read.", "Stop."),
    Close.UNAUTHENTICATED: (
        "No credentials in time, or invalid or denied ones.",
        "Stop until there is another token.",
    ),
    Close.FORBIDDEN: ("The scope or the origin is wrong, or `auth` was for another `sub`.", "Stop."),
    Close.TOO_MANY_SESSIONS: ("The user opened too many others; the oldest goes.", "Stop."),
    Close.DISCONNECTED: ("An admin disconnected the user.", "Stop."),
    Close.TOKEN_EXPIRED: ("The token ran out 30 s ago.", "Reconnect with a fresh token, at once."),
    Close.DRAINING: (
        "This node is leaving; 1012 means the same.",
        "Reconnect after `retry_after_ms` of the `disconnect` frame.",
    ),
    Close.SLOW_CONSUMER: (
        "Frames were not read for too long. One too stuck to read this just loses the connection: 1006.",
        "Reconnect; delivery resumes.",
    ),
    Close.RESTART: (
        "The database was restarted or restored; the epoch may have changed.",
        "Reconnect; delivery resumes.",
    ),
    Close.NORMAL: ("The client closed.", "Reconnect when it likes."),
    Close.TOO_BIG: ("A frame was over the limit.", "Stop: the same frame would be refused again."),
}
"""What each close code means, and what the client does."""

BACKOFF = "Reconnect with exponential backoff and full jitter, 0.5 to 20 s."
"""What a client does after any code that is not listed."""


def build_asyncapi() -> Document:
    """Return the AsyncAPI document, as JSON-like values in a stable order."""
    messages = {frame.__name__: build_message(frame) for frame in dict.fromkeys((*SERVER_FRAMES, *CLIENT_FRAMES))}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "notify, live",
            "version": __version__,
            "description": DESCRIPTION,
            "license": {"name": "MIT"},
        },
        "defaultContentType": "application/json",
        "servers": {
            "dev": {
                "host": "127.0.0.1:8000",
                "protocol": "ws",
                "description": "`notify dev` on the same machine.",
                "security": build_security_references(),
            },
            "production": {
                "host": "{host}",
                "protocol": "wss",
                "description": "`notify serve` behind a proxy that ends TLS.",
                "variables": {"host": {"default": "notify.example.com", "description": "Where it is deployed."}},
                "security": build_security_references(),
            },
        },
        "channels": {"socket": build_channel(list(messages))},
        "operations": {
            "send": build_operation("send", "What the service sends", SERVER_FRAMES),
            "receive": build_operation("receive", "What a client sends", CLIENT_FRAMES),
        },
        "components": {
            "messages": messages,
            "schemas": generate((*SERVER_FRAMES, *CLIENT_FRAMES)),
            "securitySchemes": build_security_schemes(),
        },
    }


def build_message(frame: type[Frame]) -> Document:
    """Return a frame as a message."""
    found = SERVER_EXAMPLES.get(frame) or CLIENT_EXAMPLES[frame]
    return {
        "name": frame.__struct_config__.tag,
        "title": frame.__struct_config__.tag,
        "summary": (frame.__doc__ or "").strip(),
        "payload": {"$ref": f"#/components/schemas/{frame.__name__}"},
        "examples": [{"payload": show(example)} for example in found],
    }


def build_channel(messages: list[str]) -> Document:
    """Return the one channel there is."""
    return {
        "address": PATH_SOCKET,
        "title": "The socket",
        "description": "One connection of one device of one user.",
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in messages},
        "bindings": {
            "ws": {
                "method": "GET",
                "query": {
                    "type": "object",
                    "properties": {name: {"description": text, **schema} for name, (text, schema) in RESUMING.items()},
                },
                "headers": {
                    "type": "object",
                    "properties": {
                        "Authorization": {"type": "string", "description": "`Bearer <JWT>`."},
                        "Sec-WebSocket-Protocol": {
                            "type": "string",
                            "description": "The subprotocols offered, see `x-subprotocols`: the first known one counts.",
                        },
                    },
                },
                "bindingVersion": "0.1.0",
            }
        },
        "x-subprotocols": [{"name": name, "description": text} for name, text in SUBPROTOCOLS.items()],
        "x-close-codes": [
            {
                "code": int(close),
                "reason": close.reason,
                "meaning": CLOSES[close][0],
                "reconnect": close.reconnect,
                "client": CLOSES[close][1],
            }
            for close in Close
        ],
        "x-other-close-codes": {"reconnect": True, "client": BACKOFF},
    }


def build_operation(action: str, summary: str, frames: tuple[type[Frame], ...]) -> Document:
    """Return one direction. AsyncAPI tells it from the service's side."""
    return {
        "action": action,
        "channel": {"$ref": "#/channels/socket"},
        "summary": f"{summary}.",
        "messages": [{"$ref": f"#/channels/socket/messages/{frame.__name__}"} for frame in frames],
    }


def build_security_schemes() -> Document:
    """Return the three ways to present credentials, in the order in which they are looked for."""
    return {
        "header": {
            "type": "http",
            "scheme": "bearer",
            "bearerFormat": "JWT",
            "description": "The `Authorization` header, where a client can set it.",
        },
        "subprotocol": {
            "type": "httpApiKey",
            "in": "header",
            "name": "Sec-WebSocket-Protocol",
            "description": f"An offered subprotocol `{BEARER_SUBPROTOCOL}<JWT>`: how a browser does it. "
            f'`new WebSocket(url, ["{SUBPROTOCOL_JSON}", "{BEARER_SUBPROTOCOL}" + token])`',
        },
        "firstFrame": {
            "type": "apiKey",
            "in": "password",
            "description": "A first frame `auth` within 10 s of the handshake.",
        },
    }


def build_security_references() -> list[Document]:
    """Return references to all of them: any one will do."""
    return [{"$ref": f"#/components/securitySchemes/{name}"} for name in build_security_schemes()]
