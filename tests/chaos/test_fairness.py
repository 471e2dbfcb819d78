"""One who holds a mailbox, one who has a lot waiting, one who sends without end: the others are served as before."""

import asyncio
import itertools
import json
import re
import time
from collections.abc import Callable, Sequence
from statistics import median

import httpx
import pytest

from tests.chaos.cluster import Cluster
from tests.chaos.crowd import RATE, TWICE, WINDOW, Crowd, catch_up
from tests.chaos.producing import Flood, producing, send_batches
from tests.service import holding

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(180), pytest.mark.asyncio(loop_scope="module")]

Note = Callable[[str, float], None]

ENOUGH = 5  # windows of a disturbance that has no end of its own
HELD_SECONDS = 10.0
SIPS = 16 * 1_024  # bytes that who has much to read takes at a time: the crowd is measured in the same event loop
PATIENCE = 10.0  # seconds after which what should happen never will
PAUSE = 0.1  # seconds between two sends to a mailbox that is held


async def test_mailboxes_locked_for_ten_seconds_hold_up_none_of_two_thousand_others(
    shared_cluster: Cluster, note: Note
) -> None:
    """One that is there, and one that is just being made: nobody can see who waits for that."""
    numbers = itertools.count()
    async with (
        shared_cluster.serve() as node,
        Crowd(node, "reader", 2_000) as crowd,
        producing(node) as client,
    ):
        await send_batches(client, ["held", "neighbour"], 1)

        async def hold() -> Sequence[float]:
            windows = []
            answers: list[asyncio.Task[httpx.Response]] = []
            new = f"new{node.port}-{next(numbers)}"

            async def send_on() -> None:
                for to in itertools.cycle((["held"], [new], ["held", "neighbour"])):
                    body = {"to": to, "type": "load"}
                    answers.append(asyncio.create_task(client.post("/v1/notifications", json=body)))
                    await asyncio.sleep(PAUSE)

            async with holding(shared_cluster.url, "held"), holding(shared_cluster.url, new):
                begun = time.monotonic()
                sending = asyncio.create_task(send_on())
                while time.monotonic() - begun < HELD_SECONDS:
                    windows.append(await crowd.window())
                sending.cancel()
                waiting = sum(not answer.done() for answer in answers)
            assert waiting > HELD_SECONDS / PAUSE / 2, "hardly anybody waited: the test did not test anything"
            assert {answer.status_code for answer in await asyncio.gather(*answers)} <= {201, 503}
            return windows

        ratio = await crowd.compare(hold)
        note("p99 of the others, times", ratio)
        assert ratio <= TWICE


async def test_one_user_with_ten_thousand_pending_is_served_beside_the_others(
    shared_cluster: Cluster, note: Note
) -> None:
    total = 10_000
    async with (
        shared_cluster.serve() as node,
        Crowd(node, "reader", 300) as crowd,
        producing(node) as client,
    ):
        heavy = f"heavy{node.port}"
        await send_batches(client, [heavy], total)
        seconds = []

        async def catch_up_again_and_again() -> None:
            while True:
                begun = time.monotonic()
                device, shelf = await catch_up(node, heavy, "?after=0", receive_buffer=SIPS)
                seconds.append(time.monotonic() - begun)
                assert shelf.numbers == list(range(total))
                device.drop()

        async def replay() -> Sequence[float]:
            replaying = asyncio.create_task(catch_up_again_and_again())
            try:
                return await crowd.windows(ENOUGH)
            finally:
                replaying.cancel()
                await asyncio.wait({replaying})

        ratio = await crowd.compare(replay)
        note("p99 of the others, times", ratio)
        note("seconds for 10,000 pending", min(seconds))
        assert ratio <= TWICE


async def test_a_producer_that_floods_without_a_quota_keeps_nobody_from_sending(
    shared_cluster: Cluster, note: Note
) -> None:
    """It may use up the machine, but it takes no place of another's: everything of theirs is accepted and delivered."""
    body = json.dumps({"to": "flooded", "type": "load", "ttl": 60}).encode()
    async with shared_cluster.serve() as node, Crowd(node, "reader", 300) as crowd:
        quiet = await crowd.windows(ENOUGH)
        async with Flood(node, "flooder", body, 64) as flood:
            flooded = await crowd.windows(ENOUGH)
            assert set(flood.answers) <= {201, 429}
            note("sends of the flood for one of the others'", flood.answers[201] / (ENOUGH * RATE * WINDOW))
        note("p99 of the others, times", median(flooded) / median(quiet))


async def test_a_producer_over_its_quota_is_refused_and_the_others_are_not(shared_cluster: Cluster, note: Note) -> None:
    rate, recipients = 300, 50
    to = [f"flooded{number}" for number in range(recipients)]
    body = json.dumps({"to": to, "type": "load", "ttl": 60}).encode()
    async with shared_cluster.serve(NOTIFY_SEND_RATE=str(rate)) as node, Crowd(node, "reader", 300) as crowd:

        async def flood() -> Sequence[float]:
            begun = time.monotonic()
            async with Flood(node, "flooder", body, 16) as flood, producing(node, "flooder") as client:
                windows = await crowd.windows(ENOUGH)
                seconds = time.monotonic() - begun
                assert set(flood.answers) == {201, 429}
                assert flood.answers[201] * recipients <= rate * (seconds + 1)
                note("share of the flood refused", flood.answers[429] / sum(flood.answers.values()))
                async with asyncio.timeout(PATIENCE):
                    while (refused := await client.post("/v1/notifications", content=body)).status_code != 429:
                        pass  # one in fifty may pass
            assert refused.headers["RateLimit-Policy"] == f'"recipients";q={rate};w=1;qu="recipients"'
            left = re.fullmatch(r'"recipients";r=(\d+);t=(\d+)', refused.headers["RateLimit"])
            assert left
            assert int(left[1]) < recipients
            assert int(refused.headers["Retry-After"]) >= int(left[2]) >= 1
            return windows

        ratio = await crowd.compare(flood)
        note("p99 of the others, times", ratio)
        assert ratio <= TWICE
