"""What a pool's workers do: seconds at work, seconds of audio made, how many are at it now.

Several threads write. Each writes under its own identity only, and a reader copies first, so nothing is locked.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

from tts_engine.engine import BYTES_PER_SAMPLE
from tts_engine.pooled_stream import Piece


class StepMeter:
    """Meters the steps of utterances, whichever threads run them."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._work: dict[int, float] = {}
        self._audio: dict[int, float] = {}
        self._running: set[int] = set()

    @property
    def work_seconds(self) -> float:
        """Time spent in steps, those that failed included."""
        return sum(list(self._work.values()))

    @property
    def audio_seconds(self) -> float:
        """Length of what the steps gave."""
        return sum(list(self._audio.values()))

    @property
    def running(self) -> int:
        """Steps under way."""
        return len(self._running)

    def metered(self, pieces: Iterator[Piece], sample_rate: int) -> Iterator[Piece]:
        """The same pieces; each step of the result is metered on the thread that takes it."""
        return _Metered(self, pieces, sample_rate)

    def step(self, pieces: Iterator[Piece], sample_rate: int) -> Piece:
        """One step. Raises what it raises, StopIteration at the end."""
        thread = threading.get_ident()
        began = self._clock()
        self._running.add(thread)
        try:
            piece = next(pieces)
            seconds = len(piece.pcm) / (BYTES_PER_SAMPLE * sample_rate)
            self._audio[thread] = self._audio.get(thread, 0.0) + seconds
            return piece
        finally:
            self._work[thread] = self._work.get(thread, 0.0) + self._clock() - began
            self._running.discard(thread)


class _Metered:
    def __init__(self, meter: StepMeter, pieces: Iterator[Piece], sample_rate: int) -> None:
        self._meter = meter
        self._pieces = pieces
        self._sample_rate = sample_rate

    def __iter__(self) -> Iterator[Piece]:
        return self

    def __next__(self) -> Piece:
        return self._meter.step(self._pieces, self._sample_rate)
