"""Joins the decodes of an utterance that grows.

The decoder graph draws the source's phase and noise itself and sees all tokens both ways: a stretch decoded again
with more tokens sounds alike and is another waveform. So each joint is aligned first (SOLA: the shift at which both
waveforms correlate best, within half a period of the lowest voice), then crossfaded. Where both decodes agree, the
shift is 0 and the joined signal is the last decode, sample by sample.
"""

from __future__ import annotations

import numpy as np

from tts_engine.chatterbox.constants import LOOK_AHEAD_TOKENS, SAMPLE_RATE, SAMPLES_PER_TOKEN
from tts_engine.resample import Samples

HELD_TOKENS = LOOK_AHEAD_TOKENS + 7
"""Of an unfinished utterance the last tokens are context: 3 that the encoder looks ahead, and 7 (14 frames) that the
vocoder reaches. The decoder takes the last token it gets for the end of the speech."""

FADE_SAMPLES = SAMPLE_RATE // 50
"20 ms."

SEARCH_SAMPLES = SAMPLE_RATE // 160
"6.25 ms either way: half a period of 80 Hz."

_NEAREST = 1e-4
"Taken from a correlation for the longest shift: of shifts that are alike, as in a steady tone, the least is chosen."


def speakable_samples(tokens: int) -> int:
    """How much of a decode of an unfinished utterance can be spoken."""
    return max(0, tokens - HELD_TOKENS) * SAMPLES_PER_TOKEN


class ChunkJoiner:
    """Takes decodes of one utterance, each of all its tokens so far, and gives what is new of each."""

    def __init__(self) -> None:
        self._position = 0
        self._tail = np.zeros(0, np.float32)
        "What the last decode had from `_position` on: what the next one is faded in over."

    def take(self, wave: Samples, until: int) -> Samples:
        """The new samples of `wave` up to sample `until`. Raises ValueError if there are none, or it was less."""
        if not self._position < until <= len(wave):
            raise ValueError(f"sample {until} is not from {self._position + 1} to {len(wave)}")
        tail = self._tail[: until - self._position]
        start = self._position + best_shift(tail, wave[:until], self._position)
        new = wave[start:until].copy()
        fade = min(len(tail), len(new))
        rising = fade_in(fade)
        new[:fade] = tail[:fade] * (1 - rising) + new[:fade] * rising
        self._position = until
        self._tail = wave[until : until + FADE_SAMPLES].copy()
        return new


def best_shift(tail: Samples, wave: Samples, position: int) -> int:
    """By how many samples from `position` on `wave` continues most as `tail` does; 0 where nothing tells."""
    low = max(position - SEARCH_SAMPLES, 0)
    around = wave[low : position + SEARCH_SAMPLES + len(tail)].astype(np.float64)
    energy = float(np.dot(tail, tail))
    if not energy or len(around) < len(tail):
        return 0
    products = np.correlate(around, tail, mode="valid")
    powers = np.convolve(np.square(around), np.ones(len(tail)), mode="valid")
    shifts = np.arange(len(products)) + low - position
    scores = products / np.sqrt(np.maximum(powers, 1e-6 * energy) * energy)
    return int(shifts[np.argmax(scores - _NEAREST * np.abs(shifts) / SEARCH_SAMPLES)])


def fade_in(samples: int) -> Samples:
    """Raised cosine, complementary in amplitude: for signals that are in phase."""
    rising: Samples = np.square(np.sin((np.arange(samples, dtype=np.float32) + 0.5) * (np.pi / 2 / max(samples, 1))))
    return rising
