"""DTMF as tones in the audio: made for the other side, and recognised in what it sends (ITU-T Q.23 and Q.24)."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mediaserver.rtp.codec import audioop
from mediaserver.rtp.dtmf_event import DIGITS, PAUSES, DtmfEvent, check_digits

Samples = NDArray[np.float32]

LOW_HZ = (697, 770, 852, 941)
HIGH_HZ = (1209, 1336, 1477, 1633)
KEYPAD = ("123A", "456B", "789C", "*0#D")
"By row (low frequency) and column (high frequency), Q.23."

LOW_DBM0, HIGH_DBM0 = -9.0, -7.0  # Q.23's usual 2 dB more for the high tone, which lines weaken more
FULL_SCALE_DBM0 = 3.14  # of a sine as large as 16 bits can hold, as G.711 codes it
RAMP_S = 0.002  # no click at either end

RATE = 8000
BLOCK = 80
"Samples that are judged at a time: 10 ms."
CONFIRM_BLOCKS = 3  # a tone of 40 ms has at least three whole blocks, one of 20 ms at most two
END_BLOCKS = 3  # interruptions of up to 20 ms do not split a digit; pauses of 40 ms do
MIN_LEVEL_DBM0 = -30.0  # of each tone
MIN_CROSSINGS, MAX_CROSSINGS = 11, 39  # of zero in a block: digits have 13 to 37 at any twist, at 12 dB over noise
MIN_COARSE_SHARE = 0.35  # of a block's energy, in the two strongest of the eight frequencies
MAX_BLOCK_RESIDUAL = (
    0.35  # share of a block's energy that two sines leave; 1.5 % beside their frequency, they leave 18 %
)
MAX_RESIDUAL = 0.12  # the same over CONFIRM_BLOCKS, at the frequencies found: speech is never that pure for long
MAX_HARMONIC = 0.01  # power at twice a tone's frequency, as a share of that tone's: voices have harmonics
MAX_DEVIATION = 0.025  # of a frequency: 1.5 % must be taken, 3.5 % must not
MIN_TWIST_DB, MAX_TWIST_DB = -9.0, 5.0  # high against low; -8 and +4 must be taken


def tone_pcm(
    digit: str,
    duration_ms: int,
    *,
    sample_rate: int = RATE,
    low_dbm0: float = LOW_DBM0,
    high_dbm0: float = HIGH_DBM0,
    deviation: float = 0.0,
) -> bytes:
    """One digit's tone as 16-bit PCM. deviation: of both frequencies, as a share. Raises ValueError if it is none."""
    row, column = _position(digit)
    t = np.arange(duration_ms * sample_rate // 1000) / sample_rate
    samples = sum(
        amplitude(level) * np.sin(2 * np.pi * hz * (1 + deviation) * t)
        for hz, level in ((LOW_HZ[row], low_dbm0), (HIGH_HZ[column], high_dbm0))
    )
    ramp = np.minimum(1.0, np.arange(1, len(t) + 1) / (RAMP_S * sample_rate))
    return np.clip(np.rint(samples * ramp * ramp[::-1]), -32768, 32767).astype("<i2").tobytes()


def digits_pcm(digits: str, *, duration_ms: int = 100, gap_ms: int = 50, sample_rate: int = RATE) -> bytes:
    """Digits and pauses (w, W) as tones with gaps behind them. Raises ValueError as DtmfSender.send does."""
    check_digits(digits, duration_ms, gap_ms)
    gap = _silence(gap_ms, sample_rate)
    return b"".join(
        _silence(PAUSES[symbol], sample_rate)
        if symbol in PAUSES
        else tone_pcm(symbol, duration_ms, sample_rate=sample_rate) + gap
        for symbol in digits
    )


def amplitude(dbm0: float) -> float:
    """Peak, in 16-bit steps, of a sine of that level."""
    return float(32768 * 10 ** ((dbm0 - FULL_SCALE_DBM0) / 20))


def _silence(duration_ms: int, sample_rate: int) -> bytes:
    return bytes(2 * (duration_ms * sample_rate // 1000))


def _position(digit: str) -> tuple[int, int]:
    for row, keys in enumerate(KEYPAD):
        if len(digit) == 1 and digit in keys:
            return row, keys.index(digit)
    raise ValueError(f"a digit is one of {DIGITS}")


def _sines(frequencies: tuple[float, ...], samples: int) -> NDArray[np.float64]:
    """(samples, 2 x frequencies): the cosines, then the sines."""
    phase = 2 * np.pi / RATE * np.outer(np.arange(samples), frequencies)
    return np.hstack([np.cos(phase), np.sin(phase)])


# One block times this gives the eight Goertzel sums, real parts and then imaginary ones.
_GOERTZEL: Samples = np.ascontiguousarray(_sines(LOW_HZ + HIGH_HZ, BLOCK), np.float32)
_PAIRS: dict[str, tuple[Samples, Samples]] = {}
"By digit: its two sines over a block (4 x BLOCK), and the least-squares solver for their coefficients (4 x BLOCK)."
for _row, _keys in enumerate(KEYPAD):
    for _column, _key in enumerate(_keys):
        _basis = _sines((LOW_HZ[_row], HIGH_HZ[_column]), BLOCK)
        _PAIRS[_key] = (
            np.ascontiguousarray(_basis.T, np.float32),
            np.ascontiguousarray(np.linalg.pinv(_basis), np.float32),
        )
_MIN_ENERGY = BLOCK * amplitude(MIN_LEVEL_DBM0) ** 2 / 2  # of a block with one tone of that level
_MIN_RMS = math.isqrt(int(_MIN_ENERGY / BLOCK))
_BLOCK_BYTES = 2 * BLOCK


class ToneDetector:
    """Recognises digits in 8 kHz PCM: a consumer of InboundAudio, on the media thread.

    Blocks of 10 ms: loud enough, crossing zero as often as such tones do, most of it in one low and one high
    frequency (Goertzel), and little left when two sines have been fitted to it. Three such blocks in a row are then
    judged as a whole: levels, twist, the frequencies (from the phases' advance), what is left, and second harmonics.
    Silence costs one test a frame.
    """

    __slots__ = ("_blocks", "_down", "_misses", "_on_event", "_phasors", "_run", "_tail", "detected")

    def __init__(self, on_event: Callable[[DtmfEvent], None]) -> None:
        """on_event gets a "started" when a tone has lasted about 35 ms, and an "ended"; source "inband"."""
        self.detected = 0
        self._on_event = on_event
        self._run = ""  # the digit of the latest blocks, or none
        self._tail: list[Samples] = []  # these blocks, the last CONFIRM_BLOCKS
        self._phasors: list[tuple[complex, complex]] = []  # low and high tone in each of them
        self._down = ""  # the digit reported as started
        self._blocks = 0  # that it has lasted
        self._misses = 0  # blocks without it since

    def heard(self, pcm: bytes, at_ms: int) -> None:
        """Take a frame: whole blocks of 10 ms, else it is not looked at. at_ms is not needed."""
        if len(pcm) % _BLOCK_BYTES:
            return
        if audioop.rms(pcm, 2) ** 2 * len(pcm) < 2 * _MIN_ENERGY and not (self._run or self._down):
            return
        for start in range(0, len(pcm), _BLOCK_BYTES):
            block = pcm[start : start + _BLOCK_BYTES]
            if audioop.rms(block, 2) >= _MIN_RMS and MIN_CROSSINGS <= audioop.cross(block, 2) <= MAX_CROSSINGS:
                self._judge(np.frombuffer(block, "<i2").astype(np.float32))
            else:
                self._take(None, "", (0j, 0j))

    def reset(self) -> None:
        """Another stream: a digit that is down ends here."""
        self._run = ""
        if self._down:
            self._end()

    def _judge(self, block: Samples) -> None:
        """One block: which digit it may be part of."""
        sums = block @ _GOERTZEL
        sums *= sums
        powers = (sums[:8] + sums[8:]).tolist()
        low, high = max(powers[:4]), max(powers[4:])
        energy = float(block.dot(block))
        # A sine of amplitude a has the power (a x BLOCK / 2)**2 here, and the energy a**2 x BLOCK / 2.
        if low + high >= MIN_COARSE_SHARE * energy * BLOCK / 2:
            digit = KEYPAD[powers.index(low)][powers.index(high, 4) - 4]
            basis, solver = _PAIRS[digit]
            fit = solver @ block
            left = block - fit @ basis
            if float(left.dot(left)) <= MAX_BLOCK_RESIDUAL * energy:
                low_cos, high_cos, low_sin, high_sin = fit.tolist()
                self._take(block, digit, (complex(low_cos, -low_sin), complex(high_cos, -high_sin)))
                return
        self._take(None, "", (0j, 0j))

    def _take(self, block: Samples | None, digit: str, phasors: tuple[complex, complex]) -> None:
        """The state machine: runs of blocks with one digit, and the digit that is down."""
        if digit != self._run:
            self._run = digit
            self._tail.clear()
            self._phasors.clear()
        if block is not None:
            self._tail.append(block)
            self._phasors.append(phasors)
            del self._tail[:-CONFIRM_BLOCKS], self._phasors[:-CONFIRM_BLOCKS]
        if self._down:
            self._go_on(digit)
        if not self._down and len(self._tail) == CONFIRM_BLOCKS and self._confirmed():
            self._begin()
        elif self._down and digit and digit != self._down and len(self._tail) == CONFIRM_BLOCKS and self._confirmed():
            self._end()
            self._begin()

    def _go_on(self, digit: str) -> None:
        if digit == self._down:
            self._blocks += 1 + self._misses
            self._misses = 0
            return
        self._misses += 1
        if self._misses >= END_BLOCKS and not digit:
            self._end()

    def _begin(self) -> None:
        self.detected += 1
        self._down = self._run
        self._blocks = CONFIRM_BLOCKS
        self._misses = 0
        self._on_event(self._event("started"))

    def _end(self) -> None:
        self._on_event(self._event("ended"))
        self._down = ""

    def _event(self, kind: Literal["started", "ended"]) -> DtmfEvent:
        return DtmfEvent(kind, self._down, self._blocks * BLOCK * 1000 // RATE, "inband")

    def _confirmed(self) -> bool:
        """Whether the last blocks are a digit's tones, and nothing else."""
        row, column = _position(self._run)
        frequencies = []
        for tone, hz in enumerate((LOW_HZ[row], HIGH_HZ[column])):
            frequency = _frequency([phasors[tone] for phasors in self._phasors], hz)
            if abs(frequency - hz) > MAX_DEVIATION * hz:
                return False
            frequencies.append(frequency)
        samples = np.concatenate(self._tail).astype(np.float64)
        basis = _sines(tuple(frequencies), len(samples))
        fit = np.linalg.lstsq(basis, samples, rcond=None)[0]
        left = samples - basis @ fit
        if float(left @ left) > MAX_RESIDUAL * float(samples @ samples):
            return False
        amplitudes = np.hypot(fit[:2], fit[2:])
        if float(amplitudes.min()) < amplitude(MIN_LEVEL_DBM0):
            return False
        twist = 20 * math.log10(float(amplitudes[1] / amplitudes[0]))
        if not MIN_TWIST_DB <= twist <= MAX_TWIST_DB:
            return False
        doubled = 2 * left @ _sines((2 * frequencies[0], 2 * frequencies[1]), len(samples)) / len(samples)
        harmonics = doubled[:2] ** 2 + doubled[2:] ** 2
        return bool((harmonics <= MAX_HARMONIC * amplitudes**2).all())


def _frequency(phasors: list[complex], hz: float) -> float:
    """The tone's frequency from how its phase advances from block to block; right within 50 Hz of `hz`."""
    expected = 2 * math.pi * hz * BLOCK / RATE
    turned = sum((b * a.conjugate() for a, b in pairwise(phasors)), 0j)
    turned *= complex(math.cos(expected), -math.sin(expected))
    return hz + math.atan2(turned.imag, turned.real) * RATE / (2 * math.pi * BLOCK)
