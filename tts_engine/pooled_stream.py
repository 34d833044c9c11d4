"""One utterance on its way from the workers to whoever reads it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tts_engine.engine import PcmChunk
from tts_engine.errors import EngineError, SynthesisError
from tts_engine.worker_pool import Job, WorkerPool


@dataclass(frozen=True, slots=True)
class Piece:
    """The speech that one step of the work gave."""

    pcm: bytes
    "Signed 16-bit little-endian mono PCM at the rate asked for."
    final: bool
    "Nothing follows."


class PooledStream:
    """A SpeechStream that keeps one chunk ready: the next is begun when the reader takes it.

    `pieces` does the work: each step of it is a job of the pool. So an utterance that nobody reads costs one step
    and one chunk of memory, whatever its length.
    """

    def __init__(
        self,
        pieces: Iterator[Piece],
        pool: WorkerPool,
        sample_rate: int,
        buffered_seconds: Callable[[], float],
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_end` is called when no more steps are wanted: at the end, on failure, on cancel()."""
        self._on_end = on_end
        self._pieces = pieces
        self._pool = pool
        self._sample_rate = sample_rate
        self._buffered_seconds = buffered_seconds
        self._job: Job[Piece | None] | None = None
        self._ready: PcmChunk | None = None
        self._error: SynthesisError | None = None
        self._exhausted = False
        self._changed = asyncio.Event()
        self._begin_next()

    @property
    def open(self) -> bool:
        """Whether there is, or may come, something to read."""
        return not self._exhausted or self._ready is not None

    def __aiter__(self) -> PooledStream:
        return self

    async def __anext__(self) -> PcmChunk:
        while True:
            if self._ready is not None:
                chunk, self._ready = self._ready, None
                self._begin_next()
                return chunk
            if self._error is not None:
                error, self._error = self._error, None
                raise error
            if self._exhausted:
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()

    def cancel(self) -> None:
        """See SpeechStream. An inference under way runs to its end; its audio is dropped."""
        self._end(None)
        self._ready = None
        self._error = None

    def _begin_next(self) -> None:
        if self._exhausted:
            return
        pieces = self._pieces
        self._job = self._pool.submit(lambda: next(pieces, None), self._buffered_seconds)
        self._job.future.add_done_callback(self._finish)

    def _finish(self, future: asyncio.Future[Piece | None]) -> None:
        if self._job is None or future is not self._job.future:
            return  # cancelled while it ran
        self._job = None
        if future.cancelled():  # the pool has closed
            self._end(None)
            return
        cause = future.exception()
        if cause is not None:
            # A message that is not ours may quote the caller's text, which no log should hold.
            ours = isinstance(cause, EngineError)
            error = SynthesisError(str(cause) if ours else f"the voice failed on this text: {type(cause).__name__}")
            error.__cause__ = cause
            self._end(error)
            return
        piece = future.result()
        if piece is None or piece.final:
            self._end(None)
        if piece is not None and piece.pcm:
            self._ready = PcmChunk(piece.pcm, self._sample_rate)
        elif not self._exhausted:
            self._begin_next()
        self._changed.set()

    def _end(self, error: SynthesisError | None) -> None:
        self._exhausted = True
        self._error = error
        self._on_end()
        self._pieces = iter(())  # what it borrows is given back, even if the reader keeps this stream
        job, self._job = self._job, None
        if job is not None:
            job.cancel()
        self._changed.set()
