"""Beside a run in the same process: the event loop's lateness, the engine's gauges, the CPU time."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

from benchmarks.load.measures import Period
from benchmarks.load.procfs import cpu_seconds
from benchmarks.load.quantiles import quantiles
from tts_engine.engine import Engine
from tts_engine.measures import Measure

WAKE_SECONDS = 0.01
SAMPLE_EVERY = 25  # wake-ups


def measures_of(engine: Engine | None) -> tuple[Measure, ...]:
    """All that an engine measures; nothing of none."""
    return tuple(getattr(engine, "measures", ()))


async def watch(engine: Engine | None, begin: float, end: float) -> dict[str, Any]:
    """From `begin` to `end` (monotonic): loop_late_ms, by how much wake-ups came late; the engine's measures; and, in
    percent of a core, cpu_percent of this process and all_cpu_percent with its children.

    One wake-up in 10 ms: what the loop's own timers and sockets suffer, without adding to it.
    """
    await asyncio.sleep(max(0.0, begin - time.monotonic()))
    period = Period(lambda: measures_of(engine))
    late: list[float] = []
    cpu, all_cpu, start, wakes = time.process_time(), cpu_seconds(os.getpid()), time.monotonic(), 0
    while (now := time.monotonic()) < end:
        await asyncio.sleep(WAKE_SECONDS)
        late.append(max(0.0, time.monotonic() - now - WAKE_SECONDS))
        wakes += 1
        if wakes % SAMPLE_EVERY == 1:
            period.sample()
    seconds = time.monotonic() - start
    return {
        "loop_late_ms": quantiles(late, (50, 99, 99.9), 1000.0),
        "cpu_percent": 100 * (time.process_time() - cpu) / seconds,
        "all_cpu_percent": 100 * (cpu_seconds(os.getpid()) - all_cpu) / seconds,
        "measures": period.figures(seconds),
    }
