"""How many listeners one engine speaks for: first audio, underruns, throughput, at each number of streams.

    python -m benchmarks.serving --weights DIR [--device cuda] [--streams 1 50 100 200] [--pattern always|calls]
    python -m benchmarks.serving --weights DIR --find --reference
    python -m benchmarks.serving --embedded --streams 10 20

Every stream is a call that says utterances of 2 to 8 s on real time, each at its own moment. `always`: the next text
comes exactly when the last one has been heard to its end, with nothing buffered; with --queued S it comes S seconds
before that. `calls`: after a pause of 1 to 3 s. First audio is counted from handing the text to the engine until its
first chunk is in the event loop; an underrun is a chunk that comes after the listener's buffer ran dry.

Random weights (benchmarks/make_checkpoint.py) cost what real ones do; the length of speech follows the text's, 15
characters a second. --find looks for the most streams with a p95 of first audio of 200 ms and no underrun.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS, commit, machine, table, versions, write_json
from benchmarks.load import engines, levels, measures
from benchmarks.load.search import largest
from benchmarks.reference import measure as measure_reference
from benchmarks.reference import ratio, this_machine, usual_device
from tts_engine.engine import Engine

SWITCH_INTERVAL_S = 0.0001
"The server's."
STREAMS = [1, 50, 100, 200]
FIRST_TRIAL = 16
STEP_BACK = 0.95
"Where the search's answer does not hold for as long as the other levels, the next lower is tried."
STEPS_BACK = 4


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    engines.add_options(parser)
    parser.add_argument("--embedded", action="store_true", help="the embedded voice in place of Chatterbox")
    load = parser.add_argument_group("load")
    load.add_argument("--streams", type=int, nargs="+", help=f"levels (default {STREAMS}, none with --find)")
    load.add_argument("--pattern", choices=("always", "calls"), default="always")
    load.add_argument("--queued", type=float, default=0.0, metavar="S", help="next text S seconds before the end")
    load.add_argument(
        "--seconds", type=float, nargs="+", default=[60.0], help="measured: at all levels, or at each (default 60)"
    )
    load.add_argument("--warm-up", type=float, default=8.0, help="before, not counted (default %(default)s)")
    load.add_argument("--rate", type=int, default=8000, choices=(8000, 16000, 24000), help="Hz of the PCM")
    load.add_argument("--seed", type=int, default=1, help="of texts and arrivals")
    search = parser.add_argument_group("search")
    search.add_argument("--find", action="store_true", help="the most streams that hold the bounds")
    search.add_argument("--find-seconds", type=float, default=20.0, help="of a trial (default %(default)s)")
    search.add_argument("--most", type=int, default=1000, help="streams at most (default %(default)s)")
    output = parser.add_argument_group("output")
    output.add_argument("--reference", action="store_true", help="also chatterbox-tts itself, afterwards: the ratio")
    output.add_argument("--reference-seconds", type=float, default=20.0)
    output.add_argument("--check", action="store_true", help="exit with 1 if a bound does not hold")
    output.add_argument("--json", type=Path, help="result file (default: in benchmarks/results, named by device)")
    args = parser.parse_args(argv)
    if args.streams is None:
        args.streams = [] if args.find else STREAMS
    if len(args.seconds) not in {1, len(args.streams)}:
        parser.error("--seconds wants one number, or one for each level")
    args.level_seconds = args.seconds * (1 if len(args.seconds) > 1 else len(args.streams))
    args.seconds = max(args.seconds)
    if (
        min(args.streams, default=1) < 1
        or min([args.seconds, *args.level_seconds]) <= 0
        or args.warm_up < 0
        or args.queued < 0
    ):
        parser.error("streams and seconds must be positive")
    if args.queued and args.pattern == "calls":
        parser.error("--queued goes with --pattern always")
    if args.reference and args.embedded:
        parser.error("--reference goes with Chatterbox")
    return args


class Run:
    """Levels of one engine, on one event loop."""

    def __init__(self, args: argparse.Namespace, runner: asyncio.Runner, engine: Engine) -> None:
        self._args = args
        self._runner = runner
        self._engine = engine
        self.levels: list[dict[str, Any]] = []

    def level(self, streams: int, seconds: float) -> dict[str, Any]:
        """Measure one, print it and keep it."""
        args = self._args
        plan = levels.plan_now(
            streams=streams,
            pattern=args.pattern,
            seconds=seconds,
            warm_up=args.warm_up,
            queued=args.queued,
            sample_rate=args.rate,
            seed=args.seed,
        )
        level = self._runner.run(levels.run_level(self._engine, plan))
        level["held"] = levels.held(level)
        self.levels.append(level)
        print(table([levels.row(level)], levels.HEADER))
        for failure in level["failures"]:
            print(f"failed: {failure}")
        if each := list(measures.rows(level["measures"])):
            print(table(each, ("measure", "mean or rate", "p95 <= or max", "count")))
        for stage, share in level["fill"].items():
            print(f"{stage} batches: {100 * share:.1f} % filled")
        print(flush=True)
        return level

    def find(self) -> dict[str, Any]:
        """The most streams that hold, and whether they do for args.seconds too."""
        args = self._args
        trial_seconds = min(args.seconds, args.find_seconds)
        # What was measured already, for at least as long, is not measured again.
        known: dict[int, bool] = {level["streams"]: level["held"] for level in self.levels}

        def passes(streams: int) -> bool:
            if streams not in known:
                known[streams] = self.level(streams, trial_seconds)["held"]
            return known[streams]

        start = max((streams for streams, held in known.items() if held), default=FIRST_TRIAL)
        found = largest(passes, min(start, args.most), args.most)
        streams, confirmed = (
            found,
            any(
                level["streams"] == found and level["held"] and level["seconds"] >= args.seconds
                for level in self.levels
            ),
        )
        for _ in range(STEPS_BACK):
            if confirmed or not streams:
                break
            confirmed = self.level(streams, args.seconds)["held"]
            streams = streams if confirmed else int(STEP_BACK * streams)
        return {"streams": streams if confirmed else 0, "trials": found, "confirmed": confirmed}


def main() -> None:
    """Entry point."""
    args = arguments()
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as the server has it
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    most = max([*args.streams, args.most if args.find else 1])
    engine = engines.embedded(most) if args.embedded else engines.chatterbox(args, most)
    found = None
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        start = time.monotonic()
        runner.run(engine.start())
        started = time.monotonic() - start
        gc.collect()
        gc.freeze()  # as the server does
        print(f"{engine.name} is ready after {started:.1f} s\n", flush=True)
        run = Run(args, runner, engine)
        for streams, seconds in zip(args.streams, args.level_seconds, strict=True):
            run.level(streams, seconds)
        if args.find:
            found = run.find()
        runner.run(engine.stop())
    print(table([levels.row(level) for level in run.levels], levels.HEADER))
    if found:
        print(f"\nmost streams that hold: {found['streams']}")
    failed = [
        f"{level['streams']} streams: {bound.name} {bound.value:.4g}, at most {bound.most:.4g}"
        for level in _judged(run.levels, args, found)
        for bound in levels.bounds(level)
        if not bound.held
    ]
    print("\n".join(["", *failed]) if failed else "\nall bounds hold")
    _report(args, run.levels, found, started)
    if args.check and (failed or (found and not found["streams"])):
        raise SystemExit(1)


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """The server's event loop, if it is installed."""
    try:
        import uvloop  # noqa: PLC0415
    except ImportError:
        return None
    return uvloop.new_event_loop


def _judged(
    measured: list[dict[str, Any]], args: argparse.Namespace, found: dict[str, Any] | None
) -> list[dict[str, Any]]:
    """The levels asked for and the one found; not the search's trials, half of which must fail."""
    asked = measured[: len(args.streams)]
    return asked + [level for level in measured[len(asked) :] if found and level["streams"] == found["streams"]][-1:]


def _report(
    args: argparse.Namespace, measured: list[dict[str, Any]], found: dict[str, Any] | None, started: float
) -> None:
    device = "embedded" if args.embedded else usual_device(args.device)
    result: dict[str, Any] = {
        "benchmark": "serving",
        **commit(),
        "machine": machine() if args.embedded else this_machine(device),
        "versions": versions(),
        "parameters": {name: value for name, value in vars(args).items() if name not in {"weights", "json"}},
        "start_seconds": started,
        "levels": measured,
        "found": found,
    }
    if not args.embedded:
        from benchmarks.make_checkpoint import RANDOM_NOTE  # noqa: PLC0415

        result["weights"] = "random" if (args.weights / RANDOM_NOTE).exists() else "as released"
    path = args.json or RESULTS / f"serving-{device.partition(':')[0]}.json"
    write_json(path, result)  # before the reference: its fault should not cost the figures
    if args.reference:
        reference = measure_reference(args.weights, device, args.reference_seconds)
        compared = ratio(measured, reference)
        write_json(path, {**result, "reference": reference, "ratio": compared})
        print(table([*reference.items(), *(compared or {}).items()], ("\nchatterbox-tts", "")))
    print(f"\n{path}")


if __name__ == "__main__":
    main()
