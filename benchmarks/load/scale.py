"""Several levels as one table, each against the bounds that are asked of it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.common import table
from benchmarks.load import quality
from benchmarks.load.analysis import GAP_MS
from benchmarks.load.report import SHORT, SKIPPED, Bound, look_up

CPU = ("server", "cpu_percent_a_call")
SPACING = "spacing_error_ms"

ALWAYS = (
    Bound("calls failed", ("calls", "failed"), 0),
    Bound("generator's own drops", ("generator", "kernel_drops"), 0),
    SHORT,
    SKIPPED,
)
"Else the level was not measured, or its calls went without what no percentile shows."
FLOORS: dict[int, tuple[Bound, ...]] = {
    200: (
        Bound("percent of a core a call", CPU, 0.2),
        Bound("|spacing - 20 ms| p99, ms", (SPACING, "p99"), 1.0),
        Bound("|spacing - 20 ms| p99.9, ms", (SPACING, "p99.9"), 5.0),
    ),
    500: (
        Bound("percent of a core a call", CPU, 0.2),
        Bound("|spacing - 20 ms| p99, ms", (SPACING, "p99"), 3.0),
        Bound("packets lost", ("rtp", "lost"), 0),
        Bound("underruns (server's count)", ("server", "underruns"), 0, optional=True),
    ),
    1000: (
        Bound("percent of a core a call", CPU, 0.1),
        Bound("|spacing - 20 ms| p99, ms", (SPACING, "p99"), 3.0),
    ),
}

COLUMNS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("core %/call", CPU),
    ("server core %", ("server", "cpu_percent")),
    ("generator core %", ("generator", "cpu_percent")),
    ("p50 ms", (SPACING, "p50")),
    ("p99", (SPACING, "p99")),
    ("p99.9", (SPACING, "p99.9")),
    ("max", (SPACING, "max")),
    ("idle p99", ("machine_spacing_error_ms", "p99")),
    ("idle p99.9", ("machine_spacing_error_ms", "p99.9")),
    ("gaps", ("rtp", "gaps")),
    ("skipped", ("server", "pacer_skipped")),
    ("lost", ("rtp", "lost")),
    ("short", ("rtp", "short")),
    ("dup.", ("rtp", "duplicated")),
    ("underruns", ("server", "underruns")),
    ("200 p50 ms", ("invite_to_200_ms", "p50")),
    ("200 p95", ("invite_to_200_ms", "p95")),
    ("audible p50 ms", ("ack_to_first_audible_ms", "p50")),
    ("audible p95", ("ack_to_first_audible_ms", "p95")),
    ("MOS", ("mos", "median")),
    ("MOS worst", ("mos", "worst")),
    ("KB/call", ("server", "memory_kb_a_call")),
    ("drift ppm", ("drift_ppm", "median")),
    ("drift worst", ("drift_ppm", "worst")),
    ("steal %", ("server", "host_steal_percent")),
)
NOTE = (
    f"{quality.NOTE}\n"
    f"gaps: packets in sequence more than {GAP_MS:g} ms off their spacing; skipped: intervals, by the server's count;\n"
    "short: packets that 50 a second from ACK to BYE would have been more.\n"
    "idle: the same figure of a thread that does nothing else meanwhile, the machine's own floor.\n"
    "CPU: the server's does not have the generator's in it. On loopback, a packet's reception by the kernel runs in\n"
    "the sender's time: the server's share has that of what it sends, the generator's that of what it sends."
)


def bounds(calls: int) -> tuple[Bound, ...]:
    """What is asked of a level; of one without a floor of its own, only that it was measured."""
    return ALWAYS + FLOORS.get(calls, ())


def text(levels: Sequence[Mapping[str, Any]]) -> str:
    """The table, a column a level; levels as calls.py records them: calls, held, bounds, figures."""
    header = ("calls", *(str(level["calls"]) for level in levels))
    rows: list[tuple[Any, ...]] = [
        (name, *(_fine(look_up(level["figures"], path)) for level in levels)) for name, path in COLUMNS
    ]
    rows.append(("floor", *(_verdict(level) for level in levels)))
    lines = [table(rows, header)]
    slope = memory_slope_kb(levels)
    if slope is not None:
        lines.append(f"memory a call, from level to level: {slope:.0f} KB")
    for level in levels:
        broken = [row for row in level["bounds"] if not row["held"]]
        lines += [f"{level['calls']} calls: {r['bound']} is {r['value']}, asked <= {r['limit']:g}" for r in broken]
    return "\n".join([*lines, NOTE])


def _verdict(level: Mapping[str, Any]) -> str:
    if not level["held"]:
        return "FAIL"
    return "PASS" if level["calls"] in FLOORS else "-"


def _fine(value: Any) -> Any:
    """Three digits after the point where two would hide the figure."""
    small = isinstance(value, float) and abs(value) < 10 and not value.is_integer()
    return f"{value:.3f}" if small else value


def memory_slope_kb(levels: Sequence[Mapping[str, Any]]) -> float | None:
    """Least squares of the server's memory over the calls, None of one level; each level has a server of its own."""
    points = [(level["calls"], look_up(level["figures"], ("server", "rss_mb"))) for level in levels]
    known = [(calls, resident) for calls, resident in points if resident]
    if len(known) < 2:
        return None
    calls, resident = zip(*known, strict=True)
    return float(np.polyfit(calls, resident, 1)[0]) * 1024
