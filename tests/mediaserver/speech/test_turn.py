"""An utterance that is written while it is spoken."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from mediaserver.speech.events import MarkReached, SpeechFinished, SpeechStarted
from mediaserver.speech.limits import TurnOpenError
from mediaserver.speech.queue import QueueFullError
from mediaserver.speech.script import Mark, Pause, Words
from mediaserver.speech.utterance import MAX_HEARD_CHARS, CutSpeech
from mediaserver.speech.view import SpeechView
from tests.mediaserver.fake_engine import pcm_of
from tests.mediaserver.speech.test_queue import Fixture
from tests.mediaserver.speech.test_wait import waits
from tts_engine.errors import UnknownVoiceError


@pytest.fixture
async def fixture() -> AsyncIterator[Fixture]:
    made = Fixture()
    yield made
    made.queue.close()


async def heard(fixture: Fixture, words: str) -> bytes:
    """What is heard while so many words are played, and the frame after them."""
    seconds = 0.2 * len(words.split())
    await fixture.until(lambda: fixture.playout.buffered_seconds > seconds - 0.01)
    pcm = fixture.listen(10 * len(words.split()))
    fixture.listen(1)
    return pcm


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


class TestWriting:
    async def test_words_are_spoken_as_they_come(self, fixture: Fixture) -> None:
        turn = fixture.queue.open("other")
        assert turn.number == 1
        turn.add(Words("one"))
        assert await heard(fixture, "one") == pcm_of("one")
        turn.add(Words("two three", "heart"))
        assert await heard(fixture, "two three") == pcm_of("two") + pcm_of("three")
        assert [stream.request.voice for stream in fixture.engine.streams] == ["other", "heart"]
        assert fixture.events == [SpeechStarted(1)]
        assert turn.open
        turn.end()
        await settle()
        assert fixture.events == [SpeechStarted(1), SpeechFinished(1, 600, None)]
        assert not turn.open
        assert fixture.queue.counters.played == 1

    async def test_the_engine_is_asked_at_once(self, fixture: Fixture) -> None:
        turn = fixture.queue.open()
        turn.add(Words("one"))
        assert len(fixture.engine.streams) == 1
        await heard(fixture, "one")
        turn.add(Words("two"))
        assert len(fixture.engine.streams) == 2

    async def test_words_that_come_in_time_join_without_a_gap(self, fixture: Fixture) -> None:
        turn = fixture.queue.open()
        turn.add(Words("one"))
        await fixture.until(lambda: fixture.playout.buffered_seconds > 0.19)
        fixture.listen(5)
        turn.add(Words("two"))
        await fixture.until(lambda: fixture.playout.buffered_seconds > 0.29)
        frames = [fixture.playout.read() for _ in range(15)]
        assert None not in frames

    async def test_words_that_come_slowly_are_no_underrun(self, fixture: Fixture) -> None:
        turn = fixture.queue.open()
        turn.add(Words("one"))
        await heard(fixture, "one")
        assert fixture.listen(50) == b"", "silence"
        turn.add(Words("two"))
        assert await heard(fixture, "two") == pcm_of("two")
        turn.end()
        await settle()
        counters = fixture.queue.counters
        assert fixture.playout.underruns == 0
        assert counters.underruns_engine + counters.underruns_engine_busy + counters.underruns_event_loop == 0

    async def test_the_wait_for_words_counts_from_their_coming(self, fixture: Fixture) -> None:
        turn = fixture.queue.open()
        turn.add(Words("one"))
        await heard(fixture, "one")
        await asyncio.sleep(0.3)  # the model thinks
        turn.add(Words("two"))
        await heard(fixture, "two")
        found = waits(fixture.measures)
        assert list(found) == ["speech_first_pcm_seconds no", "speech_first_packet_seconds no"]
        assert found["speech_first_packet_seconds no"][0] == 2
        assert found["speech_first_packet_seconds no"][1] < 0.25

    async def test_an_open_one_keeps_the_queue_from_being_idle(self, fixture: Fixture) -> None:
        turn = fixture.queue.open()
        assert not fixture.queue.idle
        turn.add(Words("one"))
        await heard(fixture, "one")
        await settle()
        assert not fixture.queue.idle
        assert fixture.idles == 0
        turn.end()
        turn.end()
        await settle()
        assert fixture.queue.idle
        assert fixture.idles == 1

    async def test_ended_before_it_was_heard(self, fixture: Fixture) -> None:
        turn = fixture.queue.open()
        turn.add(Words("one"), Pause(20), Words("two"))
        turn.end()
        turn.add(Words("never"))
        assert len(await fixture.listen_to_the_end()) == len(pcm_of("one") + pcm_of("two")) + 320
        assert fixture.events[-1] == SpeechFinished(1, 420, None)

    async def test_without_a_word(self, fixture: Fixture) -> None:
        fixture.queue.open().end()
        assert not fixture.events, "not before its number is known"
        await settle()
        assert fixture.events == [SpeechFinished(1, 0, None)]
        assert fixture.queue.counters.unspeakable == 0

    async def test_with_nothing_speakable(self, fixture: Fixture) -> None:
        turn = fixture.queue.open()
        turn.add(Words("  "))
        await settle()
        assert fixture.queue.counters.unspeakable == 0, "more may come"
        turn.end()
        await fixture.listen_to_the_end()
        assert fixture.queue.counters.unspeakable == 1

    async def test_marks(self, fixture: Fixture) -> None:
        turn = fixture.queue.open()
        turn.add(Mark("a"))
        await settle()
        turn.add(Words("one"), Mark("b"))
        await settle()
        assert fixture.events == [MarkReached("a", 1)]
        await heard(fixture, "one")
        turn.add(Mark("c"))
        await settle()
        assert fixture.events[1:] == [SpeechStarted(1), MarkReached("b", 1), MarkReached("c", 1)]


class TestOrder:
    async def test_what_is_said_behind_it_waits_for_its_end(self, fixture: Fixture) -> None:
        turn = fixture.queue.open()
        fixture.queue.say("four", None)
        turn.add(Words("one"))
        await heard(fixture, "one")
        await settle()
        assert len(fixture.engine.streams) == 1
        turn.add(Words("two"))
        assert await heard(fixture, "two") == pcm_of("two")
        turn.end()
        assert len(fixture.engine.streams) == 3, "at once"
        assert await fixture.listen_to_the_end() == pcm_of("four")
        assert [event.number for event in fixture.events if isinstance(event, SpeechFinished)] == [1, 2]
        assert [stream.request.text for stream in fixture.engine.streams] == ["one", "two", "four"]

    async def test_its_words_are_not_queued_behind_what_is_said_after_it(self, fixture: Fixture) -> None:
        turn = fixture.queue.open()
        fixture.queue.say("four", None)
        turn.add(Words("one"))
        await heard(fixture, "one")
        assert list(waits(fixture.measures)) == ["speech_first_pcm_seconds no", "speech_first_packet_seconds no"]

    async def test_behind_what_is_being_said(self, fixture: Fixture) -> None:
        fixture.queue.say("one", None)
        turn = fixture.queue.open()
        turn.add(Words("two"))
        turn.end()
        assert await fixture.listen_to_the_end() == pcm_of("one") + pcm_of("two")

    async def test_none_behind_one_that_is_open(self, fixture: Fixture) -> None:
        first = fixture.queue.open()
        with pytest.raises(TurnOpenError):
            fixture.queue.open()
        first.end()
        second = fixture.queue.open()
        second.add(Words("one"))
        second.end()
        assert await fixture.listen_to_the_end() == pcm_of("one")


class TestRefusals:
    async def test_a_voice_that_is_not_there(self, fixture: Fixture) -> None:
        with pytest.raises(UnknownVoiceError):
            fixture.queue.open("nobody")
        assert fixture.queue.idle
        turn = fixture.queue.open()
        with pytest.raises(UnknownVoiceError):
            turn.add(Words("one"), Words("two", "nobody"))
        assert not fixture.engine.streams, "nothing of what was refused is taken"
        turn.add(Words("three"))
        turn.end()
        assert await fixture.listen_to_the_end() == pcm_of("three")

    async def test_more_than_the_queue_holds(self, fixture: Fixture) -> None:
        fixture.engine.gate = asyncio.Semaphore(0)
        turn = fixture.queue.open()
        turn.add(Words("a" * 90))  # this one waits no more
        turn.add(Words("b" * 60))
        with pytest.raises(QueueFullError):
            turn.add(Words("c" * 60))
        turn.add(Words("d" * 40))
        assert turn.open


class TestCut:
    async def test_in_the_middle(self, fixture: Fixture) -> None:
        turn = fixture.queue.open()
        turn.add(Words("alpha bravo"))
        await heard(fixture, "alpha bravo")
        turn.add(Words("gamma"), Words("delta"))
        await fixture.until(lambda: fixture.playout.buffered_seconds > 0.39)
        fixture.listen(13)
        (cut,) = fixture.queue.clear()
        assert cut == CutSpeech(1, 660, None, "alpha bravo gamma")
        assert not turn.open
        turn.add(Words("late"))
        turn.end()
        await settle()
        assert fixture.queue.idle
        assert fixture.events == [SpeechStarted(1)]
        assert fixture.listen(20) == b""
        assert fixture.idles == 1

    async def test_while_its_words_are_awaited(self, fixture: Fixture) -> None:
        turn = fixture.queue.open()
        turn.add(Words("one"))
        await heard(fixture, "one")
        assert fixture.queue.clear() == [CutSpeech(1, 200, None, "one")]
        assert not turn.open

    async def test_the_reply_after_it_is_heard_whole(self, fixture: Fixture) -> None:
        fixture.queue.open().add(Words("one two"))
        await fixture.until(lambda: fixture.playout.buffered_seconds > 0.3)
        fixture.listen(3)
        fixture.queue.clear()
        reply = fixture.queue.open()
        reply.add(Words("three"))
        reply.end()
        assert await fixture.listen_to_the_end() == pcm_of("three")

    async def test_not_open_after_the_call(self, fixture: Fixture) -> None:
        turn = fixture.queue.open()
        fixture.queue.close()
        assert not turn.open
        turn.add(Words("one"))
        turn.end()
        assert not fixture.engine.streams

    async def test_of_a_very_long_one_the_last_words_are_remembered(self, fixture: Fixture) -> None:
        clause = "x" * 100
        turn = fixture.queue.open()
        for _ in range(MAX_HEARD_CHARS // len(clause) + 3):
            turn.add(Words(clause))
            await heard(fixture, clause)
        (cut,) = fixture.queue.clear()
        assert MAX_HEARD_CHARS - 200 < len(cut.heard_text) < MAX_HEARD_CHARS + 300
        assert cut.played_ms == 200 * (MAX_HEARD_CHARS // len(clause) + 3)


async def test_its_view_grows(fixture: Fixture) -> None:
    turn = fixture.queue.open(barge_in="digit")
    assert fixture.queue.views() == (SpeechView(1, "queued", "", None, 0),)
    turn.add(Words("one"))
    await heard(fixture, "one")
    turn.add(Words("two"))
    assert fixture.queue.views() == (SpeechView(1, "speaking", "one two", None, 200),)
    assert fixture.queue.barge_in == "digit"
