"""One synthesis for all who want the same text at the same time.

Nobody leads: whoever has read all there is asks the engine for more, so a listener who pauses holds nobody up, and one
who hangs up takes nobody with him. The engine's stream is cancelled with the last of them.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable

from tts_engine.engine import PcmChunk, SpeechStream


class Listeners:
    """How much audio the neediest reader still has; the engine asks from any thread.

    Apart from SharedSynthesis, and weak: neither the engine's stream, which holds this, nor a reader that was forgotten
    uncancelled may keep a synthesis alive.
    """

    def __init__(self) -> None:
        self.references: tuple[weakref.ref[SharedStream], ...] = ()
        "Replaced as a whole, never changed."

    @property
    def alive(self) -> list[SharedStream]:
        return [reader for reference in self.references if (reader := reference()) is not None]

    def add(self, reader: SharedStream) -> None:
        self.references = (*(each for each in self.references if each() is not None), weakref.ref(reader))

    def remove(self, reader: SharedStream) -> None:
        self.references = tuple(each for each in self.references if each() not in (None, reader))

    def __call__(self) -> float:
        """Seconds until somebody misses the next chunk."""
        return min((reader.held_seconds for reader in self.alive), default=0.0)


class SharedSynthesis:
    """An engine's stream, recorded as it comes. Belongs to the event loop."""

    def __init__(self, room: Callable[[int], bool], on_end: Callable[[SharedSynthesis], None]) -> None:
        """`room`: whether that many bytes in all may be recorded. `on_end`: it ended, or can be joined no more."""
        self.listeners = Listeners()
        self.joined = False
        "More than one has asked for it."
        self.recording = True
        "All of it is here from the first chunk on; False: it became too long to be kept."
        self.complete = False
        "The engine has spoken to the end."
        self.ended = False
        self.error: Exception | None = None
        self.recorded = 0
        "Bytes."
        self._room = room
        self._on_end = on_end
        self._source: SpeechStream | None = None
        self._chunks: list[PcmChunk] = []
        self._dropped = 0
        "Chunks that all have read and that are not kept."
        self._pull: asyncio.Task[None] | None = None

    def begin(self, source: SpeechStream) -> None:
        self._source = source

    def read(self, buffered_seconds: Callable[[], float], again: Callable[[], SpeechStream] | None) -> SharedStream:
        """A reader, from the first chunk on, while `recording`. `again`: see SharedStream."""
        self.joined = self.joined or bool(self.listeners.references)
        reader = SharedStream(self, buffered_seconds, again)
        self.listeners.add(reader)
        return reader

    @property
    def pcm(self) -> bytes:
        """All of it, once `complete` and if `recording`; of a single chunk that chunk's own bytes."""
        return b"".join([chunk.pcm for chunk in self._chunks])

    def chunk(self, position: int) -> PcmChunk | None:
        """The chunk of that number, if it has come."""
        index = position - self._dropped
        return self._chunks[index] if index < len(self._chunks) else None

    def seconds_from(self, position: int) -> float:
        """Length of what has come from that chunk on; from any thread."""
        return sum(chunk.seconds for chunk in self._chunks[max(0, position - self._dropped) :])

    def more(self) -> None:
        """Have the next chunk fetched; readers are woken when it is here."""
        if self._pull is None and not self.ended:
            self._pull = asyncio.ensure_future(self._fetch())

    def taken(self) -> None:
        """A reader has gone on: what is not kept for later ones goes when the slowest has it."""
        if not self.recording:
            slowest = min((reader.position for reader in self.listeners.alive), default=self._dropped)
            if slowest > self._dropped:
                del self._chunks[: slowest - self._dropped]
                self._dropped = slowest

    def leave(self, reader: SharedStream) -> None:
        """The reader wants no more; without any the engine's stream is cancelled."""
        self.listeners.remove(reader)
        if self.listeners.references:
            self.taken()
        elif not self.ended:
            self._end()
            if self._source is not None:
                self._source.cancel()

    async def _fetch(self) -> None:
        source = self._source
        if source is None:
            raise RuntimeError("read before it was begun")
        try:
            chunk = await anext(source, None)
        # Whatever it is, it is for those who read.
        except Exception as error:  # noqa: BLE001
            self._fetched(None, error)
        else:
            self._fetched(chunk, None)

    def _fetched(self, chunk: PcmChunk | None, error: Exception | None) -> None:
        self._pull = None
        if self.ended:
            return  # cancelled meanwhile
        if chunk is None:
            self.error, self.complete = error, error is None
            self._end()
        else:
            self._chunks.append(chunk)
            self.recorded += len(chunk.pcm)
            if self.recording and not self._room(self.recorded):
                self.recording = False
                self._on_end(self)
        for reader in self.listeners.alive:
            reader.wake()

    def _end(self) -> None:
        self.ended = True
        self._on_end(self)


class SharedStream:
    """A SpeechStream over a SharedSynthesis."""

    def __init__(
        self,
        shared: SharedSynthesis,
        buffered_seconds: Callable[[], float],
        again: Callable[[], SpeechStream] | None,
    ) -> None:
        """`again`: begins a synthesis of one's own, for one who only joined and should not fail with the first."""
        self.position = 0
        "Chunks read."
        self._shared = shared
        self._buffered_seconds = buffered_seconds
        self._again = again
        self._own: SpeechStream | None = None
        self._taken = 0
        "Bytes read."
        self._skip = 0
        "Bytes of the own synthesis that were read from the shared one."
        self._cancelled = False
        self._changed = asyncio.Event()

    @property
    def held_seconds(self) -> float:
        """What the listener has to hear before the next chunk of the engine's is missed; from any thread."""
        return self._buffered_seconds() + self._shared.seconds_from(self.position)

    def wake(self) -> None:
        self._changed.set()

    def __aiter__(self) -> SharedStream:
        return self

    async def __anext__(self) -> PcmChunk:
        while not self._cancelled:
            if self._own is not None:
                return await self._next_of_own(self._own)
            chunk = self._shared.chunk(self.position)
            if chunk is not None:
                self.position += 1
                self._taken += len(chunk.pcm)
                self._shared.taken()
                return chunk
            if not self._shared.ended:
                self._changed.clear()
                self._shared.more()
                await self._changed.wait()
            elif self._shared.error is not None:
                self._fail(self._shared.error)
            else:
                self.cancel()
        raise StopAsyncIteration

    def cancel(self) -> None:
        """See SpeechStream."""
        if self._cancelled:
            return
        self._cancelled = True
        if self._own is not None:
            self._own.cancel()
        else:
            self._shared.leave(self)
        self._changed.set()

    def _fail(self, error: Exception) -> None:
        """The shared synthesis has failed: raise that, or go on with one's own."""
        if self._again is None:
            self.cancel()
            raise error
        again, self._again = self._again, None
        self._shared.leave(self)
        # Engines speak the same text and voice alike each time, so it can go on where the other one broke off.
        self._skip = self._taken
        try:
            self._own = again()
        except Exception:
            self.cancel()
            raise

    async def _next_of_own(self, own: SpeechStream) -> PcmChunk:
        async for chunk in own:
            if self._skip >= len(chunk.pcm):
                self._skip -= len(chunk.pcm)
                continue
            skip, self._skip = self._skip, 0
            return PcmChunk(chunk.pcm[skip:], chunk.sample_rate) if skip else chunk
        raise StopAsyncIteration
