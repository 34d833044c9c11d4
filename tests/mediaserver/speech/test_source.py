"""The streams of pauses and recorded sounds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediaserver.speech.script import Sound
from mediaserver.speech.source import SILENCE_S, SilenceStream, SoundError, SoundStream
from tts_engine.engine import PcmChunk, SpeechStream


async def read(stream: SpeechStream) -> list[PcmChunk]:
    return [chunk async for chunk in stream]


@given(st.integers(-10, 7000), st.sampled_from((8000, 16000, 24000)))
def test_silence_is_as_long_as_asked_for_in_bounded_chunks(milliseconds: int, rate: int) -> None:
    chunks = asyncio.run(read(SilenceStream(milliseconds, rate)))
    pcm = b"".join(chunk.pcm for chunk in chunks)
    assert pcm == bytes(2 * max(0, milliseconds) * rate // 1000)
    assert all(0 < chunk.seconds <= SILENCE_S for chunk in chunks)


async def test_silence_that_is_cut() -> None:
    stream = SilenceStream(10_000, 8000)
    await anext(stream)
    stream.cancel()
    assert await read(stream) == []


async def test_a_sound_is_opened_when_it_is_first_read_at_the_rate_asked_for() -> None:
    rates = []

    async def chunks(rate: int) -> AsyncIterator[PcmChunk]:
        rates.append(rate)
        yield PcmChunk(b"\1\0", rate)
        yield PcmChunk(b"", rate)

    stream = SoundStream(Sound(chunks), 16000)
    await asyncio.sleep(0)
    assert rates == []
    assert [chunk.pcm for chunk in await read(stream)] == [b"\1\0", b""]
    assert rates == [16000]
    stream.cancel()


async def test_one_that_is_never_read_is_never_opened() -> None:
    opened = []

    def chunks(rate: int) -> AsyncIterator[PcmChunk]:
        opened.append(rate)
        raise OSError

    stream = SoundStream(Sound(chunks), 8000)
    stream.cancel()
    stream.cancel()
    assert await read(stream) == []
    assert opened == []


async def test_a_cut_ends_an_iteration_under_way() -> None:
    begun, closed = asyncio.Event(), asyncio.Event()

    async def chunks(rate: int) -> AsyncIterator[PcmChunk]:
        try:
            begun.set()
            await asyncio.Event().wait()
            yield PcmChunk(b"", rate)
        finally:
            closed.set()

    stream = SoundStream(Sound(chunks), 8000)
    reader = asyncio.ensure_future(read(stream))
    async with asyncio.timeout(5):
        await begun.wait()
        stream.cancel()
        assert await reader == []
        await closed.wait()


async def test_a_reader_that_is_cancelled_leaves_the_source_to_be_closed() -> None:
    begun, closed = asyncio.Event(), asyncio.Event()

    async def chunks(rate: int) -> AsyncIterator[PcmChunk]:
        try:
            begun.set()
            await asyncio.Event().wait()
            yield PcmChunk(b"", rate)
        finally:
            closed.set()

    stream = SoundStream(Sound(chunks), 8000)
    reader = asyncio.ensure_future(read(stream))
    async with asyncio.timeout(5):
        await begun.wait()
        reader.cancel()
        await asyncio.wait((reader,))
        stream.cancel()
        await closed.wait()


async def test_a_source_that_fails_while_it_is_closed_disturbs_nobody(caplog: pytest.LogCaptureFixture) -> None:
    async def chunks(rate: int) -> AsyncIterator[PcmChunk]:
        try:
            yield PcmChunk(b"\0\0", rate)
            yield PcmChunk(b"\0\0", rate)
        finally:
            raise OSError("cannot close")

    stream = SoundStream(Sound(chunks), 8000)
    await anext(stream)
    stream.cancel()
    for _ in range(10):
        await asyncio.sleep(0)
    assert not caplog.records


@pytest.mark.parametrize("chunk", [PcmChunk(b"\0", 8000), PcmChunk(b"\0\0", 44100)])
async def test_what_is_no_sound_of_ours(chunk: PcmChunk) -> None:
    async def chunks(rate: int) -> AsyncIterator[PcmChunk]:
        yield chunk

    with pytest.raises(SoundError):
        await read(SoundStream(Sound(chunks), 8000))
