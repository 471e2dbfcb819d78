"""The command line: `notify …` (contract, section 1).

The promise kept here: exit code 0 for success, 1 for failure, 2 for wrong usage; and whatever goes wrong is one line on
standard error that says what to do, without a traceback. One file a group of commands, loaded only when it is asked
for, so that `notify send` does not wait for a web framework to be imported.
"""

import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module

import rich_click as click

from notify import __version__
from notify.cli.failures import describe_failure
from notify.telemetry import configure_logging

COMMANDS = {
    "dev": "notify.cli.dev",
    "serve": "notify.cli.service",
    "migrate": "notify.cli.schema",
    "token": "notify.cli.tokens",
    "send": "notify.cli.clients",
    "listen": "notify.cli.clients",
    "queues": "notify.cli.queues",
    "queue": "notify.cli.queues",
    "doctor": "notify.cli.doctor",
    "bench": "notify.bench.command",
    "openapi": "notify.cli.reference",
}
"""Each command and the module that has it, under its own name."""


class Commands(click.RichGroup):
    """A group whose commands are imported when they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the names of all commands, in the order of COMMANDS."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        """Return a command by its name; None when there is none."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(COMMANDS[cmd_name]), cmd_name)
        return command


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]}, invoke_without_command=True)
@click.version_option(__version__, prog_name="notify")
@click.pass_context
def root(ctx: click.Context) -> None:
    """Notifications that reach their user, live or after a restart.

    Begin with `notify dev`.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code. The entry point of the console script."""
    configure_logging("warning", "console")
    try:
        code = root.main(arguments, prog_name="notify", standalone_mode=False)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read our output has had enough. Nothing may write there any more, the interpreter's exit included.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # noqa: BLE001 - the last place where anything can be caught
        if os.environ.get("NOTIFY_LOG_LEVEL") == "debug":
            traceback.print_exception(error)
        line, code = describe_failure(error)
        click.echo(line, err=True)
    return code if isinstance(code, int) else 0
