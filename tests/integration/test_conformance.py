"""The running service does what its OpenAPI document says, whatever is sent: schemathesis reads the one and asks the other.

Every operation is called with what the document allows and with what it does not: no 5xx, no status, media type, header
or body that is not published, nothing refused that fits the schema (but for what tests/conformance.py explains), nothing
taken that does not, no method and no credentials taken that are none. The event stream is left out: it does not end, and has
tests of its own.
"""

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, STDOUT
from pathlib import Path

import pytest

from notify.api.stream import PATH_STREAM
from tests.conformance import CALLER
from tests.service import Service, bearer

ROOT = Path(__file__).parents[2]

ALL_SCOPES = "notifications:send notifications:receive queues:read queues:write"


async def run_schemathesis(service: Service, directory: Path, *options: str) -> str:
    """Let schemathesis loose on a service; return what it has to complain about, nothing if there is nothing."""
    command = [
        sys.executable, "-m", "schemathesis.cli", "run", f"{service.url}/openapi.json", "--exclude-path", PATH_STREAM,
        "--header", "Authorization: {Authorization}".format(**bearer(CALLER, scope=ALL_SCOPES)),
        # What is withdrawn or purged can still be followed, and a key may stand for what was erased since.
        "--exclude-checks", "use_after_free,ensure_resource_availability",
        "--generation-deterministic", "--warnings", "off", "--request-timeout", "10", "--no-color", *options,
    ]  # fmt: skip
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": "tests.conformance", "PYTHONPATH": str(ROOT)}
    process = await asyncio.create_subprocess_exec(
        *command, cwd=directory, env=environment, stdin=asyncio.subprocess.DEVNULL, stdout=PIPE, stderr=STDOUT
    )
    try:
        written, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return "" if process.returncode == 0 else written.decode()


@pytest.mark.timeout(180)  # some thousand calls, and schemathesis itself takes seconds to start
async def test_the_service_does_what_its_document_says(service: Service, tmp_path: Path) -> None:
    complaint = await run_schemathesis(service, tmp_path, "--phases", "examples,coverage")
    assert not complaint, complaint


@pytest.mark.chaos
@pytest.mark.timeout(600)
async def test_the_service_does_what_its_document_says_of_a_hundred_random_calls_each(
    service: Service, tmp_path: Path
) -> None:
    complaint = await run_schemathesis(
        service, tmp_path, "--phases", "fuzzing,stateful", "--continue-on-failure", "--max-examples", "100"
    )
    assert not complaint, complaint
