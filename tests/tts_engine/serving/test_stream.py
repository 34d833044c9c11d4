from __future__ import annotations

import asyncio

import pytest

from tts_engine.engine import PcmChunk
from tts_engine.errors import EngineNotReadyError, SynthesisError
from tts_engine.serving.stream import WorkerStream

PCM = bytes(16_00)  # 0.1 s


class Ends:
    count = 0

    def __call__(self) -> None:
        self.count += 1


def make(buffered: float = 0.0) -> tuple[WorkerStream, Ends]:
    ends = Ends()
    return WorkerStream(8000, lambda: buffered, ends), ends


async def read(stream: WorkerStream) -> list[PcmChunk]:
    return [chunk async for chunk in stream]


async def test_chunks_come_in_order_and_then_the_end() -> None:
    stream, ends = make()
    reader = asyncio.create_task(read(stream))
    await asyncio.sleep(0)
    for number in (1, 2):
        stream.hear(bytes([number]) * 4, final=False)
        await asyncio.sleep(0)
    assert ends.count == 0
    stream.hear(b"", final=True)
    assert await reader == [PcmChunk(b"\x01" * 4, 8000), PcmChunk(b"\x02" * 4, 8000)]
    assert ends.count == 1
    assert await read(stream) == []


async def test_it_is_open_until_it_is_read() -> None:
    stream, ends = make()
    stream.hear(PCM, final=True)
    assert (ends.count, stream.open) == (1, True)
    stream.hear(PCM, final=False)  # after the end: nothing
    assert len(await read(stream)) == 1
    assert not stream.open


async def test_what_is_unread_counts_as_held() -> None:
    stream, _ = make(buffered=2.0)
    assert stream.held_seconds == 2.0
    for _ in range(3):
        stream.hear(PCM, final=False)
    assert stream.held_seconds == pytest.approx(2.3)
    await anext(stream)
    assert stream.held_seconds == pytest.approx(2.2)


async def test_a_failure_comes_after_what_was_said_and_once() -> None:
    stream, ends = make()
    stream.hear(PCM, final=False)
    stream.fail("the GPU has failed")
    stream.fail("again")
    stream.hear(PCM, final=True)
    assert (await anext(stream)).pcm == PCM
    with pytest.raises(SynthesisError, match=r"^the GPU has failed$"):
        await anext(stream)
    assert await read(stream) == []
    assert ends.count == 1


async def test_a_failure_wakes_who_waits() -> None:
    stream, _ = make()
    reader = asyncio.create_task(read(stream))
    await asyncio.sleep(0)
    stream.fail("gone")
    with pytest.raises(SynthesisError):
        await asyncio.wait_for(reader, 5)


async def test_what_was_lost_before_a_sound_can_be_asked_for_again() -> None:
    stream, ends = make()
    stream.hear(b"", final=False)
    stream.lose()
    stream.lose()
    with pytest.raises(EngineNotReadyError, match=r"^the GPU's worker has failed; another is starting$"):
        await anext(stream)
    assert await read(stream) == []
    assert ends.count == 1


async def test_what_was_lost_half_way_cannot() -> None:
    stream, ends = make()
    stream.hear(PCM, final=False)
    stream.lose()
    await anext(stream)
    with pytest.raises(SynthesisError, match=r"^the GPU's worker has failed$"):
        await anext(stream)
    assert ends.count == 1


async def test_what_was_said_to_the_end_is_not_lost() -> None:
    stream, _ = make()
    stream.hear(PCM, final=True)
    stream.lose()
    assert len(await read(stream)) == 1


@pytest.mark.parametrize("unread", [0, 2])
async def test_cancelling_ends_it_at_once_and_drops_what_is_unread(unread: int) -> None:
    stream, ends = make()
    for _ in range(unread):
        stream.hear(PCM, final=False)
    stream.cancel()
    stream.cancel()
    stream.hear(PCM, final=True)
    stream.fail("too late")
    assert await read(stream) == []
    assert (ends.count, stream.open, stream.held_seconds) == (1, False, 0.0)


async def test_cancelling_wakes_who_waits() -> None:
    stream, _ = make()
    reader = asyncio.create_task(read(stream))
    await asyncio.sleep(0)
    stream.cancel()
    assert await asyncio.wait_for(reader, 5) == []


async def test_cancelling_after_a_failure_is_silent() -> None:
    stream, ends = make()
    stream.fail("gone")
    stream.cancel()
    assert await read(stream) == []
    assert ends.count == 1
