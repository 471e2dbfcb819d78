"""Sockets that read nothing, acknowledge nothing or say too much: each costs a bounded amount, and slows nobody else down.

"Nobody else" is a crowd whose p99 must stay within twice of what it is without them, measured in the same run.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from socket import socket

import pytest

from notify.bench.wire import Device
from tests.chaos.cluster import Cluster
from tests.chaos.crowd import TWICE, Crowd, catch_up, catch_up_all
from tests.chaos.producing import producing, send, send_batches
from tests.chaos.raw import Attempt, count_kept, handshake, open_raw

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(180), pytest.mark.asyncio(loop_scope="module")]

Note = Callable[[str, float], None]

ENOUGH = 5  # windows of a disturbance that has no end of its own
OWED = 32  # notifications of 16 KB that wait for each who reads nothing: 512 KiB
KIB_PER_MUTE = 384  # of those, a page as it was fetched, as it is written, and what the socket's buffer takes
KIB_PER_HOARDER = 512  # a window of 1,000 entries, and what anybody costs
KIB_PER_CHATTERBOX = 2_048  # what is read at once, and what becomes of it
KIB_OF_STORM = (
    64 * 1_024
)  # what fifteen thousand attempts may add to what five thousand took: 4 KiB each, a socket has 14
GONE_SECONDS = 30.0


async def test_a_thousand_who_never_read_are_cut_off_and_have_it_all_when_they_are_back(
    shared_cluster: Cluster, note: Note
) -> None:
    numbers = iter(range(10_000))
    grown, gone = [0], [0.0]
    async with (
        shared_cluster.serve() as node,
        Crowd(node, "reader", 1_000) as crowd,
        producing(node) as client,
    ):
        users = [f"mute-{node.port}-{number}" for number in range(1_000)]
        memory = node.read_memory()

        async def go_mute() -> Sequence[float]:
            windows = []
            async with open_raw(node, [handshake(node, user) for user in users]) as mutes:
                filling = asyncio.create_task(send(client, users, numbers, OWED, 16_000))
                begun = time.monotonic()
                while count_kept(node, mutes):
                    windows.append(await crowd.window())
                    grown.append(node.read_memory() - memory)
                    begun = begun if filling.done() else time.monotonic()
                    assert time.monotonic() - begun < GONE_SECONDS
                await filling
                gone.append(time.monotonic() - begun)
            return windows

        ratio = await crowd.compare(go_mute)
        note("p99 of the others, times", ratio)
        note("KiB a socket", max(grown) / len(users))
        note("seconds until the last descriptor was gone", max(gone))
        sent = next(numbers)
        assert all(found == list(range(sent)) for found in await catch_up_all(node, users))
        assert max(grown) / len(users) < KIB_PER_MUTE
        assert ratio <= TWICE


async def test_two_thousand_half_sent_handshakes_are_gone_in_time(shared_cluster: Cluster, note: Note) -> None:
    async with shared_cluster.serve() as node, Crowd(node, "reader", 300) as crowd:
        whole = handshake(node, "half")
        gone = [0.0]

        async def say_half() -> Sequence[float]:
            windows = []
            async with open_raw(node, [whole[: 1 + place % (len(whole) - 1)] for place in range(2_000)]) as halves:
                begun = time.monotonic()
                async with asyncio.timeout(GONE_SECONDS):
                    while count_kept(node, halves):
                        windows.append(await crowd.window())
                gone.append(time.monotonic() - begun)
            return windows

        ratio = await crowd.compare(say_half)
        note("p99 of the others, times", ratio)
        note("seconds until the last descriptor was gone", max(gone))
        assert ratio <= TWICE


class Hoarder(Device):
    """A device that reads everything and acknowledges nothing."""

    __slots__ = ()

    def send(self, text: bytes) -> None:
        """Say nothing."""


async def test_who_never_acknowledges_gets_a_window_and_no_more(shared_cluster: Cluster, note: Note) -> None:
    window, total = 1_000, 1_050
    grown, rounds = [0], iter(range(10))
    async with (
        shared_cluster.serve() as node,
        Crowd(node, "reader", 300) as crowd,
        producing(node) as client,
    ):

        async def hoard() -> Sequence[float]:
            number = next(rounds)
            users = [f"hoarder-{node.port}-{number}-{place}" for place in range(100)]
            memory = node.read_memory()
            hoarders = [await catch_up(node, user, kind=Hoarder) for user in users]
            await send_batches(client, users, total)
            async with asyncio.timeout(GONE_SECONDS):
                while not all(len(shelf.numbers) == window for _, shelf in hoarders):
                    await asyncio.sleep(0.05)  # each counts by itself
            windows = await crowd.windows(ENOUGH)
            grown.append(node.read_memory() - memory)
            assert all(shelf.numbers == list(range(window)) for _, shelf in hoarders)
            assert all(device.connected for device, _ in hoarders)
            for device, _ in hoarders:
                device.drop()
            assert all(found == list(range(total)) for found in await catch_up_all(node, users))
            return windows

        ratio = await crowd.compare(hoard)
        note("p99 of the others, times", ratio)
        note("KiB a socket", max(grown) / 100)
        assert max(grown) / 100 < KIB_PER_HOARDER
        assert ratio <= TWICE


def frame(op: int, payload: bytes = b"", *, final: bool = True) -> bytes:
    """Write a client's frame of less than 126 bytes, masked with zeros (RFC 6455, section 5.2)."""
    return bytes([final << 7 | op, 0x80 | len(payload)]) + bytes(4) + payload


CHATTER = {
    "pings": frame(1, b'{"op":"ping"}') * 500,
    "acks": frame(1, b'{"op":"ack","seq":0}') * 500,
    "read marks": frame(1, b'{"op":"read","up_to":1}') * 500,
    "garbage": frame(1, b"garbage") * 500,
    "pings of the protocol": frame(9) * 2_000,
    "pongs of the protocol": frame(10) * 2_000,
    "fragments": frame(1, b" ", final=False) + frame(0, final=False) * 2_000 + frame(0, b'{"op":"ping"}'),
}


async def chatter(connection: socket, words: bytes) -> None:
    """Say the same again and again, as fast as it is taken; whoever hangs up on that may."""
    with suppress(OSError):
        while True:
            await asyncio.get_running_loop().sock_sendall(connection, words)
            await asyncio.sleep(0)  # what fits the kernel's buffers is sent without waiting: the crowd's turn


async def test_clients_that_send_frames_as_fast_as_they_can_are_read_at_a_fair_pace(
    shared_cluster: Cluster, note: Note
) -> None:
    words = list(CHATTER.values()) * 2
    async with shared_cluster.serve() as node, Crowd(node, "reader", 300) as crowd:
        memory = node.read_memory()
        grown = [0]

        async def talk() -> Sequence[float]:
            greetings = [handshake(node, f"chatterbox{place}") for place in range(len(words))]
            async with open_raw(node, greetings) as connections:
                talkers = [asyncio.create_task(chatter(*each)) for each in zip(connections, words, strict=True)]
                try:
                    return await crowd.windows(ENOUGH)
                finally:
                    grown.append(node.read_memory() - memory)
                    for talker in talkers:
                        talker.cancel()
                    await asyncio.wait(talkers)

        ratio = await crowd.compare(talk)
        note("p99 of the others, times", ratio)
        note("KiB a socket", max(grown) / len(words))
        assert max(grown) / len(words) < KIB_PER_CHATTERBOX
        assert ratio <= TWICE


async def test_a_storm_of_twenty_thousand_without_credentials_fills_a_bounded_number_of_places(
    shared_cluster: Cluster, note: Note
) -> None:
    places, bursts, burst = 300, 20, 1_000
    settings = {"NOTIFY_MAX_PENDING_AUTH": str(places), "NOTIFY_AUTH_TIMEOUT": "100"}
    async with shared_cluster.serve(**settings) as node, Crowd(node, "reader", 300) as crowd:
        memory: list[int] = []
        nameless = handshake(node, None)
        answers: Counter[str] = Counter()
        held: list[Attempt] = []
        entered = []

        async def storm() -> None:
            for number in range(bursts):
                attempts = [Attempt(nameless) for _ in range(burst)]
                async with asyncio.TaskGroup() as tasks:
                    for attempt in attempts:
                        tasks.create_task(attempt.dial(node))
                    entering = time.monotonic()
                    device, _ = await catch_up(node, f"newcomer{number}")  # who has a token takes no place
                    entered.append(time.monotonic() - entering)
                    device.drop()
                memory.append(node.read_memory())
                answers.update(attempt.answer for attempt in attempts)
                held.extend(attempt for attempt in attempts if attempt.answer.startswith("101"))

        storming = asyncio.create_task(storm())
        while not storming.done():
            await crowd.window()  # nothing of anybody's is lost meanwhile
        await storming
        grown = max(memory) - memory[4]
        note("KiB that attempts after the first five thousand added", grown)
        note("longest entry of a newcomer, seconds", max(entered))
        assert answers == {"101": places, "503, retry-after": bursts * burst - places}
        for attempt in held:
            attempt.hang_up()
        async with asyncio.timeout(GONE_SECONDS):
            while (again := await Attempt(nameless).dial(node)) != "101":
                assert again.startswith("503")
        assert grown < KIB_OF_STORM
