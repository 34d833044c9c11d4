"""One piece of speech on its way from phonemes to samples: the first of them soon, the rest in few steps."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from tts_engine.embedded.network import Network
from tts_engine.embedded.silence import first_sound, trim_start
from tts_engine.embedded.waveform import Band, Waveform
from tts_engine.resample import Samples

HEAD_FRAMES = 80
"""Of the first part of an utterance, which somebody waits for: 1 s, of which some 0.3 s are silence and not heard. Each
second more took 6 ms; the next part takes 20 to 30."""

PART_FRAMES = 400
"""Of each further part at most, 5 s: it bounds a step's time and memory, 4 MB a second. Each cut costs 2 ms, for the
halo."""

MIN_REST_FRAMES = 40
"What would be left over for a shorter part goes with the first."

MIN_HEAD_SECONDS = 0.3
"What is heard of the first part: it must last until the next has come."


class Rendering:
    """Speech of one piece, so far as it has been asked for."""

    def __init__(
        self, network: Network, ids: NDArray[np.int64], speed: float, band: Band, rng: np.random.Generator
    ) -> None:
        self.band = band
        self._network = network
        self._features = network.plan(ids, speed)
        self._waveform = Waveform(band, self._features.f0, rng)

    @property
    def frames_left(self) -> int:
        return self._waveform.frames_left

    def take(self, frames: int) -> Samples:
        """The samples that the next `frames` complete, of 1 to frames_left, at the band's rate (see Waveform.add)."""
        begin = len(self._features.f0) - self.frames_left
        return self._waveform.add(self._network.decode(self._features, begin, begin + frames, self.band))


def audible_parts(rendering: Rendering, *, soon: bool = False) -> Iterator[Samples]:
    """All that is left, in parts, without the silence before the first sound (see trim_start).

    soon: the first part is a short one.
    """
    short = soon and rendering.frames_left >= HEAD_FRAMES + MIN_REST_FRAMES
    head = rendering.take(HEAD_FRAMES) if short else _next(rendering)
    while rendering.frames_left and not _begins(head, rendering.band.rate):
        head = np.concatenate([head, _next(rendering)])
    yield trim_start(head, rendering.band.rate)
    while rendering.frames_left:
        yield _next(rendering)


def _next(rendering: Rendering) -> Samples:
    """Of parts of about equal length."""
    parts = math.ceil(rendering.frames_left / PART_FRAMES)
    return rendering.take(math.ceil(rendering.frames_left / parts))


def _begins(head: Samples, rate: int) -> bool:
    """Whether there is enough to be heard."""
    sound = first_sound(head, rate)
    return sound is not None and len(head) - sound >= MIN_HEAD_SECONDS * rate
