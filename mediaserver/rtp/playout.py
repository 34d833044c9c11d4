"""The playout buffer of one call leg: PCM of utterances in, whole frames out.

The event loop's thread writes and clears, the pacer's thread reads, and no lock is held by either: one deque joins
them. The reader pops from the left, clear() from the right, so each item has exactly one owner, whatever the
interleaving, and what a read takes in the middle of a clear is still the next frame in order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from typing import Literal, NamedTuple

BYTES_PER_SAMPLE = 2


class PlayoutFullError(Exception):
    """The buffer would hold more than its bound; nothing of the refused PCM was taken."""


class PlayoutEvent(NamedTuple):
    """Something the listener heard of an utterance."""

    kind: Literal["started", "finished"]
    """started: its first frame was taken for sending. finished: the interval of its last frame is over; an
    utterance without audio finishes without having started."""
    tag: Hashable


class Dropped(NamedTuple):
    """What clear() took away of one utterance. No event about it follows, except one already on its way."""

    tag: Hashable
    samples: int
    "Samples not played; 0 if all had been taken for sending."
    played: int
    "Samples taken for sending before the clear."


class _Utterance:
    """One utterance's state. Each field is written by one thread only."""

    __slots__ = ("dropped", "started", "tag", "written")

    def __init__(self, tag: Hashable) -> None:
        self.tag = tag
        self.written = 0  # samples; event loop
        self.dropped = False  # event loop
        self.started = False  # pacer


def _ignore(_event: PlayoutEvent) -> None:
    pass


class PlayoutBuffer:
    """Whole frames of 16-bit mono PCM for one leg, bounded.

    begin, write, end, clear and set_frame_samples belong to the event loop's thread; read to the pacer's. The
    properties may be read from any thread.
    """

    def __init__(
        self,
        *,
        max_seconds: float,
        sample_rate: int = 8000,
        frame_samples: int = 160,
        on_event: Callable[[PlayoutEvent], None] = _ignore,
    ) -> None:
        """on_event is called by the thread that reads, in the order of playing."""
        self.max_samples = int(max_seconds * sample_rate)
        self.on_event = on_event
        self.underruns = 0
        "Gaps in the middle of an utterance."
        self.underrun_frames = 0
        "Frames of silence that these gaps lasted."
        self._sample_rate = sample_rate
        self._frame_bytes = frame_samples * BYTES_PER_SAMPLE
        # (utterance, one frame; the last of an utterance may be shorter), or (utterance, None) at its end.
        self._queue: deque[tuple[_Utterance, bytes | None]] = deque()
        # Of the event loop's thread:
        self._open: _Utterance | None = None
        self._remainder = b""
        self._written = 0  # samples
        self._cleared = 0  # samples
        # Of the pacer's thread:
        self._current: _Utterance | None = None
        self._in_gap = False
        self._read = 0  # samples

    @property
    def buffered_samples(self) -> int:
        """Samples written and not yet taken for sending."""
        return max(0, self._written - self._cleared - self._read)

    @property
    def buffered_seconds(self) -> float:
        """Seconds of audio written and not yet taken for sending."""
        return self.buffered_samples / self._sample_rate

    @property
    def is_idle(self) -> bool:
        """Nothing is left to play and no utterance is open."""
        return self._open is None and not self._queue

    def begin(self, tag: Hashable) -> None:
        """Open an utterance; it plays directly after the one before. Raises RuntimeError if one is open."""
        if self._open is not None:
            raise RuntimeError("an utterance is open: end or clear it first")
        self._open = _Utterance(tag)

    def write(self, pcm: bytes) -> None:
        """Append audio to the open utterance: whole samples, any number of them.

        Raises PlayoutFullError beyond the bound, ValueError for half a sample, and RuntimeError if no utterance
        is open: late audio of a cleared utterance must not be heard.
        """
        utterance = self._open
        if utterance is None:
            raise RuntimeError("no utterance is open: begin one first")
        samples, odd = divmod(len(pcm), BYTES_PER_SAMPLE)
        if odd:
            raise ValueError("PCM is not a whole number of 16-bit samples")
        if self.buffered_samples + samples > self.max_samples:
            raise PlayoutFullError(f"playout buffer is full: its bound is {self.max_samples} samples")
        self._written += samples
        utterance.written += samples
        self._append_frames(utterance, pcm)

    def end(self) -> None:
        """Close the open utterance; its last frame is filled up with silence. Raises RuntimeError if none is open."""
        utterance = self._open
        if utterance is None:
            raise RuntimeError("no utterance is open")
        if self._remainder:
            self._queue.append((utterance, self._remainder))
            self._remainder = b""
        self._queue.append((utterance, None))
        self._open = None

    def clear(self) -> list[Dropped]:
        """Empty the buffer at once and close the open utterance.

        After the return at most a frame that the pacer had already taken is sent. Returns what was dropped of
        each utterance that had not finished, in the order of playing.
        """
        opened = self._open
        if opened is not None:
            opened.dropped = True
        lost: dict[_Utterance, int] = {}
        for utterance, frame in reversed(self._drain(dropping=True)):
            lost[utterance] = lost.get(utterance, 0) + _samples(frame)
        if opened is not None:
            lost[opened] = lost.get(opened, 0) + _samples(self._remainder)
        self._open = None
        self._remainder = b""
        self._cleared += sum(lost.values())
        return [Dropped(utterance.tag, samples, utterance.written - samples) for utterance, samples in lost.items()]

    def set_frame_samples(self, frame_samples: int) -> None:
        """Change the frame's length and cut anew what is buffered. The pacer should not be reading meanwhile."""
        remainder, self._remainder = self._remainder, b""
        self._frame_bytes = frame_samples * BYTES_PER_SAMPLE
        for utterance, frame in reversed(self._drain()):
            if frame is not None:
                self._append_frames(utterance, frame)
                continue
            if self._remainder:
                self._queue.append((utterance, self._remainder))
                self._remainder = b""
            self._queue.append((utterance, None))
        if self._open is not None:
            self._append_frames(self._open, remainder)

    def read(self) -> bytes | None:
        """The next frame, whole, or None if there is nothing to play: silence, or an underrun, which is counted."""
        while True:
            try:
                utterance, frame = self._queue.popleft()
            except IndexError:
                self._count_underrun()
                return None
            if frame is not None:
                break
            self._current = None
            self.on_event(PlayoutEvent("finished", utterance.tag))
        self._read += len(frame) // BYTES_PER_SAMPLE
        self._current = utterance
        self._in_gap = False
        if not utterance.started:
            utterance.started = True
            self.on_event(PlayoutEvent("started", utterance.tag))
        if len(frame) < self._frame_bytes:
            frame = frame.ljust(self._frame_bytes, b"\0")
        return frame

    def _count_underrun(self) -> None:
        current = self._current
        if current is None or current.dropped:
            return
        self.underrun_frames += 1
        if not self._in_gap:
            self._in_gap = True
            self.underruns += 1

    def _append_frames(self, utterance: _Utterance, pcm: bytes) -> None:
        """Queue the whole frames of the remainder and `pcm`; what is left is the new remainder."""
        if self._remainder:
            pcm = self._remainder + pcm
        size = self._frame_bytes
        whole = len(pcm) - len(pcm) % size
        for start in range(0, whole, size):
            self._queue.append((utterance, pcm[start : start + size]))
        self._remainder = pcm[whole:]

    def _drain(self, *, dropping: bool = False) -> list[tuple[_Utterance, bytes | None]]:
        """All items, last first: popped one by one, because the reader may be popping too."""
        items = []
        while True:
            try:
                if dropping:
                    # Before it is gone: a reader that then finds nothing must not take that for an underrun.
                    self._queue[-1][0].dropped = True
                items.append(self._queue.pop())
            except IndexError:
                return items


def _samples(frame: bytes | None) -> int:
    return len(frame) // BYTES_PER_SAMPLE if frame else 0
