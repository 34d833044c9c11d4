"""The load benchmark of the server: concurrent calls over loopback, and what their callers hear.

    .venv/bin/python benchmarks/calls.py --calls 50 --rate 5
    .venv/bin/python benchmarks/calls.py --sweep 50,100,150,200 --rate 10

Every level starts a server of its own, so that memory and counters begin afresh. docs/performance.md explains the
figures.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

from benchmarks.common import RESULTS, ROOT, commit, machine, table, versions, write_json
from benchmarks.load import analysis, report, server
from benchmarks.load.generator import Plan
from benchmarks.load.texts import speeches

MAX_CALLS = 2000
MAX_LEVELS = 12
MAX_SECONDS = 600.0
MAX_TOTAL_SECONDS = 3600.0
MAX_RECORD_MB = 4096
SAMPLE_SECONDS = 0.5
LEAD_SECONDS = 1.0
"From starting the generator to its first call: it sets up its memory and sockets meanwhile."
LEAD_SECONDS_A_CALL = 0.01
CHARACTERS_A_SECOND = 15.0
"Of text for each second of a call: a little more than voices speak, so that speech lasts to the end."
SERVER_RTP_PORTS = (16384, 24575)
"Below the generator's own."


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    load = parser.add_argument_group("load")
    load.add_argument("--calls", type=int, default=50, help="concurrent calls (default %(default)s)")
    load.add_argument("--sweep", type=levels, help="several levels of calls, upward, until a bound breaks")
    load.add_argument("--rate", type=float, default=5.0, help="calls arriving a second (default %(default)s)")
    load.add_argument("--seconds", type=float, default=20.0, help="time with all calls up (default %(default)s)")
    load.add_argument("--seed", type=int, default=1, help="of texts and arrivals")
    load.add_argument("--no-uplink", dest="uplink", action="store_false", help="callers send no RTP")
    load.add_argument("--text-seconds", type=float, help="how much to say (default: the whole call)")
    under_test = parser.add_argument_group("server under test")
    under_test.add_argument("--server-config", type=Path, help="configuration file for `chatterline serve`")
    under_test.add_argument("--server-env", action="append", default=[], metavar="NAME=VALUE", help="one more setting")
    under_test.add_argument("--server-command", type=shlex.split, help="instead of `chatterline serve`")
    under_test.add_argument("--target", help="HOST:PORT of a server that runs already; its figures add up over levels")
    under_test.add_argument("--pid", type=int, help="with --target: the server's process, for CPU and memory")
    under_test.add_argument("--metrics-port", type=int, help="with --target: where it serves /metrics")
    output = parser.add_argument_group("output")
    output.add_argument(
        "--json", type=Path, help="result file (default: in benchmarks/results, named by calls and date)"
    )
    output.add_argument("--check", action="store_true", help="exit with 1 if a bound does not hold")
    args = parser.parse_args(argv)
    try:
        _limit(args)
    except ValueError as error:
        parser.error(str(error))
    return args


def levels(text: str) -> list[int]:
    return sorted({int(level) for level in text.split(",")})


def _limit(args: argparse.Namespace) -> None:
    """Raise ValueError for a run that is not bounded, or leaves this machine."""
    counts = args.sweep or [args.calls]
    if not 1 <= min(counts) <= max(counts) <= MAX_CALLS or len(counts) > MAX_LEVELS:
        raise ValueError(f"calls must be 1 to {MAX_CALLS}, in at most {MAX_LEVELS} levels")
    if args.rate <= 0 or args.seconds <= 0 or max(counts) / args.rate + args.seconds > MAX_SECONDS:
        raise ValueError(f"a call (calls / rate + seconds) must last at most {MAX_SECONDS:.0f} s")
    if sum(2 * count / args.rate + args.seconds for count in counts) > MAX_TOTAL_SECONDS:
        raise ValueError(f"all levels together must last at most {MAX_TOTAL_SECONDS:.0f} s")
    plan = Plan(("127.0.0.1", 0), args.rate, args.seconds, [""] * max(counts), 0.0, "")
    if plan.capacity * analysis.RECORD.itemsize > MAX_RECORD_MB << 20:
        raise ValueError(f"the records would take more than {MAX_RECORD_MB} MB; raise --rate or lower --seconds")
    if args.target:
        host, _, port = args.target.rpartition(":")
        args.target = (server.loopback(host), int(port))
    if (args.pid or args.metrics_port) and not args.target:
        raise ValueError("--pid and --metrics-port go with --target")


def measure(args: argparse.Namespace, calls: int) -> dict[str, Any]:
    """One level: a server, its calls, the figures. Raises ServerError or RuntimeError if it could not be run."""
    with tempfile.TemporaryDirectory(prefix="chatterline-load-") as name:
        directory = Path(name)
        if args.target:
            return _load(args, calls, server.Target(args.target, args.pid, args.metrics_port), directory)
        target = ("127.0.0.1", server.free_port(socket.SOCK_DGRAM))
        metrics_port = server.free_port(socket.SOCK_STREAM)
        command, settings = launch(args, target, metrics_port, calls)
        with server.running(command, settings, target, metrics_port, directory / "server.log") as under_test:
            return _load(args, calls, under_test, directory)


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
    }
    return command, settings | dict(setting.split("=", 1) for setting in args.server_env)


def _load(args: argparse.Namespace, calls: int, target: server.Target, directory: Path) -> dict[str, Any]:
    plan = Plan(
        server=target.address,
        rate=args.rate,
        seconds=args.seconds,
        texts=[],
        start=time.monotonic() + LEAD_SECONDS + LEAD_SECONDS_A_CALL * calls,
        token=secrets.token_hex(6),
        uplink=args.uplink,
        seed=args.seed,
    )
    spoken = args.text_seconds or calls / args.rate + args.seconds
    plan.texts.extend(speeches(calls, int(spoken * CHARACTERS_A_SECOND), args.seed))
    plan.write(directory / "plan.json")

    before = server.read_metrics(target.metrics_port)
    watch = server.Watch(target.pid) if target.pid else None
    with probing(plan.end - time.monotonic()) as probe:
        generate(plan, directory, watch)
        floor = probe()
    after = server.read_metrics(target.metrics_port)

    outcome = json.loads((directory / "calls.json").read_text(encoding="utf-8"))
    records = analysis.by_call(analysis.read(directory / "records.bin"), calls)
    found = [analysis.analyse(r, c["closed"]) for r, c in zip(records, outcome["calls"], strict=True)]
    figures = report.figures(outcome["calls"], found)
    figures["machine_spacing_error_ms"] = floor
    counted = {name: value - before.get(name, 0.0) for name, value in after.items()}
    figures["server"] = (watch.figures() if watch else {}) | counted
    figures["generator"] = outcome["generator"]
    return figures


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


def generate(plan: Plan, directory: Path, watch: server.Watch | None) -> None:
    """Run the generator to its end, watching the server meanwhile. Raises RuntimeError if the generator fails."""
    marks = [plan.start + plan.ramp, plan.start + plan.ramp + plan.seconds]
    command = [sys.executable, "-m", "benchmarks.load.generator", str(directory)]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL)
    try:
        while process.poll() is None:
            now = time.monotonic()
            if now > plan.end + 30:
                raise RuntimeError("the load generator did not end")
            if watch:
                if marks and now >= marks[0]:
                    watch.mark(now)
                    marks.pop(0)
                watch.sample()
            wait = min(SAMPLE_SECONDS, marks[0] - now) if marks else SAMPLE_SECONDS
            try:
                process.wait(max(0.001, wait))
            except subprocess.TimeoutExpired:
                continue
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    if process.returncode:
        raise RuntimeError(f"the load generator ended with status {process.returncode}")


def parameters(args: argparse.Namespace) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()}


def main(argv: list[str] | None = None) -> int:
    args = arguments(argv)
    signal.signal(signal.SIGTERM, _on_terminate)  # so that the server is ended on the way out
    date = datetime.now(UTC)
    counts = args.sweep or [args.calls]
    result: dict[str, Any] = {
        "benchmark": "calls",
        "date": date.isoformat(timespec="seconds"),
        **commit(),
        "machine": machine(),
        "versions": versions(),
        "parameters": parameters(args),
        "levels": [],
    }
    default = RESULTS / f"calls-{'sweep' if args.sweep else args.calls}-{date:%Y%m%d-%H%M%S}.json"
    path = args.json or default
    for calls in counts:
        print(f"\n{calls} calls, {args.rate:g} a second, {args.seconds:g} s with all up", flush=True)
        try:
            figures = measure(args, calls)
        except (server.ServerError, RuntimeError, ValueError) as error:
            print(f"not measured: {error}", file=sys.stderr)
            return 1
        bounds = report.check(figures)
        passed = report.held(bounds)
        result["levels"].append({"calls": calls, "held": passed, "bounds": bounds, "figures": figures})
        write_json(path, result)
        print(f"\n{report.figures_text(figures)}\n\n{report.bounds_text(bounds)}", flush=True)
        if not passed and args.sweep:
            break
    _conclude(result, bool(args.sweep), path)
    return 0 if all(level["held"] for level in result["levels"]) or not args.check else 1


def _conclude(result: dict[str, Any], sweep: bool, path: Path) -> None:
    if sweep:
        rows = [(level["calls"], "PASS" if level["held"] else "FAIL") for level in result["levels"]]
        best = max((level["calls"] for level in result["levels"] if level["held"]), default=0)
        result["highest_level_held"] = best
        write_json(path, result)
        print(f"\n{table(rows, ('calls', 'bounds'))}\n\nhighest level that held all bounds: {best}")
    print(f"\n{path}")


def _on_terminate(number: int, _frame: object) -> NoReturn:
    sys.exit(128 + number)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
