"""How evenly the machine itself wakes a thread that has nothing to do: the floor under every spacing figure.

    python -m benchmarks.load.probe SECONDS

Runs beside the load, real-time where permitted, as the server's pacer does. Prints, as JSON, by how many ms two
wake-ups due 20 ms apart were not 20 ms apart.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time

import numpy as np

INTERVAL_S = 0.005
FRAME = 4  # intervals: 20 ms
MAX_SECONDS = 700.0


def lateness(seconds: float) -> list[float]:
    """Seconds by which each wake-up on a grid of INTERVAL_S was late."""
    late: list[float] = []
    start = time.monotonic()
    for number in range(1, round(seconds / INTERVAL_S) + 1):
        deadline = start + number * INTERVAL_S
        wait = deadline - time.monotonic()
        if wait > 0:
            time.sleep(wait)
        late.append(time.monotonic() - deadline)
    return late


def figures(late: list[float]) -> dict[str, float]:
    """Of |spacing - 20 ms|, as for packets; of FRAME + 1 wake-ups or more."""
    milliseconds = np.asarray(late) * 1000
    milliseconds = np.abs(milliseconds[FRAME:] - milliseconds[:-FRAME])
    found = {f"p{p:g}": round(float(np.percentile(milliseconds, p)), 3) for p in (50, 99, 99.9)}
    return {**found, "max": round(float(milliseconds.max()), 3), "count": len(milliseconds)}


def main() -> None:
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    print(json.dumps(figures(lateness(min(float(sys.argv[1]), MAX_SECONDS)))))


if __name__ == "__main__":
    main()
