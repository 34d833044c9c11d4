"""Where the audio of pauses and recorded sounds comes from: streams as an engine's are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from mediaserver.speech.script import Sound
from tts_engine.engine import BYTES_PER_SAMPLE, PcmChunk

SILENCE_S = 2.0
"Of one chunk of a pause."


class SoundError(Exception):
    """A sound's source gave what is no sound."""


class SilenceStream:
    """A SpeechStream of silence."""

    def __init__(self, milliseconds: int, sample_rate: int) -> None:
        """milliseconds: none or less is no audio at all."""
        self._sample_rate = sample_rate
        self._samples = max(0, milliseconds) * sample_rate // 1000
        self._silence = bytes(int(SILENCE_S * sample_rate) * BYTES_PER_SAMPLE)

    def __aiter__(self) -> SilenceStream:
        return self

    async def __anext__(self) -> PcmChunk:
        if not self._samples:
            raise StopAsyncIteration
        samples = min(self._samples, len(self._silence) // BYTES_PER_SAMPLE)
        self._samples -= samples
        return PcmChunk(self._silence[: samples * BYTES_PER_SAMPLE], self._sample_rate)

    def cancel(self) -> None:
        """See SpeechStream."""
        self._samples = 0


class SoundStream:
    """A SpeechStream of a recorded sound, opened when it is first read.

    Iteration raises what the source raises, and SoundError for a chunk of another rate, or of half a sample.
    """

    def __init__(self, sound: Sound, sample_rate: int) -> None:
        self._sound = sound
        self._sample_rate = sample_rate
        self._chunks: AsyncIterator[PcmChunk] | None = None
        self._step: asyncio.Task[PcmChunk | None] | None = None
        self._cut: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._closing: asyncio.Task[None] | None = None

    def __aiter__(self) -> SoundStream:
        return self

    async def __anext__(self) -> PcmChunk:
        if self._cut.done():
            raise StopAsyncIteration
        if self._chunks is None:
            self._chunks = self._sound.open(self._sample_rate)
        self._step = asyncio.ensure_future(_next(self._chunks))
        # A cut must not wait for a source that is slow to give up.
        await asyncio.wait((self._step, self._cut), return_when=asyncio.FIRST_COMPLETED)
        if self._cut.done():
            raise StopAsyncIteration
        if self._step.cancelled():  # by the source itself
            raise SoundError("it was cancelled")
        chunk = self._step.result()
        if chunk is None:
            raise StopAsyncIteration
        self._check(chunk)
        return chunk

    def cancel(self) -> None:
        """See SpeechStream. The source is closed in the background."""
        if not self._cut.done():
            self._cut.set_result(None)
            if self._chunks is not None:
                self._closing = asyncio.ensure_future(_close(self._chunks, self._step))
                _closing.add(self._closing)
                self._closing.add_done_callback(_closing.discard)

    def _check(self, chunk: PcmChunk) -> None:
        if chunk.sample_rate != self._sample_rate:
            raise SoundError(f"its sample rate is {chunk.sample_rate} Hz, not {self._sample_rate} Hz")
        if len(chunk.pcm) % BYTES_PER_SAMPLE:
            raise SoundError("it ends in the middle of a sample")


_closing: set[asyncio.Task[None]] = set()
"Sources that are being closed: the loop holds tasks but weakly."


async def _next(chunks: AsyncIterator[PcmChunk]) -> PcmChunk | None:
    return await anext(chunks, None)


async def _close(chunks: AsyncIterator[PcmChunk], step: asyncio.Task[PcmChunk | None] | None) -> None:
    """A source that fails while it is closed has nothing left to spoil."""
    if step is not None:
        step.cancel()
        await asyncio.gather(step, return_exceptions=True)
    close = getattr(chunks, "aclose", None)  # a generator has one, another iterator need not
    if close is not None:
        await asyncio.gather(close(), return_exceptions=True)
