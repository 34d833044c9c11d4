"""The silence around a sentence: a listener who waits for an answer must not wait through it."""

from __future__ import annotations

import numpy as np

from tts_engine.resample import Samples

AUDIBLE_RMS = 0.0015
"-56 dB of full scale: below the breath before a first /h/, above the voice's noise floor."
WINDOW_S = 0.005
PRE_ROLL_S = 0.010
"Kept before what is audible, so that no soft onset is clipped."


def first_sound(samples: Samples, rate: int) -> int | None:
    """Where to begin so that the first audible sound is whole: PRE_ROLL_S before it. None if there is none."""
    window = int(WINDOW_S * rate)
    whole = len(samples) // window
    levels = np.sqrt(np.mean(np.square(samples[: whole * window].reshape(whole, window)), axis=1))
    audible = np.flatnonzero(levels > AUDIBLE_RMS)
    return max(0, int(audible[0]) * window - int(PRE_ROLL_S * rate)) if audible.size else None


def trim_start(samples: Samples, rate: int) -> Samples:
    """Drop the silence before the first audible sound, but for PRE_ROLL_S; nothing if there is no such sound.

    The model begins each sentence with some 0.3 s of it, which would come on top of every caller's wait for the
    first word, and make the pause between sentences 0.8 s long.
    """
    return samples[first_sound(samples, rate) or 0 :]
