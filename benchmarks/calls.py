"""The load benchmark of the server: concurrent calls over loopback, and what their callers hear.

    .venv/bin/python benchmarks/calls.py --calls 50
    .venv/bin/python benchmarks/calls.py --sweep 50,100,150,200 --rate 10
    .venv/bin/python benchmarks/calls.py --table 50,200,500,1000
    .venv/bin/python benchmarks/calls.py --steady 60

Every level starts a server of its own, so that memory and counters begin afresh. docs/performance.md explains the
figures.

The server is to send silence too, a packet every 20 ms as long as a call is up: whatever is not there counts as a gap
of spacing and as a shortfall. One that suppresses silence (rtp.send_silence = false) breaks these bounds by design.
"""

from __future__ import annotations

import argparse
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

from benchmarks.common import RESULTS, commit, machine, table, versions, write_json
from benchmarks.load import options, report, run, scale, server, steady
from benchmarks.load.run import probing

__all__ = ["arguments", "main", "probing"]  # benchmarks/pacing_under_load.py takes probing from here


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    return options.parse(argv, __doc__)


def parameters(args: argparse.Namespace) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()}


def main(argv: list[str] | None = None) -> int:
    args = arguments(argv)
    signal.signal(signal.SIGTERM, _on_terminate)  # so that the server is ended on the way out
    date = datetime.now(UTC)
    result: dict[str, Any] = {
        "benchmark": "calls",
        "date": date.isoformat(timespec="seconds"),
        **commit(),
        "machine": machine(),
        "versions": versions(),
        "parameters": parameters(args),
        "levels": [],
    }
    path = args.json or RESULTS / f"calls-{_kind(args)}-{date:%Y%m%d-%H%M%S}.json"
    try:
        if args.steady:
            _hold(args, result, path)
        else:
            _climb(args, result, path)
    except (server.ServerError, RuntimeError, ValueError) as error:
        print(f"not measured: {error}", file=sys.stderr)
        return 1
    print(f"\n{path}")
    return 0 if all(level["held"] for level in result["levels"]) or not args.check else 1


def _kind(args: argparse.Namespace) -> str:
    if args.steady:
        return f"steady-{args.steady}"
    return "table" if args.table else "sweep" if args.sweep else str(args.calls)


def _hold(args: argparse.Namespace, result: dict[str, Any], path: Path) -> None:
    print(f"\n{args.calls} calls held for {args.steady} min", flush=True)
    figures = steady.hold(args)
    _record(result, path, args.calls, figures, steady.BOUNDS)
    print(f"\n{report.bounds_text(result['levels'][0]['bounds'])}", flush=True)


def _climb(args: argparse.Namespace, result: dict[str, Any], path: Path) -> None:
    for calls in options.counts(args):
        rate = options.rate_of(args, calls)
        print(f"\n{calls} calls, {rate:g} a second, {args.seconds:g} s with all up", flush=True)
        figures = run.measure(args, calls)
        held = _record(result, path, calls, figures, scale.bounds(calls) if args.table else report.BOUNDS)
        bounds = result["levels"][-1]["bounds"]
        print(f"\n{report.figures_text(figures)}\n\n{report.bounds_text(bounds)}", flush=True)
        if args.sweep and not held:
            break
    if args.table:
        print(f"\n{scale.text(result['levels'])}")
    elif args.sweep:
        _conclude(result, path)


def _record(
    result: dict[str, Any], path: Path, calls: int, figures: dict[str, Any], bounds: tuple[report.Bound, ...]
) -> bool:
    """Add a level to the result, and write that; whether its bounds held."""
    rows = report.check(figures, bounds)
    held = report.held(rows)
    result["levels"].append({"calls": calls, "held": held, "bounds": rows, "figures": figures})
    write_json(path, result)
    return held


def _conclude(result: dict[str, Any], path: Path) -> None:
    rows = [(level["calls"], "PASS" if level["held"] else "FAIL") for level in result["levels"]]
    best = max((level["calls"] for level in result["levels"] if level["held"]), default=0)
    result["highest_level_held"] = best
    write_json(path, result)
    print(f"\n{table(rows, ('calls', 'bounds'))}\n\nhighest level that held all bounds: {best}")


def _on_terminate(number: int, _frame: object) -> NoReturn:
    sys.exit(128 + number)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
