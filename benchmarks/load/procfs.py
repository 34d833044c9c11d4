"""CPU time and memory of a process and its children, from /proc (proc(5))."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class ThreadTime:
    """CPU time of one thread so far."""

    process: int
    name: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident memory in MB: now, and the most it has been."""

    resident: float
    peak: float


@dataclass(frozen=True, slots=True)
class HostTime:
    """CPU seconds of the whole host so far, over all cores."""

    busy: float
    "Spent on anything, the hypervisor's theft included."
    steal: float
    "Taken by the hypervisor."


def host_time(path: Path = PROC / "stat") -> HostTime:
    """From the first line of /proc/stat: user, nice, system, idle, iowait, irq, softirq, steal."""
    ticks = [int(field) for field in path.read_text(encoding="ascii").split("\n", 1)[0].split()[1:9]]
    return HostTime((sum(ticks) - ticks[3] - ticks[4]) / TICKS_PER_SECOND, ticks[7] / TICKS_PER_SECOND)


def parse_stat(text: str) -> tuple[str, int, float]:
    """Name, parent and CPU seconds (user and system) from a stat file; the name may hold blanks and brackets."""
    name = text[text.index("(") + 1 : text.rindex(")")]
    fields = text[text.rindex(")") + 2 :].split()
    return name, int(fields[1]), (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND


def family(pid: int) -> list[int]:
    """The process and all its descendants."""
    parents: dict[int, int] = {}
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = parse_stat((entry / "stat").read_text(encoding="utf-8"))[1]
            except (OSError, ValueError):
                continue  # it has ended meanwhile
    members = [pid]
    for member in members:
        members += [child for child, parent in parents.items() if parent == member]
    return members


def thread_times(pid: int) -> dict[int, ThreadTime]:
    """CPU time of every thread of the process and its children, by thread id."""
    found: dict[int, ThreadTime] = {}
    for member in family(pid):
        try:
            tasks = list((PROC / str(member) / "task").iterdir())
        except OSError:
            continue
        for task in tasks:
            try:
                name, _, seconds = parse_stat((task / "stat").read_text(encoding="utf-8"))
            except OSError:
                continue
            found[int(task.name)] = ThreadTime(member, name, seconds)
    return found


def cpu_seconds(pid: int) -> float:
    """CPU time of the process and its children, threads that have ended included."""
    total = 0.0
    for member in family(pid):
        try:
            total += parse_stat((PROC / str(member) / "stat").read_text(encoding="utf-8"))[2]
        except OSError:
            continue
    return total


def memory(pid: int) -> Memory:
    """Resident memory, summed over the process and its children (what they share counts for each)."""
    resident = peak = 0
    for member in family(pid):
        try:
            lines = (PROC / str(member) / "status").read_text(encoding="utf-8").splitlines()
        except OSError:
            continue
        fields = {name: value for name, _, value in (line.partition(":") for line in lines)}
        resident += int(fields.get("VmRSS", "0 kB").split()[0])
        peak += int(fields.get("VmHWM", "0 kB").split()[0])
    return Memory(resident / 1024, peak / 1024)
