"""Requests to addresses that other people gave us: webhooks and push services.

Keeps the promise that no request of ours ever reaches an address inside, whatever a URL says, a name resolves to or an
answer redirects to. A name is resolved once a request; if any of its addresses is not one of the public internet the
request is refused, otherwise the connection is made to the very address that was looked at. So a name that resolves to
something else a moment later (DNS rebinding) gains nothing, and TLS still asks for the certificate of the name.
https://cheatsheetseries.owasp.org/cheatsheets/Server_Side_Request_Forgery_Prevention_Cheat_Sheet.html

One connection a request, on httpcore alone: no redirects, no cookies, no proxies out of the environment, and nothing that
one receiver's request could leave behind for another's. (Its pool loses a place for good when a request that waits for one
is cancelled: https://github.com/encode/httpcore/issues/1093.)
"""

import asyncio
import ipaddress
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Final, Self

import httpcore
import httpx

from notify import clock
from notify.errors import NotifyError

TOTAL_SECONDS: Final = 5.0  # seconds from the first look at the URL to the first line of the answer
DRAIN_SECONDS: Final = 1.0  # seconds for the rest of an answer, so that a polite server isn't cut off in its sentence
MAX_BODY: Final = 4_096  # bytes of an answer that are read; what it says does not matter
MAX_CONNECTIONS: Final = 64  # at a time; more wait, and their time runs
MAX_LOOKUPS: Final = (
    64  # threads in getaddrinfo at a time: a name server that doesn't answer holds one for half a minute
)
MAX_PROBES: Final = 8  # the same for URLs that somebody is just entering, apart: anybody may, and as often as they like
MAX_ADDRESSES: Final = 4  # of a name that are tried one after the other
MAX_URL: Final = 2_048  # characters
MAX_PORT: Final = 65_535
HTTPS_PORT: Final = 443
FIRST_FREE_PORT: Final = 1_024  # below it, ports but 443 belong to other protocols

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolve = Callable[[str, int], Sequence[str]]
"""Returns the addresses of a name; blocks, in a thread of its own. Raises OSError."""

# What the standard library counts as global, or did in one of its patch releases, and is not what a webhook lives at.
INSIDE_V4: Final = tuple(
    ipaddress.IPv4Network(network)
    for network in (
        "100.64.0.0/10",  # carrier-grade NAT (RFC 6598); also where a cloud keeps its metadata
        "168.63.129.16/32",  # what every machine of a large cloud reaches its host's agent at
        "192.0.0.0/24",  # protocol assignments (RFC 6890), a cloud's metadata among them
        "192.88.99.0/24",  # 6to4 relays (RFC 7526)
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
    )
)
GLOBAL_V6: Final = ipaddress.IPv6Network("2000::/3")  # all that was ever given out as global unicast (RFC 4291)
INSIDE_V6: Final = tuple(
    ipaddress.IPv6Network(network)
    for network in (
        "2001::/23",  # protocol assignments (RFC 2928): Teredo, ORCHID and others
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4: an IPv4 address in disguise
        "3fff::/20",  # documentation (RFC 9637)
    )
)
NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")  # an IPv4 address behind a translator (RFC 6052)

_NUMERIC_HOST = re.compile(r"[0-9a-fx.]+", re.IGNORECASE)


class ForbiddenAddress(NotifyError):
    """The URL leads to an address inside, or is not one that requests of ours go to. The message is safe to show."""


class Unreachable(NotifyError):
    """No answer: nobody there, too slow, or not the one whose name it is. The message is safe to show."""


@dataclass(frozen=True, slots=True)
class Answer:
    """How a receiver answered. `retry_after` is in seconds, None where it didn't say."""

    status: int
    retry_after: float | None = None


def is_public(address: Address) -> bool:
    """Whether an address is one of the public internet (IANA's special-purpose registries, RFC 6890)."""
    if isinstance(address, ipaddress.IPv4Address):
        return address.is_global and not any(address in network for network in INSIDE_V4)
    if address in NAT64:
        return is_public(ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF))
    return address in GLOBAL_V6 and address.is_global and not any(address in network for network in INSIDE_V6)


def read_address(host: str) -> Address | None:
    """Return the address that a URL's host is, in any way of writing one that a resolver takes; None for a name."""
    host = host.partition("%")[0]
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        pass
    if not _NUMERIC_HOST.fullmatch(host):
        return None
    try:
        return ipaddress.IPv4Address(socket.inet_aton(host))  # "127.1", "0x7f000001", "2130706433"
    except OSError:
        return None


def resolve_name(name: str, port: int) -> Sequence[str]:
    """Ask the system's resolver. Raises OSError."""
    found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(place[0]) for *_, place in found))


def read_retry_after(value: str) -> float | None:
    """Return the seconds that a Retry-After header asks for, a delay or a date (RFC 9110, section 10.2.3)."""
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value[:10])
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - clock.now())
    except (ValueError, OverflowError):
        return None


class Outbound:
    """Posts to other people's URLs. An async context manager; `allow_private` is for development and tests.

    With `allow_private`, addresses inside, plain http and any port are taken; the bounds on time, size and number stay.
    """

    def __init__(
        self, *, allow_private: bool, resolve: Resolve = resolve_name, trust: ssl.SSLContext | None = None
    ) -> None:
        self._allow_private = allow_private
        self._trust = trust
        self._lookups = _Lookups(resolve, MAX_LOOKUPS)
        self._probes = _Lookups(resolve, MAX_PROBES)
        self._places = asyncio.Semaphore(MAX_CONNECTIONS)
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Refuse what comes later. What is under way belongs to whoever asked for it."""
        self._closed = True

    def check(self, url: str) -> None:
        """Refuse a URL for what can be known without resolving its name. Raises ForbiddenAddress."""
        self._parse(url)

    async def probe(self, url: str) -> None:
        """Refuse a URL whose name leads inside at this moment. Raises ForbiddenAddress, and Unreachable for no such name.

        For whoever has just entered it; every request looks again for itself.
        """
        parsed = self._parse(url)
        try:
            async with asyncio.timeout(TOTAL_SECONDS):
                await self._guard(self._probes).find(parsed.host.decode("ascii"), parsed.origin.port)
        except TimeoutError:
            raise Unreachable("the name servers did not answer in time") from None

    async def post(self, url: str, *, content: bytes, headers: Mapping[str, str]) -> Answer:
        """Send one POST and return how it was answered; redirects are answers too.

        Takes TOTAL_SECONDS at most, waiting for a place included. Raises ForbiddenAddress or Unreachable.
        """
        target = self._parse(url)
        if self._closed:
            raise Unreachable("the service is stopping")
        if self._trust is None:
            self._trust = httpx.create_ssl_context()  # 20 ms; most processes never need it
        network = self._guard(self._lookups)
        connection = httpcore.AsyncHTTPConnection(target.origin, ssl_context=self._trust, network_backend=network)
        fields = [("Host", name_host(target)), ("Accept", "*/*"), *headers.items()]
        try:
            async with (
                asyncio.timeout(TOTAL_SECONDS) as bound,
                self._places,
                connection.stream("POST", target, headers=fields, content=content) as response,
            ):
                bound.reschedule(None)
                await drain(response)
                return read_answer(response)
        except TimeoutError:
            raise Unreachable(f"no answer within {TOTAL_SECONDS:g} s") from None
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException, OSError) as error:
            # In our words, never the library's: it may quote what it sent.
            raise Unreachable(f"the request did not get through ({explain(error)})") from None
        finally:
            await connection.aclose()
            await network.close()

    def _guard(self, lookups: "_Lookups") -> "_GuardedNetwork":
        return _GuardedNetwork(lookups, allow_private=self._allow_private)

    def _parse(self, url: str) -> httpcore.URL:
        if len(url) > MAX_URL:
            raise ForbiddenAddress(f"a URL has at most {MAX_URL} characters")
        try:
            parsed = httpx.URL(url)
        except (httpx.InvalidURL, ValueError, UnicodeError):
            raise ForbiddenAddress("this is not a URL") from None
        if parsed.scheme != "https" and not (self._allow_private and parsed.scheme == "http"):
            raise ForbiddenAddress("the URL must begin with https://")
        if parsed.userinfo:
            raise ForbiddenAddress("the URL must not hold a user name or password")
        host = parsed.raw_host.decode("ascii")
        if not host:
            raise ForbiddenAddress("the URL names no host")
        port = HTTPS_PORT if parsed.port is None else parsed.port
        if not 0 < port <= MAX_PORT:
            raise ForbiddenAddress(f"there is no port {port}")
        if not self._allow_private:
            check_public(host, port)
        return httpcore.URL(scheme=parsed.raw_scheme, host=parsed.raw_host, port=parsed.port, target=parsed.raw_path)


def check_public(host: str, port: int) -> None:
    """Refuse what can't be on the public internet, whatever a name resolves to. Raises ForbiddenAddress."""
    if port != HTTPS_PORT and port < FIRST_FREE_PORT:
        raise ForbiddenAddress(f"port {port} is not taken: 443, or one from {FIRST_FREE_PORT} up")
    address = read_address(host)
    if address is not None and not is_public(address):
        raise ForbiddenAddress("the URL leads to an address that is not on the public internet")
    if host.rstrip(".").rpartition(".")[2].lower() == "localhost":  # RFC 6761, section 6.3
        raise ForbiddenAddress("the URL leads to this machine itself")


def name_host(url: httpcore.URL) -> str:
    """Return the Host header of a URL (RFC 9110, section 7.2)."""
    host = url.host.decode("ascii")
    host = f"[{host}]" if ":" in host else host
    return host if url.port is None else f"{host}:{url.port}"


def read_answer(response: httpcore.Response) -> Answer:
    """Return what matters of an answer."""
    for name, value in response.headers:
        if name.lower() == b"retry-after":
            return Answer(response.status, read_retry_after(value.decode("latin-1")))
    return Answer(response.status)


async def drain(response: httpcore.Response) -> None:
    """Read the beginning of a body and drop it: the answer is known, whatever becomes of the rest."""
    size = 0
    with suppress(httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException, OSError, TimeoutError):
        async with asyncio.timeout(DRAIN_SECONDS):
            async for part in response.aiter_stream():
                size += len(part)
                if size >= MAX_BODY:
                    return


def explain(error: BaseException) -> str:
    """Name what went wrong, for the person whose URL it is."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is not accepted: {cause.verify_message}"
        if isinstance(cause, ssl.SSLError):
            return "TLS failed"
        if isinstance(cause, ConnectionRefusedError):
            return "the connection was refused"
        if isinstance(cause, socket.gaierror):
            return "there is no such name"
        cause = cause.__cause__ or cause.__context__
    return type(error).__name__


class _Lookups:
    """Resolves names in threads of its own: getaddrinfo can't be cancelled, and must hold up neither others nor an exit."""

    def __init__(self, resolve: Resolve, places: int) -> None:
        self._resolve = resolve
        self._places = asyncio.Semaphore(places)

    async def find(self, name: str, port: int) -> Sequence[str]:
        """Return a name's addresses. Raises OSError; the caller bounds it."""
        await self._places.acquire()
        loop = asyncio.get_running_loop()
        found: asyncio.Future[Sequence[str]] = loop.create_future()

        def finish(result: Sequence[str] | BaseException) -> None:
            self._places.release()
            if found.done():  # whoever asked has given up
                return
            if isinstance(result, BaseException):
                found.set_exception(result)
            else:
                found.set_result(result)

        def look() -> None:
            result: Sequence[str] | BaseException
            try:
                result = self._resolve(name, port)
            except (OSError, UnicodeError) as error:  # UnicodeError: a label that is too long
                result = error if isinstance(error, OSError) else socket.gaierror(socket.EAI_NONAME, "not a name")
            with suppress(RuntimeError):  # the loop has ended, and with it whoever asked
                loop.call_soon_threadsafe(finish, result)

        threading.Thread(target=look, name="resolve", daemon=True).start()
        return await found


class _GuardedNetwork(httpcore.AsyncNetworkBackend):
    """Makes the connection of one request: to what is public, and to nothing else."""

    def __init__(self, lookups: _Lookups, *, allow_private: bool) -> None:
        self._lookups = lookups
        self._allow_private = allow_private
        self._network = httpcore.AnyIOBackend()
        self._stream: httpcore.AsyncNetworkStream | None = None

    async def find(self, host: str, port: int) -> Sequence[str]:
        """Return the addresses of a host, each of them looked at. Raises ForbiddenAddress or Unreachable."""
        try:
            addresses = await self._lookups.find(host, port)
        except OSError:
            raise Unreachable(f"{host} can't be resolved") from None
        if not addresses:
            raise Unreachable(f"{host} has no address")
        if not self._allow_private:
            for text in addresses:
                address = read_address(text)
                if address is None or not is_public(address):
                    raise ForbiddenAddress(f"{host} leads to an address that is not on the public internet")
        return addresses[:MAX_ADDRESSES]

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the signature is httpcore's; `post` bounds the whole
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the first address of a host that answers, each with its share of the time."""
        addresses = await self.find(host, port)
        share = TOTAL_SECONDS / (len(addresses) + 1) if timeout is None else timeout
        for place, address in enumerate(addresses, start=1):
            try:
                self._stream = await self._network.connect_tcp(address, port, share, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                if place == len(addresses):
                    raise
            else:
                return self._stream
        raise AssertionError("unreachable: there is an address, and the last attempt raises")

    async def close(self) -> None:
        """Close the connection: a handshake that is cancelled leaves it open."""
        if self._stream is not None:
            await self._stream.aclose()
