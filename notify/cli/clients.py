"""`notify send` and `notify listen`: the client, at the terminal."""

import asyncio
import json
import os
import stat
import sys
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager, suppress
from datetime import datetime

import msgspec
import rich_click as click
from stamina.instrumentation import set_on_retry_hooks

from notify.cli.configuration import read_client_settings
from notify.cli.printing import FramePrinter
from notify.client import Client, Lost, Received
from notify.client import listen as receive


def read_json(_ctx: click.Context, _parameter: click.Parameter, text: str | None) -> object:
    """Return the JSON value of an argument, or of standard input if it is `-`; wrong usage if it is none."""
    if text is None:
        return None
    try:
        return json.loads(sys.stdin.buffer.read() if text == "-" else text, parse_constant=refuse_constant)
    except (ValueError, RecursionError) as error:
        raise click.BadParameter(f"it is not JSON: {error or 'nested too deep'}") from None


def read_moment(_ctx: click.Context, _parameter: click.Parameter, text: str | None) -> datetime | None:
    """Return the time of an option (RFC 3339); wrong usage if it is none or says no offset."""
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise click.BadParameter("it is not a time like 2030-01-31T09:00:00Z, with Z or an offset")
    return moment


def refuse_constant(name: str) -> None:
    """Refuse what Python reads and JSON does not have."""
    raise ValueError(f"{name} is no JSON value")


@click.command()
@click.argument("to")
@click.argument("type")
@click.argument("data", callback=read_json, required=False)
@click.option("--ttl", type=click.IntRange(0, 2_419_200), help="Seconds it may wait; 0: now or never.")
@click.option("--collapse-key", help="Replaces the pending one with the same key.")
@click.option(
    "--deliver-at", callback=read_moment, metavar="TIME", help="Not before this time, e.g. 2030-01-31T09:00:00Z."
)
def send(  # noqa: PLR0913 - one argument a parameter of the command
    *,
    to: str,
    type: str,  # noqa: A002 - the argument's name
    data: object,
    ttl: int | None,
    collapse_key: str | None,
    deliver_at: datetime | None,
) -> None:
    """Send one notification of TYPE to the user TO, and print its id.

    DATA is JSON, or - to read it from standard input.

    NOTIFY_URL says where the service is, NOTIFY_TOKEN who is sending; the token needs the scope notifications:send.
    """
    url, token = read_client_settings()
    set_on_retry_hooks([])  # what was tried on the way is of no interest here
    with Client(url, token) as client:
        sent = client.send(to, type, data, ttl=ttl, collapse_key=collapse_key, deliver_at=deliver_at)
    click.echo(sent.id)


@click.command()
@click.option("--device", default="default", show_default=True, help="Which of the user's devices this is.")
@click.option(
    "--after", type=click.IntRange(0, 2**63 - 1), metavar="SEQ", help="Start there, not at the device's cursor."
)
@click.option("--ack/--no-ack", default=True, help="Acknowledge what was printed (the default), or only look.")
@click.option("--json", "as_json", is_flag=True, help="One frame a line, as JSON.")
def listen(*, device: str, after: int | None, ack: bool, as_json: bool) -> None:
    """Print what the user of NOTIFY_TOKEN receives, until Ctrl-C.

    Connects to NOTIFY_URL, comes back by itself whenever the connection is lost, and misses nothing meanwhile.
    """
    url, token = read_client_settings()
    show = print_json if as_json else FramePrinter().print
    with suppress(KeyboardInterrupt):  # the way to end it
        asyncio.run(follow(receive(url, token, device=device, after=after, ack=ack, on_lost=report_loss), show))


async def follow(received: AsyncGenerator[Received], show: Callable[[Received], None]) -> None:
    """Show each frame; one that was shown is acknowledged."""
    async with aclosing(received) as frames:
        with while_somebody_reads():
            async for frame in frames:
                show(frame)


@contextmanager
def while_somebody_reads() -> Iterator[None]:
    """End the block when whoever read our standard output has gone, though nothing may be written for hours."""
    output = sys.stdout.fileno()
    task = asyncio.current_task()
    if task is None or not stat.S_ISFIFO(os.fstat(output).st_mode):
        yield
        return
    loop = asyncio.get_running_loop()
    gone = False

    def end() -> None:
        nonlocal gone
        gone = True
        loop.remove_reader(output)
        task.cancel()

    # The writing end of a pipe becomes "readable" when the reading end is closed: EPOLLERR (poll(2)).
    loop.add_reader(output, end)
    try:
        yield
    except asyncio.CancelledError:
        if not gone:
            raise
    finally:
        loop.remove_reader(output)


def print_json(frame: Received) -> None:
    """Print a frame as a line of JSON, at once."""
    sys.stdout.buffer.write(msgspec.json.encode(frame) + b"\n")
    sys.stdout.buffer.flush()


def report_loss(lost: Lost) -> None:
    """Say that the connection is gone and that it is being seen to."""
    click.echo(f"notify listen: {lost.reason}; trying again in {lost.seconds:.1f} s", err=True)
