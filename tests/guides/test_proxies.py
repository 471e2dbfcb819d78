"""nginx and Caddy with the files of deploy/, for real: what apps and browsers send gets through, the inside stays inside."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
import websockets
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from notify.settings import MIB
from tests.guides.conftest import ROOT
from tests.guides.guide import read_blocks
from tests.guides.reader import FOLLOWED, Program
from tests.service import PATIENCE, SEND, ServiceProcess, Socket, bearer, mint_token, until

pytestmark = pytest.mark.docs

NAME = "notify.example.com"
"""What the files of deploy/ call the service."""


class Door:
    """The service as it is reached through a proxy."""

    def __init__(self, url: str, trust: ssl.SSLContext | None) -> None:
        self.url = url
        self.trust = trust
        self.port = httpx.URL(url).port or 443

    @asynccontextmanager
    async def open(self) -> AsyncIterator[httpx.AsyncClient]:
        """Give a client that finds the name on this machine."""
        authority = NAME if self.trust else f"127.0.0.1:{self.port}"
        async with httpx.AsyncClient(
            base_url=self.url,
            verify=self.trust or False,
            headers={"Host": authority},
            timeout=PATIENCE,
            trust_env=False,
        ) as client:
            client.event_hooks["request"] = [name_server]
            yield client

    async def answers(self) -> bool:
        """Tell whether it takes connections yet."""
        try:
            async with self.open() as client:
                await client.get("/")
        except httpx.ConnectError:
            return False
        return True

    @asynccontextmanager
    async def dial(self, token: str) -> AsyncIterator[Socket]:
        """Open a socket as a browser does."""
        address = f"wss://{NAME}/v1/ws" if self.trust else f"ws://127.0.0.1:{self.port}/v1/ws"
        async with websockets.connect(
            address, host="127.0.0.1", port=self.port, ssl=self.trust, proxy=None, open_timeout=PATIENCE, close_timeout=1,
            subprotocols=["notify.v1", f"bearer.{token}"], origin=f"https://{NAME}" if self.trust else None,  # type: ignore[list-item,arg-type]  # NewTypes of str
        ) as connection:  # fmt: skip
            yield Socket(connection)


async def name_server(request: httpx.Request) -> None:
    """Ask for the certificate of the name, not of the address."""
    request.extensions["sni_hostname"] = NAME


@pytest.fixture
async def service(database_url: str) -> AsyncIterator[ServiceProcess]:
    """Run the service where the files of deploy/ look for it, and as they say."""
    async with ServiceProcess(database_url, port=8000, trusted_proxies="127.0.0.1") as service:
        yield service


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """Make a certificate for the name, and its key beside it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    encoding = serialization.Encoding.PEM
    path = tmp_path / "notify.crt"
    path.write_bytes(made.public_bytes(encoding))
    path.with_suffix(".key").write_bytes(
        key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return path


def write_nginx(directory: Path, http: str) -> list[str]:
    """Write a whole configuration around what belongs into the `http` block; return the command to run it."""
    paths = "".join(
        f"{kind}_temp_path {directory}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (directory / "nginx.conf").write_text(
        f"user root; daemon off; error_log stderr notice; pid {directory}/pid; events {{}}\n"
        f"http {{ access_log off; {paths}\n{http}\n}}\n"
    )
    return ["-e", "stderr", "-c", str(directory / "nginx.conf")]


async def check_door(door: Door) -> None:
    """Pass a POST, a WebSocket and an event stream through, at the limits of what is allowed."""
    app, alice = bearer("shop", scope=SEND), bearer("alice")
    async with door.open() as client, door.dial(mint_token("alice")) as socket:
        assert (await socket.take_until("caught_up"))[0]["user"] == "alice"
        async with client.stream("GET", "/v1/stream?device=phone", headers=alice) as stream:
            events = stream.aiter_lines()
            await read_event(events, "caught_up")
            sent = await client.post("/v1/notifications", json={"to": "alice", "type": "t", "data": 7}, headers=app)
            assert sent.status_code == 201
            # Neither the socket nor the stream is asked for more than it has: nothing on the way collects.
            assert (await socket.take())["data"] == 7
            assert (await read_event(events, "notification"))["data"] == 7
        await socket.ack(1)

        item = {"to": "alice", "type": "t", "data": "x" * 60_000, "ttl": 60}
        batch = {"notifications": [item] * (8 * MIB // 61_000)}
        assert (await client.post("/v1/notifications/batch", json=batch, headers=app)).status_code == 201
        segment = await client.put("/v1/topics/a%2Fb/subscribers/alice%2F..%2Fadmin", headers=app)
        assert segment.status_code == 204
        assert (await client.get("/client/notify.js")).headers["access-control-allow-origin"] == "*"
        for inside in ("/metrics", "/admin", "/v1/admin/nodes", "//admin", "/readyz", "/v1/admin/%2e%2e/inbox"):
            assert (await client.get(inside, headers=alice)).status_code == 404, inside

    largest = mint_token("a" * 255, scope="x" * 2_700)
    assert len(largest) > 4_000
    async with door.dial(largest) as socket:
        assert (await socket.take())["op"] == "welcome"
    async with door.dial("nonsense") as socket:
        assert (await socket.take_close())[0] == 4401


async def read_event(lines: AsyncIterator[str], op: str) -> dict[str, object]:
    """Return the next event of this op."""
    async with asyncio.timeout(PATIENCE):
        async for line in lines:
            if line == f"event: {op}":
                async for data in lines:
                    if data.startswith("data: "):
                        found: dict[str, object] = json.loads(data.removeprefix("data: "))
                        return found
    raise AssertionError(f"the stream ended before {op}")


@pytest.mark.usefixtures("service")
async def test_nginx_with_the_file_of_deploy(
    tmp_path: Path, certificate: Path, find_program: Callable[[str], str]
) -> None:
    text = (ROOT / "deploy/nginx.conf").read_text()
    assert text.count("/etc/nginx/notify.") == 2
    http = text.replace("/etc/nginx/notify.", f"{certificate.parent}/notify.")
    nginx = await Program.start(find_program("nginx"), *write_nginx(tmp_path, http), place="nginx.conf")
    try:
        await nginx.wait_for("start worker process")
        await check_door(Door("https://127.0.0.1", ssl.create_default_context(cafile=str(certificate))))
        async with httpx.AsyncClient(base_url="http://127.0.0.1:8080", trust_env=False) as inside:
            assert (await inside.get("/readyz")).status_code == 200
            assert "notify_sessions" in (await inside.get("/metrics")).text
        assert "[error]" not in nginx.output
    finally:
        await nginx.close()


async def test_the_pings_keep_a_silent_connection_through_nginx(
    database_url: str, tmp_path: Path, certificate: Path, find_program: Callable[[str], str]
) -> None:
    # Times divided by 25: the proxy gives up after 3 s of silence, the service, which looks once a second, pings after 1.
    http = (ROOT / "deploy/nginx.conf").read_text().replace("/etc/nginx/notify.", f"{certificate.parent}/notify.")
    http = http.replace("_timeout 75s;", "_timeout 3s;")
    door = Door("https://127.0.0.1", ssl.create_default_context(cafile=str(certificate)))
    async with ServiceProcess(database_url, port=8000, ping_interval=1) as service:
        nginx = await Program.start(find_program("nginx"), *write_nginx(tmp_path, http), place="nginx.conf")
        try:
            await nginx.wait_for("start worker process")
            async with (
                door.open() as client,
                door.dial(mint_token("alice")) as socket,
                client.stream("GET", "/v1/stream?device=phone", headers=bearer("alice")) as stream,
            ):
                events = stream.aiter_lines()
                for _ in range(4):
                    await socket.take_until("ping")
                    await read_event(events, "ping")
                await service.send("alice", 1)
                await socket.take_until("notification")
                await read_event(events, "notification")
        finally:
            await nginx.close()


@pytest.mark.usefixtures("service")
async def test_nginx_with_the_lines_of_the_readme(tmp_path: Path, find_program: Callable[[str], str]) -> None:
    [block] = [block for block in read_blocks(ROOT / "README.md") if block.language == "nginx"]
    FOLLOWED.add((block.path, block.line))
    http = f"server {{ listen 127.0.0.1:8081; client_max_body_size 8m; {block.text} }}"
    nginx = await Program.start(find_program("nginx"), *write_nginx(tmp_path, http), place=block.place)
    try:
        await nginx.wait_for("start worker process")
        async with Door("http://127.0.0.1:8081", None).dial(mint_token("alice")) as socket:
            assert (await socket.take_until("caught_up"))[0]["user"] == "alice"
    finally:
        await nginx.close()


@pytest.mark.usefixtures("service")
async def test_caddy_with_the_file_of_deploy(tmp_path: Path, find_program: Callable[[str], str]) -> None:
    program = find_program("caddy")
    # A certificate of Caddy's own authority; the rest of the file is what is deployed.
    options = "{\n\tlocal_certs\n\tskip_install_trust\n\tadmin off\n}\n"
    (tmp_path / "Caddyfile").write_text(f"{options}import {ROOT / 'deploy/Caddyfile'}\n")
    caddy = await Program.start(
        program, "run", "--adapter", "caddyfile", "--config", str(tmp_path / "Caddyfile"), place="Caddyfile",
        env={"HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)},
    )  # fmt: skip
    try:
        await caddy.wait_for("certificate obtained successfully")
        root = tmp_path / "caddy/pki/authorities/local/root.crt"
        await until(root.exists)
        door = Door("https://127.0.0.1", ssl.create_default_context(cafile=str(root)))
        await until(door.answers)  # it says that it has a certificate a moment before it shows it to anybody
        await check_door(door)
    finally:
        await caddy.close()
