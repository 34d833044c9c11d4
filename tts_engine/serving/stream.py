"""One utterance on its way from a worker to whoever reads it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from tts_engine.engine import PcmChunk
from tts_engine.errors import EngineError, EngineNotReadyError, SynthesisError


class WorkerStream:
    """A SpeechStream. What is not read yet counts as held by the listener, so a worker does not run far ahead of it."""

    def __init__(self, sample_rate: int, buffered_seconds: Callable[[], float], on_end: Callable[[], None]) -> None:
        """`on_end` is called once, when nothing more is wanted of the worker."""
        self.deadline = 0.0
        "When the worker thinks that the listener runs out of audio."
        self._sample_rate = sample_rate
        self._buffered_seconds = buffered_seconds
        self._on_end = on_end
        self._chunks: deque[PcmChunk] = deque()
        self._error: EngineError | None = None
        self._heard = False
        self._ended = False
        self._changed = asyncio.Event()

    @property
    def open(self) -> bool:
        """Whether there is, or may come, something to read."""
        return not self._ended or bool(self._chunks)

    @property
    def held_seconds(self) -> float:
        """Audio that was made and not yet heard."""
        return sum(chunk.seconds for chunk in self._chunks) + self._buffered_seconds()

    def __aiter__(self) -> WorkerStream:
        return self

    async def __anext__(self) -> PcmChunk:
        while True:
            if self._chunks:
                return self._chunks.popleft()
            if self._error is not None:
                error, self._error = self._error, None
                raise error
            if self._ended:
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()

    def cancel(self) -> None:
        """See SpeechStream."""
        self._chunks.clear()
        self._error = None
        self._end()

    def hear(self, pcm: bytes, *, final: bool) -> None:
        """More speech."""
        if self._ended:
            return
        if pcm:
            self._heard = True
            self._chunks.append(PcmChunk(pcm, self._sample_rate))
        if final:
            self._end()
        self._changed.set()

    def fail(self, reason: str) -> None:
        """No more speech will come; what came before stands."""
        if not self._ended:
            self._error = SynthesisError(reason)
            self._end()

    def lose(self) -> None:
        """The worker has failed. An utterance of which nothing came can be asked for again, once there is another."""
        if self._heard:
            self.fail("the GPU's worker has failed")
        elif not self._ended:
            self._error = EngineNotReadyError("the GPU's worker has failed; another is starting")
            self._end()

    def _end(self) -> None:
        if not self._ended:
            self._ended = True
            self._on_end()
        self._changed.set()
