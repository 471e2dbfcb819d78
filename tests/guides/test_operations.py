"""The operator's guide, the README's deployment and the migration guide: followed on a real database, to the letter."""

import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest

from notify.embedded import EmbeddedPostgres
from notify.store.database import SERVER_SETTINGS
from tests.guides.conftest import ROOT
from tests.guides.guide import read_blocks
from tests.guides.reader import FOLLOWED, Program, Reader
from tests.service import SECRET, SEND, Address, ServiceProcess, mint_token

pytestmark = [pytest.mark.docs, pytest.mark.timeout(150)]

OPERATIONS = ROOT / "docs/operations.md"
ABSENT = ROOT / "docs/when-nobody-is-there.md"
MIGRATING = ROOT / "docs/migrating.md"
README = ROOT / "README.md"


@pytest.fixture
def empty_database(postgres: EmbeddedPostgres) -> Iterator[str]:
    """Give a database in which nothing is yet, and the roles that the guides speak of."""
    postgres.create_database("guide")
    yield postgres.url("guide")
    postgres.drop_database("guide")


@pytest.fixture
async def roles(empty_database: str) -> AsyncIterator[asyncpg.Connection]:
    """Make the roles that the guides give rights and settings to."""
    connection = await asyncpg.connect(empty_database)
    await connection.execute("CREATE ROLE notify LOGIN SUPERUSER; CREATE ROLE app LOGIN")
    yield connection
    await connection.execute("DROP OWNED BY app; DROP ROLE app, notify")
    await connection.close()


@pytest.fixture
async def reader(tmp_path: Path, checkout: Path, empty_database: str) -> AsyncIterator[Reader]:
    """Let an operator begin with a database and a secret."""
    (tmp_path / "jwt-secret").write_text(SECRET)
    app_token = mint_token("shop", scope=SEND)
    environment = {
        "NOTIFY_DATABASE_URL": empty_database,
        "NOTIFY_JWT_SECRET": SECRET,
        "NOTIFY_TOKEN": app_token,
        "ADMIN_TOKEN": mint_token("admin", scope="queues:write"),
    }
    given = {"DATABASE": empty_database, "SECRET": SECRET, "app_token": app_token}
    reader = Reader(checkout, environment=environment, given=given)
    yield reader
    await reader.close()


@pytest.fixture
async def service() -> AsyncIterator[Address]:
    """Speak to whatever serves on port 8000."""
    address = Address(8000)
    yield address
    await address.close()


async def test_operations_from_the_first_start_over_an_upgrade_to_a_restore(reader: Reader, service: Address) -> None:
    started = await reader.follow(OPERATIONS, "Starting it")
    assert "0001_mailboxes.sql" in started[0]
    await service.send("alice", 1)
    for measured in await reader.follow(OPERATIONS, "Sizing"):
        assert "p99" in measured
    assert await reader.follow(OPERATIONS, "Upgrades") == ["up to date\n"]
    [_queues] = await reader.follow(OPERATIONS, "Watching")
    assert "alice" in _queues

    async with service.connect("alice") as socket:
        epoch = socket.welcome["epoch"]
    [dump, restore] = [block for block in read_blocks(OPERATIONS) if block.section == "Backups and the epoch"]
    await reader.run(dump)
    await service.send("alice", 2)
    await reader.stop(OPERATIONS, "Starting it")
    assert "new epoch" in await reader.run(restore)
    await reader.follow(OPERATIONS, "Starting it")
    async with service.connect("alice", after=2, epoch=epoch) as socket:
        assert socket.welcome["recovered"] is False
        assert [frame["data"] for frame in await socket.take_backlog()] == [1]


async def test_the_readme_deploys_and_whoever_moves_here_can_send(
    reader: Reader, service: Address, roles: asyncpg.Connection
) -> None:
    await reader.follow(README, "Deploy")
    await reader.follow(ABSENT, "Ask for it")
    for section in ("Moving here", "From hand-rolled WebSockets", "From Centrifugo"):
        await reader.follow(MIGRATING, section)
    async with service.connect("alice") as socket:
        frames = await socket.take_notifications(3)
    # What the transaction sent is numbered soon after its commit, so it may come before or after the last.
    assert sorted(frame["type"] for frame in frames) == ["message", "order.shipped", "order.shipped"]
    assert await roles.fetchval(
        "SELECT has_function_privilege('app', oid, 'EXECUTE') FROM pg_proc WHERE proname = 'send'"
    )


@pytest.fixture
def pooler_file(empty_database: str) -> Iterator[Path]:
    """Write the guide's configuration of PgBouncer, with what differs here: the database and how one signs in."""
    [block] = [block for block in read_blocks(OPERATIONS) if block.language == "ini"]
    FOLLOWED.add((block.path, block.line))
    socket_directory = parse_qs(urlsplit(empty_database).query)["host"][0]
    # Not under tmp_path: it doesn't run as root, and only root may look there.
    with tempfile.TemporaryDirectory(prefix="notify-", dir="/tmp") as directory:
        Path(directory).chmod(0o755)
        changes = {
            "host=db.internal port=5432 dbname=notify": f"host={socket_directory} dbname=guide",
            "scram-sha-256": "trust",
            "/etc/pgbouncer": directory,
        }
        Path(directory, "userlist.txt").write_text('"notify" ""\n')
        path = Path(directory, "pgbouncer.ini")
        path.write_text(change(block.text, changes) + "unix_socket_dir =\n")
        yield path


@pytest.mark.usefixtures("roles")
async def test_a_pooler_set_up_as_the_guide_says_works_and_drops_no_setting(
    reader: Reader, pooler_file: Path, postgres: EmbeddedPostgres, find_program: Callable[[str], str]
) -> None:
    program = find_program("pgbouncer")
    await reader.ask("notify migrate")
    await reader.follow(OPERATIONS, "Poolers")
    who = {"user": postgres.socket_dir.owner(), "group": postgres.socket_dir.group(), "extra_groups": []}
    pooler = await Program.start(program, str(pooler_file), place="pgbouncer", **who)
    try:
        await pooler.wait_for("process up")
        await check_through("postgresql://notify@127.0.0.1:6432/notify", reader.given["DATABASE"])
    finally:
        await pooler.close()


async def check_through(pooled: str, direct: str) -> None:
    """See that the service works through a pooler, with all it sets."""
    async with ServiceProcess(pooled, port=8000, listen_url=direct) as service, service.connect("alice") as socket:
        await socket.take_until("caught_up")
        await service.send("alice", 1)
        [frame] = await socket.take_notifications(1)
        assert frame["data"] == 1
    connection = await asyncpg.connect(pooled)
    try:
        for name, value in SERVER_SETTINGS.items():
            # Which PgBouncer passes on itself; and what a Unix socket, such as this test's, doesn't have.
            if name not in {"application_name", "tcp_user_timeout"}:
                assert await connection.fetchval("SELECT current_setting($1)", name) == value
        given = await connection.fetchval("SELECT rolconfig FROM pg_roles WHERE rolname = 'notify'")
        assert {line.partition("=")[0] for line in given} == SERVER_SETTINGS.keys() - {"application_name"}
    finally:
        await connection.close()


def change(text: str, changes: dict[str, str]) -> str:
    """Put in what differs here; what is to be replaced must be there."""
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    return text
