"""What the records of a run say about the server's RTP. Pure: arrays in, figures out."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

RECORD = np.dtype(
    [
        ("stamp", "<i8"),
        ("call", "<i4"),
        ("size", "<i4"),
        ("vpxcc", "u1"),
        ("mpt", "u1"),
        ("sequence", ">u2"),
        ("timestamp", ">u4"),
        ("ssrc", ">u4"),
        ("payload", "u1", 160),
        ("spare", "u1", 4),
    ]
)
"A record as receiver.Receiver writes it: stamp in ns since the epoch, call, size, then the RTP packet (RFC 3550 5.1)."

CLOCK_RATE = 8000
FRAME_SAMPLES = 160
FRAME_MS = 20.0
GAP_MS = 60.0
"Two packets in sequence whose spacing is off by more are a gap: the pacer skips what is due for longer."
PACKET_SIZE = 12 + FRAME_SAMPLES

AUDIBLE_RMS = 100.0
"A frame is audible from here on: -50 dB below full scale, above the noise of a pause and the ring of a codec."
CUT_RMS = 300.0
"Speech that is this loud (-41 dB) in the last 5 ms before a hole was cut off: a word that ends has faded by then."
TAIL_SAMPLES = 40
MIN_DRIFT_PACKETS = 100
"2 s: a shorter call says nothing about clocks."


def _mulaw_table() -> NDArray[np.float32]:
    """ITU-T G.711 mu-law, expanded: 256 values in 16-bit amplitude."""
    codes = ~np.arange(256, dtype=np.uint8)
    exponent = (codes >> 4) & 7
    mantissa = codes & 15
    magnitude = (((mantissa.astype(np.int32) << 3) + 0x84) << exponent) - 0x84
    return np.where(codes & 0x80, -magnitude, magnitude).astype(np.float32)


MULAW = _mulaw_table()
_POWER = MULAW**2


@dataclass(slots=True)
class CallFigures:
    """What one call's packets show. Times in ms, arrays one value a pair of packets."""

    packets: int = 0
    malformed: int = 0
    "Not a version 2 RTP packet of 160 bytes PCMU without extension, CSRC or padding."
    other_ssrc: int = 0
    "Packets of any SSRC but the most frequent."
    lost: int = 0
    duplicated: int = 0
    reordered: int = 0
    timestamp_errors: int = 0
    "Pairs whose timestamps do not differ by 160 a packet, where no marker bit announces a talkspurt."
    talkspurts: int = 0
    "The start, and every jump of the timestamp that a marker bit announces."
    markers: int = 0
    spacing_error: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    "|spacing of arrivals - 20 ms| of packets in sequence, whatever marker and timestamp say: silence is sent too."
    gaps: int = 0
    "Pairs of those that are off by more than GAP_MS."
    spacing_vs_timestamp: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    "|spacing of arrivals - difference of RTP timestamps| of all packets in order."
    drift_ppm: float | None = None
    "The sender's clock against ours: positive if its packets come too slowly."
    first_packet: int | None = None
    "Stamp in ns of the first packet."
    first_signal: int | None = None
    "Stamp in ns of the first packet that is not digital silence: the voice has begun, if only to breathe in."
    first_audible: int | None = None
    "Stamp in ns of the first audible packet."
    last_audible: int | None = None
    audible_share: float = 0.0
    "Of the frames from the first audible to the last."
    cuts: int = 0
    "Holes that cut speech off: exact digital silence or skipped timestamps straight after loud speech."
    longest_pause_ms: float = 0.0
    "The longest stretch without audible sound between two audible frames; a sentence's end is one too."
    digital_silence: int = 0
    "Frames of nothing but zero samples between the first audible frame and the last."
    after_close: int = 0
    "Packets that came after the call was over."


def read(path: Path) -> NDArray[np.void]:
    """The records of a run, as downlink.Downlink or receiver.Receiver saved them."""
    return np.fromfile(path, dtype=RECORD)


def by_call(records: NDArray[np.void], calls: int) -> list[NDArray[np.void]]:
    """One array of records a call, in order of arrival."""
    order = np.argsort(records["call"], kind="stable")
    edges = np.searchsorted(records["call"][order], np.arange(calls + 1))
    return [records[order[edges[i] : edges[i + 1]]] for i in range(calls)]


def unwrap(values: NDArray[np.uint16] | NDArray[np.uint32], bits: int) -> NDArray[np.int64]:
    """Undo the wrap of a counter of `bits` bits whose steps are shorter than half its range."""
    if not len(values):
        return np.empty(0, np.int64)
    half = 1 << (bits - 1)
    steps = np.mod(np.diff(values.astype(np.int64)) + half, 1 << bits) - half
    return np.concatenate(([0], np.cumsum(steps))) + int(values[0])


def analyse(records: NDArray[np.void], closed: int = 0) -> CallFigures:
    """Figures of one call's records in order of arrival; `closed` is when the call was over (ns, 0: never)."""
    found = CallFigures()
    good = (records["vpxcc"] == 0x80) & ((records["mpt"] & 0x7F) == 0) & (records["size"] == PACKET_SIZE)
    found.malformed = int((~good).sum())
    records = records[good]
    found.packets = len(records)
    if not found.packets:
        return found
    ssrcs, counts = np.unique(records["ssrc"], return_counts=True)
    main = records["ssrc"] == ssrcs[counts.argmax()]
    found.other_ssrc = int((~main).sum())
    records = records[main]
    if closed:
        late = records["stamp"] > closed
        found.after_close = int(late.sum())
        records = records[~late]
    if not len(records):
        return found
    _transport(records, found)
    return found


def _transport(records: NDArray[np.void], found: CallFigures) -> None:
    """Loss, order and timing, then what the packets, put in order, sound like."""
    sequence = unwrap(records["sequence"], 16)
    first_seen = np.zeros(len(records), bool)
    first_seen[np.unique(sequence, return_index=True)[1]] = True
    found.duplicated = int((~first_seen).sum())
    records, sequence = records[first_seen], sequence[first_seen]
    found.lost = int(sequence.max() - sequence.min() + 1 - len(records))
    # RFC 4737: a packet is reordered if one sent after it came before it.
    found.reordered = int((sequence < np.maximum.accumulate(sequence)).sum())

    timestamp = unwrap(records["timestamp"], 32)
    arrival_ms = (records["stamp"] - records["stamp"][0]) / 1e6
    marker = (records["mpt"] & 0x80) != 0
    step, spacing = np.diff(sequence), np.diff(arrival_ms)
    ahead = np.diff(timestamp)
    in_order = step > 0
    found.spacing_error = np.abs(spacing - FRAME_MS)[step == 1]
    found.gaps = int((found.spacing_error > GAP_MS).sum())
    found.spacing_vs_timestamp = np.abs(spacing - ahead * 1000.0 / CLOCK_RATE)[in_order]

    order = np.argsort(sequence, kind="stable")
    records, sequence, timestamp, marker = records[order], sequence[order], timestamp[order], marker[order]
    step, ahead = np.diff(sequence), np.diff(timestamp)
    announced = marker[1:] & (ahead > step * FRAME_SAMPLES)
    found.timestamp_errors = int(((ahead != step * FRAME_SAMPLES) & ~announced).sum())
    found.talkspurts = 1 + int(announced.sum())
    found.markers = int(marker.sum())
    found.drift_ppm = drift_ppm(timestamp, records["stamp"])
    _sound(records, step, ahead, found)


def drift_ppm(timestamp: NDArray[np.int64], stamp: NDArray[np.int64]) -> float | None:
    """Least-squares slope of arrival over RTP time, less one, in parts per million; None for a short call."""
    if len(timestamp) < MIN_DRIFT_PACKETS:
        return None
    media = (timestamp - timestamp[0]) / CLOCK_RATE
    wall = (stamp - stamp[0]) / 1e9
    media = media - media.mean()
    return float(((media * (wall - wall.mean())).sum() / (media**2).sum() - 1.0) * 1e6)


def _sound(records: NDArray[np.void], step: NDArray[np.int64], ahead: NDArray[np.int64], found: CallFigures) -> None:
    """Where speech is, and where it was cut off. `step` and `ahead`: differences of sequence and timestamp."""
    power = _POWER[records["payload"]]
    silent = (power == 0).all(axis=1)
    found.first_packet = int(records["stamp"][0])
    if not silent.all():
        found.first_signal = int(records["stamp"][silent.argmin()])
    audible = np.sqrt(power.mean(axis=1)) >= AUDIBLE_RMS
    where = np.flatnonzero(audible)
    if not len(where):
        return
    first, last = where[0], where[-1]
    found.first_audible = int(records["stamp"][first])
    found.last_audible = int(records["stamp"][last])
    found.audible_share = float(audible[first : last + 1].mean())

    found.digital_silence = int(silent[first : last + 1].sum())
    loud_tail = np.sqrt(power[:, -TAIL_SAMPLES:].mean(axis=1)) >= CUT_RMS
    skipped = (step == 1) & (ahead > FRAME_SAMPLES)
    hole = silent[1:] | skipped
    found.cuts = int((loud_tail[:-1] & hole)[first:last].sum())

    media = np.concatenate(([0], np.cumsum(ahead)))[where]
    if len(media) > 1:
        found.longest_pause_ms = float(np.diff(media).max() - FRAME_SAMPLES) * 1000.0 / CLOCK_RATE
