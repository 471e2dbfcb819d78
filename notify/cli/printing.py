"""How `notify listen` shows frames to a person.

Keeps the promise that what other people sent can't do anything to a terminal but be read: no escape sequence, no
bidirectional override, no markup gets through.
"""

import json
from datetime import datetime

from rich.console import Console
from rich.text import Text

from notify.client import (
    CaughtUp,
    Disconnect,
    ErrorFrame,
    Notification,
    ReadMark,
    Received,
    Retract,
    Truncated,
    Welcome,
)


class FramePrinter:
    """Prints frames to standard output, a line each, in colour on a terminal."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, soft_wrap=True)

    def print(self, frame: Received) -> None:
        """Print one frame."""
        line = Text(datetime.now().astimezone().strftime("%H:%M:%S "), style="dim")
        line.append_text(describe(frame))
        self._console.print(line)
        self._console.file.flush()


def describe(frame: Received) -> Text:  # noqa: PLR0911 - one return a kind of frame
    """Return what a person should see of a frame."""
    match frame:
        case Welcome():
            missed = "" if frame.recovered else " · the place asked for is gone: starting from the device's cursor"
            waiting = max(0, frame.head - frame.after)
            who = f"{clean(frame.user)} on {clean(frame.device)}"
            return Text(f"connected as {who} · {waiting} waiting · {frame.unread} unread{missed}", style="green")
        case Notification():
            seq = f"#{frame.seq}" if isinstance(frame.seq, int) else "now"
            data = json.dumps(frame.data, ensure_ascii=False, separators=(",", ":"))
            return Text.assemble(
                (f"{seq:>5} ", "cyan"),
                (clean(frame.type), "bold"),
                f" {clean(data)} ",
                (f"from {clean(frame.source)}", "dim"),
            )
        case CaughtUp():
            return Text(f"caught up at #{frame.seq}; from here on it is live", style="green")
        case Truncated():
            return Text(f"#{frame.from_} to #{frame.to} are gone for good", style="yellow")
        case Retract():
            return Text.assemble((f"{f'#{frame.seq}':>5} ", "cyan"), f"takes back #{frame.of}")
        case ReadMark():
            marked = f"everything up to #{frame.up_to}" if isinstance(frame.up_to, int) else list_seqs(frame)
            left = f", {frame.unread} unread" if isinstance(frame.unread, int) else ""
            return Text.assemble((f"{f'#{frame.seq}':>5} ", "cyan"), f"read: {marked}{left}")
        case ErrorFrame():
            return Text(f"the service did not understand: {clean(frame.detail)}", style="yellow")
        case Disconnect():
            return Text(f"goodbye: {clean(frame.reason)}", style="yellow")


def list_seqs(frame: ReadMark) -> str:
    """Return the seqs that a read mark names."""
    return ", ".join(f"#{seq}" for seq in frame.seqs) if isinstance(frame.seqs, list | tuple) else "nothing"


def clean(text: str) -> str:
    """Return the text with everything that isn't printable written out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)
