"""An engine that has no room in the middle of a call is waited for; how long callers waited is measured."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from structlog.testing import capture_logs

from mediaserver.speech.measures import SpeechMeasures
from mediaserver.speech.patience import LONGEST_PAUSE_S
from tests.mediaserver.fake_engine import FakeEngine, pcm_of
from tests.mediaserver.speech.test_queue import Fixture
from tts_engine.measures import Histogram


@pytest.fixture
async def fixture() -> AsyncIterator[Fixture]:
    made = Fixture(wait_s=3.0)
    yield made
    made.queue.close()


@pytest.fixture
async def hasty() -> AsyncIterator[Fixture]:
    made = Fixture(wait_s=0.1)
    yield made
    made.queue.close()


def make_busy(engine: FakeEngine) -> None:
    engine.busy = True


def make_not_ready(engine: FakeEngine) -> None:
    engine.ready = False


def restore(engine: FakeEngine) -> None:
    engine.busy, engine.ready = False, True


def waits(measures: SpeechMeasures) -> dict[str, list[float]]:
    """Of each histogram that has something, the number and the sum."""
    found = {}
    for measure in measures.measures:
        assert isinstance(measure, Histogram)
        if measure.count:
            found[f"{measure.name} {measure.labels['queued']}"] = [measure.count, measure.sum]
    return found


class TestWaiting:
    @pytest.mark.parametrize("problem", [make_busy, make_not_ready])
    async def test_it_passes(self, fixture: Fixture, problem: Callable[[FakeEngine], None]) -> None:
        problem(fixture.engine)
        with capture_logs() as logs:
            fixture.queue.say("one", None)
            fixture.queue.say("two", None)
            await fixture.until(lambda: fixture.engine.asked >= 3)
            assert not fixture.queue.idle
            assert fixture.queue.counters.failed == 0
            restore(fixture.engine)
            assert await fixture.listen_to_the_end() == pcm_of("one") + pcm_of("two")
        counters = fixture.queue.counters
        assert (counters.waited, counters.failed, counters.played) == (1, 0, 2)
        told = [entry for entry in logs if entry["event"] == "speech_waits"]
        assert [(entry["utterance"], entry["reason"][:16]) for entry in told] == [(1, "the fake engine ")], "once"
        assert fixture.playout.underruns == 0, "silence before an utterance is no gap in it"

    async def test_it_does_not_pass(self, hasty: Fixture) -> None:
        hasty.engine.busy = True
        began = asyncio.get_running_loop().time()
        hasty.queue.say("one", None)
        await hasty.listen_to_the_end()
        assert 0.09 <= asyncio.get_running_loop().time() - began < 1
        assert (hasty.queue.counters.failed, hasty.queue.counters.waited) == (1, 1)
        assert hasty.engine.asked <= 8, "with pauses"
        restore(hasty.engine)
        hasty.queue.say("two", None)
        assert await hasty.listen_to_the_end() == pcm_of("two")

    async def test_no_wait_if_so_configured(self) -> None:
        impatient = Fixture(wait_s=0.0)
        impatient.engine.busy = True
        impatient.queue.say("one", None)
        await impatient.listen_to_the_end()
        assert (impatient.queue.counters.failed, impatient.queue.counters.waited) == (1, 0)
        assert impatient.engine.asked == 1
        impatient.queue.close()

    async def test_an_engine_that_restarts_before_the_first_sound(self, fixture: Fixture) -> None:
        """Nothing of the utterance has been heard: it can be begun again."""
        fixture.engine.gate = asyncio.Semaphore(0)
        fixture.queue.say("one", None)
        await fixture.until(lambda: len(fixture.engine.streams) == 1)
        fixture.engine.streams[0]._words = ["RESTART"]
        fixture.engine.gate.release()
        await fixture.until(lambda: fixture.engine.asked >= 2)
        assert fixture.engine.streams[0].cancelled
        fixture.engine.gate = None
        restore(fixture.engine)
        assert await fixture.listen_to_the_end() == pcm_of("one")
        assert (fixture.queue.counters.waited, fixture.queue.counters.failed) == (1, 0)

    async def test_an_engine_that_restarts_half_way(self, fixture: Fixture) -> None:
        """What has been heard is not said again."""
        fixture.queue.say("one RESTART two", None)
        assert await fixture.listen_to_the_end() == pcm_of("one")
        assert (fixture.queue.counters.failed, fixture.queue.counters.waited) == (1, 0)
        assert fixture.engine.asked == 1

    @pytest.mark.parametrize("word", ["FAIL", "CRASH"])
    async def test_other_failures_are_not_repeated(self, fixture: Fixture, word: str) -> None:
        fixture.queue.say(word, None)
        await fixture.listen_to_the_end()
        assert (fixture.queue.counters.failed, fixture.queue.counters.waited, fixture.engine.asked) == (1, 0, 1)

    async def test_clear_ends_the_wait(self, fixture: Fixture) -> None:
        fixture.engine.busy = True
        fixture.queue.say("one", None)
        fixture.queue.say("two", None)
        await fixture.until(lambda: fixture.engine.asked >= 2)
        fixture.queue.clear()
        assert fixture.queue.idle
        assert fixture.idles == 1
        asked = fixture.engine.asked
        for _ in range(20):
            await asyncio.sleep(0.01)
        assert fixture.engine.asked == asked, "nobody asks for what was cleared"
        restore(fixture.engine)
        fixture.queue.say("three", None)
        assert await fixture.listen_to_the_end() == pcm_of("three")
        counters = fixture.queue.counters
        assert (counters.cleared, counters.failed, counters.unspeakable, counters.played) == (2, 0, 0, 1)

    async def test_clear_and_a_new_text_at_once(self, fixture: Fixture) -> None:
        """The new text waits in its own right."""
        fixture.engine.busy = True
        fixture.queue.say("one", None)
        await fixture.until(lambda: fixture.engine.asked >= 2)
        fixture.queue.clear()
        fixture.queue.say("two", None)
        await fixture.until(lambda: fixture.queue.counters.waited == 2)
        restore(fixture.engine)
        assert await fixture.listen_to_the_end() == pcm_of("two")

    async def test_close_ends_the_wait(self, fixture: Fixture) -> None:
        fixture.engine.busy = True
        fixture.queue.say("one", None)
        await fixture.until(lambda: fixture.engine.asked >= 2)
        fixture.queue.close()
        asked = fixture.engine.asked
        restore(fixture.engine)
        await asyncio.sleep(0.3)
        assert fixture.engine.asked == asked
        assert (fixture.idles, fixture.failures, fixture.engine.streams) == (0, 0, [])

    async def test_a_text_that_comes_meanwhile_does_not_shorten_the_wait(self, fixture: Fixture) -> None:
        fixture.engine.busy = True
        fixture.queue.say("one", None)
        for number in range(20):
            await asyncio.sleep(0.001)
            fixture.queue.say(f"w{number}", None)
        assert fixture.queue.counters.failed == 0
        restore(fixture.engine)
        heard = await fixture.listen_to_the_end()
        assert heard == b"".join(pcm_of(word) for word in ["one", *(f"w{number}" for number in range(20))])

    async def test_many_calls_that_wait(self) -> None:
        """They do not storm the engine, and all are served once it is up."""
        calls = [Fixture(wait_s=3.0) for _ in range(50)]
        for call in calls:
            call.engine.busy = True
            call.queue.say("one", None)
        began = asyncio.get_running_loop().time()
        await asyncio.sleep(0.5)
        most = 4 + (asyncio.get_running_loop().time() - began) / (0.75 * LONGEST_PAUSE_S)
        assert all(3 <= call.engine.asked <= most for call in calls), [call.engine.asked for call in calls]
        for call in calls:
            restore(call.engine)
        for call in calls:
            assert await call.listen_to_the_end() == pcm_of("one")
            call.queue.close()


class TestMeasures:
    async def test_out_of_silence(self, fixture: Fixture) -> None:
        fixture.engine.gate = asyncio.Semaphore(0)
        fixture.queue.say("one two", None)
        await asyncio.sleep(0.05)
        fixture.engine.gate.release()
        await fixture.until(lambda: fixture.playout.buffered_seconds > 0)
        found = waits(fixture.measures)
        assert list(found) == ["speech_first_pcm_seconds no"]
        count, pcm = found["speech_first_pcm_seconds no"]
        assert count == 1
        assert 0.045 <= pcm < 0.5
        await asyncio.sleep(0.02)
        fixture.listen(1)
        fixture.engine.gate.release()
        fixture.engine.gate.release()
        await fixture.listen_to_the_end()
        count, packet = waits(fixture.measures)["speech_first_packet_seconds no"]
        assert count == 1, "once an utterance, whatever its chunks"
        assert pcm + 0.015 <= packet < 1

    async def test_the_wait_for_the_engine_counts(self, fixture: Fixture) -> None:
        fixture.engine.busy = True
        fixture.queue.say("one", None)
        await asyncio.sleep(0.05)
        restore(fixture.engine)
        await fixture.listen_to_the_end()
        assert waits(fixture.measures)["speech_first_pcm_seconds no"][1] >= 0.045

    async def test_behind_other_speech(self, fixture: Fixture) -> None:
        """From its turn on; and its packets follow those before without a pause."""
        fixture.engine.gate = asyncio.Semaphore(1)
        fixture.queue.say("one", None)
        fixture.queue.say("two", None)
        await fixture.until(lambda: fixture.playout.buffered_seconds > 0.1)
        await asyncio.sleep(0.05)
        turn = asyncio.get_running_loop().time()
        fixture.engine.gate.release()  # "one" has ended
        await asyncio.sleep(0.05)
        fixture.engine.gate.release()  # the chunk of "two"
        fixture.engine.gate.release()
        await fixture.until(lambda: fixture.playout.buffered_seconds > 0.3)
        since_turn = asyncio.get_running_loop().time() - turn
        await fixture.listen_to_the_end()
        found = waits(fixture.measures)
        assert found["speech_first_pcm_seconds no"][0] == found["speech_first_pcm_seconds yes"][0] == 1
        assert 0.045 <= found["speech_first_pcm_seconds yes"][1] <= since_turn, "not what came before its turn"
        count, pause = found["speech_first_packet_seconds yes"]
        assert count == 1
        assert pause < 0.02

    async def test_a_pause_before_what_comes_too_late(self, fixture: Fixture) -> None:
        """The caller heard the first to its end, and then nothing: that is what is counted."""
        fixture.engine.gate = asyncio.Semaphore(2)
        fixture.queue.say("one", None)
        fixture.queue.say("two", None)
        await fixture.until(lambda: len(fixture.engine.streams) == 2)
        await asyncio.sleep(0.05)
        silent = asyncio.get_running_loop().time()
        fixture.listen(11)  # ten frames, and an eleventh that tells that it is over
        await asyncio.sleep(0.05)
        fixture.engine.gate.release()
        fixture.engine.gate.release()
        await fixture.listen_to_the_end()
        count, pause = waits(fixture.measures)["speech_first_packet_seconds yes"]
        assert count == 1
        since_silent = asyncio.get_running_loop().time() - silent
        assert 0.045 <= pause <= since_silent, "not the first 50 ms, in which the caller had something to hear"

    async def test_a_caller_who_does_not_listen_yet_does_not_wait(self, fixture: Fixture) -> None:
        fixture.queue.say("one", None)
        await asyncio.sleep(0.1)  # no ACK yet, or on hold
        fixture.queue.listening()
        await fixture.listen_to_the_end()
        count, packet = waits(fixture.measures)["speech_first_packet_seconds no"]
        assert count == 1
        assert packet < 0.05

    async def test_what_was_cleared_or_failed_has_no_first_packet(self, fixture: Fixture) -> None:
        fixture.queue.say("FAIL", None)
        await fixture.listen_to_the_end()
        fixture.queue.say("one", None)
        await fixture.until(lambda: fixture.playout.buffered_seconds > 0)
        fixture.queue.clear()
        fixture.listen(3)
        assert list(waits(fixture.measures)) == ["speech_first_pcm_seconds no"]
