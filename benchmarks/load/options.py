"""The options of benchmarks/calls.py, and their bounds: no run is endless, or leaves this machine."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import Any

from benchmarks.load import analysis, caller_sound, server
from benchmarks.load.plan import Plan

MAX_CALLS = 2000
MAX_LEVELS = 12
MAX_SECONDS = 600.0
MAX_TOTAL_SECONDS = 3600.0
MAX_STEADY_MINUTES = 120
MAX_RECORD_MB = 4096
MAX_PROMPTS = 100
MAX_GENERATORS = 8
LEAST_RATE = 5.0
RAMP_SECONDS = 40.0
"Of the rate, if none is given: slow enough that calls to come disturb little, and no slower than LEAST_RATE."
STEADY_CALLS = 200
SCALE = "50,200,500,1000"


def parse(argv: list[str] | None, description: str | None) -> argparse.Namespace:
    """The options. Ends the program with a message for a run that is not bounded, or leaves this machine."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    _add_load(parser.add_argument_group("load"))
    _add_server(parser.add_argument_group("server under test"))
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


def _add_load(load: Any) -> None:
    load.add_argument("--calls", type=int, help=f"concurrent calls (default 50; with --steady {STEADY_CALLS})")
    load.add_argument("--sweep", type=levels, help="several levels of calls, upward, until a bound breaks")
    load.add_argument(
        "--table", type=levels, nargs="?", const=levels(SCALE), help=f"all these levels, as a table (default {SCALE})"
    )
    load.add_argument(
        "--steady", type=int, nargs="?", const=10, metavar="MINUTES", help="one level held, minute by minute"
    )
    load.add_argument(
        "--rate", type=float, help=f"calls arriving a second (default: all in {RAMP_SECONDS:g} s, at least 5)"
    )
    load.add_argument("--seconds", type=float, default=20.0, help="time with all calls up (default %(default)s)")
    load.add_argument("--seed", type=int, default=1, help="of texts, arrivals and sounds")
    load.add_argument("--prompts", type=int, default=10, help="texts that all calls share (default %(default)s)")
    load.add_argument("--unique", action="store_true", help="texts of its own for each call: nothing can be cached")
    load.add_argument("--text-seconds", type=float, default=15.0, help="length of a text (default %(default)s)")
    load.add_argument(
        "--uplink", choices=caller_sound.SOUNDS, default="speech", help="what callers send (default %(default)s)"
    )
    load.add_argument("--no-uplink", dest="uplink", action="store_const", const="none", help="--uplink none")
    load.add_argument("--no-rtcp", dest="rtcp", action="store_false", help="callers send no RTCP")
    load.add_argument("--rtcp-mux", action="store_true", help="callers offer RTCP on the port of RTP")
    load.add_argument("--generators", type=int, default=1, help="processes that place the calls (default %(default)s)")


def _add_server(group: Any) -> None:
    group.add_argument("--server-config", type=Path, help="configuration file for `chatterline serve`")
    group.add_argument("--server-env", action="append", default=[], metavar="NAME=VALUE", help="one more setting")
    group.add_argument("--server-command", type=shlex.split, help="instead of `chatterline serve`")
    group.add_argument("--target", help="HOST:PORT of a server that runs already; its figures add up over levels")
    group.add_argument("--pid", type=int, help="with --target: the server's process, for CPU and memory")
    group.add_argument("--metrics-port", type=int, help="with --target: where it serves /metrics")


def levels(text: str) -> list[int]:
    return sorted({int(level) for level in text.split(",")})


def counts(args: argparse.Namespace) -> list[int]:
    """The levels of a run."""
    return list(args.table or args.sweep or [args.calls])


def rate_of(args: argparse.Namespace, calls: int) -> float:
    return float(args.rate or max(LEAST_RATE, calls / RAMP_SECONDS))


def _limit(args: argparse.Namespace) -> None:
    """Complete the options. Raises ValueError."""
    if sum(bool(mode) for mode in (args.sweep, args.table, args.steady, args.calls and not args.steady)) > 1:
        raise ValueError("--calls, --sweep, --table and --steady exclude one another, but for --steady with --calls")
    if args.calls is None:
        args.calls = STEADY_CALLS if args.steady else 50
    if args.steady is not None:
        if not 1 <= args.steady <= MAX_STEADY_MINUTES or args.generators != 1:
            raise ValueError(f"--steady takes 1 to {MAX_STEADY_MINUTES} minutes, and one generator")
        args.seconds = args.steady * 60.0
    found = counts(args)
    if not 1 <= min(found) <= max(found) <= MAX_CALLS or len(found) > MAX_LEVELS:
        raise ValueError(f"calls must be 1 to {MAX_CALLS}, in at most {MAX_LEVELS} levels")
    if not 1 <= args.prompts <= MAX_PROMPTS or not 2 <= args.text_seconds <= 120:
        raise ValueError(f"--prompts must be 1 to {MAX_PROMPTS}, --text-seconds 2 to 120")
    if not 1 <= args.generators <= min(MAX_GENERATORS, *found):
        raise ValueError(f"--generators must be 1 to {MAX_GENERATORS}, and no more than the calls")
    _limit_time(args, found)
    if args.target:
        host, _, port = args.target.rpartition(":")
        args.target = (server.loopback(host), int(port))
    if (args.pid or args.metrics_port) and not args.target:
        raise ValueError("--pid and --metrics-port go with --target")


def _limit_time(args: argparse.Namespace, found: list[int]) -> None:
    if (args.rate is not None and args.rate <= 0) or args.seconds <= 0:
        raise ValueError("a call must last longer than nothing")
    most = max(found)
    longest = MAX_STEADY_MINUTES * 60.0 + MAX_SECONDS if args.steady else MAX_SECONDS
    if most / rate_of(args, most) + args.seconds > longest:
        raise ValueError(f"a call (calls / rate + seconds) must last at most {longest:.0f} s")
    if sum(2 * n / rate_of(args, n) + args.seconds for n in found) > (
        2 * longest if args.steady else MAX_TOTAL_SECONDS
    ):
        raise ValueError(f"all levels together must last at most {MAX_TOTAL_SECONDS:.0f} s")
    plan = Plan(("127.0.0.1", 0), rate_of(args, most), args.seconds, [[""]] * most, 0.0, "", keep=not args.steady)
    if plan.capacity(most) * analysis.RECORD.itemsize > MAX_RECORD_MB << 20:
        raise ValueError(f"the records would take more than {MAX_RECORD_MB} MB; raise --rate or lower --seconds")
