"""What the machine's processes use: processor time and memory, from the kernel's own counts (proc(5)).

Where there is no /proc everything is None: then the table has gaps, and no wrong numbers.
"""

import os
import platform
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
TICKS = os.sysconf("SC_CLK_TCK")
"""The kernel's unit of processor time, in parts of a second."""

LISTENING = "0A"
"""The state of a listening socket in /proc/net/tcp."""

KIB_PER_GIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Reading:
    """Processor seconds used so far by groups of processes, None for what can't be seen; and by everybody together."""

    service: float | None
    postgres: float | None
    machine: float | None


class Meter:
    """Reads what the service, PostgreSQL and the whole machine have used. Each by the process at its root, if known."""

    def __init__(self, service: int | None, postgres: int | None) -> None:
        self._service = service
        self._postgres = postgres

    def read(self) -> Reading:
        """Return the counts as of now."""
        children = list_children()
        return Reading(
            read_cpu(self._service, children) if self._service else None,
            read_cpu(self._postgres, children) if self._postgres else None,
            read_machine_cpu(),
        )

    def memory(self) -> int | None:
        """Return the resident KiB of the service, all of its processes together."""
        if self._service is None:
            return None
        sizes = [size for pid in descend(self._service, list_children()) if (size := read_resident(pid)) is not None]
        return sum(sizes) if sizes else None


def difference(before: float | None, after: float | None) -> float | None:
    """Return what was used in between, None where it can't be known."""
    return None if before is None or after is None else after - before


def list_children() -> dict[int, list[int]]:
    """Return the processes of the machine by their parent."""
    children: dict[int, list[int]] = {}
    for pid in list_processes():
        if (fields := read_stat(pid)) is not None:
            children.setdefault(int(fields[1]), []).append(pid)
    return children


def list_processes() -> Iterator[int]:
    """Yield every process id there is."""
    if PROC.is_dir():
        yield from (int(entry.name) for entry in PROC.iterdir() if entry.name.isdigit())


def read_stat(pid: int) -> Sequence[str] | None:
    """Return the fields of /proc/PID/stat from the state on; None when the process is gone."""
    try:
        return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def descend(root: int, children: dict[int, list[int]]) -> Iterable[int]:
    """Yield a process and all below it."""
    yield root
    for child in children.get(root, ()):
        yield from descend(child, children)


def read_cpu(root: int, children: dict[int, list[int]]) -> float | None:
    """Return the processor seconds of a process and all below it, of those that ended as well."""
    total, seen = 0, False
    for pid in descend(root, children):
        if (fields := read_stat(pid)) is not None:
            seen = True
            total += sum(int(ticks) for ticks in fields[11:15])  # utime, stime, and those of children waited for
    return total / TICKS if seen else None


def read_machine_cpu() -> float | None:
    """Return the processor seconds that all cores together were busy since boot."""
    try:
        line = (PROC / "stat").read_text().partition("\n")[0]
    except OSError:
        return None
    user, nice, system, _idle, _wait, interrupt, soft = (int(field) for field in line.split()[1:8])
    return (user + nice + system + interrupt + soft) / TICKS


def read_resident(pid: int) -> int | None:
    """Return the resident memory of a process in KiB."""
    try:
        found = re.search(r"^VmRSS:\s+(\d+) kB", (PROC / str(pid) / "status").read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found.group(1)) if found else None


def find_listener(port: int) -> int | None:
    """Return the process that listens on a TCP port of this machine; of several the one the others descend from."""
    inodes = set()
    for name in ("tcp", "tcp6"):
        try:
            lines = (PROC / "net" / name).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if fields[3] == LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                inodes.add(f"socket:[{fields[9]}]")
    owners = [pid for pid in list_processes() if inodes and owns(pid, inodes)]
    return next((pid for pid in owners if (stat := read_stat(pid)) is not None and int(stat[1]) not in owners), None)


def owns(pid: int, inodes: set[str]) -> bool:
    """Tell whether a process has one of these sockets open; False when that may not be looked at."""
    try:
        descriptors = list((PROC / str(pid) / "fd").iterdir())
    except OSError:
        return False
    for descriptor in descriptors:
        try:
            if str(descriptor.readlink()) in inodes:
                return True
        except OSError:
            continue
    return False


def find_parent(pid: int, command: str) -> int | None:
    """Return the parent of a process of that name, e.g. the postmaster of a backend; None when it is elsewhere."""
    try:
        if not (PROC / str(pid) / "comm").read_text().startswith(command):
            return None
    except OSError:
        return None
    stat = read_stat(pid)
    return int(stat[1]) if stat is not None else None


def describe_machine() -> dict[str, object]:
    """Return what the numbers were measured on."""
    return {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": read_field("cpuinfo", "model name"),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(int((read_field("meminfo", "MemTotal") or "0").split()[0]) / KIB_PER_GIB, 1) or None,
        "python": platform.python_version(),
    }


def read_field(name: str, field: str) -> str | None:
    """Return the first value of a field of /proc/cpuinfo or /proc/meminfo."""
    try:
        found = re.search(rf"^{field}\s*:\s*(.+)$", (PROC / name).read_text(), re.MULTILINE)
    except OSError:
        return None
    return found.group(1).strip() if found else None
