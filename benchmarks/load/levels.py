"""One level of load on an engine, and whether it held."""

from __future__ import annotations

import asyncio
import math
import shutil
import subprocess
import time
from typing import Any, NamedTuple

from benchmarks.load.measures import fill, total_of
from benchmarks.load.speakers import Heard, Plan, figures, speak_all
from benchmarks.load.watch import watch
from tts_engine.engine import Engine

FIRST_AUDIO_MS = 200.0
FIRST_AUDIO_ALONE_MS = 60.0
GPU_MEMORY_MB = 10_000.0


class Bound(NamedTuple):
    """A figure and what it may be at most."""

    name: str
    value: float
    most: float

    @property
    def held(self) -> bool:
        return self.value <= self.most


async def run_level(engine: Engine, plan: Plan) -> dict[str, Any]:
    """The plan's calls, with all that was measured of them."""
    heard = Heard()
    speaking = asyncio.create_task(speak_all(engine, plan, heard))
    watching = asyncio.create_task(watch(engine, plan.begin, plan.end))
    try:
        watched = await watching
        await speaking
    finally:
        for task in (speaking, watching):
            task.cancel()
    return {
        "streams": plan.streams,
        "seconds": plan.seconds,
        **figures(heard, plan.begin, plan.end),
        **watched,
        "fill": fill(watched["measures"]),
        "gpu_memory_mb": await asyncio.to_thread(gpu_memory_mb, watched["measures"]),
    }


def gpu_memory_mb(measures: dict[str, dict[str, Any]]) -> dict[str, float]:
    """What the engine says that it `reserved`, and what is in use on the first GPU by all, as the `driver` says."""
    reserved = total_of(measures, "gpu_memory_bytes")
    if not reserved:
        return {}
    driver = _driver_mb()
    return {"reserved": reserved / 1e6, **({} if driver is None else {"driver": driver})}


def _driver_mb() -> float | None:
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    command = [program, "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
        return float(done.stdout.split()[0]) * 1.048576  # MiB
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None


def plan_now(**values: Any) -> Plan:
    """A plan that starts at once."""
    return Plan(start=time.monotonic(), **values)


def bounds(level: dict[str, Any]) -> list[Bound]:
    """What must hold of a level: issue 4's figures of one GPU."""
    first = level["first_audio_ms"]
    p95 = first["p95"]
    found = [
        Bound("first audio p95, ms", math.inf if p95 is None else p95, FIRST_AUDIO_MS),
        Bound("underruns", level["underruns"]["count"], 0),
        Bound("refused", level["refused"], 0),
        Bound("failed", level["failed"], 0),
    ]
    if memory := level["gpu_memory_mb"]:
        found.append(Bound("GPU memory, MB", max(memory.values()), GPU_MEMORY_MB))
        if level["streams"] == 1:
            found.append(Bound("first audio of one stream, p50, ms", first["p50"] or math.inf, FIRST_AUDIO_ALONE_MS))
    return found


def held(level: dict[str, Any]) -> bool:
    """p95 of first audio within its bound and nobody cut off, refused or failed: what the search asks."""
    return all(bound.held for bound in bounds(level)[:4])


HEADER = (
    "streams",
    "first p50",
    "p95",
    "p99 ms",
    "underruns",
    "total ms",
    "longest ms",
    "audio s/s",
    "refused",
    "failed",
    "GPU MB",
    "driver MB",
    "CPU %",
    "of all",
    "loop p99 ms",
    "held",
)


def row(level: dict[str, Any]) -> tuple[object, ...]:
    """For a table below HEADER."""
    first, under, memory = level["first_audio_ms"], level["underruns"], level["gpu_memory_mb"]
    return (
        str(level["streams"]),
        first["p50"],
        first["p95"],
        first["p99"],
        under["count"],
        under["total_ms"],
        under["longest_ms"],
        level["audio_s_per_s"],
        level["refused"],
        level["failed"],
        memory.get("reserved"),
        memory.get("driver"),
        level["cpu_percent"],
        level["all_cpu_percent"],
        level["loop_late_ms"]["p99"],
        held(level),
    )
