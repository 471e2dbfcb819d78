"""The README shows each feature in a line or two, and every one of them does what it says."""

import asyncio
import json
import os
import re
import shutil
import signal
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.service import SEND, Service, mint_token, stands_at, until

README = Path(__file__).parents[2] / "README.md"
END = "--- the end of a line"
SHORTHANDS = 4
"""The first lines of the block, which the others use."""


def read_block(language: str) -> str:
    """Return the fenced block of the section that lists the features."""
    section = README.read_text().partition("\n## What else it does\n")[2].partition("\n## ")[0]
    [block] = re.findall(rf"^```{language}\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    return str(block)


def read_lines(service: Service) -> list[str]:
    """Return the commands, with the test's service and its tokens in place of those of `notify dev`."""
    block = read_block("bash").replace("http://127.0.0.1:8000", service.url)
    for command, token in (
        ("--sub shop --scope notifications:send", mint_token("shop", scope=SEND)),
        ("--sub alice", mint_token("alice")),
        ("--sub root --scope queues:write", mint_token("root", scope="queues:write")),
    ):
        block = block.replace(f"$(.venv/bin/notify token {command})", token)
    assert ".venv" not in block
    return [line for line in block.splitlines() if line and not line.startswith("#")]


async def paste(lines: list[str]) -> list[str]:
    """Run lines in one shell; return what each of them printed."""
    process = await asyncio.create_subprocess_exec("bash", "-e", stdin=PIPE, stdout=PIPE, stderr=STDOUT)
    script = "\n".join(f"{line}\necho '{END}'" for line in lines)
    async with asyncio.timeout(30):
        output, _ = await process.communicate(script.encode())
    assert process.returncode == 0, output.decode()
    return output.decode().split(f"{END}\n")[:-1]


@asynccontextmanager
async def going_on(lines: list[str]) -> AsyncIterator[Process]:
    """Run lines of which the last never ends by itself."""
    process = await asyncio.create_subprocess_exec(
        "bash", "-c", "\n".join(lines), stdin=DEVNULL, stdout=PIPE, stderr=STDOUT, start_new_session=True
    )
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


async def take_event(process: Process) -> dict[str, Any]:
    """Return the frame of the next event."""
    assert process.stdout is not None
    async with asyncio.timeout(10):
        async for line in process.stdout:
            if line.startswith(b"data: "):
                frame: dict[str, Any] = json.loads(line.removeprefix(b"data: "))
                return frame
    raise EOFError


async def test_each_line_does_what_it_says(service: Service) -> None:
    if shutil.which("curl") is None:
        pytest.skip("the README's lines are not run: curl is not installed here")
    lines = read_lines(service)
    [stream] = [line for line in lines if "'stream?" in line]
    lines.remove(stream)
    async with going_on([*lines[:SHORTHANDS], stream]) as streaming:
        while (await take_event(streaming))["op"] != "caught_up":
            pass
        printed = (await paste(lines))[SHORTHANDS:]
        events = [await take_event(streaming)]
        while events[-1]["op"] != "read":
            events.append(await take_event(streaming))
    said = dict(zip(lines[SHORTHANDS:], (json.loads(text) if text.strip() else None for text in printed), strict=True))

    def take(fragment: str) -> Any:
        """Return what the one line with this text printed; each line is asked for once."""
        [line] = [line for line in said if fragment in line]
        return said.pop(line)

    assert take("admin/webhooks")["secret"].startswith("whsec_")
    stored = (
        '"ttl": 60',
        "collapse_key",
        "deliver_at",
        "Idempotency-Key",
        "msgpack",
        "cloudevents",
        '"topic"',
        "undelivered_after",
    )
    for fragment in ('"ttl": 0', *stored):
        answer = take(fragment)
        assert (answer["recipients"], set(answer)) == (1, {"id", "recipients", "created_at"}), answer
    assert len(take("notifications/batch")["ids"]) == 2
    assert take("-X PUT") is None
    assert take("topics/news/subscribers") == {"items": [{"user": "alice"}], "next": None}
    assert take("ID=") is None
    assert take("$ID/recipients")["items"][1]["status"] == "pending"
    assert take("-X DELETE") is None
    assert take("$ID")["counts"]["pending"] == 2
    assert len(take("unread=true")["items"]) == 5
    assert take("inbox/read")["unread"] == 7
    assert [device["device"] for device in take("inbox/devices")["items"]] == ["web"]
    assert take("inbox/ack") is None
    assert set(take("push/key")) == {"key"}
    assert not said, "a line whose promise is not checked"
    types = [event["type"] for event in events if event["op"] == "notification"]
    assert types == ["offer", "typing", "score", "order.paid", "a", "b", "key", "parcel", "headline", "plan"]
    assert next(event["data"] for event in events if event.get("type") == "key") == {"$bytes": "AP8="}
    assert [event["op"] for event in events[-2:]] == ["retract", "read"]


async def test_each_frame_of_a_client_is_obeyed(service: Service, connection: asyncpg.Connection) -> None:
    await service.send_many("alice", 2)
    ack, read, auth = read_block("json").splitlines()
    async with service.connect("alice") as socket:
        await socket.take_backlog()
        await socket.say(ack)
        await until(lambda: stands_at(connection, "alice", 1))
        await socket.say(read)
        assert await socket.take() == {"op": "read", "seq": 3, "seqs": [1, 2], "unread": 0}
        await socket.say(auth.replace("…", mint_token("alice")))
        assert (await socket.take())["op"] == "authenticated"
