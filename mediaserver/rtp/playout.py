"""The playout buffer of one call leg: PCM of utterances in, whole frames out.

The event loop's thread writes and clears, the media thread reads and halts, and neither holds a lock. clear() puts an
empty line in the place of the line and then empties the old one: whatever the media thread is in the middle of, it does
to the old line, and nothing of it reaches what is said afterwards.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from math import inf
from typing import Literal, NamedTuple

from mediaserver.rtp.fade import fade_in, fade_out
from mediaserver.rtp.playout_line import BYTES_PER_SAMPLE, NOTHING, Chunk, End, PlayoutLine, Utterance
from mediaserver.rtp.prebuffer import Prebuffer


class PlayoutFullError(Exception):
    """The buffer would hold more than its bound; nothing of the refused PCM was taken."""


class PlayoutEvent(NamedTuple):
    """Something the listener heard of an utterance."""

    kind: Literal["started", "underrun", "resumed", "finished"]
    """started: its first frame was taken for sending. underrun: a frame was due in the middle of it and none was
    there. resumed: it goes on after that. finished: the interval of its last frame is over; an utterance without audio
    finishes without having started."""
    tag: Hashable
    at: float = 0.0
    "Of an underrun: when, in the buffer's clock, monotonic seconds."
    gap_s: float = 0.0
    "Of resumed: what the underrun lasted, in seconds of frames missed."


class Dropped(NamedTuple):
    """What clear() took away of one utterance. No event about it follows, except one already on its way."""

    tag: Hashable
    samples: int
    "Samples not played; 0 if all had been taken for sending."
    played: int
    "Samples taken for sending before the clear."


def _ignore(_event: PlayoutEvent) -> None:
    pass


class PlayoutBuffer:
    """Whole frames of 16-bit mono PCM for one leg, bounded.

    begin, write, end, clear and set_frame_samples belong to the event loop's thread; read, halt and far_end to the
    media thread. The properties may be read from any thread.
    """

    def __init__(
        self,
        *,
        max_seconds: float,
        sample_rate: int = 8000,
        frame_samples: int = 160,
        on_event: Callable[[PlayoutEvent], None] = _ignore,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """on_event is called by the thread that reads, in the order of playing."""
        self.sample_rate = sample_rate
        self.max_samples = int(max_seconds * sample_rate)
        self.on_event = on_event
        self.underruns = 0
        "Gaps in the middle of an utterance."
        self.underrun_frames = 0
        "Frames without speech, that of the fade included, that these gaps lasted."
        self._clock = clock
        self._prebuffer = Prebuffer()  # of the media thread
        self._line = PlayoutLine(frame_samples)
        self._open: Utterance | None = None  # of the event loop's thread

    @property
    def buffered_samples(self) -> int:
        """Samples not yet taken for sending, with the silence that fills up an utterance's last frame."""
        return self._line.buffered

    @property
    def buffered_seconds(self) -> float:
        """Seconds of audio not yet taken for sending."""
        return self._line.buffered / self.sample_rate

    @property
    def is_idle(self) -> bool:
        """Nothing is left to play and no utterance is open."""
        return self._open is None and not self._line.queue

    @property
    def depth_s(self) -> float:
        """Seconds of an utterance that have to be there before it begins, or goes on after an underrun."""
        return self._prebuffer.depth_s

    @property
    def halted(self) -> bool:
        """What was being played has been halted, and not cleared since."""
        return self._line.halted

    @property
    def playing(self) -> bool:
        """An utterance is being played: started, not finished, neither halted nor cleared."""
        line = self._line
        current = line.current
        return current is not None and current.started and not line.halted

    # The event loop's thread:

    def begin(self, tag: Hashable) -> None:
        """Open an utterance; it plays directly after the one before. Raises RuntimeError if one is open."""
        if self._open is not None:
            raise RuntimeError("an utterance is open: end or clear it first")
        self._open = Utterance(tag)
        self._line.queue.append(self._open)

    def write(self, pcm: bytes | memoryview) -> None:
        """Append audio to the open utterance: whole samples, any number of them, kept without being copied.

        A memoryview has to be one of bytes. Raises PlayoutFullError beyond the bound, ValueError for half a sample, and
        RuntimeError if no utterance is open: late audio of a cleared utterance must not be heard.
        """
        utterance = self._open
        if utterance is None:
            raise RuntimeError("no utterance is open: begin one first")
        samples, odd = divmod(len(pcm), BYTES_PER_SAMPLE)
        if odd:
            raise ValueError("PCM is not a whole number of 16-bit samples")
        line = self._line
        buffered = line.buffered
        if buffered + samples > self.max_samples:
            raise PlayoutFullError(f"playout buffer is full: its bound is {self.max_samples} samples")
        margin = buffered / self.sample_rate if utterance.written else inf
        utterance.written += samples
        line.append(pcm, margin)

    def end(self) -> None:
        """Close the open utterance; its last frame is filled up with silence. Raises RuntimeError if none is open."""
        utterance = self._open
        if utterance is None:
            raise RuntimeError("no utterance is open")
        self._line.end(utterance)
        self._open = None

    def clear(self) -> list[Dropped]:
        """Empty the buffer at once, close the open utterance, and undo a halt.

        After the return at most a frame that the media thread had already taken is sent. Returns what was dropped of
        each utterance that had not finished, in the order of playing.
        """
        line, opened = self._line, self._open
        self._line, self._open = PlayoutLine(line.samples), None
        lost = line.take_all(opened)
        return [
            Dropped(utterance.tag, samples, utterance.written - samples)
            for utterance, samples in reversed(lost.items())
        ]

    def set_frame_samples(self, frame_samples: int) -> None:
        """Change the frame's length and cut anew what is buffered. The media thread must not be reading meanwhile."""
        if frame_samples != self._line.samples:
            self._line = self._line.recut(frame_samples, self._open)

    # The media thread:

    def read(self) -> bytes | None:
        """The next frame, whole, or None if there is nothing to play: silence, or an underrun, which is counted.

        The first frame missed in an underrun is a fade of the frame before it.
        """
        line = self._line
        for (frame,) in line.frames:
            line.read += 1
            return frame
        return self._read_on(line)

    def halt(self) -> bool:
        """Silence what is being played from the next read() on, until clear(); nothing more is taken of it.

        False, and nothing is halted, if no utterance is being played (any more): one that was cleared in the very
        moment must not take with it what is said after it.
        """
        line = self._line
        if line.current is None or not line.current.started:
            return False
        line.halted = True
        line.frames = NOTHING
        return True

    def far_end(self, jitter_s: float, loss: float) -> None:
        """Take the far end's report of our stream: see Prebuffer.far_end."""
        self._prebuffer.far_end(jitter_s, loss)

    def _read_on(self, line: PlayoutLine) -> bytes | None:
        """Read where it is not simply the next frame of a chunk."""
        if line.halted:
            return None
        queue = line.queue
        try:
            while queue:
                item = queue[0]
                if isinstance(item, Chunk):
                    if not self._is_deep_enough(line):
                        break
                    for (frame,) in item.frames:
                        line.read += 1
                        line.frames = item.frames
                        return self._first_of(line, item, frame)
                    line.last = item.pcm
                    queue.popleft()
                    continue
                queue.popleft()
                line.gap = 0
                line.last = b""
                if isinstance(item, End):
                    line.current = None
                    self.on_event(PlayoutEvent("finished", item.utterance.tag))
                else:
                    line.current = item
        except IndexError:
            pass  # a clear was quicker
        return self._miss(line)

    def _is_deep_enough(self, line: PlayoutLine) -> bool:
        """Whether what is there may begin, or go on after a gap."""
        current = line.current
        if current is None or (current.started and not line.gap) or current.ended:
            return True
        # Not ended, so nothing stands behind it: all that is buffered is its own.
        depth = min(int(self._prebuffer.depth_s * self.sample_rate), self.max_samples // 2)
        return line.buffered >= depth

    def _first_of(self, line: PlayoutLine, chunk: Chunk, frame: bytes) -> bytes:
        """The first frame read of a chunk."""
        current = line.current
        if current is not None and not current.started:
            current.started = True
            self._prebuffer.started()
            self.on_event(PlayoutEvent("started", current.tag))
        elif current is not None and line.gap:
            gap_s = line.gap * line.samples / self.sample_rate
            line.gap = 0
            frame = fade_in(frame, self.sample_rate)
            self.on_event(PlayoutEvent("resumed", current.tag, gap_s=gap_s))
        line.last = b""
        self._prebuffer.arrived(chunk.margin, len(chunk.pcm) / (BYTES_PER_SAMPLE * self.sample_rate))
        return frame

    def _miss(self, line: PlayoutLine) -> bytes | None:
        """Nothing can be played now: silence, if the last word has been said, else an underrun."""
        current = line.current
        if current is None or not current.started or line.closed:
            return None
        self.underrun_frames += 1
        line.gap += 1
        if line.gap > 1:
            return None
        self.underruns += 1
        self._prebuffer.underrun()
        self.on_event(PlayoutEvent("underrun", current.tag, at=self._clock()))
        size = line.cut.size
        return fade_out(bytes(line.last[-size:]).rjust(size, b"\0"), self.sample_rate)
