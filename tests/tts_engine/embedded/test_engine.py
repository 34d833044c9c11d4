from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

import tts_engine.embedded.engine as engine_module
from tests.sentences import TELEPHONE_SENTENCES
from tts_engine.embedded import EmbeddedEngine, EmbeddedVoice
from tts_engine.embedded.model import VoiceModel
from tts_engine.embedded.rendering import MIN_HEAD_SECONDS
from tts_engine.engine import Engine, PcmChunk, SpeechRequest, SpeechStream
from tts_engine.errors import (
    EngineBusyError,
    EngineError,
    EngineNotReadyError,
    SynthesisError,
    TextTooLongError,
    UnknownVoiceError,
    UnsupportedSampleRateError,
)
from tts_engine.pooled_stream import Piece

VOICES = {"heart": EmbeddedVoice("heart"), "quick": EmbeddedVoice("heart", 1.4)}

Speak = Callable[[VoiceModel, str, float, int, int, str | None], Iterator[Piece]]


class Inferences:
    """Counts the pieces that engines make, and holds the workers while `gate` is closed."""

    def __init__(self, speak: Speak) -> None:
        self._speak = speak
        self.count = 0
        self.order: list[str] = []
        self.gate = threading.Event()
        self.gate.set()
        self.begun = threading.Semaphore(0)
        self._lock = threading.Lock()

    def __call__(
        self, model: VoiceModel, text: str, speed: float, sample_rate: int, seed: int, phonemes: str | None
    ) -> Iterator[Piece]:
        pieces = self._speak(model, text, speed, sample_rate, seed, phonemes)
        while True:
            with self._lock:
                self.count += 1
                self.order.append(text)
            self.begun.release()
            assert self.gate.wait(20)
            piece = next(pieces, None)
            if piece is None:
                return
            yield piece
            if piece.final:
                return

    async def wait_until_begun(self) -> None:
        assert await asyncio.to_thread(self.begun.acquire, timeout=10)


@pytest.fixture
def inferences(heart: VoiceModel, monkeypatch: pytest.MonkeyPatch) -> Inferences:
    """Spies on synthesis; the model itself is real, and loaded once for all tests."""
    spy = Inferences(engine_module.speak)
    monkeypatch.setattr(engine_module, "_load_and_warm_up", lambda names: {"heart": heart})
    monkeypatch.setattr(engine_module, "speak", spy)
    return spy


@pytest.fixture
async def engine(inferences: Inferences) -> AsyncIterator[EmbeddedEngine]:
    engine = EmbeddedEngine(VOICES, max_streams=20, max_text_chars=500)
    await engine.start()
    yield engine
    inferences.gate.set()
    await engine.stop()


@pytest.fixture
async def single(inferences: Inferences) -> AsyncIterator[EmbeddedEngine]:
    """An engine of one worker."""
    engine = EmbeddedEngine(VOICES, workers=1, max_streams=20, max_text_chars=500)
    await engine.start()
    yield engine
    inferences.gate.set()
    await engine.stop()


async def read(stream: SpeechStream) -> list[PcmChunk]:
    return [chunk async for chunk in stream]


async def pcm_of(engine: EmbeddedEngine, request: SpeechRequest) -> bytes:
    return b"".join(chunk.pcm for chunk in await read(engine.synthesize(request)))


async def settle(engine: EmbeddedEngine) -> None:
    """Until the engine's workers have nothing left to do and all results are delivered."""
    pool = engine._pool
    assert pool is not None
    # Each worker waits for all others: none can still be at work on anything else.
    barrier = threading.Barrier(engine._workers, timeout=20)
    jobs = [pool.submit(barrier.wait, lambda: float("inf")) for _ in range(engine._workers)]
    await asyncio.gather(*(job.future for job in jobs))
    for _ in range(3):
        await asyncio.sleep(0)


class TestInterface:
    def test_features(self) -> None:
        assert EmbeddedEngine().features == {"rate", "phonemes"}

    def test_is_an_engine(self) -> None:
        engine: Engine = EmbeddedEngine()
        assert (engine.name, engine.voices, engine.default_voice) == ("embedded", ("heart",), "heart")
        assert engine.limits.sample_rates == (8000, 16000, 24000)
        assert not engine.ready

    def test_default_voice_must_be_there(self) -> None:
        with pytest.raises(UnknownVoiceError, match="'emma'; available: heart"):
            EmbeddedEngine(default_voice="emma")

    async def test_start_and_stop_and_start_again(self) -> None:
        engine = EmbeddedEngine()
        with pytest.raises(EngineNotReadyError):
            engine.synthesize(SpeechRequest("Hello."))
        for _ in range(2):
            await engine.start()
            await engine.start()
            assert engine.ready
            assert len(await pcm_of(engine, SpeechRequest("Hello."))) > 4000
            await engine.stop()
            await engine.stop()
            assert not engine.ready
        with pytest.raises(EngineNotReadyError):
            engine.synthesize(SpeechRequest("Hello."))

    async def test_a_model_that_is_not_there(self, monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
        monkeypatch.setenv("HIBARI_HOME", str(tmp_path))
        engine = EmbeddedEngine({"emma": EmbeddedVoice("emma")}, "emma")
        with pytest.raises(EngineError, match="put it at"):
            await engine.start()
        assert not engine.ready


class TestRequests:
    @pytest.mark.parametrize(
        ("request_", "error"),
        [
            (SpeechRequest("Hi.", voice="nobody"), UnknownVoiceError),
            (SpeechRequest("x" * 501), TextTooLongError),
            (SpeechRequest("Hi.", sample_rate=44100), UnsupportedSampleRateError),
        ],
    )
    async def test_refused(
        self, engine: EmbeddedEngine, inferences: Inferences, request_: SpeechRequest, error: type[EngineError]
    ) -> None:
        with pytest.raises(error):
            engine.check(request_)
        with pytest.raises(error):
            engine.synthesize(request_)
        assert (engine.open_streams, inferences.count) == (0, 0)

    @pytest.mark.parametrize("rate", [8000, 16000, 24000])
    async def test_rate(self, engine: EmbeddedEngine, rate: int) -> None:
        chunks = await read(engine.synthesize(SpeechRequest("Thank you for calling.", sample_rate=rate)))
        assert {chunk.sample_rate for chunk in chunks} == {rate}
        assert sum(chunk.seconds for chunk in chunks) == pytest.approx(1.6, abs=0.5)

    async def test_voices_differ_and_share_a_model(self, engine: EmbeddedEngine) -> None:
        text = "Thank you for calling Harbour Bank."
        heart, default, quick = [
            await pcm_of(engine, SpeechRequest(text, voice=voice)) for voice in ("heart", None, "quick")
        ]
        assert heart == default
        assert len(quick) < 0.85 * len(heart)

    async def test_rate_of_speech(self, engine: EmbeddedEngine) -> None:
        """It multiplies the voice's own speed."""
        text = "Thank you for calling."
        plain, fast, quick, slow = [
            len(await pcm_of(engine, SpeechRequest(text, voice, rate=rate)))
            for voice, rate in ((None, 1.0), (None, 1.4), ("quick", 1.0), (None, 0.7))
        ]
        assert fast == quick < plain < slow
        assert slow / plain == pytest.approx(1 / 0.7, rel=0.15)

    async def test_phonemes(self, engine: EmbeddedEngine) -> None:
        said = await pcm_of(engine, SpeechRequest("Krim", phonemes="təˈmeɪɾoʊ"))
        assert said == await pcm_of(engine, SpeechRequest("tomato"))
        assert await pcm_of(engine, SpeechRequest("tomato", phonemes="ø")) == said

    async def test_nothing_speakable(self, engine: EmbeddedEngine) -> None:
        for text in ("", "...", "🙂"):
            assert await read(engine.synthesize(SpeechRequest(text))) == []
        assert engine.open_streams == 0

    async def test_no_more_than_max_streams(self, engine: EmbeddedEngine) -> None:
        streams = [engine.synthesize(SpeechRequest("One. Two.")) for _ in range(20)]
        with pytest.raises(EngineBusyError, match="20 streams"):
            engine.synthesize(SpeechRequest("One more."))
        streams[3].cancel()
        streams.append(engine.synthesize(SpeechRequest("One more.")))
        await asyncio.gather(*(read(stream) for stream in streams))
        assert engine.open_streams == 0
        assert len(await read(engine.synthesize(SpeechRequest("One. Two.")))) == 2

    async def test_a_forgotten_stream_gives_its_place_back(self, engine: EmbeddedEngine) -> None:
        stream = engine.synthesize(SpeechRequest("One. Two. Three."))
        assert engine.open_streams == 1
        del stream
        await settle(engine)
        gc.collect()
        assert engine.open_streams == 0


class TestAudio:
    async def test_the_same_request_gives_the_same_samples(self, engine: EmbeddedEngine) -> None:
        request = SpeechRequest(" ".join(TELEPHONE_SENTENCES[:3]))
        assert await pcm_of(engine, request) == await pcm_of(engine, request)

    async def test_20_at_once_sound_as_one_after_the_other(self, engine: EmbeddedEngine) -> None:
        requests = [
            SpeechRequest(
                f"Caller {number}. {TELEPHONE_SENTENCES[number % 10]}",
                sample_rate=(8000, 16000)[number % 2],
                buffered_seconds=lambda number=number: number % 3,
            )
            for number in range(20)
        ]
        in_turn = [await pcm_of(engine, request) for request in requests]
        at_once = await asyncio.gather(*(pcm_of(engine, request) for request in requests))
        assert at_once == in_turn

    async def test_one_chunk_per_sentence(self, engine: EmbeddedEngine) -> None:
        """Of up to 5 s; but for the first, which comes in two."""
        text = " ".join(TELEPHONE_SENTENCES[number] for number in (1, 3, 1))
        first, rest, *others = await read(engine.synthesize(SpeechRequest(text)))
        assert len(others) == 2
        assert all(2 < seconds < 8 for seconds in (first.seconds + rest.seconds, *(chunk.seconds for chunk in others)))

    async def test_a_short_chunk_then_one_per_sentence(self, engine: EmbeddedEngine) -> None:
        """Somebody waits for the first; a second such sentence comes whole."""
        text = TELEPHONE_SENTENCES[0]
        chunks = await read(engine.synthesize(SpeechRequest(f"{text} {text}")))
        first, rest, again = (chunk.seconds for chunk in chunks)
        assert MIN_HEAD_SECONDS <= first < 1.0
        assert first + rest == pytest.approx(again, rel=0.1)


class TestBackpressure:
    async def test_one_sentence_ahead_of_the_reader(self, engine: EmbeddedEngine, inferences: Inferences) -> None:
        stream = engine.synthesize(SpeechRequest("One. Two. Three. Four."))
        counts = []
        await settle(engine)
        counts.append(inferences.count)
        for _ in range(3):
            await anext(stream)
            await settle(engine)
            counts.append(inferences.count)
        assert counts == [1, 2, 3, 4]
        assert len(await read(stream)) == 1
        assert inferences.count == 4

    async def test_work_begins_without_a_reader(self, engine: EmbeddedEngine, inferences: Inferences) -> None:
        stream = engine.synthesize(SpeechRequest("One. Two."))
        await inferences.wait_until_begun()
        stream.cancel()


class TestPriority:
    async def test_who_runs_out_first_is_served_first(self, single: EmbeddedEngine, inferences: Inferences) -> None:
        inferences.gate.clear()
        blocking = single.synthesize(SpeechRequest("Zero."))
        await inferences.wait_until_begun()
        buffered = {"Plenty.": 5.0, "Some.": 1.0, "None.": 0.0}
        streams = [
            single.synthesize(SpeechRequest(text, buffered_seconds=lambda text=text: buffered[text]))
            for text in buffered
        ]
        inferences.gate.set()
        await asyncio.gather(*(read(stream) for stream in [blocking, *streams]))
        assert inferences.order == ["Zero.", "None.", "Some.", "Plenty."]


class TestCancel:
    async def test_queued_work_never_runs(self, single: EmbeddedEngine, inferences: Inferences) -> None:
        inferences.gate.clear()
        running = single.synthesize(SpeechRequest("One. Two."))
        await inferences.wait_until_begun()
        queued = [single.synthesize(SpeechRequest("Never spoken.")) for _ in range(5)]
        for stream in queued:
            stream.cancel()
            stream.cancel()
            assert await read(stream) == []
        running.cancel()
        inferences.gate.set()
        await settle(single)
        assert await read(running) == []
        assert inferences.order == ["One. Two."]
        assert single.open_streams == 0

    async def test_ends_an_iteration_under_way(self, engine: EmbeddedEngine, inferences: Inferences) -> None:
        inferences.gate.clear()
        stream = engine.synthesize(SpeechRequest("One. Two."))
        reader = asyncio.create_task(read(stream))
        await inferences.wait_until_begun()
        stream.cancel()
        assert await asyncio.wait_for(reader, 5) == []  # before the inference has ended
        inferences.gate.set()
        await settle(engine)
        assert await read(stream) == []

    async def test_drops_what_is_ready(self, engine: EmbeddedEngine, inferences: Inferences) -> None:
        stream = engine.synthesize(SpeechRequest("One. Two. Three."))
        await anext(stream)
        await settle(engine)
        stream.cancel()
        assert await read(stream) == []
        await settle(engine)
        assert inferences.count == 2

    async def test_a_reader_that_gives_up_waiting_loses_nothing(
        self, engine: EmbeddedEngine, inferences: Inferences
    ) -> None:
        expected = await pcm_of(engine, SpeechRequest("One. Two."))
        inferences.gate.clear()
        stream = engine.synthesize(SpeechRequest("One. Two."))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(stream), 0.01)
        inferences.gate.set()
        assert b"".join(chunk.pcm for chunk in await read(stream)) == expected


class TestStop:
    async def test_ends_all_streams(self, single: EmbeddedEngine, inferences: Inferences) -> None:
        inferences.gate.clear()
        readers = [asyncio.create_task(read(single.synthesize(SpeechRequest("One. Two.")))) for _ in range(5)]
        await inferences.wait_until_begun()
        stopping = asyncio.create_task(single.stop())
        assert await asyncio.gather(*readers) == [[]] * 5
        assert not single.ready
        inferences.gate.set()
        await stopping
        assert inferences.count == 1


class TestFailure:
    async def test_fails_only_its_utterance_and_after_what_was_spoken(
        self, engine: EmbeddedEngine, heart: VoiceModel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        phonemize = VoiceModel.phonemize

        def fail_on_bad(self: VoiceModel, sentence: str) -> list[str]:
            if "bad" in sentence:
                raise IndexError("list index out of range")
            return phonemize(self, sentence)

        monkeypatch.setattr(VoiceModel, "phonemize", fail_on_bad)
        good = engine.synthesize(SpeechRequest("One. Two."))
        bad = engine.synthesize(SpeechRequest("One. A bad one. Three."))
        assert len((await anext(bad)).pcm) > 1000
        assert len((await anext(bad)).pcm) > 1000  # the third sentence
        await anext(bad)  # the resampler's tail
        with pytest.raises(SynthesisError, match="IndexError") as raised:
            await anext(bad)
        assert isinstance(raised.value.__cause__, IndexError)
        assert await read(bad) == []
        assert len(await read(good)) == 2
        assert engine.open_streams == 0

    async def test_a_number_that_hibari_cannot_name_is_read_by_digits(self, engine: EmbeddedEngine) -> None:
        chunks = await read(engine.synthesize(SpeechRequest("9" * 50)))
        assert sum(chunk.seconds for chunk in chunks) > 50 * 0.15


async def test_starts_and_stops_that_overlap_take_turns() -> None:
    engine = EmbeddedEngine()
    await asyncio.gather(engine.start(), engine.start())
    stopping = asyncio.ensure_future(engine.stop())
    await asyncio.sleep(0)
    await engine.start()
    await stopping
    assert engine.ready
    stream = engine.synthesize(SpeechRequest("One."))
    assert [chunk async for chunk in stream]
    await engine.stop()
    assert not engine.ready
