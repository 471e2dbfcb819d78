"""HTTP connections: uvicorn's protocol with timers, a limit on headers and one on connections.

Promises that a request arrives within its time and size or is refused (400, 431, 503) or dropped, whatever is sent.
"""

import asyncio
import urllib.parse
from asyncio import TimerHandle
from typing import Any, cast

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from notify.api.answers import Fields
from notify.errors import HeadersTooLarge, InvalidRequest, Problem, Unavailable
from notify.server.exchange import Exchange
from notify.server.limits import Config
from notify.server.transport import Transport, say_goodbye, write_response
from notify.server.websocket import WebSocketProtocol

MAX_LINE_BYTES = 8_000
"""Of one header line of a handshake: about what proxies let through, so that a token that is too long fails here as well."""

MAX_LINES = 128
"""Header lines of a handshake: each is looked at several times, and a browser sends some 20."""

MAX_QUEUED = 64
"""Requests of a connection that wait for the answer to one before them. Each takes some 10 KiB, and one packet holds thousands;
so many take about what a session's frames may."""

MAX_REFUSED = 256
"""Connections that are being told that they are refused; beyond it they are dropped without a word."""


class HttpProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol with timers, a limit on headers and one on connections."""

    config: Config

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._limits = self.config.limits
        self._deadline: TimerHandle | None = None
        self._in_headers = True
        self._header_bytes = 0
        self._idle_bytes = 0
        self._deaf = False
        self._held: Fields | None = None  # the headers of a request that may take the shortcut
        self._answering: Exchange | None = None  # with requests queued behind it, it is not uvicorn's `cycle`
        self._idle_since = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's does
        """Start the clock; turn away one connection too many."""
        super().connection_made(transport)
        self._handle = Transport(transport)
        self._arm(self._limits.header_seconds)
        if len(self.connections) > self._limits.max_connections:
            self._refuse(Unavailable("this process has all the connections it can take", retry_after=2))

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clocks, and let go of what was never begun."""
        self._disarm()
        self._unset_keepalive_if_required()
        self.config.refused.discard(self)
        super().connection_lost(exc)
        if self._answering is not None and not self._answering.response_complete:
            self._answering.disconnected = True
            self._answering.message_event.set()
        if self._held is not None:
            cast("Exchange", self.cycle).release()
        for cycle, _app in self.pipeline:
            cast("Exchange", cycle).release()

    def data_received(self, data: bytes) -> None:
        """Parse, within the limits and the time that the part it belongs to has."""
        if self._deaf or self.transport.is_closing():
            return
        self._feed(data)
        if self._deaf or self._is_done:
            return
        if self._deadline is None and not self._in_headers:
            self._arm(self._limits.body_seconds)
        elif self._deadline is None and (self.cycle is None or self.cycle.response_complete):
            self._arm(self._limits.header_seconds)

    @property
    def _is_done(self) -> bool:
        """Whether the last request is here: what follows it is nobody's (RFC 9112, section 9.6)."""
        return self._in_headers and self.cycle is not None and not self.cycle.keep_alive

    def _feed(self, data: bytes) -> None:
        """Parse no more at a time than what is no body may have yet: the parser itself would take headers without end."""
        limit, place = self._limits.header_bytes, 0
        while place < len(data) and not (self._deaf or self._is_done):
            part = data[place : place + limit + 1 - (self._header_bytes if self._in_headers else self._idle_bytes)]
            place += len(part)
            if self._in_headers:
                self._header_bytes += len(part)  # until it turns out that they end in it
            else:
                self._idle_bytes += len(part)  # until some of it turns out to be body
            try:
                self.parser.feed_data(part)
                if self._held is not None and len(self.cycle.body) > HIGH_WATER_LIMIT:
                    self._call_held()  # no more is read until the application does
            except httptools.HttpParserUpgrade as upgrade:
                self._deaf = True  # what comes now belongs to another protocol, or to one that isn't spoken here
                if self._should_upgrade():
                    self.handle_websocket_upgrade()
                    if early := part[upgrade.args[0] :] + data[place:]:
                        cast("asyncio.Protocol", self.transport.get_protocol()).data_received(early)
            except httptools.HttpParserError:
                self._refuse(InvalidRequest("this is not HTTP/1.1"))
            else:
                if max(self._header_bytes, self._idle_bytes) > limit:
                    self._refuse(HeadersTooLarge(f"the headers have more than {limit} bytes"))

    def on_message_begin(self) -> None:
        """Begin a request. What only the application asks is put together when it is called."""
        self.url = b""
        self.headers = []
        self.scope = {}  # type: ignore[typeddict-item]  # see _describe

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header. One that comes after the body is none (RFC 9110, section 6.5.1)."""
        if self._in_headers:
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Go on to the body, and call the application, or once what was asked before is answered.

        Two hosts end the request (RFC 9112, section 3.2): a proxy could have looked at the other one.
        """
        self._disarm()
        self._in_headers = False
        self._header_bytes = self._idle_bytes = 0
        fields = dict(self.headers)
        if len(fields) < len(self.headers) and [name for name, _ in self.headers].count(b"host") > 1:
            raise ValueError("two hosts")  # to the parser, which is not HTTP then
        self.expect_100_continue = b"expect" in fields and any(
            name == b"expect" and value.lower() == b"100-continue" for name, value in self.headers
        )
        upgrade = self.parser.should_upgrade()
        if upgrade and self._should_upgrade():
            self._describe()
            return
        before = self.cycle
        first = before is None or before.response_complete
        held = first and self._may_be_short(fields, upgrade=upgrade)
        if not held:
            self._describe()  # before there is an exchange: what is no URL is answered without the application
        self.cycle = Exchange(
            scope=self.scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.config.access_log,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            # Who asked for a protocol that isn't spoken here is answered, and the connection closed.
            keep_alive=not upgrade and self.parser.should_keep_alive() and self.parser.get_http_version() != "1.0",
            on_response=self.on_response_complete,
        )
        if held:
            self._held = fields
        elif first:
            self._start_asgi_task(self.cycle, self.app)
        else:
            if len(self.pipeline) >= MAX_QUEUED:
                raise ValueError("too many at once")  # to the parser, which then ends the connection
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))

    def _describe(self) -> None:
        """Put together what the application is told of the request (https://asgi.readthedocs.io/en/latest/specs/www.html)."""
        url = httptools.parse_url(self.url)
        path = url.path.decode("ascii")
        self.scope.update(
            {
                "type": "http",
                "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
                "http_version": self.parser.get_http_version(),
                "server": self.server,
                "client": self.client,
                "scheme": self.scheme,  # type: ignore[typeddict-item]  # one of the two
                "root_path": self.root_path,
                "headers": self.headers,
                "state": self.app_state.copy(),
                "method": self.parser.get_method().decode("ascii"),
                "path": urllib.parse.unquote(path) if "%" in path else path,
                "raw_path": url.path,
                "query_string": url.query or b"",
                "extensions": {"notify.transport": self._handle},  # type: ignore[dict-item]  # ours
            }
        )

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        self._idle_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Stop the clock: what remains is our own work."""
        self._disarm()
        self._in_headers = True
        self._idle_bytes = 0
        super().on_message_complete()
        if self._held is not None:
            self._offer(self._held)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answering = cast("Exchange", cycle)
        super()._start_asgi_task(cycle, app)

    def _may_be_short(self, fields: Fields, *, upgrade: bool) -> bool:
        """Whether a request may take the shortcut, as far as its head tells: nothing of an answer goes before the answer."""
        shortcut = self.config.shortcut
        return (
            shortcut is not None
            and self.url == shortcut.path
            and self.parser.get_method() == b"POST"
            and not (upgrade or self.expect_100_continue or self.flow.write_paused)
            and self._is_read_ahead(fields.get(b"content-length", b"0"))
        )

    def _is_read_ahead(self, length: bytes) -> bool:
        """Whether a body of this length, in digits, is read whole before anybody asks for it.

        One that is not may be refused by its head alone, so the application hears of it at once.
        """
        return len(length) <= len(b"%d" % HIGH_WATER_LIMIT) and int(length) <= HIGH_WATER_LIMIT

    def _offer(self, fields: Fields) -> None:
        """Offer a whole request to the application; if it does not take it, call it in the ordinary way.

        A fault of its must not reach the parser, for which it would be one of the request. What was done is not known then,
        so the client hears nothing.
        """
        cycle, shortcut = cast("Exchange", self.cycle), self.config.shortcut
        self._answering = cycle
        try:
            taken = shortcut is not None and shortcut.take(fields, bytes(cycle.body), cycle.answer)
        except Exception:
            self._held = None
            self.logger.exception("Exception in the shortcut of the application")
            cycle.release()
            self.transport.abort()
            return
        if taken:
            self._held = None
            cycle.body = bytearray()  # a connection that idles keeps its last exchange
        else:
            self._call_held()

    def _call_held(self) -> None:
        """Call the application in the ordinary way after all."""
        self._held = None
        self._describe()
        self._start_asgi_task(self.cycle, self.app)

    def on_response_complete(self) -> None:
        """Go on to what was asked meanwhile; else wait for the next request, for a while.

        One timer serves many requests: it looks at how long the connection has been idle when it ends.
        """
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
            return
        self._idle_since = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self._wait_idle(self.timeout_keep_alive)

    def timeout_keep_alive_handler(self) -> None:
        """Close a connection that has been idle for long enough; look at it again later if it was not."""
        self.timeout_keep_alive_task = None
        if self._deadline is not None or not self.cycle.response_complete:
            return  # busy: the end of its answer starts the clock again
        left = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if left > 0:
            self._wait_idle(left)
        else:
            super().timeout_keep_alive_handler()

    def _wait_idle(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

    def handle_websocket_upgrade(self) -> None:
        """Hand the connection over to the WebSocket protocol, together with the handshake as it was read.

        The time between two requests is over with it, too: a proxy may open a socket where requests were answered before.
        """
        self._unset_keepalive_if_required()
        if (problem := self._find_fault()) is not None:
            self._refuse(problem)
            return
        self.connections.discard(self)
        protocol = WebSocketProtocol(
            config=self.config, server_state=self.server_state, app_state=self.app_state, _loop=self.loop
        )
        self.transport.set_protocol(protocol)
        protocol.take_over(self.transport, self.scope)
        self.parser = None  # type: ignore[assignment]  # they refer to each other: freed at once, not by the collector

    def _find_fault(self) -> Problem | None:
        """Return what keeps a handshake from being handed over, if anything does."""
        if self.cycle is not None and not self.cycle.response_complete:
            # Whoever is being answered would never hear that its client is gone, and would write into the other protocol.
            return InvalidRequest("a WebSocket handshake waits for the answers to what was asked before it")
        longest = max((len(name) + len(value) for name, value in self.headers), default=0)
        if max(longest, len(self.url)) > MAX_LINE_BYTES or len(self.headers) > MAX_LINES:
            return HeadersTooLarge(f"a handshake has {MAX_LINES} lines of {MAX_LINE_BYTES} bytes at most")
        fields = dict(self.headers)
        if b"transfer-encoding" in fields or fields.get(b"content-length", b"0") != b"0":
            return InvalidRequest("a WebSocket handshake has no body")
        return None

    def _arm(self, seconds: float) -> None:
        self._disarm()
        self._deadline = self.loop.call_later(seconds, self.transport.abort)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _refuse(self, problem: Problem) -> None:
        """Answer and close, without the application; drop what was promised an answer already."""
        self._deaf = True
        self.connections.discard(self)
        answering = self.cycle is not None and not self.cycle.response_complete
        if answering or len(self.config.refused) >= MAX_REFUSED:
            self.transport.abort()
            return
        self.config.refused.add(self)
        self._arm(self._limits.close_seconds)
        say_goodbye(self.transport, write_response(problem, self.server_state.default_headers))
