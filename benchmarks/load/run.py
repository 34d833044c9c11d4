"""Runs one level: a server, its calls from processes of the generator, and the figures of it."""

from __future__ import annotations

import argparse
import contextlib
import json
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT
from benchmarks.load import analysis, options, report, reports, server
from benchmarks.load.plan import Plan
from benchmarks.load.texts import CHARACTERS_A_SECOND, scripts, scripts_of_their_own, speeches

SAMPLE_SECONDS = 0.5
LEAD_SECONDS = 1.5
"From starting the generator to its first call: it sets up its memory and sockets meanwhile."
LEAD_SECONDS_A_CALL = 0.004
END_SECONDS = 60.0
"For the generator to write its records, once all calls are over."
WARM_RATE = 2.0
"Calls a second that have the prompts synthesised before the level begins."
SERVER_RTP_PORTS = (16384, 24575)
"Below the generator's own."

OnTick = Callable[[float], None]
"What else is to be done at about every SAMPLE_SECONDS of a run; called with the time."


@contextlib.contextmanager
def server_under_test(args: argparse.Namespace, calls: int, directory: Path) -> Iterator[server.Target]:
    """The server that runs already, or one of our own. Raises ServerError."""
    if args.target:
        yield server.Target(args.target, args.pid, args.metrics_port)
        return
    target = ("127.0.0.1", server.free_port(socket.SOCK_DGRAM))
    metrics_port = server.free_port(socket.SOCK_STREAM)
    command, settings = launch(args, target, metrics_port, calls)
    with server.running(command, settings, target, metrics_port, directory / "server.log") as under_test:
        yield under_test


def launch(
    args: argparse.Namespace, target: tuple[str, int], metrics_port: int, calls: int
) -> tuple[list[str], dict[str, str]]:
    """Command and environment of the server."""
    command = args.server_command or [str(Path(sys.executable).with_name("chatterline")), "serve"]
    if args.server_config:
        command = [*command, "--config", str(args.server_config)]
    settings = {
        "CHATTERLINE_SIP__HOST": target[0],
        "CHATTERLINE_SIP__PORT": str(target[1]),
        "CHATTERLINE_RTP__PORT_MIN": str(SERVER_RTP_PORTS[0]),
        "CHATTERLINE_RTP__PORT_MAX": str(SERVER_RTP_PORTS[1]),
        "CHATTERLINE_CALLS__MAX_CALLS": str(calls + 10),
        "CHATTERLINE_METRICS__PORT": str(metrics_port),
        "CHATTERLINE_API__PORT": "0",
    }
    return command, settings | dict(setting.split("=", 1) for setting in args.server_env)


def make_plan(args: argparse.Namespace, calls: int, address: tuple[str, int], **changes: Any) -> Plan:
    """The level's calls, to begin shortly. Make it last: its clock runs."""
    rate = options.rate_of(args, calls)
    characters = int(args.text_seconds * CHARACTERS_A_SECOND)
    texts = 2 + int((calls / rate + args.seconds) / args.text_seconds)
    said = (
        scripts_of_their_own(calls, texts, characters, args.seed)
        if args.unique
        else scripts(calls, args.prompts, characters, args.seed)
    )
    fields: dict[str, Any] = {
        "server": address,
        "rate": rate,
        "seconds": args.seconds,
        "scripts": said,
        "token": secrets.token_hex(6),
        "sound": args.uplink,
        "rtcp": args.rtcp,
        "rtcp_mux": args.rtcp_mux,
        "seed": args.seed,
        "start": time.monotonic() + LEAD_SECONDS + LEAD_SECONDS_A_CALL * calls,
    }
    return Plan(**(fields | changes))


def warm(args: argparse.Namespace, address: tuple[str, int], directory: Path) -> None:
    """Have every prompt said once, so that a server that keeps prompts has them. Raises RuntimeError."""
    texts = speeches(args.prompts, int(args.text_seconds * CHARACTERS_A_SECOND), args.seed)
    plan = make_plan(
        args,
        len(texts),
        address,
        scripts=[[text] for text in texts],
        rate=WARM_RATE,
        seconds=args.text_seconds,
        sound="none",
        repeat=False,
    )
    warming = directory / "warming"
    warming.mkdir()
    plan.write(warming / "plan.json")
    generate(plan, warming)
    failed = [call["failure"] for call in collect(warming)["calls"] if call["failure"]]
    if failed:
        raise RuntimeError(f"{len(failed)} of {len(texts)} calls to warm the prompts failed: {failed[0]}")


def measure(args: argparse.Namespace, calls: int) -> dict[str, Any]:
    """One level's figures. Raises ServerError or RuntimeError if it could not be run."""
    with tempfile.TemporaryDirectory(prefix="chatterline-load-") as name:
        directory = Path(name)
        with server_under_test(args, calls, directory) as target:
            if not args.unique and not args.target:
                warm(args, target.address, directory)
            return _load(args, calls, target, directory)


def _load(args: argparse.Namespace, calls: int, target: server.Target, directory: Path) -> dict[str, Any]:
    before = server.read_page(target.metrics_port)
    watch = server.Watch(target.pid) if target.pid else None
    plan = make_plan(args, calls, target.address)
    plan.write(directory / "plan.json")
    with probing(plan.start + plan.ramp + plan.hold - time.monotonic()) as probe:
        generate(plan, directory, args.generators, marking(plan, watch))
        floor = probe()
    after = server.read_page(target.metrics_port)

    outcome = collect(directory)
    figures = report.figures(outcome["calls"], analysed(directory, outcome["shares"]))
    figures["machine_spacing_error_ms"] = floor
    figures["server"] = (watch.figures(calls=calls) if watch else {}) | server.counted(before, after)
    figures["counters"] = server.counters(before, after)
    figures["generator"] = outcome["generator"]
    figures["rtcp"] = outcome["rtcp"]
    return figures


def marking(plan: Plan, watch: server.Watch | None) -> OnTick:
    """Note the server's CPU time where the window begins and ends, and its memory all the while."""
    marks = list(plan.window)

    def tick(now: float) -> None:
        if watch is None:
            return
        if marks and now >= marks[0]:
            watch.mark(now)
            marks.pop(0)
        elif not marks or marks[0] - now > SAMPLE_SECONDS:
            watch.sample()

    return tick


def collect(directory: Path) -> dict[str, Any]:
    """What the generator's processes said, joined: calls, generator, rtp, rtcp, and shares, the calls of each."""
    paths = sorted(directory.glob("calls-*.json"))
    found = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    sums = [share["generator"] for share in found]
    return {
        "shares": [share["calls"] for share in found],
        "calls": [call for share in found for call in share["calls"]],
        "generator": {
            name: None if any(share[name] is None for share in sums) else round(sum(share[name] for share in sums), 1)
            for name in sums[0]
        },
        "rtp": {name: sum(share["rtp"][name] for share in found) for name in found[0]["rtp"]},
        "rtcp": reports.summary([share["rtcp"] for share in found if share["rtcp"]]),
    }


def analysed(directory: Path, shares: list[list[dict[str, Any]]]) -> list[analysis.CallFigures]:
    """What each call's packets show, in the order of collect()["calls"]."""
    found = []
    for number, calls in enumerate(shares):
        records = analysis.by_call(analysis.read(directory / f"records-{number}.bin"), len(calls))
        found += [analysis.analyse(r, c["closed"]) for r, c in zip(records, calls, strict=True)]
    return found


@contextlib.contextmanager
def probing(seconds: float) -> Iterator[Callable[[], dict[str, float]]]:
    """Measure the machine's own unevenness for that long; what is yielded waits for the figures."""
    command = [sys.executable, "-m", "benchmarks.load.probe", f"{seconds:.1f}"]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    try:
        yield lambda: dict(json.loads(process.communicate(timeout=30)[0]))
    finally:
        process.kill()
        process.wait()


def generate(plan: Plan, directory: Path, shares: int = 1, on_tick: OnTick | None = None) -> None:
    """Run the generator to its end. Raises RuntimeError if it fails."""
    command = [sys.executable, "-m", "benchmarks.load.generator", str(directory)]
    processes = [
        subprocess.Popen([*command, str(share), str(shares)], cwd=ROOT, stdin=subprocess.DEVNULL)
        for share in range(shares)
    ]
    marks = list(plan.window)
    try:
        while any(process.poll() is None for process in processes):
            now = time.monotonic()
            if now > plan.end + END_SECONDS:
                raise RuntimeError("the load generator did not end")
            if on_tick:
                on_tick(now)
            marks = [mark for mark in marks if mark > now]
            wait = min(SAMPLE_SECONDS, marks[0] - now) if marks else SAMPLE_SECONDS
            with contextlib.suppress(subprocess.TimeoutExpired):
                next(p for p in processes if p.poll() is None or p is processes[-1]).wait(max(0.001, wait))
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()
    if failed := [process.returncode for process in processes if process.returncode]:
        raise RuntimeError(f"the load generator ended with status {failed[0]}")
