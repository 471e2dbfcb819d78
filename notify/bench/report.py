"""A report for people: tables in a terminal, and rows for a spreadsheet."""

import csv
import io

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from notify.bench.result import Paced, Phase, Pressed, Report


def show(report: Report, console: Console) -> None:
    """Print everything."""
    parts: list[object] = [table_figures(report)]
    if report.floors is not None:
        parts.append(table_floors(report))
    if report.targets:
        parts.append(table_targets(report))
    console.print(Group(*parts))  # type: ignore[arg-type]  # tables, all of them
    machine = report.machine
    console.print(
        f"[dim]{machine['cores']} cores, {machine['processor']}, {machine['memory_gib']} GiB, {machine['system']}, "
        f"Python {machine['python']}, PostgreSQL {machine['postgresql'] or 'unknown'}[/dim]"
    )
    for note in report.notes:
        console.print(Text(f"! {note}", style="yellow"))
    if not report.sound:
        console.print(Text("Something was lost, doubled, out of order or failed: see the columns.", style="bold red"))


def table_figures(report: Report) -> Table:
    """Draw the phases."""
    title = f"{report.settings['users']} users, {report.settings['payload_bytes']}-byte payloads"
    table = Table(title=title, title_justify="left")
    table.add_column("phase")
    table.add_column("figure")
    table.add_column("faults")
    for name in ("service", "PG", "load", "µs each"):
        table.add_column(name, justify="right")
    for name, phase in report.phases.items():
        used = phase.usage
        table.add_row(
            name,
            describe(name, report),
            list_faults(phase),
            *(number(part, 2) for part in (used.service, used.postgres, used.loader)),
            number(used.cpu_us_per_notification, 0),
        )
    table.caption = (
        "service, PG (PostgreSQL), load: cores in use; µs each: processor time of the first two a notification"
    )
    return table


def describe(name: str, report: Report) -> str:
    """Say a phase's figures in a line."""
    if name == "connect":
        connect = report.connect
        return f"{connect.per_second:,.0f}/s, {number(connect.kib_per_connection, 1)} KiB a connection"
    phase = report.phases[name]
    if isinstance(phase, Paced):
        paced = phase
        return (
            f"at {paced.rate:g}/s: p50 {paced.p50_ms:.2f}, p95 {paced.p95_ms:.2f}, p99 {paced.p99_ms:.2f}, "
            f"max {paced.max_ms:.1f} ms; sent {paced.late_p50_ms:.2f} late"
        )
    if name == "replay":
        replay = report.replay
        return (
            f"{replay.notifications:,} to {replay.users:,} users in {replay.seconds:.2f} s, "
            f"{replay.per_second:,.0f}/s; readyz {replay.ready_checks - replay.ready_failures}/{replay.ready_checks}"
        )
    pressed = phase
    assert isinstance(pressed, Pressed)
    size = "one by one" if pressed.batch == 1 else f"batches of {pressed.batch}"
    return f"{pressed.per_second:,.0f}/s {size}, {pressed.connections} connections; p99 {pressed.p99_ms:.1f} ms"


def table_floors(report: Report) -> Table:
    """Draw what the machine does without us."""
    floors = report.floors
    assert floors is not None
    table = Table(title="The same machine without us", title_justify="left", show_header=False)
    p50, p99 = number(floors.insert_notify_ms, 2), number(floors.insert_notify_p99_ms, 2)
    table.add_row("INSERT+NOTIFY to listener", f"p50 {p50}, p99 {p99} ms")
    paced, paced_p99 = number(floors.insert_notify_paced_ms, 2), number(floors.insert_notify_paced_p99_ms, 2)
    table.add_row("the same, at the latency's rate", f"p50 {paced}, p99 {paced_p99} ms")
    table.add_row("INSERT+NOTIFY, 16 connections", f"{number(floors.insert_notify_per_second, 0)}/s")
    rows, posts = number(floors.batch_insert_rows_per_second, 0), number(floors.litestar_posts_per_second, 0)
    table.add_row("batch insert, one connection", f"{rows} rows/s, {number(floors.batch_insert_row_cpu_us, 1)} µs each")
    table.add_row("no-op POST, Litestar handler", f"{posts}/s, {number(floors.litestar_post_cpu_us, 0)} µs each")
    table.add_row("frames to bare uvicorn sockets", f"{number(floors.uvicorn_socket_sends_per_second, 0)}/s")
    table.add_row("bare uvicorn socket", f"{number(floors.uvicorn_socket_kib, 1)} KiB")
    table.add_row("Litestar socket", f"{number(floors.litestar_socket_kib, 1)} KiB")
    return table


def table_targets(report: Report) -> Table:
    """Draw the ratios."""
    table = Table(title="Targets", title_justify="left")
    table.add_column("")
    for name in ("measured", "floor", "ratio"):
        table.add_column(name, justify="right")
    table.add_column("target")
    table.add_column("")
    for goal in report.targets:
        table.add_row(
            goal.name,
            f"{number(goal.measured)} {goal.unit}",
            number(goal.floor),
            number(goal.ratio, 2),
            goal.goal,
            Text("met", style="green") if goal.met else Text("missed", style="red"),
        )
    return table


def number(value: float | None, digits: int | None = None) -> str:
    """Write a figure, by default with digits that mean something, or a dash where there is none."""
    if value is None:
        return "-"
    shown = digits if digits is not None else 0 if value >= 100 else 2  # noqa: PLR2004 - three digits of a small one
    return f"{value:,.{shown}f}"


def list_faults(phase: Phase) -> Text:
    """Say what went wrong in a phase."""
    counts = {
        "lost": phase.lost,
        "duplicate": phase.duplicates,
        "out of order": phase.out_of_order,
        "failed": phase.failed,
    }
    found = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    return Text(found or "none", style="bold red" if found else "")


def write_csv(report: Report) -> str:
    """Return every figure as a row of phase, name and value."""
    output = io.StringIO()
    writer = csv.writer(output)
    writer.writerow(["phase", "name", "value"])
    for name, phase in report.phases.items():
        writer.writerows([name, key, value] for key, value in flatten(phase))
    if report.floors is not None:
        writer.writerows(["floors", key, getattr(report.floors, key)] for key in report.floors.__slots__)
    return output.getvalue()


def flatten(phase: Phase) -> list[tuple[str, object]]:
    """Return a phase's fields, its usage's among them."""
    own = [(name, getattr(phase, name)) for name in phase.__struct_fields__ if name != "usage"]
    return own + [(f"usage_{name}", getattr(phase.usage, name)) for name in phase.usage.__struct_fields__]
