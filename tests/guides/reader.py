"""Somebody who follows a guide: runs its blocks in order, in one directory, as they stand."""

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from pathlib import Path
from string import Template
from typing import Any, Self

from notify.embedded import find_binaries
from tests.guides.guide import Block, read_blocks

PATIENCE = 60.0
"""Seconds that one block may take: the longest installs a package or measures."""

FOLLOWED: set[tuple[Path, int]] = set()
"""The blocks that tests have followed so far, by file and line: what is missing in the end, nobody runs."""

SHELL = """
set -eo pipefail
[ ! -e "$STATE" ] || . "$STATE"
"""
"""Before each block: what an earlier one exported is there, and the first failure ends it."""

REMEMBER = """
export -p > "$STATE"
"""
"""After one that ends: by the time another is stopped, what it knew is old."""

PYTHON = """
import ast, asyncio, inspect, json, sys
names = json.loads(sys.argv[1])
made = eval(compile(sys.argv[2], "guide", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), names)
if inspect.iscoroutine(made):
    asyncio.run(made)
"""
"""Runs a block in which `await` and `async for` may stand at the top, as in an asyncio REPL."""


class Program:
    """A program that runs, and what it has printed. Whoever starts one ends it."""

    @classmethod
    async def start(cls, *command: str, place: str, **options: Any) -> Self:
        """Start a command; `place` is what a failure is told of. Options as of asyncio.create_subprocess_exec."""
        process = await asyncio.create_subprocess_exec(
            *command, stdin=DEVNULL, stdout=PIPE, stderr=STDOUT, start_new_session=True, **options
        )
        return cls(process, place)

    def __init__(self, process: Process, place: str) -> None:
        self.output = ""
        self._process = process
        self._place = place
        self._grew = asyncio.Event()
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            self.output += line.decode()
            self._grew.set()

    async def wait_for(self, text: str) -> None:
        """Return once its output has the text. Fails when it ends before."""
        async with asyncio.timeout(PATIENCE):
            while text not in self.output:
                self._grew.clear()
                grew = asyncio.create_task(self._grew.wait())
                await asyncio.wait({grew, self._reading}, return_when=asyncio.FIRST_COMPLETED)
                grew.cancel()
                assert text in self.output or not self._reading.done(), f"{self._place} ended:\n{self.output}"

    async def succeed(self) -> str:
        """Return its output once it has ended well."""
        async with asyncio.timeout(PATIENCE):
            code = await self._process.wait()
            await self._reading
        assert code == 0, f"{self._place} exits with {code}:\n{self.output}"
        return self.output

    async def interrupt(self) -> None:
        """Press Ctrl-C, and wait until all of it is gone."""
        if self._process.returncode is None:
            os.killpg(self._process.pid, signal.SIGINT)
        async with asyncio.timeout(PATIENCE):
            await self._process.wait()
            await self._reading

    async def close(self) -> None:
        """End it, politely if that works."""
        try:
            await self.interrupt()
        finally:
            if self._process.returncode is None:
                os.killpg(self._process.pid, signal.SIGKILL)


class Reader:
    """Follows guides in `directory`. `given` are the names that the guides' Python and changes may use."""

    def __init__(self, directory: Path, *, environment: dict[str, str], given: dict[str, str]) -> None:
        self.given = given
        self.directory = directory
        self.running: dict[str, Program] = {}
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("NOTIFY_")},
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), str(find_binaries()), os.environ["PATH"]]),
            "PYTHONUNBUFFERED": "1",
            "STATE": str(directory / ".exported"),
            **environment,
        }

    async def follow(self, path: Path, section: str) -> list[str]:
        """Run the blocks under a heading that are for a shell, Python or psql; return what each printed."""
        blocks = [block for block in read_blocks(path) if block.section == section and block.language in LANGUAGES]
        assert blocks, f"{path.name} has nothing to run under {section!r}"
        return [await self.run(block) for block in blocks if block.mark.check is None]

    async def run(self, block: Block, *, then: str = "") -> str:
        """Run one block, with some lines after it, as its mark says; return what it printed."""
        FOLLOWED.add((block.path, block.line))
        ends = block.mark.until is None
        text = self.change(block) + then
        if block.language == "sh" and ends:
            text += REMEMBER
        program = await self._start(block.language, text, block.place)
        if ends:
            return await program.succeed()
        await program.wait_for(block.mark.until or "")
        if not block.mark.background:
            await program.interrupt()
        return program.output

    def change(self, block: Block) -> str:
        """Return a block's text with what its mark puts in place of something else."""
        text = block.text
        for old, new in block.mark.changes.items():
            assert old in text, f"{block.place} has no {old!r} to be changed"
            text = text.replace(old, Template(new).substitute(self.given))
        return text

    async def stop(self, path: Path, section: str) -> None:
        """Press Ctrl-C where blocks under a heading still run."""
        for block in read_blocks(path):
            if block.section == section and block.mark.background:
                await self.running.pop(block.place).interrupt()

    async def ask(self, command: str) -> str:
        """Return what a command that stands in no guide prints."""
        return (await (await self._start("sh", command, "the test")).succeed()).strip()

    async def close(self) -> None:
        """End what still runs."""
        for program in self.running.values():
            await program.close()

    async def _start(self, language: str, text: str, place: str) -> Program:
        command = self._command(language, text)
        program = await Program.start(*command, place=place, cwd=self.directory, env=self._environment)
        self.running[place] = program
        return program

    def _command(self, language: str, text: str) -> list[str]:
        if language == "sh":
            return ["bash", "-c", SHELL + text]
        if language == "sql":
            return ["psql", "--no-psqlrc", "--set=ON_ERROR_STOP=1", f"--command={text}", self.given["DATABASE"]]
        own = self.directory / ".venv/bin/python"
        return [str(own if own.exists() else sys.executable), "-c", PYTHON, json.dumps(self.given), text]


LANGUAGES = {"sh", "python", "sql"}
