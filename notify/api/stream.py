"""The same frames as server-sent events, for networks that block WebSockets (contract, section 4, Front ends).

A session like any other, over another kind of connection: acks come by `POST /v1/inbox/ack`. The format is that of
https://html.spec.whatwg.org/multipage/server-sent-events.html.
"""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, ClassVar

import structlog

from notify.api.access import require
from notify.api.answers import answer_problem, recognize
from notify.api.services import Services
from notify.auth import Scope
from notify.errors import Close, FieldError, Forbidden, InvalidRequest, MethodNotAllowed, SessionClosed, Unavailable
from notify.frames import JsonCodec, ServerFrame, Welcome
from notify.gateway import parse_query, read_headers, read_query
from notify.ids import mint_id
from notify.limits import Limits
from notify.origins import OriginPolicy
from notify.peer import PeerGone
from notify.session import Resume, Session

log = structlog.get_logger()

AsgiScope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

PATH_STREAM = "/v1/stream"

HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # nginx would collect events otherwise
]


class EventCodec(JsonCodec):
    """Frames as events. One a stream: it knows the epoch, which every id needs."""

    subprotocol: ClassVar[str] = "text/event-stream"

    def __init__(self) -> None:
        self._epoch = ""

    def encode(self, frame: ServerFrame) -> str:
        """Return the frame as one event: its op, its JSON, and where it stands."""
        if isinstance(frame, Welcome):
            self._epoch = frame.epoch
        seq = getattr(frame, "seq", None)
        place = f"id: {self._epoch}:{seq}\n" if isinstance(seq, int) else ""
        # A producer's own JSON may hold line ends between its tokens; a line of an event may not.
        data = super().encode(frame).replace("\r", " ").replace("\n", "\ndata: ")
        return f"event: {frame.__struct_config__.tag}\n{place}data: {data}\n\n"


class EventStream:
    """An HTTP response as a session sees it."""

    __slots__ = ("_closed", "_receive", "_send", "_transport")

    def __init__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        self._closed = False
        self._receive = receive
        self._send = send
        self._transport = scope.get("extensions", {}).get("notify.transport")

    async def send(self, *messages: str | bytes) -> None:
        """Write events, in one go; waits while the peer reads slower than this. Raises PeerGone."""
        body = b"".join(message.encode() if isinstance(message, str) else message for message in messages)
        try:
            await self._send({"type": "http.response.body", "body": body, "more_body": True})
        except OSError:
            raise PeerGone from None

    def send_now(self, _message: str | bytes) -> bool:
        """Leave it to `send`."""
        return False

    def listen(self, _take: Callable[[str | bytes], bool]) -> None:
        """Do nothing: no message ever comes."""

    async def receive(self) -> str | bytes:
        """Wait for the peer to go: it has nothing to say here. Raises PeerGone."""
        while (await self._receive())["type"] != "http.disconnect":
            pass
        raise PeerGone

    async def close(self, _close: Close) -> None:
        """End the response; why was in the `disconnect` event. Idempotent."""
        if self._closed:
            return
        self._closed = True
        try:
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})
        except OSError:
            self.abort()

    def abort(self) -> None:
        """Drop the connection at once."""
        if self._transport is not None:
            self._transport.abort()


class Streaming:
    """Admits event streams to sessions."""

    def __init__(self, services: Services, origins: OriginPolicy) -> None:
        self._services = services
        self._origins = origins
        self._limits = Limits.from_settings(services.settings)

    async def serve(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """Serve one stream from its request to its end."""
        stream = EventStream(scope, receive, send)
        try:
            session, resume = await self._admit(scope, stream)
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller gets an answer
            await answer_problem(send, recognize(error))
            return
        await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
        log.info("session.opened", session_id=str(session.id), user=session.user, device=session.device)
        try:
            await session.run(self._services.hub, resume)
        finally:
            log.info("session.closed", session_id=str(session.id))
            await stream.close(Close.NORMAL)

    async def _admit(self, scope: AsgiScope, stream: EventStream) -> tuple[Session, Resume | None]:
        if scope["method"] != "GET":
            problem = MethodNotAllowed("this path takes GET")
            problem.headers["Allow"] = "GET"
            raise problem
        headers = read_headers(scope)
        identity = await require(self._services.authenticator, headers.get("authorization"), Scope.RECEIVE)
        if not self._origins.admits(headers.get("origin"), headers.get("host", "")):
            raise Forbidden("this origin may not connect; see NOTIFY_ALLOWED_ORIGINS")
        try:
            device, resume, auto_ack = read_query(parse_query(scope["query_string"]))
        except SessionClosed as closed:
            raise InvalidRequest(closed.detail, errors=[FieldError("", closed.detail)]) from None
        if (last := headers.get("last-event-id")) is not None:
            resume = read_event_id(last)
        if self._services.roster.draining:  # nobody would say goodbye to it, and the drain would wait for its end
            raise Unavailable("this node is leaving")
        authenticator = self._services.authenticator

        async def verify(token: str) -> Any:
            return authenticator.recall(token) or await authenticator.verify(token)

        session = Session(
            mint_id(),
            stream,
            EventCodec(),
            identity,
            device,
            store=self._services.store,
            limits=self._limits,
            verify=verify,
            auto_ack=auto_ack,
        )
        return session, resume


def read_event_id(text: str) -> Resume:
    """Return where `Last-Event-ID` says the client was. Raises InvalidRequest."""
    epoch, _, seq = text.rpartition(":")
    if not (epoch and seq.isascii() and seq.isdigit() and len(seq) < 20):  # noqa: PLR2004 - digits of a 64-bit number
        detail = "is not an id that this service gave out"
        raise InvalidRequest(f"Last-Event-ID {detail}", errors=[FieldError("/Last-Event-ID", detail)])
    return Resume(int(seq), epoch)
