"""What `notify dev` prints for pasting. It goes to standard output and is no log."""

import json
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from notify.auth import Scope
from notify.cli.tokens import can_mint, mint_from
from notify.settings import Settings

TOKEN_SECONDS = 86_400
"""How long the printed tokens are valid: a day of trying things out."""

EXAMPLE = {"to": "alice", "type": "order.shipped", "data": {"order": 7}}

ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - recognized, not bound
"""Addresses to listen on that are none to connect to."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the service is to be found."""

    host: str
    port: int
    data_dir: Path

    @property
    def authority(self) -> str:
        """Host and port as a URL has them."""
        host = ANYWHERE.get(self.host, self.host)
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"


def write_banner(settings: Settings, place: Place) -> str:
    """Return the whole text. The commands in it work as they stand in another shell of the same directory."""
    url = f"http://{place.authority}"
    lines = [
        "",
        f"notify is ready; its data is in {place.data_dir}",
        "",
        f"  REST      {url}/v1/notifications",
        f"  socket    ws://{place.authority}/v1/ws",
        f"  demo      {url}/demo   (begin here)",
        f"  docs      {url}/docs",
        f"  console   {url}/admin",
        "",
    ]
    lines += write_tokens(settings, url) if can_mint(settings) else write_advice()
    return "\n".join([*lines, "Ctrl-C stops all of it; what is queued is still there next time.", ""])


def write_tokens(settings: Settings, url: str) -> list[str]:
    """Return the tokens and the commands that use them."""
    user = mint_from(settings, subject="alice", ttl=TOKEN_SECONDS)
    app = mint_from(settings, subject="shop", scope=Scope.SEND, ttl=TOKEN_SECONDS)
    admin = mint_from(settings, subject="admin", scope=f"{Scope.QUEUES_READ} {Scope.QUEUES_WRITE}", ttl=TOKEN_SECONDS)
    headers = f"-H 'Authorization: Bearer {app}' -H 'Content-Type: application/json'"
    return [
        "Tokens, valid for a day:",
        "",
        f"  user alice    {user}",
        f"  app shop      {app}",
        f"  admin         {admin}",
        "",
        "Listen as alice, in another shell of this directory:",
        "",
        f"  NOTIFY_URL={url} NOTIFY_TOKEN={user} {write_program()} listen",
        "",
        "Send something to her, in a third:",
        "",
        f"  curl {url}/v1/notifications {headers} -d '{json.dumps(EXAMPLE)}'",
        "",
    ]


def write_advice() -> list[str]:
    """Return what to say when only the issuer of the configured key can make tokens."""
    return [
        "Tokens come from the issuer of the key that is configured. With NOTIFY_JWT_SECRET or NOTIFY_JWT_PRIVATE_KEY",
        "set, or no key at all, some would be printed here.",
        "",
    ]


def write_program() -> str:
    """Return how this program was called, so that it can be called again the same way."""
    program = sys.argv[0]
    if program.endswith("__main__.py"):
        return f"{shlex.quote(sys.executable)} -m notify.cli"
    return shlex.quote(program)
