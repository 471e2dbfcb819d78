"""What a failure looks like to the person at the terminal: one line and an exit code."""

import rich_click as click

from notify.errors import NotifyError
from notify.telemetry import scrub

FAILURE = 1
USAGE = 2


def describe_failure(error: Exception) -> tuple[str, int]:
    """Return the line and the exit code for `error`. The line never holds a token or a secret."""
    while isinstance(error, ExceptionGroup):  # whatever a task group wraps: the first is what went wrong
        error = error.exceptions[0]
    match error:
        case click.UsageError():
            path = error.ctx.command_path if error.ctx else "notify"
            return one_line(f"{path}: {error.format_message()} See: {path} --help"), USAGE
        case click.Abort():
            return "notify: interrupted", FAILURE
        case click.ClickException():
            return one_line(f"notify: {error.format_message()}"), FAILURE
        case NotifyError():
            return one_line(f"notify: {error}"), FAILURE
        case OSError():
            where = f"{error.filename}: " if error.filename else ""
            return one_line(f"notify: {where}{error.strerror or error or type(error).__name__}"), FAILURE
        case _:
            return one_line(
                f"notify: this is a bug: {type(error).__name__}: {error} (NOTIFY_LOG_LEVEL=debug shows where)"
            ), FAILURE


def one_line(text: str) -> str:
    """Return the text as a single line, cleaned of what looks like a secret."""
    return scrub(" ".join(text.split()))
