"""What a playout buffer has to play: chunks of utterances in order, joining the two threads without a lock.

The event loop's thread appends and takes all away, the media thread takes frame by frame. A chunk's iterator cuts it
into frames, and taking one, or all that are left, is one step of C code: each frame has exactly one owner, whatever the
interleaving. Nothing is copied before it is sent: the memory of a prompt that many calls play is theirs together.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterator
from math import inf
from struct import Struct

BYTES_PER_SAMPLE = 2

NOTHING: Iterator[tuple[bytes]] = iter(())


class Utterance:
    """One utterance's state, and in the line the place where it begins. Each field is written by one thread only."""

    __slots__ = ("ended", "started", "tag", "written")

    def __init__(self, tag: Hashable) -> None:
        self.tag = tag
        self.written = 0  # samples; event loop
        self.ended = False  # event loop
        self.started = False  # media thread


class End:
    """The end of an utterance in the line."""

    __slots__ = ("utterance",)

    def __init__(self, utterance: Utterance) -> None:
        self.utterance = utterance


class Chunk:
    """Whole frames."""

    __slots__ = ("frames", "margin", "padding", "pcm")

    def __init__(self, pcm: bytes | memoryview, cut: Struct, margin: float = inf, padding: int = 0) -> None:
        self.pcm = pcm
        self.frames: Iterator[tuple[bytes]] = cut.iter_unpack(pcm)
        self.margin = margin  # seconds that were left to play when this came
        self.padding = padding  # samples of silence that fill up the last frame

    def take(self) -> bytes:
        """What nobody has taken yet, without the padding."""
        left = b"".join([frame for (frame,) in list(self.frames)])  # list() of it is one step
        return left[: len(left) - self.padding * BYTES_PER_SAMPLE] if left else left


class PlayoutLine:
    """All that is to be played, until the next clear."""

    __slots__ = (
        "closed",
        "current",
        "cut",
        "frames",
        "gap",
        "halted",
        "last",
        "queue",
        "read",
        "remainder",
        "samples",
        "written",
    )

    def __init__(self, frame_samples: int) -> None:
        self.samples = frame_samples
        self.cut = Struct(f"{frame_samples * BYTES_PER_SAMPLE}s")
        # The event loop appends and, once closed, pops from the right; the media thread pops from the left.
        self.queue: deque[Utterance | Chunk | End] = deque()
        # Of the event loop's thread:
        self.closed = False
        self.remainder = b""  # less than a frame, of the open utterance
        self.written = 0  # samples, padding included
        # Of the media thread:
        self.frames = NOTHING  # of the chunk that is being played, which is the first of the queue
        self.read = 0  # frames
        self.current: Utterance | None = None
        self.last: bytes | memoryview = b""  # what ended with the frame played last, if a chunk did
        self.gap = 0  # frames missed in the underrun that lasts
        self.halted = False

    @property
    def buffered(self) -> int:
        """Samples that are left to play."""
        return max(0, self.written - self.read * self.samples)

    def append(self, pcm: bytes | memoryview, margin: float) -> None:
        """Queue the whole frames of the remainder and `pcm`; what is left is the new remainder."""
        size = self.cut.size
        self.written += len(pcm) // BYTES_PER_SAMPLE
        if self.remainder:
            missing = size - len(self.remainder)
            self.remainder += pcm[:missing]
            pcm = memoryview(pcm)[missing:]
            if len(self.remainder) < size:
                return
            self.queue.append(Chunk(self.remainder, self.cut, margin))
        whole = len(pcm) - len(pcm) % size
        if whole:
            self.queue.append(Chunk(pcm if whole == len(pcm) else memoryview(pcm)[:whole], self.cut, margin))
        self.remainder = bytes(pcm[whole:])

    def end(self, utterance: Utterance) -> None:
        """Queue the remainder, filled up, and the utterance's end."""
        if self.remainder:
            padding = self.samples - len(self.remainder) // BYTES_PER_SAMPLE
            self.written += padding
            self.queue.append(Chunk(self.remainder.ljust(self.cut.size, b"\0"), self.cut, padding=padding))
            self.remainder = b""
        self.queue.append(End(utterance))
        utterance.ended = True

    def take_all(self, opened: Utterance | None) -> dict[Utterance, int]:
        """Close and empty the line: the samples taken of each utterance not finished, the last of them first.

        opened: the utterance that is open, if one is.
        """
        self.closed = True  # before it is empty, lest the media thread take that for an underrun
        taken: dict[Utterance, int] = {}
        owner = opened
        if owner is not None:
            taken[owner] = len(self.remainder) // BYTES_PER_SAMPLE
        while True:
            try:
                item = self.queue.pop()  # one by one, because the media thread may be popping too
            except IndexError:
                return taken
            if isinstance(item, End):
                owner = item.utterance
                taken[owner] = 0
            elif isinstance(item, Chunk) and owner is not None:  # an end, or the opened one, stands behind each chunk
                taken[owner] += len(item.take()) // BYTES_PER_SAMPLE

    def recut(self, frame_samples: int, opened: Utterance | None) -> PlayoutLine:
        """The same to play, in frames of another length. The media thread must not be reading meanwhile."""
        line = PlayoutLine(frame_samples)
        line.current, line.last, line.gap, line.halted = self.current, self.last, self.gap, self.halted
        for item in self.queue:
            if isinstance(item, Utterance):
                line.queue.append(item)
            elif isinstance(item, Chunk):
                line.append(item.take(), item.margin)
            else:
                line.end(item.utterance)
        if opened is not None:
            line.append(self.remainder, inf)
        return line
