"""Our own speech, returned by the caller's telephone: is that all that is heard?

What was sent is kept for a second. When the inbound audio looks like speech, the delay at which it resembles what
was sent is sought (generalised cross-correlation), and a short FIR filter at that delay, the echo path, is fitted by
least squares. What the path does not account for is the caller. A path found is remembered: as long as it explains
each frame, no new one is sought.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from mediaserver.rtp.voice_activity import (
    FRAME_MS,
    HALF_CONTEXT,
    HALF_FRAME,
    HALF_RATE,
    SAMPLE_RATE,
    Samples,
    to_half_rate,
)

BYTES_PER_MS = 2 * SAMPLE_RATE // 1000
SAMPLES_PER_MS = HALF_RATE // 1000  # of what is computed with

MAX_DELAY_MS = 700
"Longest echo delay that is sought: the network both ways, both jitter buffers, the telephone and the room."
WINDOW_MS = 300
"Most audio that a path is fitted to."

TAPS = 96
"""Length of the echo path, samples: 24 ms hold a handset's echo and the first reflections of a room. Of more, OpenBLAS
would solve the equations on several threads, which then spin on cores that others need."""
_PRE_TAPS = 12  # of them before the strongest reflection
_RIDGE = 1e-3  # of the reference's power: bands in which we said nothing must not make the path wild
_EXPLAINED = 0.25  # residual power over heard power at which a path is worth remembering: 6 dB

_LEAKAGE = 10 ** (-8 / 10)
"""Power of a residual, relative to the echo's estimate, that may be echo still: the telephone's companding and
distortion, what the filter does not reach. A caller weaker than that under our echo is not heard."""
_REVERBERATION = 0.65  # how much of a frame's echo power is left a frame later: 60 dB take 0.6 s

_RING_MS = 1200  # MAX_DELAY_MS + WINDOW_MS + the filter, and some
_RING_BYTES = _RING_MS * BYTES_PER_MS
_SILENCE = bytes(_RING_BYTES)
_DIAGONAL = np.diag_indices(TAPS)
_FFT = 4096
_EDGE = 10 * SAMPLES_PER_MS
assert (MAX_DELAY_MS + WINDOW_MS) * SAMPLES_PER_MS <= _FFT  # noqa: S101 (two constants of this file)


class SentAudio:
    """A ring of what a leg sent, by the time at which it was sent."""

    __slots__ = ("_bytes", "_next_ms", "_silence")

    def __init__(self) -> None:
        self._bytes = bytearray()  # the ring, once something was sent
        self._next_ms: int | None = None
        self._silence = bytes(20 * BYTES_PER_MS)  # as long as the last frame

    def write(self, pcm: bytes | None, at_ms: int) -> None:
        """16-bit PCM at 8 kHz, whole milliseconds of it, at most a second; None is silence."""
        if at_ms != self._next_ms:
            self._skip_to(at_ms)
        if pcm is None:
            pcm = self._silence
            size = len(pcm)
        else:
            size = len(pcm)
            if size != len(self._silence):
                self._silence = bytes(size)
        start = at_ms % _RING_MS * BYTES_PER_MS
        end = start + size
        if end <= _RING_BYTES:
            self._bytes[start:end] = pcm
        else:
            cut = _RING_BYTES - start
            self._bytes[start:] = pcm[:cut]
            self._bytes[: size - cut] = pcm[cut:]
        self._next_ms = at_ms + size // BYTES_PER_MS

    def read(self, start: int, count: int) -> Samples:
        """`count` samples at HALF_RATE, from sample `start` (a time in ms times 4) on.

        Silence where nothing was sent, or not yet.
        """
        first, size = 2 * start - HALF_CONTEXT, 2 * count + HALF_CONTEXT
        samples = np.zeros(size)
        if self._next_ms is not None:
            known = max(0, min(size, self._next_ms * SAMPLE_RATE // 1000 - first))
            begin = first * 2 % _RING_BYTES
            end = begin + 2 * known
            ring = self._bytes
            raw = ring[begin:end] if end <= _RING_BYTES else ring[begin:] + ring[: end - _RING_BYTES]
            samples[:known] = np.frombuffer(raw, "<i2")
        return to_half_rate(samples)

    def _skip_to(self, at_ms: int) -> None:
        """Nothing was sent from the last frame to `at_ms`; what the ring still holds there is old."""
        last = self._next_ms
        if last is None or not 0 <= at_ms - last < _RING_MS:
            self._bytes = bytearray(_RING_BYTES)
            return
        for ms in range(last, at_ms):
            start = ms % _RING_MS * BYTES_PER_MS
            self._bytes[start : start + BYTES_PER_MS] = _SILENCE[:BYTES_PER_MS]


def heard_samples(context: bytes, pcm: bytes) -> Samples:
    """16-bit PCM at 8 kHz as samples at HALF_RATE, as read() gives what was sent. `context`: what was heard before."""
    context = context[-2 * HALF_CONTEXT :].rjust(2 * HALF_CONTEXT, b"\0")
    return to_half_rate(np.frombuffer(context + pcm, "<i2"))


class EchoPath:
    """Delay and filter: heard[n] = sum over k of taps[k] * sent[n - delay - k]."""

    __slots__ = ("delay", "taps")

    def __init__(self, delay: int, taps: Samples) -> None:
        self.delay = delay
        "Samples; of the first tap, so it may be slightly negative."
        self.taps = taps

    def echo(self, sent: SentAudio, start: int, count: int) -> Samples:
        """What this path makes of what was sent, for `count` samples heard from sample `start` on."""
        reference = sent.read(start - self.delay - TAPS + 1, count + TAPS - 1)
        return np.convolve(reference, self.taps, "valid")


class EchoGuard:
    """One leg's echo: what was sent, and the path by which it last came back."""

    __slots__ = ("_reverberant", "_reverberant_ms", "path", "sent")

    def __init__(self) -> None:
        self.sent = SentAudio()
        self.path: EchoPath | None = None
        self._reverberant = 0.0  # energy of the frame last explained, and what earlier ones left
        self._reverberant_ms = 0

    def explains(self, context: bytes, pcm: bytes, at_ms: int, threshold: float) -> bool:
        """Whether the remembered path leaves nothing above `threshold` (root mean square) of one frame.

        `context`: the frame before.
        """
        path = self.path
        if path is None:
            return False
        heard = heard_samples(context, pcm)
        echo = path.echo(self.sent, at_ms * SAMPLES_PER_MS, len(heard))
        residual = heard - echo
        left = self._reverberant * _REVERBERATION ** ((at_ms - self._reverberant_ms) / FRAME_MS)
        self._reverberant = energy = max(float(echo @ echo), left)
        self._reverberant_ms = at_ms
        return bool(residual @ residual < max(threshold * threshold * len(heard), _LEAKAGE * energy))

    def subtract(self, heard: Samples, at_ms: int) -> Samples:
        """Fit a path to what was heard, at HALF_RATE, from `at_ms` on, and take the echo out of it.

        40 to WINDOW_MS ms, whole frames; silence stands in place of a frame whose residual may be echo. The path is
        remembered if it explains most of what was heard.
        """
        start, count = at_ms * SAMPLES_PER_MS, len(heard)
        longest = MAX_DELAY_MS * SAMPLES_PER_MS
        before = longest + TAPS
        reference = self.sent.read(start - before, count + before)
        if not reference.any():
            return heard
        # Speech falls towards high frequencies; evened out, the fit is better conditioned and heeds all bands.
        flat_reference = np.diff(reference, prepend=0.0)
        flat_heard = np.diff(heard, prepend=heard[:1])
        delay = _find_delay(flat_reference[TAPS:], flat_heard, longest) - _PRE_TAPS
        taps = _fit(flat_reference, flat_heard, before - delay)
        path = EchoPath(delay, taps)
        echo = path.echo(self.sent, start, count)
        residual = heard - echo
        if float(residual @ residual) <= _EXPLAINED * float(heard @ heard):
            self.path = path
        residual[np.repeat(_may_be_echo(residual, echo), HALF_FRAME)] = 0.0
        return residual


def _may_be_echo(residual: Samples, echo: Samples) -> NDArray[np.bool_]:
    """For each frame."""
    energies = np.sum(echo.reshape(-1, HALF_FRAME) ** 2, axis=1)
    for frame in range(1, len(energies)):
        energies[frame] = max(energies[frame], energies[frame - 1] * _REVERBERATION)
    return np.asarray(np.sum(residual.reshape(-1, HALF_FRAME) ** 2, axis=1) < _LEAKAGE * energies)


def _find_delay(reference: Samples, heard: Samples, longest: int) -> int:
    """The delay, samples, at which `heard` resembles `reference`, which begins `longest` samples earlier."""
    # Faded in and out: else the edges of the window, to which whitening gives weight, are what is found again.
    edges = np.minimum(1.0, np.arange(1, len(heard) + 1) / _EDGE)
    cross = np.fft.rfft(reference, _FFT) * np.conj(np.fft.rfft(heard * edges * edges[::-1], _FFT))
    # Partly whitened (PHAT): of voiced speech the plain correlation has a peak at each pitch period.
    magnitude = np.abs(cross)
    cross /= magnitude**0.7 + 1e-9 * float(magnitude.max()) + 1e-9
    likeness = np.abs(np.fft.irfft(cross, _FFT)[: longest + 1])
    # For the same gain, the loud parts of the reference give higher peaks; the quietest are left alone.
    energy = np.cumsum(np.concatenate((np.zeros(1), reference**2)))
    energy = energy[len(heard) :][: longest + 1] - energy[: longest + 1]
    return longest - int(np.argmax(likeness / np.sqrt(energy + 0.05 * float(energy.max()) + 1.0)))


def _fit(reference: Samples, heard: Samples, first: int) -> Samples:
    """Least squares: the taps for which sum of taps[k] * reference[first - k + n] comes nearest to heard[n]."""
    count = len(heard)
    # Beyond the end of the reference (a delay below 0) nothing was sent yet.
    span = reference[first - TAPS + 1 : first + count]
    if len(span) < count + TAPS - 1:
        span = np.pad(span, (0, count + TAPS - 1 - len(span)))
    gram = _gram(span, count)
    gram[_DIAGONAL] += _RIDGE * float(gram[0, 0]) + 1.0
    return np.asarray(np.linalg.solve(gram, np.correlate(span, heard, "valid")[::-1]))


def _gram(span: Samples, count: int) -> Samples:
    """The inner products of all pairs of delayed references, each `count` samples of `span`.

    Down each diagonal, the sum differs from the one before by the sample that enters and the one that leaves: so
    one row is computed, and the rest is running sums, for which the square stands in a wider, slanted array.
    """
    enters = span[TAPS - 2 :: -1]
    leaves = span[: count - 1 : -1]
    wide = np.zeros((TAPS, 3 * TAPS))
    gram = wide[:, TAPS : 2 * TAPS]
    gram[0] = gram[:, 0] = np.correlate(span, span[TAPS - 1 :], "valid")[::-1]
    gram[1:, 1:] = np.outer(enters, enters)
    gram[1:, 1:] -= np.outer(leaves, leaves)
    row, column = wide.strides
    diagonals = as_strided(wide[0, 1:], (TAPS, 2 * TAPS - 1), (row + column, column))
    np.cumsum(diagonals, axis=0, out=diagonals)
    return gram
