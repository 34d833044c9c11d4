"""From the calls of one run to figures, from figures to bounds held or broken, and both to text. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from benchmarks.common import table
from benchmarks.load import quality, shortfall
from benchmarks.load.analysis import CallFigures
from benchmarks.load.quality import listening_mos, spread

EARLY_END_MS = 1000.0
"Speech that stops this long before BYE ended early: the text was too short for the call, or was not all spoken."

SUMS = (
    "packets",
    "malformed",
    "other_ssrc",
    "lost",
    "duplicated",
    "reordered",
    "gaps",
    "timestamp_errors",
    "talkspurts",
    "markers",
    "after_close",
)


@dataclass(frozen=True, slots=True)
class Bound:
    """A figure and the most it may be."""

    name: str
    path: tuple[str, ...]
    limit: float
    optional: bool = False
    "Held if the figure could not be had."


SKIPPED = Bound("intervals skipped (server's count)", ("server", "pacer_skipped"), 0, optional=True)
SHORT = Bound("packets short of 50 a second", ("rtp", "short"), 0)

BOUNDS = (
    Bound("calls failed", ("calls", "failed"), 0),
    Bound("INVITE to 200 p95, ms", ("invite_to_200_ms", "p95"), 20.0),
    Bound("ACK to first audible p95, ms", ("ack_to_first_audible_ms", "p95"), 150.0),
    Bound("|spacing - 20 ms| p99, ms", ("spacing_error_ms", "p99"), 3.0),
    Bound("packets lost", ("rtp", "lost"), 0),
    SHORT,
    SKIPPED,
    Bound("speech cut off", ("speech", "cuts"), 0),
    Bound("underruns (server's count)", ("server", "underruns"), 0, optional=True),
    Bound("server RSS peak, MB", ("server", "rss_peak_mb"), 300.0, optional=True),
    Bound("generator's own drops", ("generator", "kernel_drops"), 0),
)


def summary(values: ArrayLike, percentiles: Sequence[float] = (50, 95, 99)) -> dict[str, float | None]:
    """Percentiles, maximum and count; None throughout if there is no value. Percentiles are values that occurred."""
    data = np.asarray(values, dtype=np.float64)
    names = [f"p{p:g}" for p in percentiles]
    if not data.size:
        return {**dict.fromkeys([*names, "max"]), "count": 0}
    found = np.percentile(data, percentiles, method="inverted_cdf")
    exact = {name: round(float(value), 3) for name, value in zip(names, found, strict=True)}
    return {**exact, "max": round(float(data.max()), 3), "count": int(data.size)}


def failure(call: Mapping[str, Any], found: CallFigures) -> str:
    """Why a call counts as failed, "" if it does not."""
    if call["failure"]:
        return str(call["failure"])
    if call["state"] != "done":
        return f"left {call['state']}"
    if not found.packets:
        return "no RTP"
    return "" if found.first_audible else "no audible RTP"


def figures(calls: Sequence[Mapping[str, Any]], found: Sequence[CallFigures]) -> dict[str, Any]:
    """All that the generator saw of one run."""
    reasons = Counter(why for c, f in zip(calls, found, strict=True) if (why := failure(c, f)))
    answered = [c for c in calls if c["answer"]]
    heard = [(c, f) for c, f in zip(calls, found, strict=True) if f.first_audible and c["ack"]]
    drifts = sorted((f.drift_ppm for f in found if f.drift_ppm is not None), key=abs)
    ended_early = [c for c, f in heard if c["bye"] and (c["bye"] - (f.last_audible or 0)) / 1e6 > EARLY_END_MS]
    spacing = (50, 99, 99.9)
    short = [missing(c, f) for c, f in zip(calls, found, strict=True)]
    return {
        "calls": {
            "placed": len(calls),
            "answered": len(answered),
            "failed": reasons.total(),
            "failures": dict(reasons.most_common()),
            "retransmissions": sum(c["retransmissions"] for c in calls),
            "texts_said": sum(c["said"] for c in calls),
            "texts_refused": sum(c["refused"] for c in calls),
        },
        "invite_to_200_ms": summary([(c["answer"] - c["invite"]) / 1e6 for c in answered]),
        "ack_to_first_packet_ms": _since_ack(calls, [f.first_packet for f in found]),
        "ack_to_first_signal_ms": _since_ack(calls, [f.first_signal for f in found]),
        "ack_to_first_audible_ms": _since_ack(calls, [f.first_audible for f in found]),
        "spacing_error_ms": summary(_joined([f.spacing_error for f in found]), spacing),
        "spacing_vs_timestamp_ms": summary(_joined([f.spacing_vs_timestamp for f in found]), spacing),
        "drift_ppm": {
            "median": round(float(np.median(drifts)), 2) if drifts else None,
            "worst": round(drifts[-1], 2) if drifts else None,
        },
        "mos": spread([_mos(c, n) for c, n in zip(calls, short, strict=True) if c["answer"]]),
        "rtp": {
            **{name: sum(getattr(f, name) for f in found) for name in SUMS},
            "short": sum(short),
            "short_calls": sum(n > 0 for n in short),
        },
        "speech": {
            "cuts": sum(f.cuts for f in found),
            "calls_cut": sum(f.cuts > 0 for f in found),
            "audible_percent": _percent([f.audible_share for _, f in heard]),
            "digital_silence_frames": sum(f.digital_silence for f in found),
            "longest_pause_ms": round(max((f.longest_pause_ms for f in found), default=0.0), 1),
            "calls_ended_early": len(ended_early),
        },
    }


def missing(call: Mapping[str, Any], found: CallFigures) -> int:
    """Packets short of 50 a second from the ACK to the end of the call."""
    received = found.packets - found.duplicated - found.after_close
    return shortfall.of_call(call["ack"], call["bye"] or call["closed"], received)


def _mos(call: Mapping[str, Any], short: int) -> float | None:
    return listening_mos(call["received"], max(call["lost"], short), call["jitter_ms"])


def _since_ack(calls: Sequence[Mapping[str, Any]], stamps: Sequence[int | None]) -> dict[str, float | None]:
    return summary([(s - c["ack"]) / 1e6 for c, s in zip(calls, stamps, strict=True) if s and c["ack"]])


def _joined(arrays: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate(arrays) if arrays else np.empty(0)


def _percent(shares: Sequence[float]) -> float | None:
    return round(100 * sum(shares) / len(shares), 1) if shares else None


def look_up(figures: Mapping[str, Any], path: Sequence[str]) -> Any:
    value: Any = figures
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def check(figures: Mapping[str, Any], bounds: Sequence[Bound] = BOUNDS) -> list[dict[str, Any]]:
    """Each bound with its figure and whether it held."""
    rows = []
    for bound in bounds:
        value = look_up(figures, bound.path)
        held = bound.optional if value is None else value <= bound.limit
        rows.append({"bound": bound.name, "limit": bound.limit, "value": value, "held": held})
    return rows


def held(rows: Sequence[Mapping[str, Any]]) -> bool:
    return all(row["held"] for row in rows)


def bounds_text(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = [(r["bound"], _verdict(r), r["value"], f"<= {r['limit']:g}") for r in rows]
    return table(lines, ("bound", "", "is", "limit"))


def _verdict(row: Mapping[str, Any]) -> str:
    if not row["held"]:
        return "FAIL"
    return "n/a" if row["value"] is None else "PASS"


def figures_text(figures: Mapping[str, Any]) -> str:
    """The figures of one run as two tables: distributions, then single values."""
    header = ("ms", "p50", "p95", "p99", "p99.9", "max", "count")
    names = {
        "INVITE to 200 OK": "invite_to_200_ms",
        "ACK to first packet": "ack_to_first_packet_ms",
        "ACK to first signal": "ack_to_first_signal_ms",
        "ACK to first audible packet": "ack_to_first_audible_ms",
        "|spacing - 20 ms|": "spacing_error_ms",
        "|spacing - timestamp step|": "spacing_vs_timestamp_ms",
        "the same of an idle thread": "machine_spacing_error_ms",
    }
    spread = [(title, *(figures[key].get(c) for c in header[1:])) for title, key in names.items() if key in figures]
    if trips := look_up(figures, ("rtcp", "round_trip_ms")):
        spread.append(("round trip by RTCP", *(trips.get(c) for c in header[1:])))
    singles: list[tuple[str, Any]] = []
    for group in ("calls", "rtp", "speech", "drift_ppm", "mos", "server", "generator", "rtcp"):
        for name, value in figures.get(group, {}).items():
            if not isinstance(value, dict | list):
                singles.append((f"{group} {name}".replace("_", " "), value))
    singles += [(f"failed: {why}", count) for why, count in figures["calls"]["failures"].items()]
    threads = figures.get("server", {}).get("threads", [])
    singles += [(f"server thread {t['name']}, cpu percent", t["cpu_percent"]) for t in threads]
    return f"{table(spread, header)}\n\n{table(singles)}\n{quality.NOTE}"
