"""`notify doctor` finds what is wrong and says how to mend it; `notify queues` and `notify queue` show what an admin needs."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from notify import clock
from notify.doctor import Finding, Verdict, database, examine
from notify.embedded import EmbeddedPostgres
from notify.settings import Settings
from tests.admin import READ, Admin
from tests.service import SECRET, Service, mint_token


async def run(*arguments: str, **environment: str) -> tuple[int, str, str]:
    """Run a command of the CLI as its users do; return exit code, standard output and standard error."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("NOTIFY_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "notify.cli", *arguments,
        env=kept | environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(30):
        out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def look(settings: Settings, *, url: str = "", token: str = "") -> dict[str, Finding]:
    """Return the findings by check; of two of a check the one that is wrong."""
    found: dict[str, Finding] = {}
    async for finding in examine(settings, url=url, token=token):
        if finding.check not in found or finding.verdict is Verdict.WRONG:
            found[finding.check] = finding
    return found


def configure(database_url: str, **values: object) -> Settings:
    fields = {"database_url": database_url, "jwt_secret": [SECRET], **values}
    return Settings(_env_file=None, **fields)  # type: ignore[arg-type]  # pydantic checks them


def wrong(found: dict[str, Finding]) -> list[str]:
    return [name for name, finding in found.items() if finding.verdict is Verdict.WRONG]


async def test_a_healthy_service_is_found_healthy(service: Service, database_url: str) -> None:
    found = await look(configure(database_url), url=service.url, token=mint_token("alice"))
    assert wrong(found) == [], found
    assert set(found) == {
        "database", "clock", "schema", "listen", "transactions", "outbox", "nodes", "keys", "service", "websocket", "token",
    }  # fmt: skip
    assert await service.store.sessions.count() == (0, 0)
    assert (await Admin(service).call("GET", "/queues/alice")).status_code == 404  # nothing was left behind


async def test_the_command_exits_by_what_it_found_and_says_how_to_mend_it(service: Service, database_url: str) -> None:
    healthy = {"NOTIFY_DATABASE_URL": database_url, "NOTIFY_JWT_SECRET": SECRET}
    code, out, err = await run("doctor", "--url", service.url, **healthy)
    assert (code, err) == (0, ""), out
    assert "upgraded, and frames go both ways" in out
    code, out, err = await run("doctor", NOTIFY_DATABASE_URL=database_url)
    assert code == 1
    assert "set NOTIFY_JWT_SECRET" in out
    assert err.count("\n") == 1
    assert SECRET not in out + err


async def test_a_database_that_is_not_there_is_found(tmp_path: object) -> None:
    found = await look(configure(f"postgresql://nobody@/none?host={tmp_path}"))
    assert wrong(found) == ["database"]
    assert "NOTIFY_DATABASE_URL" in found["database"].remedy


async def test_an_old_schema_is_found(connection: asyncpg.Connection, database_url: str) -> None:
    await connection.execute("DELETE FROM notify.migration WHERE number = (SELECT max(number) FROM notify.migration)")
    found = await look(configure(database_url))
    assert wrong(found) == ["schema"]
    assert "notify migrate" in found["schema"].remedy


async def test_a_read_only_database_is_found(connection: asyncpg.Connection, database_url: str) -> None:
    name = await connection.fetchval("SELECT current_database()")
    await connection.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    assert "database" in wrong(await look(configure(database_url)))


async def test_a_transaction_left_open_with_a_notification_in_it_is_named(
    connection: asyncpg.Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "OPEN_SECONDS", 0.0)
    async with connection.transaction():
        await connection.execute("SELECT notify.send(recipient => 'alice', type => 't')")
        found = (await look(configure(database_url)))["transactions"]
        assert found.verdict is Verdict.WRONG
        assert f"process {connection.get_server_pid()} " in found.text
        assert "outbox" in found.text
    assert (await look(configure(database_url)))["transactions"].verdict is Verdict.GOOD


async def test_a_listen_link_to_another_database_is_found(
    postgres: EmbeddedPostgres, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "ANSWER_SECONDS", 2.0)  # connecting must fit in as well
    elsewhere = postgres.url("postgres")
    found = await look(configure(database_url, listen_url=elsewhere))
    assert wrong(found) == ["listen"]
    assert "NOTIFY_LISTEN_URL" in found["listen"].remedy


async def test_a_clock_that_is_off_is_found(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = clock.system
    monkeypatch.setattr(clock, "system", lambda: right() - 300)
    found = (await look(configure(database_url)))["clock"]
    assert found.verdict is Verdict.WRONG
    assert "300.0 s behind" in found.text


async def test_what_the_outbox_set_aside_is_found(connection: asyncpg.Connection, database_url: str) -> None:
    await connection.execute("SELECT notify.send(recipient => 'alice', type => 't')")
    await connection.execute("UPDATE notify.outbox SET problem = 'value too long'")
    found = (await look(configure(database_url)))["outbox"]
    assert (found.verdict, "value too long" in found.text) == (Verdict.WRONG, True)


@asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[str]:
    """Stand in for a proxy that gives every request this answer."""

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(respond, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_a_proxy_that_does_not_pass_the_upgrade_is_found(database_url: str) -> None:
    async with answering(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n") as url:
        found = await look(configure(database_url), url=url)
    assert wrong(found) == ["service", "websocket"]
    assert "proxy_set_header Upgrade" in found["websocket"].remedy


async def test_a_token_of_another_key_is_found(service: Service, database_url: str) -> None:
    found = await look(configure(database_url), url=service.url, token=mint_token("alice")[:-4] + "AAAA")
    assert wrong(found) == ["token"]


async def test_queues_and_one_queue_are_shown_as_tables(service: Service) -> None:
    await service.send_many("alice", 3)
    await service.send("[bold]bob\u202e", type="order.shipped")
    await Admin(service).settled({"alice": 3, "[bold]bob\u202e": 1})
    environment = {"NOTIFY_URL": service.url, "NOTIFY_TOKEN": mint_token("root", scope=READ)}
    code, out, err = await run("queues", **environment)
    assert (code, err) == (0, "")
    rows = [line.split("│")[1].strip() for line in out.splitlines() if line.startswith("│")]
    assert rows == ["alice", r"[bold]bob\u202e"]
    code, out, _ = await run("queue", "alice", **environment)
    assert (code, "alice: 3 pending" in out, "No session is open." in out) == (0, True, True)
    code, _, err = await run("queue", "nobody", **environment)
    assert (code, "not-found" in err, err.count("\n")) == (1, True, 1)
    code, _, err = await run("queues", **environment | {"NOTIFY_TOKEN": mint_token("alice")})
    assert (code, "forbidden" in err) == (1, True)
    assert (await run("queues", "--sort", "name", **environment))[0] == 2
