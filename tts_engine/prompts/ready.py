"""The stream of a prompt that is there already."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tts_engine.engine import PcmChunk, SpeechStream
from tts_engine.prompts.store import PromptStore


class ReadyStream:
    """A SpeechStream of one chunk, held by the cache."""

    __slots__ = ("_chunk",)

    def __init__(self, chunk: PcmChunk) -> None:
        self._chunk: PcmChunk | None = chunk if chunk.pcm else None

    def __aiter__(self) -> ReadyStream:
        return self

    async def __anext__(self) -> PcmChunk:
        chunk, self._chunk = self._chunk, None
        if chunk is None:
            raise StopAsyncIteration
        return chunk

    def cancel(self) -> None:
        """See SpeechStream."""
        self._chunk = None


class StoredStream:
    """A SpeechStream of a prompt on disk, read when it is first asked for; of the engine's if that fails.

    So iteration may raise what Engine.synthesize() does.
    """

    def __init__(
        self, store: PromptStore, key: bytes, found: Callable[[], None], synthesise: Callable[[], SpeechStream]
    ) -> None:
        """`found` is called when the file was read, `synthesise` when it cannot be used."""
        self._store = store
        self._key = key
        self._found = found
        self._synthesise = synthesise
        self._opened = False
        self._cancelled = False
        self._own: SpeechStream | None = None

    def __aiter__(self) -> StoredStream:
        return self

    async def __anext__(self) -> PcmChunk:
        if not self._opened:
            self._opened = True
            # A disk may take its time: not on the event loop.
            prompt = await asyncio.to_thread(self._store.read, self._key)
            if self._cancelled:
                raise StopAsyncIteration
            if prompt is not None:
                self._found()
                return PcmChunk(prompt.pcm, prompt.sample_rate)
            self._own = self._synthesise()
        if self._own is None or self._cancelled:
            raise StopAsyncIteration
        return await anext(self._own)

    def cancel(self) -> None:
        """See SpeechStream; a file that is being read is read, and dropped."""
        self._cancelled = True
        if self._own is not None:
            self._own.cancel()
