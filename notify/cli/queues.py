"""`notify queues` and `notify queue`: what an admin looks at first, as tables."""

from datetime import UTC, datetime
from urllib.parse import quote

import httpx
import rich_click as click
from rich.console import Console
from rich.table import Table

from notify.api.admin.queues import Queue, QueuePage
from notify.cli.configuration import read_client_settings
from notify.cli.printing import clean
from notify.client import Unreachable
from notify.client.address import authorize, base_url, is_loopback
from notify.client.calls import check, read_answer

ANSWER_SECONDS = 10.0
"""How long the service may take to answer."""

UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))
"""Of an age, the largest first."""


@click.command()
@click.option(
    "--sort", type=click.Choice(["depth", "age"]), default="depth", show_default=True, help="What comes first."
)
@click.option("--prefix", default="", help="Only users whose id begins like this.")
@click.option("--limit", type=click.IntRange(1, 500), default=20, show_default=True, help="Rows at most.")
@click.option("--json", "as_json", is_flag=True, help="The service's answer as it is.")
def queues(*, sort: str, prefix: str, limit: int, as_json: bool) -> None:
    """List the mailboxes with something pending: who is not getting what, and since when.

    NOTIFY_URL says where the service is; NOTIFY_TOKEN needs the scope queues:read.
    """
    answer = ask("/v1/admin/queues", {"sort": sort, "q": prefix, "limit": str(limit)})
    if as_json:
        click.echo(answer.content)
        return
    page = read_answer(answer, QueuePage)
    table = Table("user", title=f"as of {write_age(page.as_of)} ago")
    table.add_column("pending", justify="right")
    table.add_column("oldest waits", justify="right")
    for item in page.items:
        table.add_row(clean(item.user), f"{item.pending:,}", write_age(item.oldest_pending_at))
    show(table, "Nothing is pending: every notification was acknowledged by some device.")
    if page.next is not None:
        click.echo("there are more: --limit, --prefix")


@click.command()
@click.argument("user")
@click.option("--limit", type=click.IntRange(1, 500), default=10, show_default=True, help="Rows of each table at most.")
@click.option("--json", "as_json", is_flag=True, help="The service's answer as it is.")
def queue(*, user: str, limit: int, as_json: bool) -> None:
    """Show one USER's mailbox: devices and cursors, open sessions, what is pending and what was lately.

    NOTIFY_URL says where the service is; NOTIFY_TOKEN needs the scope queues:read.
    """
    # A dot is encoded as well: `..` would be taken for a step up on its way.
    answer = ask(f"/v1/admin/queues/{quote(user, safe='').replace('.', '%2E')}", {"limit": str(limit)})
    if as_json:
        click.echo(answer.content)
        return
    print_queue(read_answer(answer, Queue))


def print_queue(found: Queue) -> None:
    """Print a mailbox as tables."""
    box = found.mailbox
    oldest = f", the oldest for {write_age(box.oldest_pending_at)}" if box.oldest_pending_at else ""
    click.echo(f"{clean(found.user)}: {box.pending:,} pending{oldest}; {box.unread:,} unread")
    click.echo(f"head {box.head}, acknowledged {box.acknowledged}, floor {box.floor}, epoch {box.epoch}")
    devices = Table("device", "cursor", "behind", "last seen", title="devices")
    for device in found.devices:
        behind = f"{max(0, box.head - device.cursor):,}"
        devices.add_row(clean(device.device), str(device.cursor), behind, f"{write_age(device.seen_at)} ago")
    show(devices, "No device ever connected.")
    sessions = Table("session", "device", "protocol", "open for", "node", title="open sessions")
    for session in found.sessions:
        age = write_age(session.opened_at)
        sessions.add_row(str(session.session), clean(session.device), session.protocol, age, str(session.node))
    show(sessions, "No session is open.")
    pending = Table("seq", "type", "source", "waits for", "expires in", "id", title="pending, the oldest first")
    for item in found.pending:
        left = write_seconds((item.expires_at - datetime.now(UTC)).total_seconds())
        pending.add_row(
            str(item.seq), clean(item.type), clean(item.source), write_age(item.queued_at), left, str(item.id)
        )
    show(pending, "Nothing is pending.")
    recent = Table("seq", "type", "source", "queued", "status", "id", title="recent, the newest first")
    for last in found.recent:
        age = f"{write_age(last.queued_at)} ago"
        recent.add_row(str(last.seq), clean(last.type), clean(last.source), age, last.status, str(last.id))
    show(recent, "Nothing was sent, or all of it is gone.")


def show(table: Table, empty: str) -> None:
    """Print a table, or what it means that it has no rows. On a terminal it fits, elsewhere nothing is cut."""
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, width=240)
    if table.rows:
        console.print(table)
    else:
        console.print(empty)


def ask(path: str, parameters: dict[str, str]) -> httpx.Response:
    """Return the service's answer. Raises Refused, Unreachable, BadData or ConfigurationError."""
    url, token = read_client_settings()
    base = base_url(url)
    try:
        with httpx.Client(timeout=ANSWER_SECONDS, trust_env=not is_loopback(base)) as client:
            answer = client.get(base + path, params=parameters, headers=authorize(token))
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise Unreachable(f"no answer from {base}: {error or type(error).__name__}") from None
    check(answer)
    return answer


def write_age(moment: datetime) -> str:
    """Return how long ago a moment was, in one unit."""
    return write_seconds((datetime.now(UTC) - moment).total_seconds())


def write_seconds(seconds: float) -> str:
    """Return a span of time in the largest unit of which it has two, so that it is exact to a half."""
    whole = max(0, int(seconds))
    for size, name in UNITS:
        if whole >= 2 * size:
            return f"{whole // size} {name}"
    return f"{whole} s"
