"""Leaving: the drain first, then everything else, all of it bounded and without a word of complaint."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import websockets

from notify.server import ServerLimits
from notify.settings import Settings
from tests.edge import (
    LIMITS,
    PATIENCE,
    REQUEST,
    Edge,
    Peer,
    answer,
    served,
    until,
)


@served
async def test_the_drain_comes_before_any_socket_is_closed_and_after_the_last_is_accepted(edge: Edge) -> None:
    goodbye = asyncio.Event()
    heard: list[str] = []

    async def say_goodbye() -> None:
        with pytest.raises(OSError, match=r"[Cc]onnect"):
            async with edge.connect():
                pass
        goodbye.set()
        await until(lambda: edge.connections == 0)

    async def wait(peer: Peer) -> None:
        await peer.accept()
        await goodbye.wait()
        await peer.send({"type": "websocket.send", "text": "goodbye"})
        await peer.send({"type": "websocket.close", "code": 4503})

    edge.handle, edge.drain = wait, say_goodbye
    async with edge.dial() as connection, edge.connect() as idle:
        await idle.send(b"GET")
        stopping = asyncio.create_task(edge.stop())
        heard.append(str(await connection.recv()))
        await connection.wait_closed()
        assert connection.close_code == 4503
        assert await idle.read_all() == b""
        assert await stopping < LIMITS.drain_seconds, "nobody had to be waited for"
    assert heard == ["goodbye"]
    assert edge.stopped


@served
async def test_a_drain_that_does_not_end_is_cut_off_and_who_is_left_hears_1012(edge: Edge) -> None:
    async def never() -> None:
        await asyncio.Event().wait()

    edge.drain = never
    async with edge.dial() as connection:
        took = await edge.stop()
        await connection.wait_closed()
        assert connection.close_code == 1012
    assert LIMITS.drain_seconds <= took < LIMITS.drain_seconds + 1.0
    assert edge.stopped


@served
async def test_a_drain_that_fails_does_not_keep_the_rest_from_leaving(edge: Edge) -> None:
    async def fail() -> None:
        raise RuntimeError("broken")

    edge.drain = fail
    await edge.stop()
    assert edge.stopped


@served
async def test_a_socket_that_does_not_read_holds_up_nobody_who_leaves(edge: Edge) -> None:
    full = asyncio.Event()

    async def fill(peer: Peer) -> None:
        await peer.accept()
        while True:
            asyncio.get_running_loop().call_later(0.5, full.set)
            await peer.send({"type": "websocket.send", "bytes": b"x" * 65_536})

    edge.handle = fill
    async with edge.connect(receive_buffer=4_096) as raw:
        await raw.shake_hands()
        async with asyncio.timeout(PATIENCE):
            await full.wait()
        assert await edge.stop() < 1.0


@served
async def test_a_request_in_flight_is_answered_before_the_end(edge: Edge) -> None:
    begun, leaving = asyncio.Event(), asyncio.Event()

    async def wait(peer: Peer) -> None:
        begun.set()
        await leaving.wait()
        await answer(peer, b"late")

    async def leave() -> None:
        leaving.set()

    edge.handle, edge.drain = wait, leave
    async with edge.connect() as raw:
        await raw.send(REQUEST + b"\r\n")
        await begun.wait()
        stopping = asyncio.create_task(edge.stop())
        assert (await raw.read_all()).endswith(b"connection: close\r\n\r\nlate")
        await stopping


@served
async def test_a_request_that_does_not_end_is_cancelled_without_a_word(edge: Edge) -> None:
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def hang(_peer: Peer) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    edge.handle = hang
    async with edge.connect() as raw:
        await raw.send(REQUEST + b"\r\n")
        await begun.wait()
        took = await edge.stop()
    assert cancelled.is_set()
    assert took < LIMITS.request_seconds + 1.0


async def test_an_application_that_does_not_start_is_not_served(limits: ServerLimits, settings: Settings) -> None:
    edge = Edge(limits, settings)
    edge.failing = True
    with edge.listener:
        await edge.start()
        assert edge.serving is not None
        await edge.serving
    assert not edge.server.started


PROGRAM = """
import asyncio, sys, uvloop
from dataclasses import replace
from notify.server import build_server, open_listener
from notify.settings import Settings
from tests.edge import LIMITS, Edge

async def stay():
    if sys.argv[1] == "stubborn":
        await asyncio.Event().wait()

limits = replace(LIMITS, header_seconds=60)  # who connects is a process of its own, which others may keep waiting
if sys.argv[1] == "stubborn":
    limits = replace(limits, drain_seconds=60, leave_seconds=90)
edge = Edge(limits, Settings(_env_file=None))
edge.drain = stay

async def main():
    serving = asyncio.create_task(edge.server.serve(sockets=[edge.listener]))
    while not edge.server.started:
        await asyncio.sleep(0.01)
    print(edge.port, flush=True)
    await serving

uvloop.run(main())
"""


@asynccontextmanager
async def run_program(manner: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, int]]:
    """Serve in a process of its own."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        PROGRAM,
        manner,
        stdout=PIPE,
        stderr=PIPE,
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(20):
            yield process, int(await process.stdout.readline())
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_the_process_with_0_and_nothing_on_standard_error(number: int) -> None:
    async with run_program("polite") as (process, port):
        async with websockets.connect(f"ws://127.0.0.1:{port}/v1/ws", proxy=None) as connection:
            process.send_signal(number)
            await connection.wait_closed()
            assert connection.close_code == 1012
        _, errors = await process.communicate()
    assert errors.decode() == ""
    assert process.returncode == 0


async def test_a_second_ctrl_c_waits_for_nothing_any_more() -> None:
    async with run_program("stubborn") as (process, port):
        async with websockets.connect(f"ws://127.0.0.1:{port}/v1/ws", proxy=None) as connection:
            process.send_signal(signal.SIGINT)
            await wait_for_refusal(port)
            process.send_signal(signal.SIGINT)
            await connection.wait_closed()
        _, errors = await process.communicate()
    assert errors.decode() == ""
    assert process.returncode == 0


async def wait_for_refusal(port: int) -> None:
    """Wait until nobody listens on the port any more."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                return
            writer.close()
            await asyncio.sleep(0.005)
