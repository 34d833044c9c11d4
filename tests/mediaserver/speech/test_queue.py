"""The speech queue: order, pace, clearing and failure."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import pytest
import structlog
from structlog.testing import capture_logs

from mediaserver.rtp.playout import PlayoutBuffer, PlayoutEvent
from mediaserver.speech.events import SpeechEvent
from mediaserver.speech.measures import SpeechMeasures
from mediaserver.speech.queue import (
    BUFFER_AHEAD_S,
    MAX_BUFFERED_S,
    MAX_UTTERANCES,
    PIECE_S,
    QueueFullError,
    SpeechLimits,
    SpeechQueue,
)
from mediaserver.speech.underruns import Underrun
from mediaserver.speech.utterance import CutSpeech
from tests.mediaserver.fake_engine import FakeEngine, pcm_of
from tts_engine.errors import UnknownVoiceError

FRAME_S = 0.02


class Fixture:
    """A queue, its engine, and a listener that takes frames as fast as the test wants."""

    def __init__(self, wait_s: float = 0.0, sample_rate: int = 8000) -> None:
        self.engine = FakeEngine()
        self.idles = self.failures = 0
        self.events: list[SpeechEvent] = []
        self.playout = PlayoutBuffer(
            max_seconds=MAX_BUFFERED_S, sample_rate=sample_rate, frame_samples=sample_rate // 50
        )
        self.measures = SpeechMeasures("fake")
        limits = SpeechLimits(max_queued_chars=100, wait_s=wait_s)
        self.queue = SpeechQueue(
            self.engine,
            self.playout,
            limits,
            self.measures,
            self.events.append,
            self._idle,
            self._failed,
            structlog.get_logger(),
            sample_rate=sample_rate,
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


async def test_wideband() -> None:
    wide = Fixture(sample_rate=16000)
    wide.queue.say("one two", None)
    heard = await wide.listen_to_the_end()
    assert heard == pcm_of("one", 16000) + pcm_of("two", 16000)
    wide.queue.say(" ".join("w" for _ in range(50)), None)
    await wide.until(lambda: wide.playout.buffered_seconds > BUFFER_AHEAD_S)
    assert wide.playout.buffered_seconds <= BUFFER_AHEAD_S + PIECE_S
    wide.listen(100)
    assert [cut.played_ms for cut in wide.queue.clear()] == [2000]
    wide.queue.close()


async def test_a_long_chunk_is_heard_whole_and_its_memory_shared(
    fixture: Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cached prompt is one chunk, which goes to many calls: pieces of it are views, not copies."""
    monkeypatch.setattr("tests.mediaserver.fake_engine.SAMPLES_PER_WORD", 40_000)
    writes = []
    write = fixture.playout.write
    monkeypatch.setattr(fixture.playout, "write", lambda pcm: (writes.append(pcm), write(pcm)))
    fixture.queue.say("one", None)
    heard = await fixture.listen_to_the_end()
    assert heard == pcm_of("one")
    assert [len(piece) for piece in writes] == [32_000, 32_000, 16_000]
    assert len({id(piece.obj) for piece in writes}) == 1


class TestCut:
    """What clear() says of what was heard."""

    async def test_of_all_that_was_queued(self, fixture: Fixture) -> None:
        fixture.engine.gate = asyncio.Semaphore(8)
        fixture.queue.say("alpha bravo gamma", None)
        fixture.queue.say("delta omega", None)
        fixture.queue.say("later", None)
        await fixture.until(lambda: len(fixture.engine.streams) == 3)
        await fixture.until(lambda: fixture.playout.buffered_seconds > 0.99)
        fixture.listen(15)
        first, second, third = fixture.queue.clear()
        assert (first.number, first.played_ms, first.total_ms) == (1, 300, 600)
        assert first.heard_text == "alpha bravo", "the pause at the end is no part of the words"
        assert second == CutSpeech(2, 0, 400, "")
        assert third == CutSpeech(3, 0, None, "")

    async def test_to_the_millisecond(self, fixture: Fixture) -> None:
        fixture.playout.set_frame_samples(80)
        fixture.queue.say("one two", None)
        await fixture.until(lambda: fixture.playout.buffered_seconds > 0.39)
        fixture.listen(13)
        assert [(cut.played_ms, cut.total_ms) for cut in fixture.queue.clear()] == [(130, 400)]

    async def test_not_yet_synthesised_whole(self, fixture: Fixture) -> None:
        fixture.engine.gate = asyncio.Semaphore(2)
        fixture.queue.say("alpha bravo gamma delta", None)
        await fixture.until(lambda: fixture.playout.buffered_seconds > 0.39)
        fixture.listen(20)
        (cut,) = fixture.queue.clear()
        assert (cut.played_ms, cut.total_ms) == (400, None)
        assert "alpha bravo gamma delta".startswith(cut.heard_text)
        assert cut.heard_text != "alpha bravo gamma delta"

    async def test_after_a_halt(self, fixture: Fixture) -> None:
        """As a barge-in does it: silence first, on the media thread; the event loop hears of it a moment later."""
        fixture.queue.say("one two", None)
        await fixture.until(lambda: fixture.playout.buffered_seconds > 0.39)
        assert fixture.listen(5) == pcm_of("one")[:1600]
        assert fixture.playout.halt()
        assert fixture.listen(10) == b""
        fixture.queue.say("between", None)  # before anybody knew
        await asyncio.sleep(0)
        cut = fixture.queue.clear()
        assert [(part.number, part.played_ms) for part in cut] == [(1, 100), (2, 0)]
        fixture.queue.say("four five", None)
        assert await fixture.listen_to_the_end() == pcm_of("four") + pcm_of("five")
        assert fixture.playout.underruns == 0

    async def test_what_has_been_played_out_is_not_cut(self, fixture: Fixture) -> None:
        fixture.queue.say("one", None)
        await fixture.until(lambda: fixture.playout.buffered_seconds > 0.19)
        await asyncio.sleep(0)
        fixture.playout.on_event = lambda _: None  # its end is on its way
        fixture.listen(11)
        fixture.queue.say("two", None)
        (cut,) = fixture.queue.clear()
        assert cut.number == 2

    async def test_nothing(self, fixture: Fixture) -> None:
        assert fixture.queue.clear() == []
        fixture.queue.say("one", None)
        assert fixture.queue.clear() == [CutSpeech(1, 0, None, "")]

    def test_no_log_shows_the_text(self) -> None:
        assert "secret" not in repr(CutSpeech(1, 20, None, "secret"))


class TestUnderruns:
    """Whose fault a gap was."""

    @staticmethod
    async def gap(fixture: Fixture) -> None:
        """One word is played, and the next is not there."""
        fixture.engine.gate = asyncio.Semaphore(1)
        fixture.queue.say("one two", None)
        await fixture.until(lambda: fixture.playout.buffered_seconds > 0.19)
        assert fixture.listen(10) == pcm_of("one")
        fixture.listen(3)
        assert fixture.playout.underruns == 1

    @staticmethod
    async def resume(fixture: Fixture) -> list[dict]:
        """The next word comes; what was logged."""
        assert fixture.engine.gate is not None
        with capture_logs() as logs:
            fixture.engine.gate.release()
            fixture.engine.gate.release()
            await fixture.listen_to_the_end()
        return [dict(entry) for entry in logs if entry["event"] == "speech_underrun"]

    @staticmethod
    def by_cause(fixture: Fixture) -> tuple[int, int, int]:
        counters = fixture.queue.counters
        return counters.underruns_engine, counters.underruns_engine_busy, counters.underruns_event_loop

    async def test_the_engine(self, fixture: Fixture) -> None:
        await self.gap(fixture)
        await asyncio.sleep(0.03)
        assert self.by_cause(fixture) == (0, 0, 0), "not before it is over"
        (entry,) = await self.resume(fixture)
        assert (entry["utterance"], entry["cause"], entry["log_level"]) == (1, "engine", "warning")
        assert entry["gap_ms"] >= 60
        assert entry["prebuffer_ms"] == 60
        assert self.by_cause(fixture) == (1, 0, 0)
        assert fixture.queue.counters.played == 1

    async def test_an_engine_at_its_limit(self, fixture: Fixture) -> None:
        fixture.engine.gate = asyncio.Semaphore(1)
        fixture.queue.say("one two", None)
        await fixture.until(lambda: fixture.playout.buffered_seconds > 0.19)
        fixture.engine.busy = True
        fixture.listen(12)
        (entry,) = await self.resume(fixture)
        assert entry["cause"] == "engine_busy"
        assert self.by_cause(fixture) == (0, 1, 0)

    async def test_an_event_loop_that_was_away(self, fixture: Fixture) -> None:
        """The next word lay ready, and nobody took it: the event, too, is heard of late."""
        loop = asyncio.get_running_loop()
        events: list[PlayoutEvent] = []
        fixture.playout.on_event = events.append
        fixture.engine.gate = asyncio.Semaphore(1)
        fixture.queue.say("one two", None)
        await fixture.until(lambda: fixture.playout.buffered_seconds > 0.19)
        fixture.engine.gate.release()
        fixture.engine.gate.release()
        fixture.listen(11)  # by the media thread, while
        time.sleep(0.05)  # noqa: ASYNC251  the loop is busy
        with capture_logs() as logs:
            await fixture.until(lambda: fixture.playout.buffered_seconds > 0.19)
            fixture.playout.on_event = lambda event: loop.call_soon(fixture.queue.playout_event, event)
            for event in events:
                fixture.queue.playout_event(event)
            await fixture.listen_to_the_end()
        (entry,) = [entry for entry in logs if entry["event"] == "speech_underrun"]
        assert entry["cause"] == "event_loop"
        assert entry["loop_late_ms"] >= 50
        assert self.by_cause(fixture) == (0, 0, 1)

    async def test_over_by_a_clear(self, fixture: Fixture) -> None:
        await self.gap(fixture)
        with capture_logs() as logs:
            fixture.queue.clear()
        assert [entry["event"] for entry in logs] == ["speech_underrun", "speech_cleared"]
        assert self.by_cause(fixture) == (1, 0, 0)

    async def test_over_by_the_end(self, fixture: Fixture) -> None:
        await self.gap(fixture)
        fixture.engine.streams[0]._words = ["FAIL"]
        (entry,) = await self.resume(fixture)
        assert entry["cause"] == "engine"
        assert self.by_cause(fixture) == (1, 0, 0)
        assert fixture.queue.counters.failed == 1

    async def test_none_in_speech_without_gaps(self, fixture: Fixture) -> None:
        fixture.queue.say("one two three", None)
        fixture.queue.say("four", None)
        with capture_logs() as logs:
            await fixture.listen_to_the_end()
        assert self.by_cause(fixture) == (0, 0, 0)
        assert "speech_underrun" not in [entry["event"] for entry in logs]

    async def test_news_of_what_was_cleared(self, fixture: Fixture) -> None:
        await self.gap(fixture)
        fixture.queue.clear()
        for event in (PlayoutEvent("underrun", 1, at=1.0), PlayoutEvent("resumed", 1, gap_s=1.0)):
            fixture.queue.playout_event(event)
        assert self.by_cause(fixture) == (1, 0, 0)


@pytest.mark.parametrize(
    ("began", "noticed", "busy", "audio", "cause"),
    [
        (10.0, 10.001, False, 10.3, "engine"),
        (10.0, 10.001, True, 10.3, "engine_busy"),
        (10.0, 10.2, False, 10.3, "event_loop"),
        (10.0, 10.2, True, 10.3, "event_loop"),
        (10.0, 10.1, False, 10.3, "engine"),  # late, but for the lesser part
        (10.0, 10.2, False, 10.15, "event_loop"),  # it took the audio before it came to the event
        (10.0, 10.008, False, 10.008, "engine"),  # no more than the usual
        (10.0, 10.2, False, None, "event_loop"),
        (10.0, 10.001, False, None, "engine"),
        (10.0, 9.999, False, 10.01, "engine"),  # clocks of two threads
    ],
)
def test_the_cause_of_a_gap(began: float, noticed: float, busy: bool, audio: float | None, cause: str) -> None:
    assert Underrun(began, noticed, busy, audio).cause(now=10.3) == cause
