"""The speech queue: order, pace, clearing and failure."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
import structlog

from mediaserver.rtp.playout import PlayoutBuffer
from mediaserver.speech_measures import SpeechMeasures
from mediaserver.speech_queue import (
    BUFFER_AHEAD_S,
    MAX_BUFFERED_S,
    MAX_UTTERANCES,
    PIECE_S,
    QueueFullError,
    SpeechLimits,
    SpeechQueue,
)
from tests.mediaserver.fake_engine import FakeEngine, pcm_of
from tts_engine.errors import UnknownVoiceError

FRAME_S = 0.02


class Fixture:
    """A queue, its engine, and a listener that takes frames as fast as the test wants."""

    def __init__(self, wait_s: float = 0.0) -> None:
        self.engine = FakeEngine()
        self.idles = self.failures = 0
        self.playout = PlayoutBuffer(max_seconds=MAX_BUFFERED_S)
        self.measures = SpeechMeasures("fake")
        limits = SpeechLimits(max_queued_chars=100, wait_s=wait_s)
        self.queue = SpeechQueue(
            self.engine, self.playout, limits, self.measures, self._idle, self._failed, structlog.get_logger()
        )
        self.playout.on_event = self.queue.playout_event

    def _idle(self) -> None:
        self.idles += 1

    def _failed(self) -> None:
        self.failures += 1

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not condition():
                await asyncio.sleep(0)

    def listen(self, frames: int) -> bytes:
        """Take frames as the pacer would; what is heard."""
        return b"".join(self.playout.read() or b"" for _ in range(frames))

    async def listen_to_the_end(self) -> bytes:
        heard = b""
        async with asyncio.timeout(5):
            while not self.queue.idle:
                heard += self.playout.read() or b""
                await asyncio.sleep(0)
        return heard


@pytest.fixture
async def fixture() -> AsyncIterator[Fixture]:
    made = Fixture()
    yield made
    made.queue.close()


async def test_what_is_said_is_heard_in_order(fixture: Fixture) -> None:
    fixture.queue.say("one two", None)
    fixture.queue.say("three", "other")
    heard = await fixture.listen_to_the_end()
    assert heard == pcm_of("one") + pcm_of("two") + pcm_of("three")
    assert [stream.request.voice for stream in fixture.engine.streams] == [None, "other"]
    assert {stream.request.sample_rate for stream in fixture.engine.streams} == {8000}
    assert fixture.queue.counters.played == 2
    assert fixture.idles == 1
    assert fixture.playout.underruns == 0


async def test_the_next_is_synthesised_while_the_one_before_is_played(fixture: Fixture) -> None:
    fixture.queue.say("one", None)
    fixture.queue.say("two", None)
    await fixture.until(lambda: len(fixture.engine.streams) == 2)
    assert fixture.playout.buffered_seconds > 0  # not a frame has been played


async def test_the_engine_is_not_asked_for_more_than_is_soon_played(fixture: Fixture) -> None:
    fixture.queue.say(" ".join("w" for _ in range(50)), None)  # 10 s
    await fixture.until(lambda: fixture.playout.buffered_seconds > BUFFER_AHEAD_S)
    for _ in range(100):
        await asyncio.sleep(0)
    assert fixture.playout.buffered_seconds <= BUFFER_AHEAD_S + PIECE_S
    taken = fixture.engine.streams[0].taken
    assert taken <= (BUFFER_AHEAD_S + PIECE_S) / 0.2 + 1
    fixture.listen(50)
    fixture.queue.say("x", None)  # an event that makes it look again, without a clock
    await fixture.until(lambda: fixture.engine.streams[0].taken > taken)


async def test_the_engine_sees_how_much_is_left_to_hear(fixture: Fixture) -> None:
    fixture.queue.say("one two", None)
    await fixture.until(lambda: fixture.playout.buffered_seconds > 0.39)
    buffered_seconds = fixture.engine.streams[0].request.buffered_seconds
    assert buffered_seconds() == pytest.approx(0.4)
    fixture.listen(10)
    assert buffered_seconds() == pytest.approx(0.2)


async def test_clear_reaches_every_stage(fixture: Fixture) -> None:
    fixture.engine.gate = asyncio.Semaphore(1)
    fixture.queue.say("one two", None)
    fixture.queue.say("three", None)
    await fixture.until(lambda: fixture.playout.buffered_seconds > 0)
    assert fixture.listen(1) == pcm_of("one")[:320]
    fixture.queue.clear()
    assert fixture.playout.read() is None  # the very next frame is silence
    assert fixture.engine.streams[0].cancelled
    fixture.engine.gate.release()
    fixture.engine.gate.release()
    for _ in range(50):
        await asyncio.sleep(0)
    assert fixture.playout.buffered_seconds == 0
    assert len(fixture.engine.streams) == 1  # "three" was never begun
    assert fixture.queue.counters.cleared == 2
    assert fixture.queue.idle
    assert fixture.playout.underruns == 0


async def test_what_is_said_after_a_clear_is_heard_whole(fixture: Fixture) -> None:
    """The reply after a barge-in must not be eaten by it."""
    fixture.queue.say("one two three", None)
    await fixture.until(lambda: fixture.playout.buffered_seconds > 0)
    fixture.queue.clear()
    fixture.queue.say("four five", None)
    assert await fixture.listen_to_the_end() == pcm_of("four") + pcm_of("five")
    assert fixture.queue.counters.played == 1


async def test_clear_while_waiting_for_room(fixture: Fixture) -> None:
    fixture.queue.say(" ".join("w" for _ in range(50)), None)
    await fixture.until(lambda: fixture.playout.buffered_seconds > BUFFER_AHEAD_S)
    fixture.queue.clear()
    fixture.queue.say("next", None)
    assert await fixture.listen_to_the_end() == pcm_of("next")


async def test_clear_of_nothing(fixture: Fixture) -> None:
    fixture.queue.clear()
    assert fixture.idles == 0
    assert fixture.queue.counters.cleared == 0


async def test_nothing_speakable_is_finished_at_once(fixture: Fixture) -> None:
    fixture.queue.say("   ", None)
    fixture.queue.say("one", None)
    assert await fixture.listen_to_the_end() == pcm_of("one")
    assert fixture.queue.counters.unspeakable == 1
    assert fixture.queue.counters.played == 1


@pytest.mark.parametrize("word", ["FAIL", "CRASH"])
async def test_a_failed_utterance_fails_alone(fixture: Fixture, word: str) -> None:
    fixture.queue.say(f"one {word} two", None)
    fixture.queue.say("three", None)
    assert await fixture.listen_to_the_end() == pcm_of("one") + pcm_of("three")
    assert fixture.queue.counters.failed == 1
    assert fixture.queue.counters.played == 1


async def test_a_queue_that_breaks_down_says_so(fixture: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(tag: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(fixture.playout, "begin", broken)
    fixture.queue.say("one", None)
    await fixture.until(lambda: fixture.failures == 1)


async def test_the_number_of_utterances_is_bounded(fixture: Fixture) -> None:
    """Texts of no length would pass the bound on characters."""
    for _ in range(MAX_UTTERANCES):
        fixture.queue.say(".", None)
        await asyncio.sleep(0)
    with pytest.raises(QueueFullError):
        fixture.queue.say("", None)
    fixture.queue.clear()
    fixture.queue.say("one", None)
    assert await fixture.listen_to_the_end() == pcm_of(".") * 0 + pcm_of("one")


async def test_a_busy_engine_fails_the_utterance(fixture: Fixture) -> None:
    fixture.engine.busy = True
    fixture.queue.say("one", None)
    await fixture.listen_to_the_end()
    assert fixture.queue.counters.failed == 1
    fixture.engine.busy = False
    fixture.queue.say("two", None)
    assert await fixture.listen_to_the_end() == pcm_of("two")


async def test_waiting_text_is_bounded(fixture: Fixture) -> None:
    fixture.engine.gate = asyncio.Semaphore(0)
    fixture.queue.say("a" * 60, None)
    await fixture.until(lambda: len(fixture.engine.streams) == 1)  # this one waits no more
    fixture.queue.say("b" * 60, None)
    with pytest.raises(QueueFullError):
        fixture.queue.say("c" * 60, None)
    fixture.queue.check("c" * 60, None, behind_queue=False)
    assert fixture.queue.counters.utterances == 2


async def test_what_the_engine_refuses_is_refused_at_once(fixture: Fixture) -> None:
    with pytest.raises(UnknownVoiceError):
        fixture.queue.say("one", "nobody")
    assert fixture.queue.idle


async def test_close_cancels_the_work_and_says_nothing_more(fixture: Fixture) -> None:
    fixture.engine.gate = asyncio.Semaphore(0)
    fixture.queue.say("one", None)
    await fixture.until(lambda: len(fixture.engine.streams) == 1)
    fixture.queue.close()
    fixture.queue.close()
    assert fixture.engine.streams[0].cancelled
    assert fixture.idles == 0


async def test_many_orders_of_say_clear_and_listen(fixture: Fixture) -> None:
    """Whatever the interleaving: what is heard is whole chunks of what was said, in order, and never of the cleared."""
    import random

    rng = random.Random(7)
    for round_ in range(60):
        words = [f"r{round_}w{number}" for number in range(rng.randrange(1, 5))]
        fixture.queue.say(" ".join(words), None)
        for _ in range(rng.randrange(0, 12)):
            await asyncio.sleep(0)
        heard = fixture.listen(rng.randrange(0, 30))
        expected = b"".join(pcm_of(word) for word in words)
        assert expected.startswith(heard)
        fixture.queue.clear()
        assert fixture.playout.read() is None
    fixture.queue.say("last", None)
    assert await fixture.listen_to_the_end() == pcm_of("last")
