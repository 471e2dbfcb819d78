"""Receiving: an async iterator over a user's WebSocket that acknowledges, reconnects and resumes by itself.

    connect ──▶ welcome ──▶ frames … ──▶ closed ──▶ what the code says (contract, section 5)
       ▲                                               │
       └── at once · after retry_after · backoff ◀─────┴──▶ 44xx: Disconnected

The promises kept here: the loop body meets each entry once and in order, over any number of connections; an entry is
acknowledged only after the body is through with it; and no wait is without a bound, so a dead connection is noticed.
"""

import asyncio
import inspect
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass

import httpx
from msgspec import UnsetType
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, InvalidURI, WebSocketException
from websockets.typing import Subprotocol

from notify.client.address import authorize, is_loopback, socket_url
from notify.client.calls import read_retry_after
from notify.client.errors import BadData, Disconnected
from notify.client.frames import Received, decode_frame, encode_frame, seq_of
from notify.errors import Close
from notify.frames import SUBPROTOCOL_JSON, Ack, Auth, Authenticated, Disconnect, Frame, Ping, Pong, Welcome

TokenSource = str | Callable[[], str | Awaitable[str]]
"""A token, or what returns a fresh one whenever it is called."""

SHORTEST_CEILING = 0.5
LONGEST_CEILING = 20.0
"""Seconds: between these the ceiling of the backoff doubles (contract, section 5)."""

STEADY_SECONDS = 20.0
"""A connection that held this long was a good one: the backoff after it begins anew."""

OPEN_SECONDS = 20.0
"""For the handshake and the welcome together; the service itself allows 15 for opening a mailbox."""

SILENCE_SECONDS = 15.0
"""Beyond the service's ping interval: a connection that is silent for longer is dead."""

TOKEN_SECONDS = 20.0
"""For a token to be made."""

WRITE_SECONDS = 10.0
"""For an ack to get out."""

CLOSE_SECONDS = 2.0
"""For a close that the other side answers."""

REFRESH_AGAIN_SECONDS = 5.0
"""Until a token is asked for again that was not to be had."""

FRESH_SHARE = 0.8
"""Of a token's remaining life, when a fresh one is presented: early enough to try it and fail."""

MAX_FRAME_BYTES = 16 * 1024 * 1024
"""Twice the largest body the service takes."""

STOPPING = range(4400, 4500)
"""Close codes after which coming back as it is can't work."""

HTTP_TRY_LATER = frozenset({408, 429})
"""Statuses below 500 of a refused handshake that pass."""


@dataclass(frozen=True, slots=True)
class Lost:
    """A connection is gone, or was not to be had: why, and in how many seconds the next attempt begins."""

    reason: str
    seconds: float


@dataclass(slots=True)
class Position:
    """Where this listener stands: everything up to `seq` of `epoch` has been handed out."""

    seq: int | None
    epoch: str | None


class Dropped(Exception):
    """The connection has ended; `code` says how, `retry_after` (seconds) when to come back if the service said."""

    def __init__(self, reason: str, *, code: int = 1006, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.code = code
        self.retry_after = retry_after


async def listen(  # noqa: PLR0913 - keywords only but for the two that are needed
    url: str,
    token: TokenSource,
    *,
    device: str = "default",
    after: int | None = None,
    epoch: str | None = None,
    ack: bool = True,
    on_lost: Callable[[Lost], None] | None = None,
) -> AsyncGenerator[Received]:
    """Yield what the user of `token` receives at `url`, until the loop is left or the service says stop.

    Each connection begins with a Welcome: look at `recovered` there, and at Truncated, to know what was missed.
    An entry is acknowledged for `device` when the loop asks for the next one; with `ack=False` never, and the service
    then stops after 1,000 of them. `after` (with its `epoch`) starts there rather than at the device's cursor.
    `on_lost` is told of every connection that is lost. To leave the loop early and have the connection closed at once,
    wrap it: `async with aclosing(listen(…)) as frames`.

    Raises Disconnected when coming back would not help (4401: get another token first), and BadData. A network that is
    down raises nothing: it is tried again, for ever.
    """
    position = Position(after, epoch)
    failures = 0
    while True:
        connected_at = time.monotonic()
        link = Link(url, token, device, position, ack=ack)
        try:
            await link.open()
            while True:
                yield await link.receive()
        except Dropped as dropped:
            held = time.monotonic() - connected_at
            failures = 0 if link.welcomed and held >= STEADY_SECONDS else failures + 1
            seconds = choose_pause(dropped, failures, fresh_token=callable(token))
            if on_lost is not None:
                on_lost(Lost(dropped.reason, seconds))
        finally:
            await link.close()
        await asyncio.sleep(seconds)


def choose_pause(dropped: Dropped, failures: int, *, fresh_token: bool) -> float:
    """Return the seconds to wait before the next attempt. Raises Disconnected when there is to be none.

    `failures` counts the connections in a row that did not last.
    """
    if dropped.code in STOPPING or (dropped.code == Close.TOKEN_EXPIRED and not fresh_token):
        raise Disconnected(dropped.code, dropped.reason)
    if dropped.retry_after is not None:
        return dropped.retry_after
    if dropped.code == Close.TOKEN_EXPIRED and failures <= 1:
        return 0.0
    ceiling = min(LONGEST_CEILING, SHORTEST_CEILING * 2.0 ** min(max(failures - 1, 0), 10))
    return random.uniform(0.0, ceiling)  # noqa: S311 - jitter, not a secret


class Link:
    """One connection. It moves the listener's position on as frames are handed out."""

    def __init__(self, url: str, token: TokenSource, device: str, position: Position, *, ack: bool) -> None:
        self.welcomed = False
        self._url = url
        self._token = token
        self._device = device
        self._position = position
        self._ack = ack
        self._socket: ClientConnection | None = None
        self._acked: int | None = None
        self._silence = OPEN_SECONDS
        self._refresh_at: float | None = None
        self._goodbye: Disconnect | None = None

    async def open(self) -> None:
        """Connect. Raises Dropped when that may work later, Disconnected when not, and BadData."""
        url = socket_url(self._url, self._parameters())
        headers = authorize(await ask_for_token(self._token))
        try:
            self._socket = await connect(
                url,
                additional_headers=headers,
                subprotocols=[Subprotocol(SUBPROTOCOL_JSON)],
                compression=None,  # as the service: 50 KiB of memory a connection for frames of a few hundred bytes
                ping_interval=None,  # the service pings, and a loop body may take its time
                proxy=None if is_loopback(url) else True,
                open_timeout=OPEN_SECONDS,
                close_timeout=CLOSE_SECONDS,
                max_size=MAX_FRAME_BYTES,
            )
        except InvalidStatus as error:
            status = error.response.status_code
            if status < 500 and status not in HTTP_TRY_LATER:  # noqa: PLR2004 - the range of HTTP's client errors
                raise Disconnected(status, error.response.reason_phrase) from None
            retry_after = read_retry_after(error.response.headers.get("Retry-After"))
            raise Dropped(f"the service answered {status}", retry_after=spread(retry_after)) from None
        except InvalidURI as error:
            raise BadData(str(error)) from None
        except (OSError, WebSocketException, EOFError) as error:
            raise Dropped(explain(error)) from None

    async def receive(self) -> Received:
        """Return the next frame for the loop body; what was returned before is dealt with by now. Raises Dropped."""
        while True:
            frame = await self._next_frame()
            if isinstance(frame, Welcome):
                self._welcome(frame)
            elif isinstance(frame, Disconnect):
                self._goodbye = frame
            elif (seq := seq_of(frame)) is not None:
                if self._position.seq is not None and seq <= self._position.seq:
                    continue  # had already
                self._position.seq = seq
            return frame

    async def close(self) -> None:
        """Close the connection, in a bounded time."""
        if self._socket is None:
            return
        socket, self._socket = self._socket, None
        # When the loop is left because its task was cancelled, again even, there may be no time for a polite close.
        try:
            async with asyncio.timeout(CLOSE_SECONDS + 1.0):
                await socket.close()
        except TimeoutError:
            socket.transport.abort()
        except BaseException:
            socket.transport.abort()
            raise

    def _parameters(self) -> dict[str, str]:
        parameters = {"device": self._device}
        if self._position.seq is not None:
            parameters["after"] = str(self._position.seq)
            if self._position.epoch is not None:
                parameters["epoch"] = self._position.epoch
        return parameters

    def _welcome(self, frame: Welcome) -> None:
        # Numbering starts where the service says: at what was asked for, or, if that can't be honoured, at the cursor.
        resumed = self._position.seq == frame.after
        self._position.seq, self._position.epoch = frame.after, frame.epoch
        # A cursor needs no ack; what was dealt with after the last ack of the connection before does.
        self._acked = None if resumed else frame.after
        self.welcomed = True
        self._silence = frame.ping_interval + SILENCE_SECONDS
        self._plan_refresh(frame.expires_in)

    def _plan_refresh(self, expires_in: float) -> None:
        if callable(self._token):
            self._refresh_at = time.monotonic() + max(1.0, expires_in * FRESH_SHARE)

    async def _next_frame(self) -> Received:
        """Return the next frame that is not between the service and this module alone."""
        while True:
            # While frames are waiting they are taken without an ack each: one ack tells of all of them.
            message = await self._take(0.0)
            if message is None:
                await self._acknowledge()
                message = await self._wait()
            frame = decode_frame(message)
            if isinstance(frame, Authenticated):
                self._plan_refresh(frame.expires_in)
            elif frame is not None and not isinstance(frame, Ping | Pong):
                return frame

    async def _wait(self) -> str | bytes:
        """Return the next message, keeping the token fresh meanwhile. Raises Dropped."""
        deadline = time.monotonic() + self._silence
        while True:
            refresh_at, now = self._refresh_at, time.monotonic()
            if refresh_at is not None and now >= refresh_at:
                await self._refresh()
                continue
            if (message := await self._take(min(deadline, refresh_at or deadline) - now)) is not None:
                return message
            if time.monotonic() >= deadline:
                raise Dropped(f"nothing was heard for {self._silence:.0f} s")

    async def _refresh(self) -> None:
        """Present a fresh token on the open socket; where there is none to be had yet, ask again soon."""
        try:
            token = await ask_for_token(self._token)
        except Dropped:
            self._refresh_at = time.monotonic() + REFRESH_AGAIN_SECONDS
            return
        self._refresh_at = None  # until the answer says when next
        await self._send(Auth(token))

    async def _take(self, seconds: float) -> str | bytes | None:
        """Return a message that is there or comes within `seconds`; None if none does. Raises Dropped."""
        assert self._socket is not None
        # A Ctrl-C that came while the loop body ran is delivered here: inside a timeout that ends at the same moment, the two
        # would be taken for the timeout alone (https://docs.python.org/3/library/asyncio-task.html#asyncio.Task.uncancel).
        await asyncio.sleep(0)
        try:
            async with asyncio.timeout(seconds):
                return await self._socket.recv()
        except TimeoutError:
            return None
        except ConnectionClosed as error:
            raise self._explain_close(error) from None

    async def _acknowledge(self) -> None:
        seq = self._position.seq
        if self._ack and self.welcomed and seq is not None and seq != self._acked:
            await self._send(Ack(seq))
            self._acked = seq

    async def _send(self, frame: Frame) -> None:
        assert self._socket is not None
        try:
            async with asyncio.timeout(WRITE_SECONDS):
                await self._socket.send(encode_frame(frame))
        except TimeoutError:
            raise Dropped(f"the service read nothing for {WRITE_SECONDS:.0f} s") from None
        except ConnectionClosed:
            # What came before the close is still to be read: the next _take tells of the end.
            return

    def _explain_close(self, error: ConnectionClosed) -> Dropped:
        code = 1006 if error.rcvd is None else error.rcvd.code
        reason = error.rcvd.reason if error.rcvd is not None and error.rcvd.reason else "the connection was lost"
        goodbye = self._goodbye
        if goodbye is None:
            return Dropped(reason, code=code)
        retry_after = None if isinstance(goodbye.retry_after_ms, UnsetType) else goodbye.retry_after_ms / 1000
        return Dropped(goodbye.reason, code=goodbye.code, retry_after=retry_after)


async def ask_for_token(source: TokenSource) -> str:
    """Return the token, a fresh one where the source can make it.

    Raises Dropped when the source can't be reached; what else it raises is for whoever wrote it.
    """
    if isinstance(source, str):
        return source
    try:
        async with asyncio.timeout(TOKEN_SECONDS):
            token = source()
            return await token if inspect.isawaitable(token) else token
    except (OSError, httpx.HTTPError) as error:  # TimeoutError is an OSError
        raise Dropped(f"no token was to be had: {explain(error)}") from None


def spread(seconds: float | None) -> float | None:
    """Return a pause a little longer, by chance, so that not everyone comes back at once."""
    return None if seconds is None else min(seconds, 60.0) * random.uniform(1.0, 1.5)  # noqa: S311 - jitter


def explain(error: BaseException) -> str:
    """Say why there is no connection."""
    if isinstance(error, TimeoutError):
        return "the service did not answer in time"
    if isinstance(error, ConnectionRefusedError):
        return "nothing listens there (connection refused)"
    return str(error) or type(error).__name__
