"""The WebSocket's edge: query, origin, accept, credentials, then Session.run().

Keeps invariant 4 from the outside: nobody gets a session without a verified token whose scope allows it. A refusal
comes after the handshake, as a close code, because a browser shows its page nothing else; only a process that is full
refuses before it.

A raw ASGI application rather than a framework's handler: one task and no layers a socket.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs

import structlog

from notify import metrics
from notify.auth import Authenticator, Identity, Scope
from notify.errors import Close, InvalidToken, SessionClosed
from notify.events import WIRES
from notify.frames import SUBPROTOCOL_JSON, Auth, FrameError, WireCodec
from notify.hub import Hub
from notify.ids import mint_id
from notify.limits import Limits
from notify.model import is_identifier
from notify.origins import OriginPolicy
from notify.peer import PeerGone
from notify.session import Resume, Session
from notify.settings import Settings
from notify.store import Store

log = structlog.get_logger()

Scope_ = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

BEARER_SUBPROTOCOL = "bearer."
DEFAULT_DEVICE = "default"
MAX_SEQ = 2**63 - 1
MAX_PARAMETERS = 32
"""Query parameters that are looked at; the contract knows four."""

MAX_EPOCH = 64
"""Characters of an epoch; ours have 16."""


class WebSocket:
    """An ASGI WebSocket as a session sees it."""

    __slots__ = ("_receive", "_send", "_transport")

    def __init__(self, scope: Scope_, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._transport = scope.get("extensions", {}).get("notify.transport")

    async def send(self, *messages: str | bytes) -> None:
        """Write messages, in one go; waits while the peer reads slower than this. Raises PeerGone."""
        try:
            if self._transport is not None:
                await self._transport.send_messages(messages)
                return
            for message in messages:
                await self._send({"type": "websocket.send", "text" if isinstance(message, str) else "bytes": message})
        except OSError:
            raise PeerGone from None

    def send_now(self, message: str | bytes) -> bool:
        """Write a message if that needs no waiting; tell whether it was done."""
        return self._transport is not None and self._transport.send_now(message)

    def listen(self, take: Callable[[str | bytes], bool]) -> None:
        """Have messages looked at as soon as they come; what `take` takes is not received any more."""
        if self._transport is not None:
            self._transport.listen(take)

    async def receive(self) -> str | bytes:
        """Return the next message. Raises PeerGone."""
        message = await self._receive()
        if message["type"] != "websocket.receive":
            raise PeerGone
        text: str | None = message.get("text")
        return text if text is not None else message["bytes"]

    async def close(self, close: Close) -> None:
        """Close with the code and its reason. A peer that is gone needs no close."""
        try:
            await self._send({"type": "websocket.close", "code": int(close), "reason": close.reason})
        except OSError:
            self.abort()

    def forget_handshake(self) -> None:
        """Let go of what only the handshake needed: idle sockets are many."""
        if self._transport is not None:
            self._transport.forget_handshake()

    def abort(self) -> None:
        """Drop the connection at once."""
        if self._transport is not None:
            self._transport.abort()


class Gateway:
    """Admits sockets to sessions."""

    def __init__(
        self,
        *,
        settings: Settings,
        authenticator: Authenticator,
        origins: OriginPolicy,
        hub: Hub,
        store: Store,
    ) -> None:
        self._settings = settings
        self._authenticator = authenticator
        self._origins = origins
        self._hub = hub
        self._store = store
        self._limits = Limits.from_settings(settings)
        self._waiting = 0
        self.draining = False
        """Set by the drain: who comes now is sent to another node."""

    async def __call__(self, scope: Scope_, receive: Receive, send: Send) -> None:
        """Serve one WebSocket from its handshake to its end."""
        await receive()  # websocket.connect
        headers = read_headers(scope)
        offered: Sequence[str] = scope.get("subprotocols", ())
        # Those who have said nothing of themselves yet must not keep out those who bring a token along.
        crowded = self._waiting >= self._settings.max_pending_auth and find_token(headers, offered) is None
        if self.draining or crowded:
            await refuse(scope, send)
            return
        chosen = next((name for name in offered if name in WIRES), None)  # the client's order counts (RFC 6455, 1.9)
        await send({"type": "websocket.accept", "subprotocol": chosen, "headers": []})
        socket = WebSocket(scope, receive, send)
        session_id = mint_id()
        started = time.monotonic()
        try:
            device, resume, auto_ack = read_query(parse_query(scope["query_string"]))
            if not self._origins.admits(headers.get("origin"), headers.get("host", "")):
                raise SessionClosed(Close.FORBIDDEN, "this origin may not connect; see NOTIFY_ALLOWED_ORIGINS")
            codec = WIRES[chosen or SUBPROTOCOL_JSON]
            identity = await self._identify(socket, headers, offered, codec)
            session = Session(
                session_id,
                socket,
                codec.of(identity.subject),
                identity,
                device,
                store=self._store,
                limits=self._limits,
                verify=self._verify,
                auto_ack=auto_ack,
            )
        except PeerGone:
            return
        except SessionClosed as closed:
            metrics.SOCKETS_REFUSED.labels(int(closed.close)).inc()
            log.info("session.refused", session_id=str(session_id), code=int(closed.close), reason=closed.detail)
            await socket.close(closed.close)
            return
        socket.forget_handshake()
        scope.clear()
        del headers, offered
        log.info("session.opened", session_id=str(session_id), user=identity.subject, device=device)
        try:
            await session.run(self._hub, resume)
        finally:
            log.info("session.closed", session_id=str(session_id), seconds=round(time.monotonic() - started, 3))

    async def _identify(
        self, socket: WebSocket, headers: Mapping[str, str], offered: Sequence[str], codec: WireCodec
    ) -> Identity:
        """Find the credentials, in the contract's order, and verify them."""
        token = find_token(headers, offered)
        if token is None:
            self._waiting += 1
            try:
                async with asyncio.timeout(self._settings.auth_timeout):
                    frame = codec.decode(await socket.receive())
            except TimeoutError:
                raise SessionClosed(Close.UNAUTHENTICATED, "no credentials in time") from None
            except (FrameError, SessionClosed) as error:
                raise SessionClosed(Close.UNAUTHENTICATED, f"the first frame is no `auth`: {error}") from None
            finally:
                self._waiting -= 1
            if not isinstance(frame, Auth):
                raise SessionClosed(Close.UNAUTHENTICATED, "without credentials the first frame is `auth`")
            token = frame.token
        try:
            identity = await self._verify(token)
        except InvalidToken as error:
            raise SessionClosed(Close.UNAUTHENTICATED, str(error)) from None
        if not identity.may(Scope.RECEIVE):
            raise SessionClosed(Close.FORBIDDEN, f"the token lacks the scope {Scope.RECEIVE}")
        if self.draining:
            raise SessionClosed(Close.DRAINING, "this node is leaving")
        return identity

    async def _verify(self, token: str) -> Identity:
        return self._authenticator.recall(token) or await self._authenticator.verify(token)


def read_headers(scope: Scope_) -> dict[str, str]:
    """Return the request's headers by lower-case name; of a repeated one the last counts."""
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}


def find_token(headers: Mapping[str, str], offered: Sequence[str]) -> str | None:
    """Return the token of the `Authorization` header, or else of a `bearer.` subprotocol."""
    if (authorization := headers.get("authorization")) is not None:
        scheme, _, token = authorization.partition(" ")
        return token.strip() if scheme.lower() == "bearer" else ""
    for name in offered:
        if name.startswith(BEARER_SUBPROTOCOL):
            return name.removeprefix(BEARER_SUBPROTOCOL)
    return None


def parse_query(raw: bytes) -> Mapping[str, Sequence[str]]:
    """Return the values of each query parameter. Raises SessionClosed (4400) for too many or undecodable ones."""
    try:
        return parse_qs(raw.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=MAX_PARAMETERS)
    except ValueError:
        raise SessionClosed(Close.BAD_FRAME, "the query string can't be read") from None


def read_query(query: Mapping[str, Sequence[str]]) -> tuple[str, Resume | None, bool]:
    """Return device, place to resume from and whether sent counts as acknowledged. Raises SessionClosed (4400)."""
    device = query.get("device", (DEFAULT_DEVICE,))[-1]
    if not is_identifier(device):
        raise SessionClosed(Close.BAD_FRAME, "device: 1 to 255 characters, none a control character")
    ack = query.get("ack", ("",))[-1]
    if ack not in {"", "auto"}:
        raise SessionClosed(Close.BAD_FRAME, "ack: only `auto` is known")
    epoch = query["epoch"][-1] if "epoch" in query else None
    if epoch is not None and len(epoch) > MAX_EPOCH:
        raise SessionClosed(Close.BAD_FRAME, "epoch: not one of ours")
    resume = None
    if "after" in query:
        text = query["after"][-1]
        if not (text.isascii() and text.isdigit() and len(text) <= len(str(MAX_SEQ)) and int(text) <= MAX_SEQ):
            raise SessionClosed(Close.BAD_FRAME, "after: a seq, 0 or more")
        resume = Resume(int(text), epoch)
    return device, resume, ack == "auto"


async def refuse(scope: Scope_, send: Send) -> None:
    """Answer 503 before the handshake: this process takes no more sockets now."""
    metrics.SOCKETS_REFUSED.labels(HTTPStatus.SERVICE_UNAVAILABLE.value).inc()
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close"})
        return
    headers = [(b"retry-after", b"2"), (b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
    await send({"type": "websocket.http.response.start", "status": 503, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": b"too busy; try again in a moment\n"})
