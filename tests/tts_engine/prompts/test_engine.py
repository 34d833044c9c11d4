"""CachedEngine over an engine whose every word is a chunk: what it costs that engine, and what callers hear."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.mediaserver.fake_engine import FakeEngine, pcm_of
from tts_engine.engine import Engine, PcmChunk, SpeechRequest, SpeechStream
from tts_engine.errors import (
    EngineBusyError,
    EngineError,
    EngineNotReadyError,
    SynthesisError,
    TextTooLongError,
    UnknownVoiceError,
)
from tts_engine.measures import Counter, Gauge
from tts_engine.prompts import CachedEngine, PromptStore, StoredPrompt, key_of
from tts_engine.prompts import engine as module

MEMORY = 1 << 20


class FixedIdentity:
    """Voices sound the same until the test says otherwise."""

    def __init__(self) -> None:
        self.known: dict[str, str | None] = {"heart": "1", "other": "2"}
        self.loads = 0
        self.fault: Exception | None = None

    def load(self) -> None:
        self.loads += 1
        if self.fault is not None:
            raise self.fault

    def of(self, voice: str) -> str | None:
        return self.known[voice]


class Bench:
    """A cached engine that runs."""

    def __init__(self) -> None:
        self.behind = FakeEngine()
        self.identity = FixedIdentity()
        self.engine = self.make()
        self.made = [self.engine]

    def make(
        self, memory: int = MEMORY, store: PromptStore | None = None, warm: tuple[SpeechRequest, ...] = ()
    ) -> CachedEngine:
        self.engine = CachedEngine(self.behind, self.identity, memory, store, warm)
        return self.engine

    async def start(self) -> CachedEngine:
        """With what is done in the background done."""
        await self.engine.start()
        await self.settle()
        return self.engine

    async def settle(self) -> None:
        while self.engine._background:
            await asyncio.wait(self.engine._background, timeout=5)

    async def say(self, text: str, voice: str | None = None, **options: object) -> bytes:
        return await heard(self.engine.synthesize(SpeechRequest(text, voice, **options)))  # type: ignore[arg-type]

    def measure(self, name: str, **labels: str) -> float:
        (found,) = [m for m in self.engine.measures if m.name == name and dict(m.labels) == labels]
        assert isinstance(found, Counter | Gauge)
        return found.value

    def hits(self, source: str) -> float:
        return self.measure("prompt_hits", source=source)


async def heard(stream: SpeechStream) -> bytes:
    return b"".join([chunk.pcm async for chunk in stream])


def speech(text: str, rate: int = 8000) -> bytes:
    return b"".join(pcm_of(word, rate) for word in text.split())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    made = Bench()
    await made.start()
    yield made
    await made.engine.stop()


async def test_it_is_an_engine(bench: Bench) -> None:
    engine: Engine = bench.engine
    behind = bench.behind
    assert (engine.name, engine.voices, engine.default_voice) == (behind.name, behind.voices, behind.default_voice)
    assert engine.limits is behind.limits
    behind.features = frozenset(("rate",))
    assert engine.features == {"rate"}
    behind.measures = (Gauge("streams", "Utterances open"),)
    assert engine.measures[0] is behind.measures[0]
    assert engine.available() is None
    behind.busy = True
    assert isinstance(engine.available(), EngineBusyError)
    behind.ready = False
    assert not engine.ready
    with pytest.raises(UnknownVoiceError):
        engine.check(SpeechRequest("", "nobody"))


class TestFeatures:
    """How it is to be said."""

    async def test_what_the_engine_can_do_makes_another_prompt(self, bench: Bench) -> None:
        bench.behind.features = frozenset(("rate", "phonemes"))
        for options in ({}, {"rate": 1.5}, {"phonemes": "haɪ"}, {"rate": 1.5, "phonemes": "haɪ"}):
            for _ in range(3):
                assert await bench.say("hi", **options) == speech("hi")
        asked = [(stream.request.rate, stream.request.phonemes) for stream in bench.behind.streams]
        assert asked == [pair for pair in ((1.0, None), (1.5, None), (1.0, "haɪ"), (1.5, "haɪ")) for _ in range(2)]
        assert bench.hits("memory") == 4

    async def test_what_it_ignores_does_not(self, bench: Bench) -> None:
        await bench.say("hi")
        await bench.say("hi", rate=1.5)
        await bench.say("hi", phonemes="haɪ")
        assert (len(bench.behind.streams), bench.hits("memory")) == (2, 1)

    async def test_what_is_said_in_advance_has_them_too(self, bench: Bench) -> None:
        bench.behind.features = frozenset(("rate",))
        bench.make(warm=(SpeechRequest("welcome", rate=0.8),))
        await bench.start()
        assert [stream.request.rate for stream in bench.behind.streams] == [0.8]
        await bench.say("welcome", rate=0.8)
        assert bench.hits("memory") == 1


class TestKeeping:
    async def test_from_the_second_time_on(self, bench: Bench) -> None:
        for times_made in (1, 2, 2, 2):
            assert await bench.say("hello there") == speech("hello there")
            assert bench.behind.asked == times_made
        assert (bench.hits("memory"), bench.measure("prompt_misses")) == (2, 2)
        assert (bench.measure("prompts"), bench.measure("prompt_bytes")) == (1, len(speech("hello there")) + 512)

    async def test_a_hit_is_one_chunk_that_is_not_copied(self, bench: Bench) -> None:
        await bench.say("a b c")
        await bench.say("a b c")
        streams = [bench.engine.synthesize(SpeechRequest("a b c")) for _ in range(2)]
        chunks = [[chunk async for chunk in stream] for stream in streams]
        assert [len(each) for each in chunks] == [1, 1]
        assert chunks[0][0].pcm is chunks[1][0].pcm
        assert chunks[0][0].sample_rate == 8000

    async def test_voice_rate_and_text_make_a_prompt(self, bench: Bench) -> None:
        for _ in range(2):
            await bench.say("hello")
            await bench.say("hello", "other")
            await bench.say("hello", sample_rate=16000)
            await bench.say("Hello")
        assert bench.behind.asked == 8
        assert await bench.say("hello", sample_rate=16000) == speech("hello", 16000)
        assert await bench.say("hello", "heart") == speech("hello"), "the default voice, by its name"
        assert bench.behind.asked == 8

    async def test_a_voice_that_sounds_otherwise_is_made_again(self, bench: Bench) -> None:
        await bench.say("hello")
        await bench.say("hello")
        bench.identity.known["heart"] = "new"
        await bench.say("hello")
        assert bench.behind.asked == 3
        bench.identity.known["heart"] = "1"
        await bench.say("hello")
        assert bench.behind.asked == 3

    async def test_what_sounds_nobody_knows_how_is_not_kept(self, bench: Bench) -> None:
        bench.identity.known["heart"] = None
        for _ in range(3):
            assert await bench.say("hello") == speech("hello")
        assert (bench.behind.asked, bench.measure("prompts"), bench.measure("prompt_misses")) == (3, 0, 0)

    async def test_private_texts_leave_nothing(self, bench: Bench) -> None:
        for _ in range(3):
            assert await bench.say("hello", cacheable=False) == speech("hello")
        assert (bench.behind.asked, bench.measure("prompts"), len(bench.engine._seen)) == (3, 0, 0)
        request = SpeechRequest("hello", cacheable=False)
        streams = [bench.engine.synthesize(request) for _ in range(2)]
        assert bench.behind.asked == 5, "nor is it shared"
        for stream in streams:
            stream.cancel()

    async def test_cancelled_half_way(self, bench: Bench) -> None:
        for _ in range(3):
            stream = bench.engine.synthesize(SpeechRequest("one two three"))
            assert (await anext(stream)).pcm == pcm_of("one")
            stream.cancel()
            stream.cancel()
            with pytest.raises(StopAsyncIteration):
                await anext(stream)
            assert bench.behind.streams[-1].cancelled
        assert bench.measure("prompts") == 0
        assert await bench.say("one two three") == speech("one two three")

    async def test_failed_half_way(self, bench: Bench) -> None:
        for _ in range(3):
            stream = bench.engine.synthesize(SpeechRequest("one FAIL"))
            assert (await anext(stream)).pcm == pcm_of("one")
            with pytest.raises(SynthesisError, match="asked to fail"):
                await anext(stream)
            with pytest.raises(StopAsyncIteration):
                await anext(stream)
        assert bench.measure("prompts") == 0

    async def test_a_crash_of_the_engines_comes_through(self, bench: Bench) -> None:
        with pytest.raises(ZeroDivisionError):
            await bench.say("CRASH")

    async def test_nothing_speakable_is_remembered_too(self, bench: Bench) -> None:
        for _ in range(3):
            assert await bench.say("  ") == b""
        assert bench.behind.asked == 2

    async def test_a_text_that_is_too_long(self, bench: Bench) -> None:
        bench.engine = bench.make(memory=8 * 10_000)  # 10,000 bytes an entry; a word has 3,200
        await bench.start()
        for _ in range(3):
            assert await bench.say("a b c d e f") == speech("a b c d e f")
        assert (bench.behind.asked, bench.measure("prompts")) == (3, 0)
        for _ in range(3):
            await bench.say("a b")
        assert (bench.behind.asked, bench.measure("prompts")) == (5, 1)

    async def test_what_would_be_refused_is_refused_although_it_is_kept(self, bench: Bench) -> None:
        await bench.say("hello", "other")
        await bench.say("hello", "other")
        bench.behind.limits = type(bench.behind.limits)(max_text_chars=3, max_streams=1)
        with pytest.raises(TextTooLongError):
            bench.engine.synthesize(SpeechRequest("hello", "other"))
        with pytest.raises(UnknownVoiceError):
            bench.engine.synthesize(SpeechRequest("hi", "nobody"))

    async def test_while_the_engine_is_busy_or_down(self, bench: Bench) -> None:
        await bench.say("hello")
        await bench.say("hello")
        bench.behind.busy = True
        assert await bench.say("hello") == speech("hello")
        with pytest.raises(EngineBusyError):
            bench.engine.synthesize(SpeechRequest("other"))
        bench.behind.ready = False
        assert await bench.say("hello") == speech("hello")
        with pytest.raises(EngineNotReadyError):
            bench.engine.synthesize(SpeechRequest("other"))
        bench.behind.busy, bench.behind.ready = False, True
        assert await bench.say("other") == speech("other"), "what was refused is not under way"

    async def test_cancel_of_a_hit(self, bench: Bench) -> None:
        await bench.say("hello")
        await bench.say("hello")
        stream = bench.engine.synthesize(SpeechRequest("hello"))
        stream.cancel()
        assert await heard(stream) == b""


class TestTogether:
    """Several callers want the same text at the same time."""

    async def test_one_synthesis_for_all(self, bench: Bench) -> None:
        streams = [bench.engine.synthesize(SpeechRequest("one two three")) for _ in range(5)]
        assert await asyncio.gather(*map(heard, streams)) == [speech("one two three")] * 5
        assert (bench.behind.asked, bench.hits("shared")) == (1, 4)
        assert await bench.say("one two three") == speech("one two three")
        assert bench.behind.asked == 1, "two have asked: it was kept at once"

    async def test_who_comes_later_gets_the_beginning_at_once(self, bench: Bench) -> None:
        bench.behind.gate = asyncio.Semaphore(2)
        first = bench.engine.synthesize(SpeechRequest("one two three"))
        assert [(await anext(first)).pcm for _ in range(2)] == [pcm_of("one"), pcm_of("two")]
        second = bench.engine.synthesize(SpeechRequest("one two three"))
        assert [(await anext(second)).pcm for _ in range(2)] == [pcm_of("one"), pcm_of("two")]
        bench.behind.gate.release()
        bench.behind.gate.release()
        assert (await heard(first), await heard(second)) == (pcm_of("three"), pcm_of("three"))

    async def test_who_pauses_holds_nobody_up(self, bench: Bench) -> None:
        first = bench.engine.synthesize(SpeechRequest("one two three"))
        second = bench.engine.synthesize(SpeechRequest("one two three"))
        assert (await anext(first)).pcm == pcm_of("one")
        assert await heard(second) == speech("one two three")
        assert await heard(first) == speech("two three")

    async def test_no_chunk_is_asked_for_that_nobody_wants(self, bench: Bench) -> None:
        first = bench.engine.synthesize(SpeechRequest("one two three"))
        second = bench.engine.synthesize(SpeechRequest("one two three"))
        await anext(first)
        await anext(second)
        await asyncio.sleep(0)
        assert bench.behind.streams[0].taken == 1

    async def test_the_first_hangs_up(self, bench: Bench) -> None:
        bench.behind.gate = asyncio.Semaphore(1)
        first = bench.engine.synthesize(SpeechRequest("one two three"))
        second = bench.engine.synthesize(SpeechRequest("one two three"))
        await anext(first)
        waits = asyncio.ensure_future(anext(first, None))
        rest = asyncio.ensure_future(heard(second))
        await until(lambda: second.position == 1)  # type: ignore[attr-defined]
        first.cancel()
        assert await waits is None, "the iteration under way ends"
        assert not bench.behind.streams[0].cancelled
        bench.behind.gate.release()
        bench.behind.gate.release()
        bench.behind.gate.release()
        assert await rest == speech("one two three")
        assert bench.behind.asked == 1

    async def test_a_task_that_is_cancelled_takes_nobody_with_it(self, bench: Bench) -> None:
        bench.behind.gate = asyncio.Semaphore(0)
        first = bench.engine.synthesize(SpeechRequest("one two"))
        second = bench.engine.synthesize(SpeechRequest("one two"))
        task = asyncio.ensure_future(heard(first))
        rest = asyncio.ensure_future(heard(second))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        first.cancel()
        for _ in range(3):
            bench.behind.gate.release()
        assert await rest == speech("one two")

    async def test_all_hang_up(self, bench: Bench) -> None:
        bench.behind.gate = asyncio.Semaphore(0)
        streams = [bench.engine.synthesize(SpeechRequest("one two")) for _ in range(3)]
        waits = [asyncio.ensure_future(heard(stream)) for stream in streams]
        await asyncio.sleep(0)
        for stream in streams:
            assert not bench.behind.streams[0].cancelled
            stream.cancel()
        assert bench.behind.streams[0].cancelled
        assert await asyncio.gather(*waits) == [b""] * 3
        bench.behind.gate = None
        assert await bench.say("one two") == speech("one two")
        assert bench.behind.asked == 2
        assert bench.measure("prompts") == 1, "two have asked, and now it was said to its end"

    async def test_the_synthesis_fails(self, bench: Bench) -> None:
        """Who only joined goes on with one of his own, where the other broke off."""
        bench.behind.gate = asyncio.Semaphore(1)
        text = "one two three"
        first, second, third = (bench.engine.synthesize(SpeechRequest(text)) for _ in range(3))
        assert (await anext(first)).pcm == pcm_of("one")
        assert (await anext(second)).pcm == pcm_of("one")
        bench.behind.streams[0]._words = ["FAIL"]
        bench.behind.gate = None
        with pytest.raises(SynthesisError):
            await heard(first)
        assert await heard(second) == speech("two three")
        assert await heard(third) == speech(text)
        assert bench.behind.asked == 3
        assert bench.measure("prompts") == 0

    async def test_it_fails_and_the_engine_has_no_room_for_those_who_joined(self, bench: Bench) -> None:
        first, second = (bench.engine.synthesize(SpeechRequest("FAIL")) for _ in range(2))
        bench.behind.busy = True
        with pytest.raises(SynthesisError):
            await heard(first)
        with pytest.raises(EngineBusyError):
            await heard(second)
        assert await heard(second) == b""

    async def test_ones_own_synthesis_is_cancelled_and_may_fail(self, bench: Bench) -> None:
        first, second, third = (bench.engine.synthesize(SpeechRequest("FAIL two")) for _ in range(3))
        with pytest.raises(SynthesisError):
            await heard(first)
        with pytest.raises(SynthesisError):
            await heard(second)
        bench.behind.gate = asyncio.Semaphore(0)
        rest = asyncio.ensure_future(heard(third))
        await until(lambda: bench.behind.asked == 3)
        third.cancel()
        assert await rest == b""
        assert bench.behind.streams[2].cancelled

    async def test_a_long_text_is_shared_but_not_recorded(self, bench: Bench) -> None:
        bench.make(memory=8 * 10_000)
        await bench.start()
        text = "a b c d e f g h"
        first = bench.engine.synthesize(SpeechRequest(text))
        second = bench.engine.synthesize(SpeechRequest(text))
        assert [(await anext(first)).pcm for _ in range(4)] == [pcm_of(word) for word in "abcd"]
        late = bench.engine.synthesize(SpeechRequest(text))
        assert bench.behind.asked == 2, "its beginning is not all kept any more"
        late.cancel()
        shared = first._shared  # type: ignore[attr-defined]
        assert len(shared._chunks) == 4, "the second has them to read"
        assert [(await anext(second)).pcm for _ in range(3)] == [pcm_of(word) for word in "abc"]
        assert len(shared._chunks) == 1
        assert await heard(second) == speech("d e f g h")
        assert await heard(first) == speech("e f g h")
        assert bench.measure("prompts") == 0

    async def test_one_that_was_left_behind_by_a_hang_up_frees_its_chunks(self, bench: Bench) -> None:
        bench.make(memory=8 * 10_000)
        await bench.start()
        first, second = (bench.engine.synthesize(SpeechRequest("a b c d e f g h")) for _ in range(2))
        for _ in range(5):
            await anext(first)
        shared = first._shared  # type: ignore[attr-defined]
        assert len(shared._chunks) == 5
        second.cancel()
        assert len(shared._chunks) == 0
        assert await heard(first) == speech("f g h")

    async def test_what_all_record_together_is_bounded(self, bench: Bench) -> None:
        bench.make(memory=4 * 10_000)  # 5,000 - 512 an entry, 10,000 of recordings: three words
        await bench.start()
        streams = [bench.engine.synthesize(SpeechRequest(word)) for word in "abcdef"]
        for stream in streams:
            await anext(stream)
        assert sum(shared.recorded for shared in bench.engine._shared.values()) <= 10_000
        assert len(bench.engine._shared) == 3
        for stream, word in zip(streams, "abcdef", strict=True):
            assert await heard(stream) == b"", word

    async def test_the_neediest_listener_counts(self, bench: Bench) -> None:
        """What the engine is told: it serves first whom it runs out for first."""
        first = bench.engine.synthesize(SpeechRequest("one two", buffered_seconds=lambda: 3.0))
        asked = bench.behind.streams[0].request.buffered_seconds
        assert asked() == 3.0
        second = bench.engine.synthesize(SpeechRequest("one two", buffered_seconds=lambda: 0.5))
        assert asked() == 0.5
        await anext(first)
        assert asked() == pytest.approx(0.7), "there is a chunk of 0.2 s for the second to take"
        await anext(second)
        assert asked() == 0.5
        second.cancel()
        assert asked() == 3.0

    async def test_a_stream_that_was_forgotten_ends_the_synthesis(self, bench: Bench) -> None:
        """An engine frees what its reader forgot; a reader here must not be kept by anything."""
        stream: SpeechStream | None = bench.engine.synthesize(SpeechRequest("one two"))
        assert stream is not None
        await anext(stream)
        assert len(bench.engine._shared) == 1
        del stream
        gc.collect()
        assert len(bench.engine._shared) == 0
        assert bench.behind.streams[0].request.buffered_seconds() == 0.0


class TestStartAndStop:
    async def test_readiness_does_not_wait_for_prompts(self, bench: Bench) -> None:
        behind, engine = FakeEngine(), None
        identity = FixedIdentity()
        behind.gate = asyncio.Semaphore(0)
        engine = CachedEngine(behind, identity, MEMORY, warm=[SpeechRequest("welcome here")])
        async with asyncio.timeout(5):
            await engine.start()
            await engine.start()
            await until(lambda: behind.asked == 1)
        assert identity.loads == 1
        # A caller who comes meanwhile joins.
        caller = asyncio.ensure_future(heard(engine.synthesize(SpeechRequest("welcome here"))))
        for _ in range(3):
            behind.gate.release()
        assert await caller == speech("welcome here")
        assert await heard(engine.synthesize(SpeechRequest("welcome here"))) == speech("welcome here")
        assert behind.asked == 1
        await engine.stop()

    async def test_before_it_knows_itself_nothing_is_kept(self) -> None:
        bench = Bench()
        await bench.engine.start()
        assert await bench.say("hello") == speech("hello")
        assert len(bench.engine._seen) == 0
        await bench.settle()
        await bench.engine.stop()

    @pytest.mark.parametrize("fault", [OSError(2, "gone"), EngineError("no weights")])
    async def test_an_identity_that_cannot_be_had(self, fault: Exception, caplog: pytest.LogCaptureFixture) -> None:
        bench = Bench()
        bench.identity.fault = fault
        bench.make(warm=(SpeechRequest("welcome"),))
        with caplog.at_level(logging.WARNING):
            await bench.start()
        assert "prompts of the fake engine are not kept" in caplog.text
        for _ in range(3):
            assert await bench.say("hello") == speech("hello")
        assert bench.behind.asked == 3
        await bench.engine.stop()

    async def test_an_engine_that_does_not_start(self) -> None:
        bench = Bench()

        async def start() -> None:
            raise EngineError("no GPU")

        bench.behind.start = start  # type: ignore[method-assign]
        with pytest.raises(EngineError, match="no GPU"):
            await bench.engine.start()
        assert bench.identity.loads == 0

    async def test_warming_waits_for_a_busy_engine(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "WARM_RETRY_S", 0.0)
        bench = Bench()
        bench.behind.busy = True
        bench.make(warm=(SpeechRequest("welcome"),))
        await bench.engine.start()
        await until(lambda: bench.behind.asked == 3)
        bench.behind.gate = asyncio.Semaphore(0)
        bench.behind.busy = False
        await until(lambda: len(bench.behind.streams) == 1)
        assert bench.behind.streams[-1].request.buffered_seconds() == module.WARM_BUFFERED_S, "callers go first"
        bench.behind.gate.release()
        bench.behind.gate.release()
        await bench.settle()
        asked = bench.behind.asked
        assert await bench.say("welcome") == speech("welcome")
        assert bench.behind.asked == asked
        await bench.engine.stop()

    async def test_warming_that_fails_is_said_and_no_more(self, caplog: pytest.LogCaptureFixture) -> None:
        bench = Bench()
        bench.make(warm=(SpeechRequest("secret FAIL"), SpeechRequest("CRASH secret")))
        with caplog.at_level(logging.WARNING):
            await bench.start()
        assert "cannot say a prompt in advance: asked to fail" in caplog.text
        assert "ZeroDivisionError" in caplog.text
        assert "secret" not in caplog.text
        assert await bench.say("hello") == speech("hello")
        await bench.engine.stop()

    async def test_a_stop_while_it_warms(self) -> None:
        bench = Bench()
        bench.behind.gate = asyncio.Semaphore(0)
        bench.make(warm=(SpeechRequest("welcome"),))
        await bench.engine.start()
        await until(lambda: bench.behind.asked == 1)
        await bench.engine.stop()
        assert bench.behind.streams[0].cancelled
        assert not bench.engine._background

    async def test_what_a_stop_breaks_off_is_not_kept(self, bench: Bench) -> None:
        """The engine cancels its streams, which then end as if all had been said."""
        bench.behind.gate = asyncio.Semaphore(1)
        streams = [bench.engine.synthesize(SpeechRequest("one two")) for _ in range(2)]
        await anext(streams[0])
        rest = [asyncio.ensure_future(heard(stream)) for stream in streams]
        await asyncio.sleep(0)
        stop = asyncio.ensure_future(bench.engine.stop())
        bench.behind.streams[0].cancel()
        await stop
        assert await asyncio.gather(*rest) == [b"", pcm_of("one")]
        assert bench.measure("prompts") == 0

    async def test_again(self, bench: Bench) -> None:
        await bench.say("hello")
        await bench.say("hello")
        await bench.engine.stop()
        assert (bench.measure("prompts"), bench.measure("prompt_bytes")) == (0, 0)
        with pytest.raises(EngineNotReadyError):
            bench.engine.synthesize(SpeechRequest("hello"))
        await bench.start()
        assert bench.identity.loads == 2
        assert await bench.say("hello") == speech("hello")


class TestStore:
    @pytest.fixture
    def store(self, tmp_path: Path) -> PromptStore:
        return PromptStore(tmp_path / "prompts", 1 << 20)

    def put(self, bench: Bench, store: PromptStore, text: str, pcm: bytes) -> bytes:
        key = key_of(SpeechRequest(text), bench.behind, bench.identity)
        assert key is not None
        store.write(key, StoredPrompt("fake", "heart", "1", 8000, pcm))
        return key

    async def test_it_is_read_once(self, store: PromptStore) -> None:
        bench = Bench()
        self.put(bench, store, "hello", b"\1\0" * 80)
        bench.make(store=store)
        await bench.start()
        streams = [bench.engine.synthesize(SpeechRequest("hello")) for _ in range(3)]
        assert await asyncio.gather(*map(heard, streams)) == [b"\1\0" * 80] * 3
        store.clear()
        assert await bench.say("hello") == b"\1\0" * 80
        assert bench.behind.asked == 0
        assert (bench.hits("disk"), bench.hits("shared"), bench.hits("memory")) == (1, 2, 1)
        assert bench.measure("prompt_misses") == 0
        await bench.engine.stop()

    async def test_the_server_writes_nothing(self, store: PromptStore) -> None:
        bench = Bench()
        bench.make(store=store, warm=(SpeechRequest("welcome"),))
        await bench.start()
        await bench.say("hello")
        await bench.say("hello")
        await bench.engine.stop()
        assert not store.directory.exists()

    @pytest.mark.parametrize("damage", ["changed", "removed"])
    async def test_what_cannot_be_read_is_synthesised(
        self, store: PromptStore, damage: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        bench = Bench()
        self.put(bench, store, "hello", b"\1\0" * 80)
        bench.make(store=store)
        await bench.start()
        (path,) = store.directory.iterdir()
        if damage == "changed":
            path.write_bytes(path.read_bytes()[:-1] + b"?")
        else:
            path.unlink()
        streams = [bench.engine.synthesize(SpeechRequest("hello")) for _ in range(2)]
        assert await asyncio.gather(*map(heard, streams)) == [speech("hello")] * 2
        assert ("damaged" in caplog.text) == (damage == "changed")
        assert (bench.behind.asked, bench.hits("disk"), bench.measure("prompt_misses")) == (1, 0, 1)
        assert await bench.say("hello") == speech("hello")
        assert bench.behind.asked == 1
        await bench.engine.stop()

    async def test_a_hang_up_while_it_is_read(self, store: PromptStore) -> None:
        bench = Bench()
        self.put(bench, store, "hello", b"\1\0" * 80)
        bench.make(store=store)
        await bench.start()
        stream = bench.engine.synthesize(SpeechRequest("hello"))
        rest = asyncio.ensure_future(heard(stream))
        await asyncio.sleep(0)
        stream.cancel()
        assert await rest == b""
        assert await bench.say("hello") == b"\1\0" * 80
        assert bench.behind.asked == 0
        await bench.engine.stop()

    async def test_what_comes_while_the_server_runs(self, store: PromptStore, monkeypatch: pytest.MonkeyPatch) -> None:
        bench = Bench()
        bench.make(store=store)
        await bench.start()
        self.put(bench, store, "hello", b"\1\0" * 80)
        assert await bench.say("hello") == speech("hello"), "it was looked through a moment ago"
        monkeypatch.setattr(module, "RESCAN_S", -1.0)
        await bench.say("another")
        await bench.settle()
        assert await bench.say("hello") == b"\1\0" * 80
        await bench.engine.stop()

    async def test_a_directory_that_cannot_be_read(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        (tmp_path / "file").touch()
        bench = Bench()
        bench.make(store=PromptStore(tmp_path / "file", 1000))
        await bench.start()
        assert "kept prompts cannot be used" in caplog.text
        for _ in range(3):
            assert await bench.say("hello") == speech("hello")
        assert bench.behind.asked == 2, "memory works without it"
        await bench.engine.stop()


async def test_pcm_chunks_joined_are_what_the_engine_gave(bench: Bench) -> None:
    """Whatever the order in which many callers come, read and go."""
    import random

    dice = random.Random(6)
    texts = ["a b c", "d e", "f g h i"]

    async def caller() -> None:
        for _ in range(6):
            text = dice.choice(texts)
            stream = bench.engine.synthesize(SpeechRequest(text))
            got: list[PcmChunk] = []
            limit = dice.choice((1, 2, 99, 99))
            async for chunk in stream:
                got.append(chunk)
                if len(got) == limit:
                    break
                for _ in range(dice.randrange(4)):
                    await asyncio.sleep(0)
            stream.cancel()
            pcm = b"".join(chunk.pcm for chunk in got)
            assert speech(text).startswith(pcm)
            assert limit != 99 or pcm == speech(text)

    await asyncio.gather(*(caller() for _ in range(20)))
    assert bench.behind.asked < 60
    assert len(bench.engine._shared) == 0
