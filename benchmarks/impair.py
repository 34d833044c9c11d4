"""What a bad network does to calls: loss, MOS and the recogniser's word errors against the same calls on a clean one.

    .venv/bin/python -m benchmarks.impair
    .venv/bin/python -m benchmarks.impair --calls 4 --jitter-ms 40 --loss 5

The calls talk both ways at once. Where the kernel has netem and we may use it, they go through two network namespaces
whose veth pair it impairs, signalling included; else through a proxy on the path of RTP and RTCP that does the same.
Jitter is netem's: each packet's delay is drawn anew, so at 20 ms many packets overtake others beside those that are
meant to. For the word errors the recogniser of the tests is needed (the development dependencies).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog

from benchmarks.common import RESULTS, commit, machine, table, versions, write_json
from benchmarks.load.impaired_calls import Heard, Network, Talk, talk_all
from benchmarks.load.impairment import CLEAN, IMPAIRED, Profile
from benchmarks.load.namespaces import Namespaces, netem_works
from tests.sentences import TELEPHONE_SENTENCES
from tts_engine.embedded.engine import EmbeddedEngine
from tts_engine.engine import Engine, SpeechRequest

SAMPLE_RATE = 8000
WAYS = {"down": "server to caller", "up": "caller to server"}
ROWS = (
    ("packets sent", "sent"),
    ("packets lost, % of expected", "lost_percent"),
    ("packets reordered, %", "reordered_percent"),
    ("packets late, %", "late_percent"),
    ("jitter (RFC 3550), ms", "jitter_ms"),
    ("jitter buffer, ms", "buffer_ms"),
    ("frames concealed, %", "concealed_percent"),
    ("round trip, ms", "round_trip_ms"),
    ("MOS, by the receiver", "mos"),
    ("MOS, worst call", "mos_worst"),
    ("MOS, sender's view by RTCP, no PLC assumed", "told_mos"),
    ("word error rate, %", "wer_percent"),
)
Texts = list[tuple[str, str]]
"Of each call what the server says and what the caller says."


def texts(calls: int) -> Texts:
    """Two sentences each way a call, never the same at once."""
    sentences, count = TELEPHONE_SENTENCES, len(TELEPHONE_SENTENCES)

    def pair(first: int) -> str:
        return f"{sentences[first % count]} {sentences[(first + 1) % count]}"

    return [(pair(call), pair(call + count // 2)) for call in range(calls)]


async def speak(engine: Engine, text: str) -> bytes:
    stream = engine.synthesize(SpeechRequest(text, sample_rate=SAMPLE_RATE))
    return b"".join([chunk.pcm async for chunk in stream])


async def run(said: Texts, profiles: dict[str, Profile], args: argparse.Namespace, netem: bool) -> dict[str, Any]:
    """The calls on each network: what was heard, and what the proxies did."""
    engine = EmbeddedEngine(max_streams=2 * len(said))
    found: dict[str, Any] = {}
    await engine.start()
    try:
        talks = [Talk(down, await speak(engine, up)) for down, up in said]
        with Namespaces() if netem else contextlib.nullcontext() as namespaces:
            for name, profile in profiles.items():
                if namespaces is not None:
                    namespaces.clear()
                    if profile != CLEAN:
                        namespaces.impair(profile)
                network = Network(profile, namespaces, args.seed)
                print(f"{len(said)} calls, {name} ...", file=sys.stderr, flush=True)
                heard = await talk_all(engine, talks, network, args.apart_s)
                found[name] = {"heard": heard, "proxy": _proxied(network)}
    finally:
        await engine.stop()
    return found


def _proxied(network: Network) -> dict[str, dict[str, int]]:
    """What the proxies counted, summed over the calls."""
    sums: dict[str, dict[str, int]] = {}
    for way, impairments in network.impairments.items():
        for impairment in impairments:
            for name, count in asdict(impairment.counters).items():
                sums.setdefault(way, {}).setdefault(name, 0)
                sums[way][name] += count
    return sums


def summarise(heard: Sequence[Heard]) -> dict[str, float | int | None]:
    """One direction of all calls: shares over all packets and frames, means over calls."""
    each = [one.figures for one in heard]

    def total(name: str) -> int:
        return sum(figures[name] for figures in each)

    def mean(name: str) -> float | None:
        known = [figures[name] for figures in each if figures[name] is not None]
        return statistics.fmean(known) if known else None

    expected, frames = max(1, total("expected")), max(1, total("frames"))
    scores = [figures["mos"] for figures in each if figures["mos"] is not None]
    return {
        "sent": total("sent"),
        **{f"{name}_percent": 100 * total(name) / expected for name in ("lost", "reordered", "late")},
        "concealed_percent": 100 * total("concealed") / frames,
        **{name: mean(name) for name in ("jitter_ms", "buffer_ms", "round_trip_ms", "mos", "told_mos")},
        "mos_worst": min(scores, default=None),
    }


def word_errors(found: dict[str, Any], said: Texts) -> None:
    """Add the recogniser's word error rate to each summary, and what it heard to each call's figures."""
    from tests.recogniser import Recogniser, overall_word_error_rate  # noqa: PLC0415  loads a model's libraries

    recogniser = Recogniser()
    for name, condition in found.items():
        print(f"listening to {name} ...", file=sys.stderr, flush=True)
        for way, expected in zip(WAYS, zip(*said, strict=True), strict=True):
            transcripts = []
            for call in condition["heard"]:
                transcripts.append(recogniser.transcribe(call[way].pcm, SAMPLE_RATE))
                call[way].figures["transcript"] = transcripts[-1]
            condition["summary"][way]["wer_percent"] = 100 * overall_word_error_rate(list(expected), transcripts)


def report(found: dict[str, Any]) -> str:
    header = ["", *(f"{way}, {name}" for way in WAYS.values() for name in found)]
    rows = [
        [title, *(condition["summary"][way].get(key) for way in WAYS for condition in found.values())]
        for title, key in ROWS
    ]
    return table(rows, header)


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=10, help="at once (default %(default)s)")
    parser.add_argument("--delay-ms", type=float, default=IMPAIRED.delay_ms, help="one way (default %(default)s)")
    parser.add_argument("--jitter-ms", type=float, default=IMPAIRED.jitter_ms, help="(default %(default)s)")
    parser.add_argument("--loss", type=float, default=100 * IMPAIRED.loss, help="percent (default %(default)s)")
    parser.add_argument("--reorder", type=float, default=100 * IMPAIRED.reorder, help="percent (default %(default)s)")
    parser.add_argument("--network", choices=("auto", "netem", "proxy"), default="auto")
    parser.add_argument("--apart-s", type=float, default=0.5, help="from call to call (default %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the proxy's chances (default %(default)s)")
    parser.add_argument("--no-words", action="store_true", help="without the recogniser")
    parser.add_argument("--json", type=Path, help=f"result file (default: in {RESULTS})")
    args = parser.parse_args(argv)
    if args.calls < 1 or not 0 <= args.loss <= 100 or not 0 <= args.reorder <= 100:
        parser.error("--calls is at least 1, --loss and --reorder are percentages")
    if min(args.delay_ms, args.jitter_ms, args.apart_s) < 0:
        parser.error("--delay-ms, --jitter-ms and --apart-s are not negative")
    return args


def main(argv: list[str] | None = None) -> int:
    args = arguments(argv)
    logging.basicConfig(level=logging.WARNING)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    profile = Profile(args.delay_ms, args.jitter_ms, args.loss / 100, args.reorder / 100)
    netem = args.network != "proxy" and netem_works(profile)
    if args.network == "netem" and not netem:
        print("not measured: this kernel has no netem, or we may not use it", file=sys.stderr)
        return 1
    date, said = datetime.now(UTC), texts(args.calls)
    found: dict[str, Any] = {}
    try:
        found = asyncio.run(run(said, {"clean": CLEAN, "impaired": profile}, args, netem))
    except* RuntimeError as errors:
        print(f"not measured: {'; '.join(map(str, errors.exceptions))}", file=sys.stderr)
    if not found:
        return 1
    for condition in found.values():
        condition["summary"] = {way: summarise([call[way] for call in condition["heard"]]) for way in WAYS}
    if not args.no_words:
        word_errors(found, said)
    print(f"{'netem' if netem else 'proxy'}: {' '.join(profile.netem())}\n\n{report(found)}")
    for condition in found.values():
        condition["calls"] = [{way: call[way].figures for way in WAYS} for call in condition.pop("heard")]
    path = args.json or RESULTS / f"impair-{date:%Y%m%d-%H%M%S}.json"
    about = {"benchmark": "impair", "date": date.isoformat(timespec="seconds"), **commit(), "machine": machine()}
    method = {"network": "netem" if netem else "proxy", "profile": asdict(profile), "seed": args.seed}
    write_json(path, {**about, "versions": versions(), **method, "calls": args.calls, "networks": found})
    print(f"\n{path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
