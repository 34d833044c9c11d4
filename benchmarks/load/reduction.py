"""Reduces the RTP of many calls to figures as it comes, in bounded memory. Pure: arrays in, figures out.

Packets are taken in order of arrival, one of every call at a time: what follows from the packet before is computed
for all calls at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from benchmarks.load.analysis import CLOCK_RATE, GAP_MS, MIN_DRIFT_PACKETS, PACKET_SIZE

FRAME_NS = 20_000_000
BIN_US = 10
BINS = 100_000
"Up to 1 s; the last bin has all beyond."
WINDOW = 64
"Packets back to which a late one is told from a repeated one."


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over all calls so far."""

    packets: int
    malformed: int
    lost: int
    duplicated: int
    reordered: int


@dataclass(frozen=True, slots=True)
class Reception:
    """One call's reception, as a report block tells it (RFC 3550 6.4.1)."""

    ssrc: int
    received: int
    expected: int
    highest: int
    "Extended highest sequence number."
    jitter: float
    "Clock units."

    @property
    def lost(self) -> int:
        return max(0, self.expected - self.received)


class Spacing:
    """A histogram of |spacing - 20 ms| of packets in sequence, whatever marker and timestamp say."""

    def __init__(self) -> None:
        self.counts = np.zeros(BINS, np.int64)
        self.max_us = 0.0
        self.gaps = 0
        "Pairs that are off by more than GAP_MS."

    def add(self, error_us: NDArray[np.float64]) -> None:
        if len(error_us):
            bins = np.minimum(error_us / BIN_US, BINS - 1).astype(np.int64)
            np.add.at(self.counts, bins, 1)
            self.max_us = max(self.max_us, float(error_us.max()))
            self.gaps += int((error_us > GAP_MS * 1000).sum())

    def figures(self, points: tuple[float, ...] = (50, 99, 99.9)) -> dict[str, float | None]:
        """Percentiles in ms, to the upper edge of their bin; None of nothing."""
        count = int(self.counts.sum())
        if not count:
            return {**{f"p{p:g}": None for p in points}, "max": None, "count": 0}
        ranks = np.ceil(np.array(points) / 100 * count)
        edges = (np.searchsorted(np.cumsum(self.counts), ranks) + 1) * BIN_US
        found = {f"p{p:g}": round(min(float(e), self.max_us) / 1000, 3) for p, e in zip(points, edges, strict=True)}
        return {**found, "max": round(self.max_us / 1000, 3), "count": count}


class Reduction:
    """The state of `calls` calls."""

    def __init__(self, calls: int) -> None:
        self.spacing = Spacing()
        self.received = np.zeros(calls, np.int64)
        "Different packets of the present stream."
        self.received_ever = np.zeros(calls, np.int64)
        "Of all streams of the call."
        self.highest = np.zeros(calls, np.int64)
        self.first = np.zeros(calls, np.int64)
        self.jitter = np.zeros(calls)
        self.jitter_worst = np.zeros(calls)
        self.restarts = 0
        "Streams that began where the call had one already (RFC 3550 8.2: the SSRC changed)."
        self._ssrc = np.zeros(calls, np.int64)
        self._seen = np.zeros(calls, np.uint64)
        self._media = np.zeros(calls, np.int64)
        "RTP time of the highest packet since the first, unwrapped."
        self._timestamp = np.zeros(calls, np.int64)
        self._stamp = np.zeros(calls, np.int64)
        self._first_stamp = np.zeros(calls, np.int64)
        self._transit = np.zeros(calls)
        self._regression = np.zeros((4, calls))
        "Sums of x, x^2, d and x d; x: media time in s, d: lag of the arrival behind it in us."
        self._lost_before = np.zeros(calls, np.int64)
        "Of the call's streams before the present one."
        self._packets = self._malformed = self._duplicated = self._reordered = 0

    def add(self, records: NDArray[np.void]) -> None:
        """Take records (analysis.RECORD) in order of arrival."""
        good = (records["vpxcc"] == 0x80) & ((records["mpt"] & 0x7F) == 0) & (records["size"] == PACKET_SIZE)
        if not good.all():
            self._malformed += int((~good).sum())
            records = records[good]
        if not len(records):
            return
        self._packets += len(records)
        order = np.argsort(records["call"], kind="stable")
        call = records["call"][order].astype(np.int64)
        begins = np.flatnonzero(np.concatenate(([True], call[1:] != call[:-1])))
        rank = np.arange(len(call)) - np.repeat(begins, np.diff(np.append(begins, len(call))))
        by_rank = np.argsort(rank, kind="stable")
        edges = np.searchsorted(rank[by_rank], np.arange(rank.max() + 2))
        sequence, timestamp, ssrc, stamp = (
            records[name][order].astype(np.int64) for name in ("sequence", "timestamp", "ssrc", "stamp")
        )
        errors = []
        for begin, end in pairwise(edges):
            row = by_rank[begin:end]
            errors.append(self._step(call[row], sequence[row], timestamp[row], ssrc[row], stamp[row]))
        self.spacing.add(np.concatenate(errors))

    def _step(
        self,
        call: NDArray[np.int64],
        sequence: NDArray[np.int64],
        timestamp: NDArray[np.int64],
        ssrc: NDArray[np.int64],
        stamp: NDArray[np.int64],
    ) -> NDArray[np.float64]:
        """One packet of each of these calls; the errors of spacing in us that can be told."""
        begins = (self.received[call] == 0) | (self._ssrc[call] != ssrc)
        if begins.any():
            self._begin(*(column[begins] for column in (call, sequence, timestamp, ssrc, stamp)))
            goes_on = ~begins
            call, sequence, timestamp, stamp = (a[goes_on] for a in (call, sequence, timestamp, stamp))
        step = ((sequence - self.highest[call] + (1 << 15)) & 0xFFFF) - (1 << 15)
        ahead = ((timestamp - self._timestamp[call] + (1 << 31)) & 0xFFFFFFFF) - (1 << 31)
        fresh = self._note_seen(call, step)

        errors: NDArray[np.float64] = np.abs(stamp - self._stamp[call] - FRAME_NS)[step == 1] / 1000.0

        if not fresh.all():
            call, step, ahead, stamp, timestamp = (a[fresh] for a in (call, step, ahead, stamp, timestamp))
        self.received[call] += 1
        self.received_ever[call] += 1
        media = self._media[call] + ahead
        elapsed = stamp - self._first_stamp[call]
        self._note_clock(call, media, elapsed)

        forward = step > 0
        if not forward.all():
            call, step, media, stamp, timestamp = (a[forward] for a in (call, step, media, stamp, timestamp))
        self.highest[call] += step
        self._media[call], self._stamp[call], self._timestamp[call] = media, stamp, timestamp
        return errors

    def _begin(
        self,
        call: NDArray[np.int64],
        sequence: NDArray[np.int64],
        timestamp: NDArray[np.int64],
        ssrc: NDArray[np.int64],
        stamp: NDArray[np.int64],
    ) -> None:
        self.restarts += int((self.received[call] > 0).sum())
        self._lost_before[call] = self.lost_by_call()[call]
        self._ssrc[call], self._timestamp[call], self._stamp[call] = ssrc, timestamp, stamp
        self._first_stamp[call], self.first[call], self.highest[call] = stamp, sequence, sequence
        self.received[call], self._seen[call] = 1, 1
        self.received_ever[call] += 1
        self._media[call] = 0
        self._transit[call] = self.jitter[call] = 0.0
        self._regression[:, call] = 0.0

    def _note_seen(self, call: NDArray[np.int64], step: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which packets were not seen before; counts those that were, and those that a later one overtook."""
        seen = self._seen[call]
        forward = step > 0
        one = np.uint64(1)
        shift = np.minimum(np.abs(step), WINDOW - 1).astype(np.uint64)
        moved = np.where(step < WINDOW, (seen << shift) | one, one)
        if forward.all():
            self._seen[call] = moved
            return forward
        bit = one << shift
        fresh: NDArray[np.bool_] = forward | ((seen & bit) == 0)
        self._seen[call] = np.where(forward, moved, seen | bit)
        self._duplicated += int((~fresh).sum())
        self._reordered += int((fresh & ~forward).sum())
        return fresh

    def _note_clock(self, call: NDArray[np.int64], media: NDArray[np.int64], elapsed: NDArray[np.int64]) -> None:
        """Jitter as RFC 3550 A.8 has it, and the sums of the regression."""
        transit = elapsed * (CLOCK_RATE / 1e9) - media
        jitter = self.jitter[call]
        jitter += (np.abs(transit - self._transit[call]) - jitter) / 16.0
        self.jitter[call], self._transit[call] = jitter, transit
        self.jitter_worst[call] = np.maximum(self.jitter_worst[call], jitter)
        x = media / CLOCK_RATE
        lag = transit * (1e6 / CLOCK_RATE)
        self._regression[:, call] += (x, x * x, lag, x * lag)

    def lost_by_call(self) -> NDArray[np.int64]:
        """Packets of each call's streams that have not come (yet)."""
        present = np.where(self.received > 0, self.highest - self.first + 1 - self.received, 0)
        return np.asarray(self._lost_before + present)

    def totals(self) -> Totals:
        lost = int(self.lost_by_call().sum())
        return Totals(self._packets, self._malformed, lost, self._duplicated, self._reordered)

    def reception(self, call: int) -> Reception | None:
        """Of one call; None before its first packet."""
        if not self.received[call]:
            return None
        return Reception(
            int(self._ssrc[call]),
            int(self.received[call]),
            int(self.highest[call] - self.first[call]) + 1,
            int(self.highest[call]),
            float(self.jitter[call]),
        )

    def drift_ppm(self) -> NDArray[np.float64]:
        """Of each call that is long enough: the sender's clock against ours, positive if packets come too slowly."""
        long = self.received >= MIN_DRIFT_PACKETS
        n = self.received[long].astype(np.float64)
        x, xx, lag, x_lag = self._regression[:, long]
        return np.asarray((n * x_lag - x * lag) / (n * xx - x * x))

    def take_spacing(self) -> Spacing:
        """The histogram since the last time."""
        taken, self.spacing = self.spacing, Spacing()
        return taken

    def take_worst_jitter_ms(self) -> float:
        """The worst jitter of any call since the last time."""
        worst = float(self.jitter_worst.max(initial=0.0)) * 1000.0 / CLOCK_RATE
        self.jitter_worst[:] = 0.0
        return worst
