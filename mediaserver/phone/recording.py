"""How much was heard: levels of a recorded call, 16-bit mono PCM."""

from __future__ import annotations

import math
import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

WINDOW_S = 0.010
# Mu-law silence decodes to 0 or +-8 (-72 dBFS); the quietest speech a caller notices is far above -50.
AUDIBLE_DBFS = -50.0

Samples = npt.NDArray[np.int16]


@dataclass(frozen=True)
class Loudness:
    """What a recording holds.

    `first_audible_s` is the offset of the first audible 10 ms window, None when there is none.
    `audible_s` is how much of the recording is audible. Levels are dB below full scale, -inf for silence.
    """

    duration_s: float
    audible_s: float
    first_audible_s: float | None
    peak_dbfs: float


def read_wav(path: Path) -> tuple[Samples, int]:
    """Samples, shape (frames,), and sample rate in Hz of a 16-bit mono WAV file; ValueError for another."""
    with wave.open(str(path), "rb") as file:
        if file.getnchannels() != 1 or file.getsampwidth() != 2:
            raise ValueError(
                f"{path} has {file.getnchannels()} channels of {8 * file.getsampwidth()} bits, wanted 1 of 16"
            )
        data = file.readframes(file.getnframes())
        return np.frombuffer(data, dtype="<i2").astype(np.int16), file.getframerate()


def measure(samples: Samples, rate: int) -> Loudness:
    """Loudness of `samples`, shape (frames,), int16 at `rate` Hz. A last window that is not full is left out."""
    width = round(rate * WINDOW_S)
    whole = len(samples) // width
    windows = samples[: whole * width].astype(np.float64).reshape(whole, width)
    rms = np.sqrt(np.mean(np.square(windows), axis=1)) if whole else np.zeros(0)
    audible = np.flatnonzero(rms > 32768 * 10 ** (AUDIBLE_DBFS / 20))
    peak = int(np.max(np.abs(samples.astype(np.int32)), initial=0))
    return Loudness(
        duration_s=len(samples) / rate,
        audible_s=len(audible) * WINDOW_S,
        first_audible_s=int(audible[0]) * WINDOW_S if len(audible) else None,
        peak_dbfs=20 * math.log10(peak / 32768) if peak else -math.inf,
    )
