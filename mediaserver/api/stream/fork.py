"""A call's audio on its way from the media thread to the event loop: bounded, and without a lock.

The media thread appends and goes on. One wake-up of the loop serves all streams that have audio then.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from mediaserver.call.control import Track

MAX_SECONDS = 5.0
"That a receiver may be behind by; beyond it the oldest audio is lost to it, and counted."

FRAME_S = 0.02


class Frame(NamedTuple):
    """20 ms of one track."""

    number: int
    "Counts the frames of the fork, from 1: a gap is audio that was lost."
    track: Track
    pcm: bytes
    at_ms: int
    "Of the call's own clock."


class Bell:
    """Wakes the event loop for whoever has news on another thread, once for all that ring at about the same time."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._told: deque[Callable[[], None]] = deque()
        self._rung = False

    def ring(self, tell: Callable[[], None]) -> None:
        """Have `tell` called in the event loop. From any thread; does not block."""
        self._told.append(tell)
        if not self._rung:
            self._rung = True
            try:
                self._loop.call_soon_threadsafe(self._answer)
            except RuntimeError:  # the loop is closed: nobody is left to be told
                self._told.clear()

    def _answer(self) -> None:
        self._rung = False  # first: who rings from now on may find the line empty already
        while self._told:
            self._told.popleft()()


class AudioFork:
    """The frames of one stream. hear() belongs to the media thread, all else to the event loop."""

    def __init__(self, bell: Bell, tracks: int, on_news: Callable[[], None]) -> None:
        """tracks: how many. on_news: called in the event loop when next() has something."""
        self.lost = 0
        "Frames that the receiver was too slow for."
        self._bell = bell
        self._on_news = on_news
        self._frames: deque[Frame] = deque(maxlen=round(MAX_SECONDS / FRAME_S) * tracks)
        self._heard = 0
        self._taken = 0
        self._announced = False

    def hear(self, track: Track, pcm: bytes, at_ms: int) -> None:
        """Keep one frame."""
        self._heard += 1
        self._frames.append(Frame(self._heard, track, pcm, at_ms))  # when full, it drops the oldest by itself
        if not self._announced:
            self._announced = True
            self._bell.ring(self._tell)

    def next(self) -> Frame | None:
        """The oldest frame that waits."""
        try:
            frame = self._frames.popleft()
        except IndexError:
            return None
        self.lost += frame.number - self._taken - 1
        self._taken = frame.number
        return frame

    def abandon(self) -> None:
        """What still waits is lost."""
        while self.next() is not None:
            self.lost += 1

    def _tell(self) -> None:
        self._announced = False
        self._on_news()
