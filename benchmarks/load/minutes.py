"""A long run, minute by minute: what the generator notes of each, a line of JSON."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.load.analysis import CLOCK_RATE
from benchmarks.load.quality import listening_mos, spread
from benchmarks.load.reduction import Reduction
from benchmarks.load.shortfall import Expected, Shortfall

MINUTE = 60.0


class Minutes:
    """Appends to a file at the end of each minute of the window."""

    def __init__(self, reduction: Reduction, path: Path, window: tuple[float, float], expected: Expected) -> None:
        self._reduction = reduction
        self._shortfall = Shortfall(expected, len(reduction.received_ever))
        self._path = path
        self._next, self._end = window
        self._number = -1
        "Of the minute under way; before the window there is none."
        self._note()

    def tick(self, now: float) -> None:
        """Write the minute that is over. After what has come so far was added to the reduction."""
        if now < self._next:
            return
        short = self._shortfall.take(now, self._reduction.received_ever)
        if self._number >= 0:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(self._row(short)) + "\n")
        else:
            self._reduction.take_spacing()
            self._reduction.take_worst_jitter_ms()
        self._number += 1
        self._next = self._next + MINUTE if self._next + MINUTE <= self._end else float("inf")
        self._note()

    def _note(self) -> None:
        self._received = self._reduction.received_ever.copy()
        self._lost = self._reduction.lost_by_call()
        self._totals = self._reduction.totals()
        self._cpu = time.process_time()

    def _row(self, short: NDArray[np.int64]) -> dict[str, Any]:
        reduction, totals = self._reduction, self._reduction.totals()
        received = reduction.received_ever - self._received
        # Of a stream that stands still nothing is lost; a listener misses what should have come all the same.
        missing = np.maximum(reduction.lost_by_call() - self._lost, short)
        spacing = reduction.take_spacing()
        jitter = reduction.jitter * 1000.0 / CLOCK_RATE
        scores = [
            listening_mos(*call) for call in zip(received.tolist(), missing.tolist(), jitter.tolist(), strict=True)
        ]
        return {
            "minute": self._number + 1,
            "packets": totals.packets - self._totals.packets,
            "lost": totals.lost - self._totals.lost,
            "short": int(short.sum()),
            "short_calls": int((short > 0).sum()),
            "duplicated": totals.duplicated - self._totals.duplicated,
            "reordered": totals.reordered - self._totals.reordered,
            "spacing_error_ms": spacing.figures(),
            "gaps": spacing.gaps,
            "jitter_worst_ms": round(reduction.take_worst_jitter_ms(), 3),
            "mos": spread(scores),
            "drift_ppm": drift(reduction),
            "generator_cpu_percent": round(100 * (time.process_time() - self._cpu) / MINUTE, 1),
        }


def drift(reduction: Reduction) -> dict[str, float | None]:
    """The median of all calls so far, and the worst, whichever its sign."""
    found = reduction.drift_ppm()
    if not len(found):
        return {"median": None, "worst": None}
    return {
        "median": round(float(np.median(found)), 2),
        "worst": round(float(found[np.abs(found).argmax()]), 2),
    }
