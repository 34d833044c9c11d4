"""What the callers heard, and when: from the packets of calls to the delays of the control plane. Pure.

All times are ns since the epoch, by the kernel's stamps on packets as they arrive; over loopback that is when they are
sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.load import analysis
from benchmarks.load.report import summary

PATIENCE_NS = 3_000_000_000
"Speech that comes later after it was asked for has not come."
QUIET_NS = 400_000_000
"Without a sound before it, a call had nothing more to say: pauses between sentences are shorter."
INTERRUPT_NS = 1_500_000_000
"An interruption that comes later after the caller began to speak is a miss (as in benchmarks/barge_in.py)."
AFTER_NS = 200_000_000
"Speech may go on so long after we heard of the interruption, and no longer, to be counted as late silence."
BEFORE_NS = 300_000_000
"There must have been speech within so long before the caller spoke, for it to be interrupted."


class Hearing:
    """One call's packets in order of arrival."""

    def __init__(self, records: NDArray[np.void]) -> None:
        """records: analysis.RECORD, of one call."""
        power = analysis.MULAW[records["payload"]] ** 2
        self.stamp: NDArray[np.int64] = records["stamp"]
        self.signal: NDArray[np.bool_] = ~(power == 0).all(axis=1)
        "Is not digital silence."
        self.audible: NDArray[np.bool_] = np.sqrt(power.mean(axis=1)) >= analysis.AUDIBLE_RMS

    def first(self, what: NDArray[np.bool_], since: int) -> int | None:
        """Of the packets from `since` on, the first that is `what` (signal, audible); None if PATIENCE passes."""
        begin = int(np.searchsorted(self.stamp, since))
        end = int(np.searchsorted(self.stamp, since + PATIENCE_NS))
        found = np.flatnonzero(what[begin:end])
        return int(self.stamp[begin + found[0]]) if len(found) else None

    def is_quiet(self, begin: int, end: int) -> bool:
        """Whether all packets within a time are digital silence."""
        return not self._within(begin, end)[1].any()

    def silence_after(self, begin: int, end: int) -> int | None:
        """The packet that follows the last one with signal between two times; None if there is none of either."""
        first, signal = self._within(begin, end)
        found = np.flatnonzero(signal)
        if not len(found):
            return None
        next_one = first + int(found[-1]) + 1
        return int(self.stamp[next_one]) if next_one < len(self.stamp) else None

    def _within(self, begin: int, end: int) -> tuple[int, NDArray[np.bool_]]:
        edges = np.searchsorted(self.stamp, (begin, end))
        return int(edges[0]), self.signal[edges[0] : edges[1]]


@dataclass(frozen=True, slots=True)
class Asked:
    """Something that a call was asked to say."""

    call: int
    at: int
    "When what made it speakable was handed to the kernel."
    answered_ms: float | None = None
    "Until the response, if there is one."
    status: int = 202


def first_audio(hearings: Sequence[Hearing], asked: Sequence[Asked]) -> dict[str, Any]:
    """From asking to the first packet that is no digital silence, and to the first audible one."""
    signal, audible, never, busy = [], [], 0, 0
    for each in asked:
        hearing = hearings[each.call]
        if not hearing.is_quiet(each.at - QUIET_NS, each.at):
            busy += 1  # it was still being said what was asked for before
            continue
        found = (hearing.first(hearing.signal, each.at), hearing.first(hearing.audible, each.at))
        if found[0] is None or found[1] is None:
            never += 1
            continue
        signal.append((found[0] - each.at) / 1e6)
        audible.append((found[1] - each.at) / 1e6)
    return {
        "asked": len(asked),
        "refused": sum(each.status != 202 for each in asked),
        "never_spoken": never,
        "not_counted": busy,
        "to_signal_ms": summary(signal, (50, 95)),
        "to_audible_ms": summary(audible, (50, 95)),
        "to_response_ms": summary([each.answered_ms for each in asked if each.answered_ms is not None], (50, 95)),
    }


def interruptions(
    hearings: Sequence[Hearing], onsets: Iterable[tuple[int, int]], messages: Iterable[tuple[int, int]]
) -> dict[str, Any]:
    """From callers' first voiced frames to our silence, and on to the `interrupt` messages; each a call and a time."""
    heard: dict[int, list[int]] = {}
    for call, at in messages:
        heard.setdefault(call, []).append(at)
    to_silence, to_message, missed, in_pause, idle = [], [], 0, 0, 0
    trials = 0
    for call, onset in onsets:
        trials += 1
        hearing = hearings[call]
        if hearing.is_quiet(onset - BEFORE_NS, onset):
            idle += 1
            continue
        message = next((at for at in sorted(heard.get(call, ())) if onset <= at <= onset + INTERRUPT_NS), None)
        if message is None:
            missed += 1
            continue
        silence = hearing.silence_after(onset, message + AFTER_NS)
        if silence is None:
            in_pause += 1
            continue
        to_silence.append((silence - onset) / 1e6)
        to_message.append((message - silence) / 1e6)
    return {
        "trials": trials,
        "missed": missed,
        "missed_share": round(missed / trials, 4) if trials else None,
        "nothing_to_interrupt": idle,
        "silent_anyway": in_pause,
        "to_silence_ms": summary(to_silence, (50, 95)),
        "to_message_ms": summary(to_message, (50, 95)),
    }


def transport(records: Sequence[NDArray[np.void]], windows: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """Spacing, loss and cut speech of all calls within stretches of time."""
    found = [
        analysis.analyse(each[(each["stamp"] >= begin) & (each["stamp"] < end)])
        for begin, end in windows
        for each in records
    ]
    errors = [f.spacing_error for f in found]
    expected = sum((end - begin) // 20_000_000 - 2 for begin, end in windows) * len(records)
    return {
        "spacing_error_ms": summary(np.concatenate(errors) if errors else np.empty(0), (50, 99, 99.9)),
        "packets": sum(f.packets for f in found),
        "short": max(0, expected - sum(f.packets for f in found)),
        "lost": sum(f.lost for f in found),
        "duplicated": sum(f.duplicated for f in found),
        "reordered": sum(f.reordered for f in found),
        "cuts": sum(f.cuts for f in found),
        "audible_percent": round(100 * float(np.mean([_audible(r, w) for w in windows for r in records])), 1),
    }


def _audible(records: NDArray[np.void], window: tuple[int, int]) -> float:
    within = records[(records["stamp"] >= window[0]) & (records["stamp"] < window[1])]
    return float(Hearing(within).audible.mean()) if len(within) else 0.0
