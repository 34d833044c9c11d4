"""Comfort noise: the payload of RFC 3389, and noise like it."""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

_MAX_ORDER = 12
"Coefficients beyond these are taken for nought, as section 3 allows."
_PERIOD = 8192
"Samples after which the noise repeats itself: a second, too long to be heard as a pattern."
_FULL_SCALE = 32768.0


class ComfortNoise:
    """Noise with the level and spectrum that the sender last described. One thread's."""

    __slots__ = ("_description", "_made", "_noise", "_position", "malformed")

    def __init__(self) -> None:
        self.malformed = 0
        self._description: bytes | None = None
        self._made: bytes | None = None  # the description that `_noise` was made for
        self._noise = b""
        self._position = 0

    def describe(self, payload: bytes) -> None:
        """Take the payload of a comfort noise packet: level, then reflection coefficients."""
        if not payload or payload[0] > 127:
            self.malformed += 1
            return
        self._description = payload[: 1 + _MAX_ORDER]

    def reset(self) -> None:
        """Go back to digital silence."""
        self._description = None

    def next(self, samples: int) -> bytes:
        """8 kHz PCM; zeros if the sender has described nothing. At most 8192 samples."""
        size = 2 * samples
        if self._description is None:
            return bytes(size)
        if self._description != self._made:
            self._noise = _shaped(self._description)
            self._made = self._description
        start = self._position
        self._position = (start + size) % (2 * _PERIOD)
        return self._noise[start : start + size]


def level_dbov(payload: bytes) -> int:
    """The level of a comfort noise payload in dBov: 0 is a square wave at full scale. ValueError if there is none."""
    if not payload or payload[0] > 127:
        raise ValueError("comfort noise without a level")
    return -payload[0]


def reflection_coefficients(payload: bytes) -> list[float]:
    """RFC 3389 section 3.2: 8 bits each, uniform, 127 is nought. All are within -1 and 1."""
    return [258 * (min(code, 254) - 127) / 32768 for code in payload[1 : 1 + _MAX_ORDER]]


def _shaped(payload: bytes) -> bytes:
    """A period of the noise, and the period again, so that no slice of it need wrap round.

    White noise through the all-pole filter, in the frequency domain: so it repeats itself without a seam.
    """
    predictor = np.ones(1)
    for coefficient in reflection_coefficients(payload):  # the step-up recursion
        padded = np.append(predictor, 0.0)
        predictor = padded + coefficient * padded[::-1]
    spectrum = _white() / np.maximum(np.abs(np.fft.rfft(predictor, _PERIOD)), 1e-3)
    noise = np.fft.irfft(spectrum, _PERIOD)
    noise *= _FULL_SCALE * 10 ** (level_dbov(payload) / 20) / np.sqrt(np.mean(noise**2))
    pcm = np.clip(np.rint(noise), -32768, 32767).astype("<i2").tobytes()
    return pcm + pcm


@functools.cache
def _white() -> npt.NDArray[np.complex128]:
    spectrum: npt.NDArray[np.complex128] = np.fft.rfft(np.random.default_rng(3389).standard_normal(_PERIOD))
    spectrum[0] = 0  # no offset
    return spectrum
