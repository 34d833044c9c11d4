"""The control plane: how soon a call speaks, falls silent when it is interrupted, and what agents cost.

    .venv/bin/python -m benchmarks.control
    .venv/bin/python -m benchmarks.control --quick --check

Servers of its own, the embedded voice, callers over loopback from a process of their own. docs/performance.md explains
the figures.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import signal
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

from benchmarks.common import RESULTS, commit, machine, table, versions, write_json
from benchmarks.load import control_delays, control_runs, control_sockets, report, server
from benchmarks.load.report import Bound

MAX_CALLS, MAX_SOCKETS = 200, 500
RUNS = {"delays": control_delays.delays, "sockets": control_sockets.sockets}

DELAYS = (
    Bound("say, new text, to audible p95, ms", ("delays", "say", "to_audible_ms", "p95"), 80),
    Bound("say, cached text, to audible p95, ms", ("delays", "say_cached", "to_audible_ms", "p95"), 80),
    Bound("say: refused", ("delays", "say", "refused"), 0),
    Bound("say: never spoken", ("delays", "say", "never_spoken"), 0),
    Bound("first clause's last token to audible p95, ms", ("delays", "tokens", "to_audible_ms", "p95"), 150),
    Bound("tokens: never spoken", ("delays", "tokens", "never_spoken"), 0),
    Bound("caller's voice to our silence p95, ms", ("delays", "barge_in", "to_silence_ms", "p95"), 250),
    Bound("silence to interrupt message p95, ms", ("delays", "barge_in", "to_message_ms", "p95"), 50),
    Bound("interruptions missed, share", ("delays", "barge_in", "missed_share"), 0.05),
    Bound("delays: agents lost", ("delays", "agents", "lost"), 0),
    Bound("delays: underruns", ("delays", "server", "underruns"), 0),
    Bound("delays: callers' own drops", ("delays", "callers", "kernel_drops"), 0),
)
SOCKETS = (
    Bound("|spacing - 20 ms| with agents p99, ms", ("sockets", "with_agents", "spacing_error_ms", "p99"), 3),
    Bound("packets lost with agents", ("sockets", "with_agents", "lost"), 0),
    Bound("packets short with agents", ("sockets", "with_agents", "short"), 0),
    Bound("speech cut off with agents", ("sockets", "with_agents", "cuts"), 0),
    Bound("sockets: agents lost", ("sockets", "agents", "lost"), 0),
    Bound("sockets: complaints to agents", ("sockets", "agents", "errors"), 0),
    Bound("sockets: intervals skipped", ("sockets", "server", "pacer_skipped"), 0),
    Bound("sockets: underruns", ("sockets", "server", "underruns"), 0),
    Bound("sockets: callers' own drops", ("sockets", "callers", "kernel_drops"), 0),
)
BOUNDS = {"delays": DELAYS, "sockets": SOCKETS}

SPREADS = {
    "say, new text, to signal": ("delays", "say", "to_signal_ms"),
    "say, new text, to audible": ("delays", "say", "to_audible_ms"),
    "say, new text, to its 202": ("delays", "say", "to_response_ms"),
    "say, cached text, to signal": ("delays", "say_cached", "to_signal_ms"),
    "say, cached text, to audible": ("delays", "say_cached", "to_audible_ms"),
    "first clause's last token to signal": ("delays", "tokens", "to_signal_ms"),
    "first clause's last token to audible": ("delays", "tokens", "to_audible_ms"),
    "caller's voice to our silence": ("delays", "barge_in", "to_silence_ms"),
    "silence to interrupt message": ("delays", "barge_in", "to_message_ms"),
    "|spacing - 20 ms| without agents": ("sockets", "without_agents", "spacing_error_ms"),
    "|spacing - 20 ms| with agents": ("sockets", "with_agents", "spacing_error_ms"),
    "the same of an idle thread": ("sockets", "machine_spacing_error_ms"),
}
SINGLES = {
    "interruptions tried": ("delays", "barge_in", "trials"),
    "interruptions missed": ("delays", "barge_in", "missed"),
    "say, new text: asked while still speaking, not counted": ("delays", "say", "not_counted"),
    "tokens: begun while still speaking, not counted": ("delays", "tokens", "not_counted"),
    "sockets": ("sockets", "sockets"),
    "tokens sent over them": ("sockets", "tokens"),
    "server CPU without agents, percent of a core": ("sockets", "without_agents", "cpu_percent"),
    "server CPU with agents": ("sockets", "with_agents", "cpu_percent"),
    "audible without agents, percent of packets": ("sockets", "without_agents", "audible_percent"),
    "audible with agents": ("sockets", "with_agents", "audible_percent"),
    "spacing p99 with agents over that without": ("sockets", "spacing_p99_ratio"),
}


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    full = control_runs.FULL
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, help=f"up while delays are measured (default {full.calls})")
    parser.add_argument("--sockets", type=int, help=f"agents at once (default {full.sockets})")
    parser.add_argument("--only", choices=RUNS, help="one of the two runs")
    parser.add_argument("--quick", action="store_true", help="a few calls and seconds: shows that it works, no figures")
    parser.add_argument("--seed", type=int, default=1, help="of texts and moments")
    parser.add_argument("--json", type=Path, help="result file (default: in benchmarks/results, named by the date)")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a bound does not hold")
    args = parser.parse_args(argv)
    size = control_runs.QUICK if args.quick else full
    given = {name: value for name in ("calls", "sockets") if (value := getattr(args, name)) is not None}
    size = dataclasses.replace(size, **given)
    if not 1 <= size.calls <= MAX_CALLS or not 1 <= size.sockets <= MAX_SOCKETS:
        parser.error(f"--calls must be 1 to {MAX_CALLS}, --sockets 1 to {MAX_SOCKETS}")
    args.size = size
    return args


async def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Raises ServerError, RuntimeError, OSError: it could not be measured."""
    size = args.size
    kinds = [kind for kind in RUNS if args.only in (None, kind)]
    lasting = {"delays": (size.calls, size.delays_seconds), "sockets": (size.sockets, size.sockets_seconds)}
    with tempfile.TemporaryDirectory(prefix="chatterline-control-") as name:

        async def run(kind: str) -> dict[str, Any]:
            calls, seconds = lasting[kind]
            print(f"{kind}: {calls} calls, {seconds:.0f} s with all up", flush=True)
            directory = Path(name) / kind
            directory.mkdir()
            return await RUNS[kind](size, args.seed, directory)

        if args.quick:
            return dict(zip(kinds, await asyncio.gather(*map(run, kinds)), strict=True))
        return {kind: await run(kind) for kind in kinds}


def text(figures: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """Distributions, single figures, and bounds."""
    columns = ("p50", "p95", "p99", "p99.9", "max", "count")
    spreads = [
        (title, *(found.get(column) for column in columns))
        for title, path in SPREADS.items()
        if (found := report.look_up(figures, path))
    ]
    singles = [
        (title, value) for title, path in SINGLES.items() if (value := report.look_up(figures, path)) is not None
    ]
    return f"\n{table(spreads, ('ms', *columns))}\n\n{table(singles)}\n\n{report.bounds_text(rows)}"


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    args = arguments(argv)
    signal.signal(signal.SIGTERM, _on_terminate)  # so that the server is ended on the way out
    date = datetime.now(UTC)
    began = time.monotonic()
    try:
        figures = asyncio.run(measure(args))
    except (server.ServerError, RuntimeError, OSError) as error:
        print(f"not measured: {error}", file=sys.stderr)
        return 1
    rows = report.check(figures, tuple(bound for kind in figures for bound in BOUNDS[kind]))
    print(text(figures, rows))
    path = args.json or RESULTS / f"control-{date:%Y%m%d-%H%M%S}.json"
    result = {
        "benchmark": "control",
        "date": date.isoformat(timespec="seconds"),
        **commit(),
        "machine": machine(),
        "versions": versions(),
        "parameters": {"quick": args.quick, "seed": args.seed, **dataclasses.asdict(args.size)},
        "seconds": round(time.monotonic() - began, 1),
        "bounds": rows,
        "held": report.held(rows),
        "figures": figures,
    }
    write_json(path, result)
    print(f"\n{path}")
    return 0 if result["held"] or not args.check else 1


def _on_terminate(number: int, _frame: object) -> NoReturn:
    sys.exit(128 + number)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
