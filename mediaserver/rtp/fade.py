"""The edges of a gap in speech, rounded off: a signal that stops or starts at full height clicks."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

FADE_OUT_S = 0.02
FADE_IN_S = 0.005


@lru_cache(maxsize=16)
def _falling(samples: int) -> npt.NDArray[np.float32]:
    """Half a period of a raised cosine, from just under 1 to just over 0. float32 (samples,)."""
    return (0.5 + 0.5 * np.cos(np.pi * (np.arange(samples) + 0.5) / samples)).astype(np.float32)


def fade_out(last: bytes | memoryview, sample_rate: int) -> bytes:
    """The frame that follows `last` (int16 mono PCM) when nothing has come: as long, and silent at its end.

    It is the end of `last` backwards, so that it begins with the very sample that was sent last, with the sound's own
    steps from sample to sample, getting quieter.
    """
    signal = np.frombuffer(last, "<i2")
    faded = np.zeros_like(signal)
    length = min(len(signal), int(FADE_OUT_S * sample_rate))
    if length:
        faded[:length] = signal[: -length - 1 : -1] * _falling(length)
    return faded.tobytes()


def fade_in(frame: bytes, sample_rate: int) -> bytes:
    """`frame` (int16 mono PCM) as the first after a gap: its first milliseconds rise from silence."""
    signal = np.frombuffer(frame, "<i2").copy()
    length = min(len(signal), int(FADE_IN_S * sample_rate))
    if length:
        signal[:length] = signal[:length] * _falling(length)[::-1]
    return signal.tobytes()
