"""`notify doctor`: what is wrong, and how to mend it."""

import asyncio
from collections.abc import AsyncIterator

import rich_click as click
from rich.console import Console
from rich.text import Text

from notify.cli.configuration import DATA_DIR, DATABASE, ClientSettings, complete, read_settings
from notify.cli.printing import clean
from notify.cli.secret import find_secret
from notify.doctor import Finding, Verdict, examine
from notify.embedded import EmbeddedPostgres
from notify.errors import NotifyError

STYLES = {Verdict.GOOD: ("✓", "green"), Verdict.NOTE: ("·", "dim"), Verdict.WRONG: ("✗", "bold red")}


class Unwell(NotifyError):
    """Something is wrong; what it is stands above."""


@click.command()
@click.option(
    "--url", default="", help="Where clients reach the service, to try a WebSocket there; default: NOTIFY_URL."
)
def doctor(*, url: str) -> None:
    """Check the database, its schema, LISTEN, keys, clock and, through --url, the service and a real WebSocket upgrade.

    Says what is wrong and how to mend it; exits with 1 if anything is. Where no database is set, it looks at the one of
    `notify dev`, if there is one.
    """
    settings = read_settings()
    client = ClientSettings()
    postgres = EmbeddedPostgres(DATA_DIR)
    # Only with a key: `complete` would make one, and who examines changes nothing.
    known = settings.has_key or find_secret(DATA_DIR) is not None
    alone = known and not settings.database_url and postgres.cluster.exists()
    if alone:
        settings = complete(settings, postgres.url(DATABASE), DATA_DIR)
    place = url or (client.url if alone or "url" in client.model_fields_set else "")
    found = asyncio.run(print_findings(examine(settings, url=place, token=client.token.get_secret_value().strip())))
    if found:
        raise Unwell(f"{found} of the checks found something wrong")


async def print_findings(findings: AsyncIterator[Finding]) -> int:
    """Print findings as they come; return how many are wrong."""
    console = Console(highlight=False, soft_wrap=True)
    bad = 0
    async for finding in findings:
        mark, style = STYLES[finding.verdict]
        line = Text.assemble((f"{mark} {finding.check:<13}", style), clean(finding.text))
        if finding.remedy:
            line.append(f"\n  → {clean(finding.remedy)}", style="yellow" if finding.verdict is Verdict.WRONG else "dim")
        console.print(line)
        bad += finding.verdict is Verdict.WRONG
    return bad
