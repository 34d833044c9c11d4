"""Utterances of several parts: words, pauses, sounds and marks, heard one directly after the other."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from mediaserver.speech.events import MarkReached, SpeechFailed, SpeechFinished, SpeechStarted
from mediaserver.speech.limits import MAX_PARTS
from mediaserver.speech.queue import BUFFER_AHEAD_S, PIECE_S, QueueFullError
from mediaserver.speech.script import Mark, Part, Pause, Script, Sound, Words
from mediaserver.speech.utterance import CutSpeech
from mediaserver.speech.view import SpeechView
from tests.mediaserver.fake_engine import pcm_of
from tests.mediaserver.speech.test_queue import Fixture
from tts_engine.engine import PcmChunk
from tts_engine.errors import TextTooLongError, UnknownVoiceError

FRAME = 320


def silence(milliseconds: int) -> bytes:
    return bytes(16 * milliseconds)


def recording(*levels: int, milliseconds: int = 100, label: str = "bell") -> Sound:
    """A chunk for each level."""

    async def chunks(rate: int) -> AsyncIterator[PcmChunk]:
        for level in levels:
            yield PcmChunk(bytes([level]) * (2 * rate * milliseconds // 1000), rate)

    return Sound(chunks, label)


def bell(*levels: int, milliseconds: int = 100) -> bytes:
    return b"".join(bytes([level]) * (16 * milliseconds) for level in levels)


@pytest.fixture
async def fixture() -> AsyncIterator[Fixture]:
    made = Fixture()
    yield made
    made.queue.close()


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


class TestOrder:
    async def test_all_parts_are_heard_without_a_frame_between_them(self, fixture: Fixture) -> None:
        fixture.queue.say((Words("one"), Pause(60), recording(7, 8), Mark("m"), Words("two three", "other")), None)
        await fixture.until(lambda: fixture.playout.buffered_seconds > 0.85)
        expected = pcm_of("one") + silence(60) + bell(7, 8) + pcm_of("two") + pcm_of("three")
        frames = [fixture.playout.read() for _ in range(len(expected) // FRAME)]
        assert None not in frames, "no gap at a seam"
        assert b"".join(frame or b"" for frame in frames) == expected
        fixture.listen(1)
        await settle()
        assert fixture.events == [SpeechStarted(1), MarkReached("m", 1), SpeechFinished(1, 860, None)]
        assert (fixture.queue.counters.played, fixture.queue.counters.utterances) == (1, 1)
        assert (fixture.idles, fixture.playout.underruns) == (1, 0)

    async def test_the_next_part_is_synthesised_while_the_one_before_is_played(self, fixture: Fixture) -> None:
        fixture.queue.say((Words("one"), Words("two")), None)
        await fixture.until(lambda: len(fixture.engine.streams) == 2)
        await fixture.until(lambda: fixture.playout.buffered_seconds > 0.39)  # not a frame has been played

    async def test_what_the_engine_is_asked_for(self, fixture: Fixture) -> None:
        fixture.queue.say((Words("one", rate=1.5), Words("two", "other", phonemes="tu")), "heart")
        await fixture.listen_to_the_end()
        asked = [stream.request for stream in fixture.engine.streams]
        assert [(request.voice, request.rate, request.phonemes) for request in asked] == [
            ("heart", 1.5, None),
            ("other", 1.0, "tu"),
        ]

    async def test_a_long_pause_is_no_great_memory(self, fixture: Fixture) -> None:
        fixture.queue.say((Pause(3_600_000), Words("one")), None)
        await fixture.until(lambda: fixture.playout.buffered_seconds > BUFFER_AHEAD_S)
        await settle()
        assert fixture.playout.buffered_seconds <= BUFFER_AHEAD_S + PIECE_S
        assert not fixture.engine.streams
        assert fixture.listen(100) == silence(2000)
        (cut,) = fixture.queue.clear()
        assert (cut.played_ms, cut.total_ms, cut.heard_text) == (2000, None, "")

    @pytest.mark.parametrize("pause", [0, -5])
    async def test_a_pause_of_nothing(self, fixture: Fixture, pause: int) -> None:
        fixture.queue.say((Pause(pause), Words("one"), Pause(pause)), None)
        assert await fixture.listen_to_the_end() == pcm_of("one")
        assert fixture.queue.counters.played == 1

    async def test_an_empty_script_is_over_at_once_but_not_before_its_number_is_known(self, fixture: Fixture) -> None:
        assert fixture.queue.say((), None, mark="end") == 1
        assert not fixture.events
        await settle()
        assert fixture.events == [MarkReached("end", 1), SpeechFinished(1, 0, "end")]
        assert fixture.queue.idle
        assert fixture.idles == 1
        assert fixture.queue.counters.unspeakable == 0

    async def test_words_without_a_sound_among_others(self, fixture: Fixture) -> None:
        fixture.queue.say((Words(" "), Words("one"), Words("")), None)
        assert await fixture.listen_to_the_end() == pcm_of("one")
        counters = fixture.queue.counters
        assert (counters.unspeakable, counters.played) == (0, 1)

    async def test_nothing_but_words_without_a_sound(self, fixture: Fixture) -> None:
        with capture_logs() as logs:
            fixture.queue.say((Words(" "), Mark("m"), Words("  ")), None)
            await fixture.listen_to_the_end()
        counters = fixture.queue.counters
        assert (counters.unspeakable, counters.played) == (1, 0)
        assert [entry["chars"] for entry in logs if entry["event"] == "nothing_speakable"] == [3]
        assert fixture.events == [MarkReached("m", 1), SpeechFinished(1, 0, None)]

    async def test_no_log_above_debug_shows_the_text(self, fixture: Fixture) -> None:
        with capture_logs() as logs:
            fixture.queue.say((Words("secret"), Words("FAIL"), Pause(20)), None, mark="m")
            await fixture.listen_to_the_end()
        assert "secret" in str([entry for entry in logs if entry["log_level"] == "debug"])
        assert "secret" not in str([entry for entry in logs if entry["log_level"] != "debug"])
        assert "secret" not in repr(fixture.queue._backlog.utterances)


class TestBounds:
    async def test_the_number_of_parts(self, fixture: Fixture) -> None:
        marks: Script = (Mark("m"),) * (MAX_PARTS - 2)
        fixture.queue.say((Pause(1000), *marks), None)
        fixture.queue.say((Mark("last"),), None)
        with pytest.raises(QueueFullError):
            fixture.queue.say((Mark("one too many"),), None)
        fixture.queue.check((Mark("m"),) * MAX_PARTS, None, behind_queue=False)
        with pytest.raises(QueueFullError):
            fixture.queue.check((Mark("m"),) * (MAX_PARTS + 1), None, behind_queue=False)

    async def test_the_text_of_all_parts_together(self, fixture: Fixture) -> None:
        fixture.queue.check((Words("a" * 60), Words("b" * 40)), None)
        with pytest.raises(QueueFullError):
            fixture.queue.check((Words("a" * 60), Words("b" * 41)), None)

    async def test_each_part_has_to_please_the_engine(self, fixture: Fixture) -> None:
        with pytest.raises(UnknownVoiceError):
            fixture.queue.say((Words("one"), Words("two", "nobody")), None)
        with pytest.raises(TextTooLongError):
            fixture.queue.say((Words("one"), Words("x" * 1001)), None)
        assert fixture.queue.idle
        assert fixture.queue.counters.utterances == 0
        assert not fixture.engine.streams


class TestMarks:
    async def test_each_is_reached_when_what_is_before_it_has_been_heard(self, fixture: Fixture) -> None:
        fixture.queue.say((Mark("a"), Words("one"), Mark("b"), Mark("c"), Words("two")), None, mark="d")
        await fixture.until(lambda: fixture.playout.buffered_seconds > 0.39)
        assert fixture.events == [MarkReached("a", 1)], "nothing is before it"
        fixture.listen(10)
        await settle()
        assert fixture.events[1:] == [SpeechStarted(1)], "its last frame is being heard"
        fixture.listen(1)
        assert fixture.events[2:] == [MarkReached("b", 1), MarkReached("c", 1)]
        await fixture.listen_to_the_end()
        assert fixture.events[4:] == [MarkReached("d", 1), SpeechFinished(1, 400, "d")]

    async def test_behind_other_utterances(self, fixture: Fixture) -> None:
        fixture.queue.say("one", None)
        fixture.queue.say((Mark("m"),), None, mark="n")
        await settle()
        assert fixture.events == []
        await fixture.listen_to_the_end()
        assert fixture.events[1:] == [
            SpeechFinished(1, 200, None),
            MarkReached("m", 2),
            MarkReached("n", 2),
            SpeechFinished(2, 0, "n"),
        ]
        assert fixture.idles == 1

    async def test_of_what_was_cut_are_not_reached(self, fixture: Fixture) -> None:
        fixture.queue.say((Words("one"), Mark("a"), Words("two"), Mark("b")), None, mark="c")
        fixture.queue.say((Mark("d"),), None)
        await fixture.until(lambda: fixture.playout.buffered_seconds > 0.39)
        fixture.listen(15)
        fixture.queue.clear()
        await settle()
        fixture.listen(5)
        assert fixture.events == [SpeechStarted(1), MarkReached("a", 1)]

    async def test_that_were_passed_when_it_was_cut_are(self, fixture: Fixture) -> None:
        """The media thread has told of it, and the event loop has not come to hear it yet."""
        fixture.queue.say((Words("one"), Mark("a"), Words("two")), None)
        fixture.queue.say("three", None)
        await fixture.until(lambda: fixture.playout.buffered_seconds > 0.59)
        late = []
        fixture.playout.on_event = late.append
        fixture.listen(21)  # to the end of the first, one frame of the second
        first = fixture.queue.clear()
        assert [cut.number for cut in first] == [2]
        assert fixture.events == [MarkReached("a", 1), SpeechFinished(1, 400, None)]
        for event in late:
            fixture.queue.playout_event(event)
        assert len(fixture.events) == 2, "once"
        assert fixture.queue.counters.played == 1
        assert fixture.queue.counters.cleared == 1
        assert fixture.idles == 1

    async def test_a_listener_that_clears_and_says_more(self, fixture: Fixture) -> None:
        said = []

        def listen(event: object) -> None:
            fixture.events.append(event)  # type: ignore[arg-type]
            if event == MarkReached("stop", 1):
                fixture.queue.clear()
                said.append(fixture.queue.say("three", None))

        fixture.queue._on_event = listen
        fixture.queue.say((Words("one"), Mark("stop"), Words("two")), None)
        heard = await fixture.listen_to_the_end()
        assert heard[: len(pcm_of("one"))] == pcm_of("one")
        assert heard.endswith(pcm_of("three"))
        assert pcm_of("two")[: 2 * FRAME] not in heard, "the frame read by then at most"
        assert said == [2]
        assert fixture.events[-1] == SpeechFinished(2, 200, None)


class TestSounds:
    async def test_an_error_ends_the_sound_only(self, fixture: Fixture) -> None:
        async def broken(rate: int) -> AsyncIterator[PcmChunk]:
            yield PcmChunk(bell(7), rate)
            raise OSError("connection lost")

        with capture_logs() as logs:
            fixture.queue.say((Words("one"), Sound(broken, "tune"), Mark("m"), Words("two")), None)
            assert await fixture.listen_to_the_end() == pcm_of("one") + bell(7) + pcm_of("two")
        failed = SpeechFailed(1, "Sound: connection lost")
        assert failed in fixture.events
        assert [event for event in fixture.events if event != failed] == [
            SpeechStarted(1),
            MarkReached("m", 1),
            SpeechFinished(1, 500, None),
        ]
        counters = fixture.queue.counters
        assert (counters.sounds_failed, counters.failed, counters.played) == (1, 0, 0)
        (entry,) = [entry for entry in logs if entry["event"] == "sound_failed"]
        assert (entry["sound"], entry["error"]) == ("tune", "OSError")

    @pytest.mark.parametrize(
        ("chunk", "reason"),
        [
            (PcmChunk(bell(7), 16000), "Sound: its sample rate is 16000 Hz, not 8000 Hz"),
            (PcmChunk(b"\0" * 321, 8000), "Sound: it ends in the middle of a sample"),
        ],
    )
    async def test_what_is_no_sound_of_ours(self, fixture: Fixture, chunk: PcmChunk, reason: str) -> None:
        async def wrong(rate: int) -> AsyncIterator[PcmChunk]:
            yield chunk

        fixture.queue.say((Sound(wrong), Words("one")), None)
        assert await fixture.listen_to_the_end() == pcm_of("one")
        assert SpeechFailed(1, reason) in fixture.events

    async def test_one_that_cannot_be_opened(self, fixture: Fixture) -> None:
        def refuse(rate: int) -> AsyncIterator[PcmChunk]:
            raise ValueError("no such file")

        fixture.queue.say((Sound(refuse), Words("one")), None)
        assert await fixture.listen_to_the_end() == pcm_of("one")
        assert SpeechFailed(1, "Sound: no such file") in fixture.events

    async def test_one_that_cancels_itself(self, fixture: Fixture) -> None:
        async def cancelled(rate: int) -> AsyncIterator[PcmChunk]:
            yield PcmChunk(bell(7), rate)
            raise asyncio.CancelledError

        fixture.queue.say((Sound(cancelled), Words("one")), None)
        assert await fixture.listen_to_the_end() == bell(7) + pcm_of("one")
        assert fixture.failures == 0

    async def test_a_cut_closes_its_source_and_waits_for_nothing(self, fixture: Fixture) -> None:
        closed, slow = asyncio.Event(), asyncio.Event()

        async def stubborn(rate: int) -> AsyncIterator[PcmChunk]:
            try:
                yield PcmChunk(bell(7), rate)
                await asyncio.Event().wait()
            finally:
                await slow.wait()
                closed.set()

        fixture.queue.say((Sound(stubborn), Words("one")), None)
        await fixture.until(lambda: fixture.playout.buffered_seconds > 0.09)
        fixture.listen(2)
        assert fixture.queue.clear() == [CutSpeech(1, 40, None, "")]
        fixture.queue.say("two", None)
        assert await fixture.listen_to_the_end() == pcm_of("two")
        assert not closed.is_set(), "nobody waited for it"
        slow.set()
        async with asyncio.timeout(5):
            await closed.wait()

    async def test_the_end_of_the_call_closes_its_source(self, fixture: Fixture) -> None:
        closed = asyncio.Event()

        async def endless(rate: int) -> AsyncIterator[PcmChunk]:
            try:
                while True:
                    yield PcmChunk(bell(7), rate)
            finally:
                closed.set()

        fixture.queue.say((Sound(endless),), None)
        await fixture.until(lambda: fixture.playout.buffered_seconds > BUFFER_AHEAD_S)
        assert fixture.playout.buffered_seconds <= BUFFER_AHEAD_S + PIECE_S
        fixture.queue.close()
        async with asyncio.timeout(5):
            await closed.wait()

    async def test_a_source_that_is_no_generator(self, fixture: Fixture) -> None:
        class Source:
            left = 2

            def __aiter__(self) -> Source:
                return self

            async def __anext__(self) -> PcmChunk:
                self.left -= 1
                if self.left < 0:
                    raise StopAsyncIteration
                return PcmChunk(bell(9), 8000)

        fixture.queue.say((Sound(lambda _rate: Source()),), None)
        assert await fixture.listen_to_the_end() == bell(9, 9)
        assert fixture.queue.counters.played == 1

    async def test_one_that_is_late_is_no_underrun_of_the_engine(self, fixture: Fixture) -> None:
        gate = asyncio.Semaphore(1)

        async def slow(rate: int) -> AsyncIterator[PcmChunk]:
            for _ in range(2):
                await gate.acquire()
                yield PcmChunk(bell(9, milliseconds=200), rate)

        fixture.queue.say((Sound(slow),), None)
        await fixture.until(lambda: fixture.playout.buffered_seconds > 0.19)
        fixture.listen(13)
        gate.release()
        await fixture.listen_to_the_end()
        counters = fixture.queue.counters
        assert (counters.underruns_sound, counters.underruns_engine, counters.underruns_engine_busy) == (1, 0, 0)


class TestFailures:
    async def test_of_words_others_are_still_said(self, fixture: Fixture) -> None:
        fixture.queue.say((Words("one FAIL"), Words("two CRASH"), Mark("m"), Words("three")), None)
        assert await fixture.listen_to_the_end() == pcm_of("one") + pcm_of("two") + pcm_of("three")
        failed = [event for event in fixture.events if isinstance(event, SpeechFailed)]
        assert failed == [SpeechFailed(1, "asked to fail")], "once an utterance"
        assert fixture.events[-2:] == [MarkReached("m", 1), SpeechFinished(1, 600, None)]
        assert (fixture.queue.counters.failed, fixture.queue.counters.played) == (1, 0)

    async def test_what_was_cut_does_not_fail(self, fixture: Fixture) -> None:
        fixture.engine.gate = asyncio.Semaphore(0)
        fixture.queue.say("FAIL", None)
        await fixture.until(lambda: len(fixture.engine.streams) == 1)
        fixture.queue.clear()
        fixture.engine.gate.release()
        await settle()
        assert fixture.events == []


class TestBeginning:
    async def test_words_are_asked_of_the_engine_at_once(self, fixture: Fixture) -> None:
        """Not in the next turn of the loop, which with many calls comes milliseconds later."""
        fixture.queue.say("one", None)
        assert len(fixture.engine.streams) == 1
        await fixture.listen_to_the_end()
        fixture.queue.say("two", None)
        assert len(fixture.engine.streams) == 2
        assert await fixture.listen_to_the_end() == pcm_of("two")

    async def test_only_once(self, fixture: Fixture) -> None:
        fixture.queue.say("one", None)
        fixture.queue.say("two", None)
        assert fixture.engine.asked == 1
        assert await fixture.listen_to_the_end() == pcm_of("one") + pcm_of("two")
        assert fixture.engine.asked == 2

    async def test_a_clear_before_the_task_came_to_it(self, fixture: Fixture) -> None:
        fixture.queue.say("one", None)
        fixture.queue.clear()
        assert fixture.engine.streams[0].cancelled
        fixture.queue.say("two", None)
        assert len(fixture.engine.streams) == 2
        assert await fixture.listen_to_the_end() == pcm_of("two")

    async def test_after_the_call_nothing_is(self, fixture: Fixture) -> None:
        fixture.queue.close()
        fixture.queue.say("one", None)
        await settle()
        assert not fixture.engine.streams
        assert not fixture.events


class TestCut:
    async def test_one_for_each_utterance_over_all_its_parts(self, fixture: Fixture) -> None:
        fixture.queue.say((Words("alpha"), Pause(100), Words("bravo gamma")), None)
        fixture.queue.say((Words("delta"), Pause(40)), None)
        await fixture.until(lambda: fixture.playout.buffered_seconds > 0.93)
        await settle()
        fixture.listen(20)  # alpha, the pause, and half of bravo
        first, second = fixture.queue.clear()
        assert first == CutSpeech(1, 400, 700, "alpha")
        assert second == CutSpeech(2, 0, 240, "")

    async def test_words_heard_in_several_parts(self, fixture: Fixture) -> None:
        fixture.queue.say((Words("alpha bravo"), recording(7), Words("gamma"), Words("delta")), None)
        await fixture.until(lambda: fixture.playout.buffered_seconds > 0.89)
        fixture.listen(36)
        (cut,) = fixture.queue.clear()
        assert cut == CutSpeech(1, 720, 900, "alpha bravo gamma")

    async def test_of_a_part_that_failed_only_what_was_heard(self, fixture: Fixture) -> None:
        fixture.queue.say((Words("alpha bravo gamma delta FAIL epsilon"), Words("omega")), None)
        await fixture.until(lambda: fixture.playout.buffered_seconds > 0.99)
        fixture.listen(42)
        (cut,) = fixture.queue.clear()
        assert cut.total_ms == 1000, "all that there was"
        assert cut.heard_text.startswith("alpha bravo")
        assert "epsilon" not in cut.heard_text


class TestViews:
    async def test_what_is_said_and_what_waits(self, fixture: Fixture) -> None:
        assert fixture.queue.views() == ()
        fixture.queue.say((Words(" one "), Pause(100), Words("two")), None, mark="m")
        fixture.queue.say("three", None)
        await fixture.until(lambda: fixture.playout.buffered_seconds > 0.69)
        assert [view.state for view in fixture.queue.views()] == ["queued", "queued"]
        fixture.listen(5)
        assert fixture.queue.views() == (
            SpeechView(1, "speaking", "one two", "m", 100),
            SpeechView(2, "queued", "three", None, 0),
        )
        fixture.listen(20)
        assert fixture.queue.views()[0] == SpeechView(1, "speaking", "one two", "m", 500)
        await fixture.listen_to_the_end()
        assert fixture.queue.views() == ()

    async def test_what_interrupts_the_one_being_heard(self, fixture: Fixture) -> None:
        fixture.queue.say("one", None, barge_in="none")
        fixture.queue.say("two", None)
        fixture.queue.say("three", None, barge_in="speech")
        policies = [fixture.queue.barge_in]
        await fixture.until(lambda: fixture.playout.buffered_seconds > 0.59)
        for frames in (1, 10, 10):
            fixture.listen(frames)
            policies.append(fixture.queue.barge_in)
        assert policies == [None, "none", None, "speech"]


PARTS = st.one_of(
    st.builds(Words, st.sampled_from(["", "a", "b c", "d e f", "g FAIL h", "CRASH"])),
    st.builds(Pause, st.integers(0, 60)),
    st.builds(Mark, st.sampled_from(["x", "y"])),
    st.builds(lambda levels: recording(*levels, milliseconds=20), st.lists(st.integers(1, 90), max_size=3)),
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("say"), st.lists(PARTS, max_size=4).map(tuple)),
        st.tuples(st.just("listen"), st.integers(1, 40)),
        st.tuples(st.just("turn"), st.integers(1, 30)),
        st.tuples(st.just("clear"), st.just(0)),
    ),
    max_size=12,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(STEPS)
def test_every_utterance_ends_once_and_the_marks_are_in_order(steps: list[tuple[str, int | tuple[Part, ...]]]) -> None:
    async def run() -> None:
        fixture = Fixture()
        said: dict[int, tuple[Part, ...]] = {}
        cut: list[int] = []
        for kind, what in steps:
            if isinstance(what, tuple):
                said[fixture.queue.say(what, None)] = what
            elif kind == "listen":
                fixture.listen(what)
            elif kind == "clear":
                cut += [speech.number for speech in fixture.queue.clear()]
            else:
                for _ in range(what):
                    await asyncio.sleep(0)
        await fixture.listen_to_the_end()
        finished = [event.number for event in fixture.events if isinstance(event, SpeechFinished)]
        assert sorted(finished + cut) == sorted(said)
        assert all(one < other for one, other in pairwise(finished))
        for number, script in said.items():
            marks = [part.name for part in script if isinstance(part, Mark)]
            reached = [
                event.name for event in fixture.events if isinstance(event, MarkReached) and event.number == number
            ]
            assert reached == (marks if number in finished else marks[: len(reached)])
        assert fixture.queue.idle
        assert fixture.playout.is_idle or not fixture.playout.playing
        fixture.queue.close()

    began = time.monotonic()
    asyncio.run(run())
    assert time.monotonic() - began < 5
