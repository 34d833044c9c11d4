"""Comfort noise: the payload of RFC 3389, and noise like it."""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

_MAX_ORDER = 12
"Coefficients beyond these are taken for nought, as section 3 allows."
_PERIOD = 8192
"Samples after which the noise repeats itself: a second, too long to be heard as a pattern."
_BLOCK = 1600
"Samples made at once, 200 ms: a new description is heard with the next block, so that no peer can ask for more work."
_SHAPES = 32
"Spectra kept for the process, 40 kB each: peers of one make send the same few."
_NOUGHT = b"\x7f"  # a reflection coefficient of 0
_GAINS = (32768 * 10 ** (-np.arange(128) / 20)).astype(np.float32)  # of each level
_PEAK = 8.0  # no shape goes beyond
_MAY_CLIP_DB = 20

_Shape = npt.NDArray[np.float32]
"A period of noise with a root mean square of 1, and a block of the period again, so that no slice need wrap round."


class ComfortNoise:
    """Noise with the level and spectrum that the sender last described. One thread's."""

    __slots__ = (
        "_block",
        "_coefficients",
        "_description",
        "_next",
        "_position",
        "_shape",
        "_until_shaping",
        "malformed",
    )

    def __init__(self) -> None:
        self.malformed = 0
        self._description: bytes | None = None
        self._coefficients: bytes | None = None  # those of `_shape`
        self._shape: _Shape = np.zeros(0, np.float32)
        self._until_shaping = 0  # samples that have to be played before; streams that begin anew do not hasten it
        self._position = 0  # in the shape, of the block
        self._block = b""
        self._next = 0  # in the block, bytes

    def describe(self, payload: bytes) -> None:
        """Take the payload of a comfort noise packet: level, then reflection coefficients."""
        if not payload or payload[0] > 127:
            self.malformed += 1
            return
        self._description = payload[: 1 + _MAX_ORDER]

    def reset(self) -> None:
        """Go back to digital silence."""
        self._description = None
        self._end_block()

    def next(self, samples: int) -> bytes:
        """8 kHz PCM; zeros if the sender has described nothing. At most 1600 samples."""
        size = 2 * samples
        start = self._next
        pcm = self._block[start : start + size]
        if len(pcm) < size:
            description = self._description
            if description is None:
                return bytes(size)
            self._end_block()
            self._block = self._make_block(description)
            start = 0
            pcm = self._block[:size]
        self._next = start + size
        return pcm

    def _end_block(self) -> None:
        played = self._next // 2
        self._position = (self._position + played) % _PERIOD
        self._until_shaping -= played
        self._block = b""
        self._next = 0

    def _make_block(self, description: bytes) -> bytes:
        coefficients = description[1:].rstrip(_NOUGHT)
        if coefficients != self._coefficients and self._until_shaping <= 0:
            self._until_shaping = _BLOCK
            self._shape = _shaped(coefficients)
            self._coefficients = coefficients
        noise = self._shape[self._position : self._position + _BLOCK] * float(_GAINS[description[0]])
        np.rint(noise, out=noise)
        if description[0] < _MAY_CLIP_DB:
            np.clip(noise, -32768, 32767, out=noise)
        return noise.astype("<i2").tobytes()


def level_dbov(payload: bytes) -> int:
    """The level of a comfort noise payload in dBov: 0 is a square wave at full scale. ValueError if there is none."""
    if not payload or payload[0] > 127:
        raise ValueError("comfort noise without a level")
    return -payload[0]


def reflection_coefficients(payload: bytes) -> list[float]:
    """RFC 3389 section 3.2: 8 bits each, uniform, 127 is nought. All are within -1 and 1."""
    return _decoded(payload[1 : 1 + _MAX_ORDER])


def _decoded(codes: bytes) -> list[float]:
    return [258 * (min(code, 254) - 127) / 32768 for code in codes]


@functools.lru_cache(maxsize=_SHAPES)
def _shaped(coefficients: bytes) -> _Shape:
    """White noise through the all-pole filter, in the frequency domain: so it repeats itself without a seam."""
    predictor = [1.0]
    for coefficient in _decoded(coefficients):  # the step-up recursion
        padded = [*predictor, 0.0]
        predictor = [a + coefficient * b for a, b in zip(padded, reversed(padded), strict=True)]
    spectrum = _white()
    if coefficients:
        spectrum = spectrum / np.maximum(np.abs(np.fft.rfft(predictor, _PERIOD)), 1e-3)
    noise = np.fft.irfft(spectrum, _PERIOD)
    noise /= np.sqrt(np.mean(noise**2))
    noise = np.clip(noise, -_PEAK, _PEAK)
    return np.concatenate((noise, noise[:_BLOCK])).astype(np.float32)


@functools.cache
def _white() -> npt.NDArray[np.complex128]:
    spectrum: npt.NDArray[np.complex128] = np.fft.rfft(np.random.default_rng(3389).standard_normal(_PERIOD))
    spectrum[0] = 0  # no offset
    return spectrum
