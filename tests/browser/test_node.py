"""The same client in Node, given a WebSocket class, and over server-sent events without one."""

import asyncio
import json
import shutil
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import notify.client
from notify.session import Session
from tests.service import PATIENCE, Service, mint_token

CLIENT = Path(notify.client.__file__).with_name("notify.js")

SCRIPT = """
import { connect } from CLIENT;
const client = connect({ url: URL_, token: async () => TOKEN, WebSocket: GIVEN });
const say = (what) => console.log(JSON.stringify(what));
client.on("state", ({ state, transport }) => say({ state, transport }));
client.on("notification", async ({ data }) => say({ data }));
process.stdin.once("data", () => { client.close(); process.stdin.unref(); });
"""


@pytest.fixture
def node() -> str:
    """Find Node, or skip."""
    found = shutil.which("node")
    if found is None:
        pytest.skip("no test of the client in Node: there is no node here")
    return found


class Program:
    """A running script of Node and what it says, line by line."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def wait_for(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Return the next line that is wanted."""
        assert self.process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            while True:
                line = await self.process.stdout.readline()
                assert line, "the script has ended"
                said: dict[str, Any] = json.loads(line)
                if wanted(said):
                    return said


@asynccontextmanager
async def run(node: str, directory: Path, service: Service, *, given: str) -> AsyncIterator[Program]:
    """Run the client in Node until the end of the block; then it must end by itself."""
    script = directory / "script.mjs"
    words = {"CLIENT": CLIENT.as_uri(), "URL_": service.url, "TOKEN": mint_token("alice")}
    text = SCRIPT.replace("GIVEN", given)
    for word, value in words.items():
        text = text.replace(word, json.dumps(value))
    script.write_text(text)
    # Node 20 keeps its WebSocket class behind this flag; later ones ignore it.
    process = await asyncio.create_subprocess_exec(
        node, "--experimental-websocket", str(script), stdin=PIPE, stdout=PIPE, stderr=PIPE
    )
    try:
        yield Program(process)
        async with asyncio.timeout(PATIENCE):
            _output, errors = await process.communicate(b"end")
        assert process.returncode == 0, errors.decode()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.mark.parametrize(("given", "transport"), [("globalThis.WebSocket", "websocket"), ("null", "sse")])
async def test_in_node_what_is_sent_arrives_and_closing_ends_the_program(
    service: Service, node: str, tmp_path: Path, given: str, transport: str
) -> None:
    await service.send("alice", "queued")
    async with run(node, tmp_path, service, given=given) as program:
        await program.wait_for(lambda said: said.get("data") == "queued")
        live = await program.wait_for(lambda said: said.get("state") == "live")
        assert live["transport"] == transport
        await service.send("alice", "live")
        await program.wait_for(lambda said: said.get("data") == "live")


async def test_in_node_a_lost_connection_is_come_back_from(service: Service, node: str, tmp_path: Path) -> None:
    async with run(node, tmp_path, service, given="globalThis.WebSocket") as program:
        await program.wait_for(lambda said: said.get("state") == "live")
        [session] = list(service.app.hub)
        assert isinstance(session, Session)
        session._socket.abort()
        await program.wait_for(lambda said: said.get("state") == "live")
        await service.send("alice", "after")
        await program.wait_for(lambda said: said.get("data") == "after")
