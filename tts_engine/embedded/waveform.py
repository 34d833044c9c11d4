"""From the network's spectrum to a waveform: part by part, and for the telephone at 12 kHz instead of 24.

The network predicts a spectrum of 601 bins, 0 to 12 kHz, for each frame of 12.5 ms, from which a waveform of 24 kHz
is made (package hibari-tts, "ONNX interface" in its README, and its dsp module):

    S = exp(lh) e^{i pi tanh(theta)} STFT(pulses(f0)) + exp(ln) Z + exp(lr) e^{i phi},  one inverse STFT

A caller hears nothing above 4 kHz. For NARROW the same sum is made of the bins up to 6 kHz only, with transforms of
half the length, for half of the work; what the resampler leaves of it at 8 kHz is the same signal.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tts_engine.resample import Samples

FULL_RATE = 24_000
PARTS = 5
"lh, theta, ln, lr and phi."

_OVERLAP = 4
_VOICED_HZ = 40.0
"Frames of a lower pitch have no pulses."
_MAX_LOG = 7.0
"The network's log magnitudes are cut here, as hibari does."

Spectrum = NDArray[np.complex64]


@dataclass(frozen=True)
class Band:
    """A sample rate to make waveforms at: FULL_RATE, or half of it."""

    rate: int

    @property
    def hop(self) -> int:
        """Samples of a frame of 12.5 ms."""
        return self.rate // 80

    @property
    def n_fft(self) -> int:
        return _OVERLAP * self.hop

    @property
    def bins(self) -> int:
        """Of the network's 601, the lowest that are used."""
        return self.n_fft // 2 + 1

    @functools.cached_property
    def window(self) -> Samples:
        return np.hanning(self.n_fft + 1)[:-1].astype(np.float32)  # periodic

    @functools.cached_property
    def analysis_window(self) -> Samples:
        """With it a unit cosine has magnitude 1."""
        return (self.window / (self.n_fft / 4)).astype(np.float32)

    @functools.cached_property
    def interpolation(self) -> Samples:
        """Where each sample of a frame lies between the centres of two frames: [hop], 0 to 1."""
        fold = FULL_RATE // self.rate
        position = (np.arange(self.hop) * fold + 0.5) / (fold * self.hop) - 0.5
        return (position % 1.0).astype(np.float32)


NARROW = Band(FULL_RATE // 2)
WIDE = Band(FULL_RATE)


class Waveform:
    """What is spoken in one go. Its spectrum is given in parts, frames in order; the samples are those of the whole."""

    def __init__(self, band: Band, f0: Samples, rng: np.random.Generator) -> None:
        """f0: pitch in Hz, [frames]. `rng` gives the noise of breath and fricatives, frame by frame."""
        self._band = band
        self._frames = len(f0)
        self._rng = rng
        self._windows = _windows(band, _pulses(band, f0))
        self._at = 0
        self._pending = np.zeros((_OVERLAP - 1, band.hop), np.float32)

    @property
    def frames_left(self) -> int:
        return self._frames - self._at

    def add(self, spectra: Samples) -> Samples:
        """The samples that the next frames complete, float at the band's rate; with the last ones, all the rest.

        spectra: [frames, PARTS * bins]; float samples: two hops fewer than all frames given so far make.
        """
        count = len(spectra)
        bins = self._band.bins
        lh, theta, ln, lr, phi = (spectra[:, part * bins : (part + 1) * bins] for part in range(PARTS))
        phase = np.tanh(theta)
        phase *= np.pi
        spectrum = _polar(lh, phase)
        spectrum *= self._excitation(count)
        noise = self._rng.standard_normal((count, 2 * bins), dtype=np.float32).view(np.complex64)
        noise *= _magnitude(ln)
        spectrum += noise
        spectrum += _polar(lr, phi)
        if self._band.rate < FULL_RATE:
            spectrum[:, -1] = 0  # the last bin would fold onto itself
        return self._overlap_add(spectrum)

    def _excitation(self, count: int) -> Spectrum:
        """The centred short-time spectrum of the pulses: [count, bins]."""
        windows = self._windows[self._at : self._at + count] * self._band.analysis_window
        spectrum: Spectrum = np.fft.rfft(windows, axis=1).astype(np.complex64, copy=False)
        return spectrum

    def _overlap_add(self, spectrum: Spectrum) -> Samples:
        """The inverse of _excitation, normalised by the windows' sum. Blocks are of a hop each."""
        band, count = self._band, len(spectrum)
        pieces = np.fft.irfft(spectrum, band.n_fft, axis=1).astype(np.float32, copy=False)
        pieces *= band.window
        pieces *= np.float32(band.rate / FULL_RATE)  # where the inverse transform divides by a shorter length
        blocks = pieces.reshape(count, _OVERLAP, band.hop)
        total = np.zeros((count + _OVERLAP - 1, band.hop), np.float32)
        total[: _OVERLAP - 1] = self._pending
        for index in range(_OVERLAP):
            total[index : index + count] += blocks[:, index]
        self._pending = total[count:].copy()
        begin = self._at
        self._at += count
        # The first frame's centre is where its third block begins: what comes before is not heard, nor what comes
        # after the last frame's own hop.
        first = max(begin, _OVERLAP // 2)
        end = self._frames + _OVERLAP // 2 if self._at == self._frames else self._at
        total = total[first - begin : max(first, end) - begin]
        total /= self._weight(first, len(total))
        return total.reshape(-1)

    def _weight(self, first: int, count: int) -> Samples:
        """Sum of the squared windows over blocks `first` and on: [count, hop]."""
        squared = np.square(self._band.window).reshape(_OVERLAP, self._band.hop)
        block = np.arange(first, first + count)
        weight = np.zeros((count, self._band.hop), np.float32)
        for index in range(_OVERLAP):
            covered = (block >= index) & (block - index < self._frames)
            weight += covered[:, None] * squared[index]
        return np.maximum(weight, np.float32(1e-11))


def _magnitude(log: Samples) -> Samples:
    return np.exp(np.minimum(log, np.float32(_MAX_LOG)))


def _polar(log_magnitude: Samples, phase: Samples) -> Spectrum:
    polar = np.empty(phase.shape, np.complex64)
    np.cos(phase, out=polar.real)
    np.sin(phase, out=polar.imag)
    polar *= _magnitude(log_magnitude)
    return polar


def _windows(band: Band, pulses: Samples) -> Samples:
    """A view of what each frame's transform covers: [frames, n_fft]."""
    padded = np.pad(pulses, band.n_fft // 2, mode="reflect")
    return np.lib.stride_tricks.sliding_window_view(padded, band.n_fft)[:: band.hop]


def _pulses(band: Band, f0: Samples) -> Samples:
    """A pulse train of the pitch: all harmonics below 11/24 of the rate at unit amplitude, in closed form.

    sum of cos(h t) for h = 1..H is sin((H + 1/2) t) / (2 sin(t / 2)) - 1/2.
    """
    pitch = _interpolate(band, f0)
    voiced = pitch > _VOICED_HZ
    np.maximum(pitch, np.float32(_VOICED_HZ), out=pitch)
    cycles = np.cumsum(pitch, dtype=np.float64)
    if band.rate < FULL_RATE:
        # hibari sums the pitch over twice as many samples; those between ours are the means of their neighbours.
        cycles -= 0.25 * (pitch + pitch[0])
    cycles /= band.rate
    cycles -= np.floor(cycles)
    angle = (2 * np.pi * cycles).astype(np.float32)
    order = np.floor(np.float32(band.rate * 11 / 24) / pitch) + np.float32(0.5)
    divisor = 2 * np.sin(0.5 * angle)
    peak = np.abs(divisor) <= 2e-3  # the limit there is H + 1/2
    divisor[peak] = 1
    pulses: Samples = np.sin(order * angle) / divisor
    pulses[peak] = order[peak]
    pulses -= np.float32(0.5)
    pulses[~voiced] = 0
    return pulses


def _interpolate(band: Band, f0: Samples) -> Samples:
    """f0 at every sample, linear between the frames' centres."""
    weight = band.interpolation
    half = band.hop // 2
    padded = np.pad(f0.astype(np.float32), 1, mode="edge")
    pitch = np.empty((len(f0), band.hop), np.float32)
    before, here, after = padded[:-2, None], padded[1:-1, None], padded[2:, None]
    pitch[:, :half] = before * (1 - weight[:half]) + here * weight[:half]
    pitch[:, half:] = here * (1 - weight[half:]) + after * weight[half:]
    return pitch.reshape(-1)
