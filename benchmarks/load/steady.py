"""One level held for long: a row a minute, and at the end what has drifted and grown."""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.load import procfs, quality, run, server
from benchmarks.load.minutes import MINUTE
from benchmarks.load.plan import Plan
from benchmarks.load.report import Bound, look_up

SETTLED_MINUTES = 10
"Memory is to be flat after so many, or after the first third of a shorter run."
DRIFT_PPM = 10.0
FLAT_MB_AN_HOUR = 6.0
"Growth that counts as none: 0.1 MB a minute, of hundreds of MB with an allocator's own ups and downs."

BOUNDS = (
    Bound("calls failed", ("calls", "failed"), 0),
    Bound("drift of the worst call, ppm", ("drift_abs_ppm",), DRIFT_PPM),
    Bound("memory growth once settled, MB an hour", ("memory_mb_an_hour",), FLAT_MB_AN_HOUR, optional=True),
    Bound("packets lost", ("lost",), 0),
    Bound("packets short of 50 a second", ("short",), 0),
    Bound("intervals skipped (server's count)", ("skipped",), 0, optional=True),
    Bound("underruns (server's count)", ("underruns",), 0, optional=True),
    Bound("generator's own drops", ("generator", "kernel_drops"), 0),
)

COLUMNS: tuple[tuple[str, int, tuple[str, ...]], ...] = (
    ("minute", 6, ("minute",)),
    ("RSS MB", 8, ("rss_mb",)),
    ("server %", 9, ("cpu_percent",)),
    ("gen. %", 7, ("generator_cpu_percent",)),
    ("steal %", 8, ("steal_percent",)),
    ("p50 ms", 7, ("spacing_error_ms", "p50")),
    ("p99", 7, ("spacing_error_ms", "p99")),
    ("p99.9", 7, ("spacing_error_ms", "p99.9")),
    ("max", 8, ("spacing_error_ms", "max")),
    ("gaps", 5, ("gaps",)),
    ("skipped", 7, ("skipped",)),
    ("lost", 5, ("lost",)),
    ("short", 6, ("short",)),
    ("dup.", 5, ("duplicated",)),
    ("underruns", 10, ("underruns",)),
    ("MOS", 5, ("mos", "median")),
    ("worst", 6, ("mos", "worst")),
    ("drift", 7, ("drift_ppm", "median")),
    ("worst", 7, ("drift_ppm", "worst")),
)


class ServerMinutes:
    """The server's CPU and memory, underruns and skipped intervals at the edges of minutes."""

    def __init__(self, target: server.Target, begin: float, minutes: int) -> None:
        self._target = target
        self._edges = [begin + MINUTE * n for n in range(minutes + 1)]
        self._last: tuple[float, float, float] | None = None
        self._counted: dict[str, float] = {}
        self.rows: list[dict[str, Any]] = []

    def tick(self, now: float) -> None:
        """Look at the server where a minute begins or ends."""
        if not self._edges or now < self._edges[0]:
            return
        self._edges.pop(0)
        pid = self._target.pid
        counted = server.counted({}, server.read_page(self._target.metrics_port))
        cpu, resident = (procfs.cpu_seconds(pid), procfs.memory(pid).resident) if pid else (0.0, 0.0)
        steal = procfs.host_time().steal
        if self._last:
            before, cpu_before, steal_before = self._last
            seconds = now - before
            self.rows.append(
                {
                    "rss_mb": round(resident, 2) if pid else None,
                    "cpu_percent": round(100 * (cpu - cpu_before) / seconds, 2) if pid else None,
                    "steal_percent": round(100 * (steal - steal_before) / seconds, 2),
                    "underruns": self._since(counted, "underruns"),
                    "skipped": self._since(counted, "pacer_skipped"),
                }
            )
        self._last = (now, cpu, steal)
        self._counted |= counted  # what could not be read now is in the next minute's figure

    def _since(self, counted: Mapping[str, float], name: str) -> int | None:
        if name not in counted or name not in self._counted:
            return None
        return int(counted[name] - self._counted[name])


class Rows:
    """Joins what the generator and the look at the server say of each minute, and prints it."""

    def __init__(self, path: Path, of_server: ServerMinutes) -> None:
        self._path = path
        self._of_server = of_server
        self.rows: list[dict[str, Any]] = []

    def tick(self, now: float) -> None:
        self._of_server.tick(now)
        if len(self._of_server.rows) > len(self.rows):
            self.join()

    def join(self) -> None:
        """Print the minutes that both have by now."""
        lines = self._path.read_text(encoding="utf-8").splitlines() if self._path.exists() else []
        for line, of_server in list(zip(lines, self._of_server.rows, strict=False))[len(self.rows) :]:
            row = json.loads(line) | of_server
            self.rows.append(row)
            print(row_text(row), flush=True)


def header_text() -> str:
    return " ".join(name.rjust(width) for name, width, _ in COLUMNS)


def row_text(row: Mapping[str, Any]) -> str:
    values = ((look_up(row, path), width) for _, width, path in COLUMNS)
    return " ".join(("-" if value is None else str(value)).rjust(width) for value, width in values)


def hold(args: argparse.Namespace) -> dict[str, Any]:
    """The run's figures. Raises ServerError or RuntimeError if it could not be run."""
    with tempfile.TemporaryDirectory(prefix="chatterline-load-") as name:
        directory = Path(name)
        with run.server_under_test(args, args.calls, directory) as target:
            if not args.unique and not args.target:
                run.warm(args, target.address, directory)
            before = server.read_page(target.metrics_port)
            plan = run.make_plan(args, args.calls, target.address, keep=False)
            plan.write(directory / "plan.json")
            rows = _generate(args, plan, target, directory)
            after = server.read_page(target.metrics_port)
        return figures(rows, run.collect(directory)) | {"counters": server.counters(before, after)}


def _generate(args: argparse.Namespace, plan: Plan, target: server.Target, directory: Path) -> list[dict[str, Any]]:
    rows = Rows(directory / "minutes.jsonl", ServerMinutes(target, plan.window[0], args.steady))
    print(f"{header_text()}\n(all calls up in {plan.window[0] - time.monotonic():.0f} s)", flush=True)
    run.generate(plan, directory, on_tick=rows.tick)
    rows.join()
    print(quality.NOTE, flush=True)
    return rows.rows


def figures(rows: Sequence[Mapping[str, Any]], outcome: Mapping[str, Any]) -> dict[str, Any]:
    """What the minutes, and the generator at the end, add up to."""
    calls = outcome["calls"]
    worst = rows[-1]["drift_ppm"]["worst"] if rows else None
    return {
        "minutes": list(rows),
        "calls": {
            "placed": len(calls),
            "failed": sum(bool(call["failure"]) for call in calls),
            "texts_said": sum(call["said"] for call in calls),
            "texts_refused": sum(call["refused"] for call in calls),
        },
        "packets": sum(row["packets"] for row in rows),
        "lost": outcome["rtp"]["lost"],
        "short": sum(row["short"] for row in rows),
        "gaps": sum(row["gaps"] for row in rows),
        "skipped": _sum_of_known(rows, "skipped"),
        "duplicated": sum(row["duplicated"] for row in rows),
        "underruns": _sum_of_known(rows, "underruns"),
        "drift_ppm": rows[-1]["drift_ppm"] if rows else None,
        "drift_abs_ppm": None if worst is None else abs(worst),
        "memory_mb_an_hour": memory_mb_an_hour([row["rss_mb"] for row in rows]),
        "generator": outcome["generator"],
        "rtcp": outcome["rtcp"],
    }


def _sum_of_known(rows: Sequence[Mapping[str, Any]], name: str) -> int | None:
    known = [row[name] for row in rows if row[name] is not None]
    return sum(known) if known else None


def memory_mb_an_hour(resident: Sequence[float | None]) -> float | None:
    """Least-squares slope of the memory at the end of each minute, once settled; None of fewer than three minutes."""
    settled = [value for value in resident[min(SETTLED_MINUTES, len(resident) // 3) :] if value is not None]
    if len(settled) < 3:
        return None
    return round(float(np.polyfit(np.arange(len(settled)), settled, 1)[0]) * 60, 2)
