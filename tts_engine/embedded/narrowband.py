"""The voice's waveform for the telephone: at 12 kHz instead of 24, for half of the work.

The network predicts a spectrum of 601 bins, 0 to 12 kHz, for each frame of 12.5 ms, and hibari makes a waveform of
24 kHz from it (package hibari-tts, "ONNX interface" in its README):

    S = exp(lh) e^{i pi tanh(theta)} STFT(pulses(f0)) + exp(ln) Z + exp(lr) e^{i phi},  one inverse STFT

A caller hears nothing above 4 kHz. Here the same sum is made of the bins up to 6 kHz only, with transforms of half
the length; what the resampler leaves of it at 8 kHz is the same signal.
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

from tts_engine.resample import Samples

RATE = 12_000
N_FFT = 600
HOP = 150
BINS = N_FFT // 2 + 1
FULL_RATE = 24_000

_MAX_HARMONIC_HZ = 5_500.0
_VOICED_HZ = 40.0
"Frames of a lower pitch have no pulses."
_MAX_LOG = 7.0
"The network's log magnitudes are cut here, as hibari does."
_OVERLAP = N_FFT // HOP
_WINDOW = np.hanning(N_FFT + 1)[:-1].astype(np.float32)  # periodic
_ANALYSIS_WINDOW = (_WINDOW / (N_FFT / 4)).astype(np.float32)  # a unit cosine has magnitude 1

Spectrum = NDArray[np.complex64]


def synthesise(
    lh: Samples, theta: Samples, ln: Samples, lr: Samples, phi: Samples, f0: Samples, rng: np.random.Generator
) -> Samples:
    """The network's outputs, [601, frames] and f0 [frames] in Hz, to float samples at RATE, HOP a frame."""
    frames = len(f0)
    lh, theta, ln, lr, phi = (part[:BINS] for part in (lh, theta, ln, lr, phi))
    phase = np.tanh(theta)
    phase *= np.pi
    spectrum = _polar(lh, phase)
    spectrum *= _analyse(_pulses(f0), frames)
    noise = rng.standard_normal((BINS, 2 * frames), dtype=np.float32).view(np.complex64)
    noise *= _magnitude(ln)
    spectrum += noise
    spectrum += _polar(lr, phi)
    spectrum[-1] = 0  # the bin at 6 kHz would fold onto itself
    return _overlap_add(spectrum)


def _magnitude(log: Samples) -> Samples:
    return np.exp(np.minimum(log, np.float32(_MAX_LOG)))


def _polar(log_magnitude: Samples, phase: Samples) -> Spectrum:
    polar = np.empty(phase.shape, np.complex64)
    np.cos(phase, out=polar.real)
    np.sin(phase, out=polar.imag)
    polar *= _magnitude(log_magnitude)
    return polar


def _pulses(f0: Samples) -> Samples:
    """A pulse train of the pitch: all harmonics below _MAX_HARMONIC_HZ at unit amplitude, in closed form.

    sum of cos(h t) for h = 1..H is sin((H + 1/2) t) / (2 sin(t / 2)) - 1/2.
    """
    pitch = _interpolate(f0)
    voiced = pitch > _VOICED_HZ
    np.maximum(pitch, np.float32(_VOICED_HZ), out=pitch)
    # hibari sums the pitch over twice as many samples; those between ours are the means of their neighbours.
    cycles = np.cumsum(pitch, dtype=np.float64)
    cycles -= 0.25 * (pitch + pitch[0])
    cycles /= RATE
    cycles -= np.floor(cycles)
    angle = (2 * np.pi * cycles).astype(np.float32)
    order = np.floor(np.float32(_MAX_HARMONIC_HZ) / pitch) + np.float32(0.5)
    divisor = 2 * np.sin(0.5 * angle)
    peak = np.abs(divisor) <= 2e-3  # the limit there is H + 1/2
    divisor[peak] = 1
    pulses: Samples = np.sin(order * angle) / divisor
    pulses[peak] = order[peak]
    pulses -= np.float32(0.5)
    pulses[~voiced] = 0
    return pulses


def _interpolate(f0: Samples) -> Samples:
    """f0 at every sample, linear between the frames' centres."""
    weight = _interpolation_weights()
    half = HOP // 2
    padded = np.pad(f0.astype(np.float32), 1, mode="edge")
    pitch = np.empty((len(f0), HOP), np.float32)
    before, here, after = padded[:-2, None], padded[1:-1, None], padded[2:, None]
    pitch[:, :half] = before * (1 - weight[:half]) + here * weight[:half]
    pitch[:, half:] = here * (1 - weight[half:]) + after * weight[half:]
    return pitch.reshape(-1)


@functools.cache
def _interpolation_weights() -> Samples:
    position = (np.arange(HOP) * 2 + 0.5) / (2 * HOP) - 0.5
    return (position % 1.0).astype(np.float32)


def _analyse(pulses: Samples, frames: int) -> Spectrum:
    """The centred short-time spectrum of the pulse train: [BINS, frames]."""
    padded = np.pad(pulses, N_FFT // 2, mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, N_FFT)[::HOP][:frames]
    spectrum: Spectrum = np.fft.rfft(windows * _ANALYSIS_WINDOW, axis=1).astype(np.complex64, copy=False)
    return spectrum.T


def _overlap_add(spectrum: Spectrum) -> Samples:
    """The inverse of _analyse, normalised by the windows' sum."""
    frames = spectrum.shape[1]
    pieces = np.fft.irfft(spectrum.T, N_FFT, axis=1).astype(np.float32, copy=False)
    pieces *= _WINDOW
    pieces *= np.float32(RATE / FULL_RATE)  # the inverse transform divides by a length that is half of hibari's
    blocks = pieces.reshape(frames, _OVERLAP, HOP)
    total = np.zeros((frames + _OVERLAP - 1, HOP), np.float32)
    weight = np.zeros_like(total)
    squared = (_WINDOW * _WINDOW).reshape(_OVERLAP, HOP)
    for index in range(_OVERLAP):
        total[index : index + frames] += blocks[:, index]
        weight[index : index + frames] += squared[index]
    total /= np.maximum(weight, np.float32(1e-11))
    start = N_FFT // 2
    return total.reshape(-1)[start : start + frames * HOP]
