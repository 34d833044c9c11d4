"""How evenly RTP leaves while the engine works in the same process: 200 paced legs, the engine idle and then busy.

    python -m benchmarks.pacing_under_load --engine chatterbox --weights DIR --streams 200 [--set isolation=thread]
    python -m benchmarks.pacing_under_load --engine embedded --streams 20
    python -m benchmarks.pacing_under_load --engine none

The pacer is the server's, with its thread, its priorities and its switch interval. A process of its own receives, and
the kernel stamps each packet: figures are |spacing - 20 ms| of a leg's successive packets, over all legs. Beside them
stands what a thread of another process sees that only sleeps: the floor of the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import RESULTS, commit, machine, table, versions, write_json
from benchmarks.load import analysis, engines, levels
from benchmarks.load.run import probing
from benchmarks.load.sink import HOST, Sink, receiving
from benchmarks.load.watch import watch
from benchmarks.rtp_pacer import FRAME
from benchmarks.serving import SWITCH_INTERVAL_S, loop_factory
from mediaserver.rtp.codec import PCMU
from mediaserver.rtp.endpoint import RtpEndpoint
from mediaserver.rtp.pacer_thread import PacerThread
from mediaserver.rtp.playout import PlayoutBuffer
from mediaserver.rtp.ports import PortAllocator
from mediaserver.rtp.reader import DatagramReader
from mediaserver.rtp.receive_stream import ReceiveFormat
from mediaserver.rtp.send_stream import SendFormat
from mediaserver.rtp.session import RtpSession, RtpSettings
from tts_engine.engine import Engine

SETTLE_SECONDS = 1.0
SPEECH_SECONDS = 2.0
"Of speech that a leg holds at most; it is topped up from the event loop, as a call's is."
TOP_UP_SECONDS = 0.5
BOUND_MS = 3.0
"Of p99."


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=("chatterbox", "embedded", "none"), default="chatterbox")
    engines.add_options(parser)
    parser.add_argument("--legs", type=int, default=200, help="(default %(default)s)")
    parser.add_argument("--streams", type=int, default=200, help="always speaking (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each phase (default %(default)s)")
    parser.add_argument("--warm-up", type=float, default=8.0, help="of the busy engine (default %(default)s)")
    parser.add_argument(
        "--switch",
        type=float,
        default=1000 * SWITCH_INTERVAL_S,
        help="interval, ms (default %(default)s, the server's)",
    )
    parser.add_argument("--check", action="store_true", help=f"exit with 1 if the busy p99 is above {BOUND_MS:g} ms")
    parser.add_argument("--json", type=Path, help="result file (default: in benchmarks/results, named by engine)")
    args = parser.parse_args(argv)
    if min(args.legs, args.streams) < 1 or args.seconds <= 0 or args.warm_up < 0 or args.switch <= 0:
        parser.error("legs, streams and seconds must be positive")
    return args


def spacing(records: NDArray[np.void], legs: int, begin_ns: int, end_ns: int) -> dict[str, Any]:
    """Of the packets stamped from `begin_ns` to `end_ns`: |spacing - 20 ms| over all legs, and what was lost."""
    within = records[(records["stamp"] >= begin_ns) & (records["stamp"] < end_ns)]
    calls = [analysis.analyse(each) for each in analysis.by_call(within, legs)]
    errors = np.concatenate([call.spacing_error for call in calls]) if calls else np.empty(0)
    points = {f"p{point:g}_ms": _percentile(errors, point) for point in (50, 99, 99.9, 100)}
    return {
        "packets": sum(call.packets for call in calls),
        **{("max_ms" if name == "p100_ms" else name): value for name, value in points.items()},
        "lost": sum(call.lost for call in calls),
        "timestamp_errors": sum(call.timestamp_errors for call in calls),
    }


def _percentile(values: NDArray[np.float64], point: float) -> float | None:
    return float(np.percentile(values, point)) if len(values) else None


class Legs:
    """Paced legs that speak without end."""

    def __init__(self, sink: Sink, stack: ExitStack) -> None:
        allocator = PortAllocator(HOST)
        reader = DatagramReader(allocator.family)
        self.pacer = PacerThread()
        self._playouts: list[PlayoutBuffer] = []
        self._sessions: list[RtpSession] = []
        for port in sink.ports:
            sock = stack.enter_context(allocator.allocate())
            playout = PlayoutBuffer(max_seconds=SPEECH_SECONDS + 1)
            playout.begin("benchmark")
            self._playouts.append(playout)
            endpoint = RtpEndpoint(sock, reader)
            session = RtpSession(endpoint, playout, SendFormat(PCMU, 0), ReceiveFormat(PCMU, 0), RtpSettings())
            session.set_remote((HOST, port))
            self._sessions.append(session)

    @property
    def underruns(self) -> int:
        """Gaps in what was topped up: the event loop came late by more than SPEECH_SECONDS less TOP_UP_SECONDS."""
        return sum(playout.underruns for playout in self._playouts)

    @property
    def pacer_seconds(self) -> float:
        """CPU time of the pacer's thread."""
        return time.clock_gettime(time.pthread_getcpuclockid(self.pacer._thread.ident or 0))

    def start(self) -> None:
        for playout in self._playouts:
            self._fill(playout)
        self.pacer.start()
        for session in self._sessions:
            self.pacer.add(session)

    async def top_up(self) -> None:
        """For ever; a few legs at a time, as calls' speech comes."""
        pause = TOP_UP_SECONDS / len(self._playouts)
        while True:
            for playout in self._playouts:
                self._fill(playout)
                await asyncio.sleep(pause)

    @staticmethod
    def _fill(playout: PlayoutBuffer) -> None:
        frames = int((SPEECH_SECONDS - playout.buffered_seconds) * 50)
        if frames > 0:
            playout.write(FRAME * frames)


class Phases:
    """What was seen of each phase, before the packets are looked at."""

    def __init__(self, legs: Legs, engine: Engine | None, args: argparse.Namespace) -> None:
        self._legs = legs
        self._engine = engine
        self._args = args
        self.found: dict[str, dict[str, Any]] = {}

    async def run(self) -> None:
        """Idle, then busy if there is an engine."""
        top_up = asyncio.create_task(self._legs.top_up())
        try:
            await asyncio.sleep(SETTLE_SECONDS)
            async with self._phase("idle", self._args.seconds) as seen:
                begin = time.monotonic()
                watched = await watch(self._engine, begin, begin + self._args.seconds)
            seen.update(watched)
            if self._engine is not None:
                await self._busy(self._engine)
        finally:
            top_up.cancel()
            await asyncio.gather(top_up, return_exceptions=True)

    async def _busy(self, engine: Engine) -> None:
        args = self._args
        plan = levels.plan_now(streams=args.streams, pattern="always", seconds=args.seconds, warm_up=args.warm_up)
        speaking = asyncio.create_task(levels.run_level(engine, plan))
        try:
            await asyncio.sleep(args.warm_up)
            async with self._phase("busy", args.seconds) as seen:
                await asyncio.sleep(max(0.0, plan.end - time.monotonic()))
            level = await speaking
        finally:
            speaking.cancel()
        seen.update({name: level[name] for name in ("cpu_percent", "all_cpu_percent", "loop_late_ms")}, level=level)

    @asynccontextmanager
    async def _phase(self, name: str, seconds: float) -> AsyncIterator[dict[str, Any]]:
        """Adds to what is yielded."""
        seen: dict[str, Any] = {}
        with probing(seconds) as floor:
            pacer, before = self._legs.pacer.metrics, self._legs.pacer_seconds
            skipped, begin, underruns = pacer.skipped_intervals, time.monotonic(), self._legs.underruns
            seen["begin_ns"] = time.time_ns()
            yield seen
            seen["end_ns"] = time.time_ns()
            elapsed = time.monotonic() - begin
            seen["skipped"] = pacer.skipped_intervals - skipped
            seen["underruns"] = self._legs.underruns - underruns
            seen["pacer_cpu_percent"] = 100 * (self._legs.pacer_seconds - before) / elapsed
            # Not on the event loop: it waits for the other process, and streams go on.
            seen["floor"] = await asyncio.to_thread(floor)
        self.found[name] = seen


def main() -> None:
    """Entry point."""
    args = arguments()
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    sys.setswitchinterval(args.switch / 1000)
    engine: Engine | None = None
    if args.engine != "none":
        make = engines.embedded if args.engine == "embedded" else (lambda most: engines.chatterbox(args, most))
        engine = make(args.streams)
    most = 2 * args.seconds + args.warm_up + 30
    with (
        tempfile.TemporaryDirectory(prefix="pacing-") as directory,
        asyncio.Runner(loop_factory=loop_factory()) as runner,
    ):
        if engine is not None:
            runner.run(engine.start())
        path = Path(directory) / "records.bin"
        with ExitStack() as stack:
            sink = stack.enter_context(receiving(args.legs, most, path))
            legs = Legs(sink, stack)
            gc.collect()
            gc.freeze()  # as the server does
            legs.start()
            phases = Phases(legs, engine, args)
            try:
                runner.run(phases.run())
            finally:
                legs.pacer.stop()
            dropped = sink.finish()
        if engine is not None:
            runner.run(engine.stop())
        records = analysis.read(path)
    for seen in phases.found.values():
        seen["spacing"] = spacing(records, args.legs, seen.pop("begin_ns"), seen.pop("end_ns"))
    _report(args, phases.found, dropped)


def _report(args: argparse.Namespace, found: dict[str, dict[str, Any]], dropped: dict[str, int]) -> None:
    rows = []
    for name, seen in found.items():
        figures, floor = seen["spacing"], seen["floor"]
        rows.append(
            (
                name,
                figures["packets"],
                *(figures[point] for point in ("p50_ms", "p99_ms", "p99.9_ms", "max_ms")),
                floor["p99"],
                floor["p99.9"],
                seen["skipped"],
                figures["lost"],
                seen["underruns"],
                seen["cpu_percent"],
                seen["all_cpu_percent"],
                seen["pacer_cpu_percent"],
                seen["loop_late_ms"]["p99"],
            )
        )
    header = (
        "engine",
        "packets",
        "p50 ms",
        "p99",
        "p99.9",
        "max",
        "floor p99",
        "p99.9",
        "skipped",
        "lost",
        "underruns",
    )
    print(table(rows, (*header, "CPU %", "of all", "pacer %", "loop p99 ms")))
    if "busy" in found:
        print(table([levels.row(found["busy"]["level"])], levels.HEADER))
    if any(dropped.values()):
        print(f"the receiver itself lost packets: {dropped}")
    path = args.json or RESULTS / f"pacing_under_load-{args.engine}.json"
    write_json(
        path,
        {
            "benchmark": "pacing_under_load",
            **commit(),
            "machine": machine(),
            "versions": versions(),
            "parameters": {name: value for name, value in vars(args).items() if name not in {"weights", "json"}},
            "receiver": dropped,
            "phases": found,
        },
    )
    print(path)
    p99 = found[list(found)[-1]]["spacing"]["p99_ms"]
    held = p99 is not None and p99 <= BOUND_MS
    shown = "none" if p99 is None else f"{p99:.2f} ms"
    print(f"|spacing - 20 ms| p99: {shown}, at most {BOUND_MS:g} ms: {'held' if held else 'NOT held'}")
    if args.check and not held:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
