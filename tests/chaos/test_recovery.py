"""Restores, restarts and a full disk: clients are told, and nothing accepted is lost."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
import websockets

from notify.auth import mint
from tests.chaos.cluster import SECRET, Cluster, Node
from tests.chaos.ledger import Ledger

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.timeout(150),
]

SENDER = {"Authorization": f"Bearer {mint(SECRET, subject='shop', scope='notifications:send')}"}
USER = {"Authorization": f"Bearer {mint(SECRET, subject='ann')}"}
LONGEST_WAIT = 5.0  # seconds that a user may be without a session in a rolling restart


async def send(node: Node, count: int) -> None:
    async with httpx.AsyncClient(base_url=node.base, headers=SENDER) as client:
        for _ in range(count):
            assert (await client.post("/v1/notifications", json={"to": "ann", "type": "t"})).status_code == 201


async def welcome(node: Node, query: str = "") -> dict[str, Any]:
    async with websockets.connect(f"{node.socket}?device=d{query}", additional_headers=USER) as connection:
        frame: dict[str, Any] = json.loads(await asyncio.wait_for(connection.recv(), 10))
        return frame


async def test_after_a_snapshot_restore_with_a_new_epoch_clients_are_told(cluster: Cluster) -> None:
    node = await cluster.add_node()
    await send(node, 3)
    await node.close()
    await asyncio.to_thread(cluster.postgres.stop)
    snapshot = await cluster.take_snapshot("snapshot")
    await asyncio.to_thread(cluster.postgres.start)
    node = await cluster.add_node()
    await send(node, 4)
    before = await welcome(node)
    assert before["head"] == 7
    await node.close()
    await asyncio.to_thread(cluster.postgres.stop)
    await cluster.put_back(snapshot)
    await asyncio.to_thread(cluster.postgres.start)
    await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "notify.cli", "migrate", "--new-epoch"],
        env=cluster.environment(),
        check=True,
        timeout=30,
        capture_output=True,
    )
    node = await cluster.add_node()
    await send(node, 6)  # as far as before and further: without an epoch the client would believe to have all of it
    after = await welcome(node, f"&after=7&epoch={before['epoch']}")
    assert after["epoch"] != before["epoch"]
    assert (after["recovered"], after["after"]) == (False, 0)


async def test_after_a_point_in_time_restore_the_epoch_is_new_by_itself(cluster: Cluster) -> None:
    node = await cluster.add_node()
    await send(node, 3)
    before = await welcome(node)
    await node.close()
    await asyncio.to_thread(cluster.postgres.stop)
    # A restore ends on a new timeline, as a failover does: https://www.postgresql.org/docs/current/continuous-archiving.html
    mark = cluster.data / "recovery.signal"
    mark.touch()
    owner = cluster.data.stat()
    os.chown(mark, owner.st_uid, owner.st_gid)
    with (cluster.data / "postgresql.auto.conf").open("a") as configuration:
        configuration.write("restore_command = 'false'\n")
    await asyncio.to_thread(cluster.postgres.start)
    async with cluster.connect() as connection, asyncio.timeout(20):
        while await connection.fetchval("SELECT pg_is_in_recovery()"):
            await asyncio.sleep(0.05)  # PostgreSQL's own state; nothing tells of it
    node = await cluster.add_node()
    after = await welcome(node, f"&after=3&epoch={before['epoch']}")
    assert after["epoch"] != before["epoch"]
    assert not after["recovered"]


async def test_a_rolling_restart_lets_nobody_wait_and_loses_nothing(
    cluster: Cluster, note: Callable[[str, float], None]
) -> None:
    nodes = [await cluster.add_node(), await cluster.add_node()]
    async with Ledger(nodes, users=1_000, rate=100) as ledger:
        async with asyncio.timeout(60):
            while not all(device.connects for device in ledger.devices):
                await asyncio.sleep(0.1)  # each counts by itself
        for device in ledger.devices:
            device.gaps.clear()
        ledger.fault()
        for node in nodes:
            node.signal(signal.SIGTERM)
            ledger.nodes = [other for other in nodes if other is not node]
            assert await node.wait() == 0
            assert "Traceback" not in node.read_log()
            await node.start()
            ledger.nodes = nodes
            await ledger.run_for(2)
        await ledger.settle()
        gaps = [gap for device in ledger.devices for gap in device.gaps]
        closes = [code for device in ledger.devices for code in device.closes]
        assert len(gaps) >= len(ledger.devices), "the restarts sent nobody away: the test did not test anything"
        note("seconds that somebody waited at most", max(gaps))
        assert max(gaps) < LONGEST_WAIT, f"somebody waited {max(gaps):.1f} s"
        assert set(closes) == {4503}, f"somebody was not told to come back: {set(closes)}"


@pytest.fixture
def small_disk(cluster: Cluster) -> Iterator[Path]:
    """Mount a disk of 48 MB that PostgreSQL may write to."""
    place = cluster.directory / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["/bin/mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(place)],
        check=False,
        capture_output=True,
        timeout=10,
    )
    if mounted.returncode != 0:
        pytest.skip(f"mounting is not allowed here: {mounted.stderr.decode().strip()}")
    try:
        owner = cluster.data.stat()
        os.chown(place, owner.st_uid, owner.st_gid)
        yield place
    finally:
        cluster.postgres.stop()
        subprocess.run(["/bin/umount", str(place)], check=True, timeout=10)


async def test_a_full_disk_refuses_and_recovers_by_itself(cluster: Cluster, small_disk: Path) -> None:
    async with cluster.connect() as connection:
        await connection.execute(f"CREATE TABLESPACE small LOCATION '{small_disk}'")
        for table in ("notification", "entry"):
            await connection.execute(f"ALTER TABLE notify.{table} SET TABLESPACE small")
        await connection.execute("CREATE TABLE filler (data text) TABLESPACE small")
        await connection.execute("ALTER TABLE filler ALTER data SET STORAGE EXTERNAL")
    node = await cluster.add_node()
    async with Ledger([node], users=10, rate=50) as ledger:
        await ledger.run_for(2.5)
        ledger.fault()
        async with cluster.connect() as connection:
            for size in (1_000_000, 100_000, 8_000, 100):
                await fill(connection, size)
        async with asyncio.timeout(20):
            while not any(status == 503 and retry is not None for status, retry in ledger.refused):
                await asyncio.sleep(0.05)  # the load goes on meanwhile, and only writes down what it was answered
        async with cluster.connect() as connection:
            await connection.execute("DROP TABLE filler")
        refused = len(ledger.refused)
        accepted = len(ledger.accepted)
        await ledger.run_for(3)
        assert len(ledger.accepted) > accepted, "it did not recover"
        assert {status for status, _ in ledger.refused[:refused]} <= {503}
        await ledger.settle()


async def fill(connection: Any, size: int) -> None:
    """Write rows of a size until no more fit."""
    with pytest.raises(asyncpg.DiskFullError):  # noqa: PT012 - it is the loop that has to end so
        while True:
            await connection.execute("INSERT INTO filler VALUES (repeat('x', $1))", size)
