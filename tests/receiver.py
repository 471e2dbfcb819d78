"""Somebody else's server, as webhooks and push endpoints are: https on a port of its own, with a certificate of its own."""

import asyncio
import datetime as dt
import ssl
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from tests.service import PATIENCE

NAME = "receiver.example"
"""The name in the certificate: no resolver knows it, so that only a test's own finds the way."""

PIECE = 65_536
"""Bytes of a body that are written at a time."""


@dataclass(frozen=True)
class Received:
    """A request as it arrived. Header names are in lower case."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes


@dataclass
class Reply:
    """What is answered, after `delay` seconds. Without a status nothing is, and the connection stays open."""

    status: int | None = 201
    headers: Mapping[str, str] | None = None
    body: bytes = b""
    delay: float = 0.0


class Receiver:
    """Takes requests and answers each with the next of `replies`, then with `reply`. `trust` accepts its certificate.

    `plain` speaks http, at its address: for a service that reaches it by itself.
    """

    def __init__(self, name: str = NAME, *, plain: bool = False) -> None:
        self.name = name
        self.plain = plain
        self.reply = Reply()
        self.replies: list[Reply] = []
        self.requests: asyncio.Queue[Received] = asyncio.Queue()
        self.connections = 0
        self.sent = 0
        """Bytes of bodies that were taken from us."""
        self.port = 0
        self.trust = ssl.create_default_context()
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}" if self.plain else f"https://{self.name}:{self.port}"

    async def __aenter__(self) -> Self:
        context = None if self.plain else self._make_context()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=context)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        await self._server.wait_closed()

    async def take(self) -> Received:
        """Return the next request."""
        async with asyncio.timeout(PATIENCE):
            return await self.requests.get()

    def _make_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate, key = make_certificate(self.name)
        self.trust.load_verify_locations(cadata=certificate.decode())
        with TemporaryDirectory() as directory:  # the standard library reads a key from a file alone
            path = Path(directory, "receiver.pem")
            path.write_bytes(certificate + key)
            context.load_cert_chain(path)
        return context

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        try:
            with suppress(asyncio.IncompleteReadError, ConnectionError):
                await self._answer(reader, writer)
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, target, _ = head[0].split(" ")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        reply = self.replies.pop(0) if self.replies else self.reply
        self.requests.put_nowait(Received(method, target, headers, body))
        if reply.status is None:
            await reader.read()  # until the other side gives up
            return
        await asyncio.sleep(reply.delay)
        lines = [f"HTTP/1.1 {reply.status} Answer", f"Content-Length: {len(reply.body)}"]
        lines += [f"{name}: {value}" for name, value in (reply.headers or {}).items()]
        writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
        for start in range(0, len(reply.body), PIECE):
            writer.write(reply.body[start : start + PIECE])
            await writer.drain()
            self.sent += len(reply.body[start : start + PIECE])
        await writer.drain()


def make_certificate(name: str) -> tuple[bytes, bytes]:
    """Return a certificate for a name, signed by itself, and its key; both PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(Encoding.PEM), key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
