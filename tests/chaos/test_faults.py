"""Faults on purpose: what was accepted arrives, in order, and what was acknowledged long before does not come again."""

import asyncio
import signal
import time
from collections.abc import Callable

import httpx
import pytest

from notify.auth import mint
from tests.chaos.cluster import SECRET, Cluster, Wire
from tests.chaos.ledger import Ledger

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.timeout(150),
]

Note = Callable[[str, float], None]

STEADY = 2.5  # seconds of load before and after each fault: long enough for acks older than the grace
SENDER = {"Authorization": f"Bearer {mint(SECRET, subject='shop', scope='notifications:send')}"}


async def test_a_node_killed_in_the_middle_loses_nothing(cluster: Cluster) -> None:
    first, second = await cluster.add_node(), await cluster.add_node()
    async with Ledger([first, second], users=20, devices=2) as ledger:
        await ledger.run_for(STEADY)
        ledger.fault()
        await first.kill()
        await ledger.run_for(STEADY)
        await first.start()
        await ledger.run_for(1)
        await ledger.settle()


async def test_postgresql_killed_in_the_middle_loses_nothing(cluster: Cluster) -> None:
    nodes = [await cluster.add_node(), await cluster.add_node()]
    async with Ledger(nodes, users=20) as ledger:
        await ledger.run_for(STEADY)
        ledger.fault()
        await cluster.crash_postgres()
        await ledger.run_for(1)
        await cluster.restart_postgres()
        for node in nodes:
            await node.wait_ready()
        await ledger.run_for(STEADY)
        await ledger.settle()


async def test_terminated_connections_lose_nothing(cluster: Cluster) -> None:
    nodes = [await cluster.add_node(), await cluster.add_node()]
    async with Ledger(nodes, users=20) as ledger:
        await ledger.run_for(STEADY)
        ledger.fault()
        for _ in range(4):
            assert await cluster.terminate_backends("notify bridge") > 0
            assert await cluster.terminate_backends("notify") > 0
            await ledger.run_for(0.7)
        await ledger.run_for(STEADY)
        await ledger.settle()


async def test_a_listener_whose_packets_vanish_is_noticed_and_replaced(cluster: Cluster, note: Note) -> None:
    """Nothing closes: the link looks alive and carries nothing. Found out within 20 s by its own heartbeat."""
    async with Wire(cluster.socket_path, cluster.directory / "wire") as wire:
        node = await cluster.add_node(NOTIFY_LISTEN_URL=wire.url)
        async with Ledger([node], users=10, rate=50) as ledger:
            await ledger.run_for(STEADY)
            ledger.fault()
            wire.swallowing.set()
            started = time.monotonic()
            async with httpx.AsyncClient(base_url=node.base) as client, asyncio.timeout(20):
                while (await client.get("/readyz")).status_code == 200:
                    await asyncio.sleep(0.1)  # the node's own state; it has no event for us
            noticed = time.monotonic() - started
            note("seconds until it was noticed", noticed)
            assert noticed < 20
            wire.swallowing.clear()
            wire.cut()
            await node.wait_ready()
            await ledger.run_for(1)
            await ledger.settle()


async def test_a_read_only_database_refuses_and_recovers_by_itself(cluster: Cluster) -> None:
    node = await cluster.add_node()
    async with Ledger([node], users=10) as ledger:
        await ledger.run_for(STEADY)
        ledger.fault()
        async with cluster.connect() as connection:
            await connection.execute("ALTER SYSTEM SET default_transaction_read_only = on")
            await connection.execute("SELECT pg_reload_conf()")
        await ledger.run_for(1.5)
        refused = [status for status, retry in ledger.refused if status == 503 and retry is not None]
        assert refused, f"nothing was refused: {ledger.refused[:5]}"
        async with cluster.connect() as connection:
            await connection.execute("SET default_transaction_read_only = off")
            await connection.execute("ALTER SYSTEM RESET default_transaction_read_only")
            await connection.execute("SELECT pg_reload_conf()")
        await ledger.run_for(STEADY)
        await ledger.settle()


async def test_an_answer_is_true_even_if_the_connection_broke_in_the_commit(cluster: Cluster) -> None:
    """201 is stored; a 503 that says that nothing was accepted is not, now or later."""
    async with Wire(cluster.socket_path, cluster.directory / "wire") as wire:
        node = await cluster.add_node(NOTIFY_DATABASE_URL=wire.url, NOTIFY_LISTEN_URL=cluster.url)
        async with httpx.AsyncClient(base_url=node.base, headers=SENDER, timeout=30) as client:
            cutting = True

            def cut_deposits(data: bytes) -> None:
                if cutting and b"confused " in data:
                    asyncio.get_running_loop().call_soon(wire.cut)

            wire.on_traffic = cut_deposits

            async def send(number: int) -> tuple[str, httpx.Response]:
                await asyncio.sleep(number * 0.02)
                name = f"confused {number}"
                return name, await client.post(
                    "/v1/notifications", json={"to": f"user{number}", "type": "t", "data": name}
                )

            answers = await asyncio.gather(*(send(number) for number in range(60)))
            cutting = False
        async with cluster.connect() as connection:
            rows = await connection.fetch("SELECT convert_from(data, 'UTF8') AS data FROM notify.notification")
        stored = {row["data"].strip('"') for row in rows}
        outcomes = dict(answers)
        for name, answer in outcomes.items():
            if answer.status_code == 201:
                assert name in stored
            elif "nothing was accepted" in answer.text:
                assert name not in stored
        assert {answer.status_code for answer in outcomes.values()} <= {201, 503}
        assert len(rows) == len(stored), "something was stored twice"


async def test_a_frozen_node_holds_up_nobody_else(cluster: Cluster, note: Note) -> None:
    frozen, other = await cluster.add_node(), await cluster.add_node()
    async with Ledger([frozen, other], users=20) as ledger:
        await ledger.run_for(STEADY)
        ledger.fault()
        frozen.signal(signal.SIGSTOP)
        ledger.nodes = [other]
        async with httpx.AsyncClient(base_url=other.base, headers=SENDER, timeout=10) as client:
            waits = []
            for number in range(60):
                started = time.monotonic()
                answer = await client.post("/v1/notifications", json={"to": f"user{number % 20}", "type": "t"})
                waits.append(time.monotonic() - started)
                assert answer.status_code == 201
                ledger.accepted[answer.json()["id"]] = f"user{number % 20}"
                await asyncio.sleep(0.5)  # 30 s of it: the freeze itself is what is tested
        note("seconds for the third slowest of 60 answers", sorted(waits)[-3])
        assert sorted(waits)[-3] < 1.0, f"the other node was held up: {sorted(waits)[-5:]}"
        frozen.signal(signal.SIGCONT)
        ledger.nodes = [frozen, other]
        await ledger.run_for(1)
        await ledger.settle()


async def test_a_node_whose_clock_is_off_delivers_and_judges_like_the_others(cluster: Cluster) -> None:
    right, wrong = await cluster.add_node(), await cluster.add_node(clock_shift=-300)
    async with Ledger([right, wrong], users=10) as ledger:
        await ledger.run_for(STEADY)
        headers = {"Authorization": f"Bearer {mint(SECRET, subject='late', ttl=-60)}"}
        for node in (right, wrong):
            async with httpx.AsyncClient(base_url=node.base) as client:
                assert (await client.get("/v1/inbox", headers=headers)).status_code == 401
        await ledger.settle()
