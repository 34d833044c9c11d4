"""Many agents at once, and what they do to RTP: a run of benchmarks/control.py."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.load import procfs, run, server, texts
from benchmarks.load.control_agents import Agents
from benchmarks.load.control_callers import Said, Timetable
from benchmarks.load.control_hearing import transport
from benchmarks.load.control_runs import Run, Size, calling, complaints, serving

SHARED_TEXTS, SHARED_TEXT_CHARACTERS = 10, 45
"Of one clause: what comes as tokens is what came by INFO, and in the cache."


async def sockets(size: Size, seed: int, directory: Path) -> dict[str, Any]:
    """Calls without and with agents in turn, which say the same: by INFO, and by tokens over sockets."""
    rng = random.Random(seed)
    lines = [texts.sentence(rng, SHARED_TEXT_CHARACTERS) for _ in range(SHARED_TEXTS)]
    warming = [
        Said(size.warm * number / SHARED_TEXTS, number % size.sockets, line) for number, line in enumerate(lines)
    ]
    begins = [size.warm + size.between + n * (size.window + size.between) for n in range(size.windows)]
    rows = [texts_of(size, begin, lines) for begin in begins]
    timetable = Timetable(said=warming + [row for each in rows[::2] for row in each])
    agents = Agents()
    async with serving(directory, size.sockets, {"CHATTERLINE_BARGE_IN__POLICY": "either"}) as under_test:
        before = server.read_page(under_test.target.metrics_port)
        async with calling(
            under_test,
            directory,
            timetable,
            calls=size.sockets,
            rate=size.sockets_rate,
            seconds=size.sockets_seconds,
            seed=seed,
        ) as current:
            windows: list[tuple[int, int]] = []
            cpu: list[float] = []
            with run.probing(size.sockets_seconds - 1.0) as probe:
                for number, begin in enumerate(begins):
                    await current.until(begin - 0.8 * size.between)
                    if number % 2 == 0:
                        await _watch(current, size, begin, windows, cpu)
                        continue
                    async with agents.attached(under_test.base, under_test.token, current.ids):
                        speaking = asyncio.create_task(_speak(current, agents, rows[number]))
                        await _watch(current, size, begin, windows, cpu)
                        await speaking
                floor = await asyncio.to_thread(probe)
            after = server.read_page(under_test.target.metrics_port)
    records = current.records()
    found = {
        name: transport(records, windows[first::2]) | {"cpu_percent": round(float(np.mean(cpu[first::2])), 1)}
        for first, name in enumerate(("without_agents", "with_agents"))
    }
    return {
        "sockets": size.sockets,
        "tokens": agents.sent,
        **found,
        "spacing_p99_ratio": _ratio(found["with_agents"], found["without_agents"]),
        "machine_spacing_error_ms": floor,
        "agents": complaints(agents),
        "server": server.counted(before, after),
        "callers": run.collect(directory)["generator"],
    }


def texts_of(size: Size, begin: float, lines: Sequence[str]) -> list[Said]:
    """What is said within one window, at the same rate all the time."""
    count = int(size.window / size.every * size.sockets)
    return [
        Said(begin + number * size.every / size.sockets, number % size.sockets, lines[number % len(lines)])
        for number in range(count)
    ]


async def _watch(current: Run, size: Size, begin: float, windows: list[tuple[int, int]], cpu: list[float]) -> None:
    """Note a window's time, and the server's CPU time in it, in percent of a core."""
    pid = current.controlled.target.pid
    assert pid is not None
    await current.until(begin)
    since, used, clock = time.time_ns(), procfs.cpu_seconds(pid), time.monotonic()
    await current.until(begin + size.window)
    windows.append((since, time.time_ns()))
    cpu.append(100 * (procfs.cpu_seconds(pid) - used) / (time.monotonic() - clock))


async def _speak(current: Run, agents: Agents, rows: Sequence[Said]) -> None:
    async with asyncio.TaskGroup() as group:
        for row in rows:
            await current.until(row.at)
            group.create_task(agents.stream(current.ids[row.call], row.text))


def _ratio(one: dict[str, Any], other: dict[str, Any]) -> float | None:
    a, b = one["spacing_error_ms"]["p99"], other["spacing_error_ms"]["p99"]
    return round(a / b, 2) if a is not None and b else None
