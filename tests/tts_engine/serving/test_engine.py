from __future__ import annotations

import asyncio
import copy
import gc
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tts_engine.serving.engine as engine_module
from tests.tts_engine.chatterbox.voices import make_voice
from tests.tts_engine.serving.small_model import BRIEF_SAMPLES, linked, store_voice
from tts_engine.chatterbox.cfg import VARIABLE
from tts_engine.chatterbox.chunk_policy import ChunkPolicy
from tts_engine.chatterbox.model import Chatterbox
from tts_engine.chatterbox.text import prepare
from tts_engine.chatterbox.voice_store import VoiceStore
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
from tts_engine.resample import Resampler, Samples, to_pcm16
from tts_engine.serving.decoders import DecoderPool
from tts_engine.serving.engine import ChatterboxEngine, ChatterboxSettings
from tts_engine.serving.utterance import Speaker, SpokenVoice

HELLO = "Thank you for calling Harbour Bank."
LONG = (
    "Good morning, and thank you for calling Harbour Bank today. Your appointment with the doctor is on Monday "
    "afternoon, and the address is three hundred and twelve Mill Street. Please bring your card, your prescription "
    "and the letter that we have sent to you by email last week. Would you like me to connect you to an agent now?"
)

MANY_CHUNKS = {"policy": ChunkPolicy(sizes=(14, 4)), "seed": 4}
"And a seed with which the small model is talkative."

Running = Callable[..., AbstractAsyncContextManager[ChatterboxEngine]]


@pytest.fixture
def running(small_model: Path, loaded: Chatterbox, tmp_path: Path, fresh_cfg_scale: pytest.MonkeyPatch) -> Running:
    """Engines over the small model, loaded once for all tests, with a default voice of a short prompt."""
    store_voice(tmp_path / "voices", "anna")
    given = ChatterboxSettings(str(small_model), tmp_path / "voices", device="cpu", default_voice="anna")

    @asynccontextmanager
    async def run(speaking: Chatterbox = loaded, /, **changes: Any) -> Any:
        fresh_cfg_scale.setattr(engine_module, "load", lambda directory, **_: speaking)
        engine = ChatterboxEngine("chatterbox", replace(given, **changes), max_streams=20, max_text_chars=10_000)
        await engine.start()
        try:
            yield engine
        finally:
            await engine.stop()

    return run


class Steps:
    """Counts the steps of all utterances, and holds the worker while `gate` is closed."""

    def __init__(self) -> None:
        self.count = 0
        self.gate = threading.Event()
        self.gate.set()
        self.begun = threading.Semaphore(0)
        self._speak = engine_module.speak

    def __call__(self, *arguments: Any) -> Iterator[Piece]:
        pieces = self._speak(*arguments)
        while True:
            self.count += 1
            self.begun.release()
            assert self.gate.wait(20)
            piece = next(pieces, None)
            if piece is None:
                return
            yield piece

    async def wait_until_begun(self) -> None:
        assert await asyncio.to_thread(self.begun.acquire, timeout=10)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[Steps]:
    spy = Steps()
    monkeypatch.setattr(engine_module, "speak", spy)
    yield spy
    spy.gate.set()


async def read(stream: SpeechStream) -> list[PcmChunk]:
    return [chunk async for chunk in stream]


async def pcm_of(engine: ChatterboxEngine, text: str, *, voice: str | None = None, sample_rate: int = 24_000) -> bytes:
    chunks = await read(engine.synthesize(SpeechRequest(text, voice, sample_rate)))
    return b"".join(chunk.pcm for chunk in chunks)


async def settle(engine: ChatterboxEngine) -> None:
    """Until the worker has done all that was asked before, and the results are delivered."""
    pool = engine._pool
    assert pool is not None
    await pool.submit(lambda: None, lambda: float("inf")).future
    for _ in range(3):
        await asyncio.sleep(0)


def samples_of(pcm: bytes) -> Samples:
    return np.frombuffer(pcm, "<i2").astype(np.float32)


def signal_of(engine: ChatterboxEngine, text: str) -> Samples:
    """What the engine's speaker says at 24 kHz, in one piece."""
    speaker = engine._speaker
    assert speaker is not None
    return np.concatenate(list(speaker.chunks(engine._spoken(engine.default_voice), prepare(text))))


def band_power(samples: Samples, low: float, high: float) -> float:
    """Between two frequencies in Hz, at 24 kHz."""
    spectrum = np.abs(np.fft.rfft(samples)) ** 2
    frequencies = np.fft.rfftfreq(len(samples), 1 / 24_000)
    return float(spectrum[(low <= frequencies) & (frequencies < high)].sum())


class TestInterface:
    def test_is_an_engine(self, small_model: Path, tmp_path: Path, fresh_cfg_scale: object) -> None:
        engine: Engine = ChatterboxEngine("chatterbox-nano", ChatterboxSettings(str(small_model), tmp_path), 5, 99)
        assert (engine.name, engine.default_voice) == ("chatterbox-nano", "default")
        assert engine.limits.sample_rates == (8000, 16000, 24000)
        assert (engine.limits.max_streams, engine.limits.max_text_chars) == (5, 99)
        assert not engine.ready

    async def test_start_and_stop_and_start_again(
        self, small_model: Path, tmp_path: Path, fresh_cfg_scale: object
    ) -> None:
        settings = ChatterboxSettings(str(small_model), tmp_path / "none", device="cpu")
        engine = ChatterboxEngine("chatterbox", settings, max_streams=5, max_text_chars=100)
        with pytest.raises(EngineNotReadyError):
            engine.synthesize(SpeechRequest(HELLO))
        heard = []
        for _ in range(2):
            await engine.start()
            await engine.start()
            assert engine.ready
            assert engine.voices == ("default",)
            heard.append(await pcm_of(engine, HELLO))
            await engine.stop()
            await engine.stop()
            assert not engine.ready
        assert heard[0] == heard[1]
        assert np.abs(samples_of(heard[0])).max() > 1000, "it can be heard"
        with pytest.raises(EngineNotReadyError):
            engine.synthesize(SpeechRequest(HELLO))

    async def test_a_stopped_engine_holds_no_model(self, running: Running) -> None:
        async with running() as engine:
            await pcm_of(engine, HELLO)
        assert (engine._model, engine._speaker, engine._voices) == (None, None, None)


class TestStart:
    @pytest.mark.parametrize(
        ("model", "said"),
        [
            ("ResembleAI/chatterbox-nano", "run `chatterline fetch-model ResembleAI/chatterbox-nano`"),
            ("turbo", "run `chatterline fetch-model turbo`"),
            ("/no/such/model", "there is no directory /no/such/model"),
            ("~/no such model", "there is no directory ~/no such model"),
        ],
    )
    async def test_a_model_that_is_not_here(
        self, model: str, said: str, running: Running, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
        with pytest.raises(EngineError) as raised:
            async with running(model=model):
                pass
        assert said in str(raised.value)

    async def test_a_model_without_a_voice(self, running: Running, loaded: Chatterbox, tmp_path: Path) -> None:
        mute = replace(loaded, default_voice=None)
        with pytest.raises(EngineError, match=r"no voice 'default'.*none along \(conds\.pt\).*holds anna; see"):
            async with running(mute, default_voice="default"):
                pass
        with pytest.raises(EngineError, match=r"holds none; see `chatterline voices add`"):
            async with running(mute, default_voice="default", voices_dir=tmp_path / "none"):
                pass
        async with running(mute) as engine:
            assert engine.voices == ("anna",)
            assert await pcm_of(engine, HELLO)

    async def test_a_default_voice_that_nobody_has(self, running: Running) -> None:
        with pytest.raises(EngineError, match=r"no voice 'bob'.*holds anna"):
            async with running(default_voice="bob"):
                pass

    async def test_a_default_voice_that_is_broken(self, running: Running, tmp_path: Path) -> None:
        (tmp_path / "voices" / "bad.safetensors").write_text("no voice")
        with pytest.raises(EngineError, match=r"bad\.safetensors is not a voice file"):
            async with running(default_voice="bad"):
                pass

    async def test_after_a_failure_it_can_be_started(
        self, small_model: Path, tmp_path: Path, fresh_cfg_scale: object
    ) -> None:
        directory = linked(small_model, tmp_path / "model", without=("conds.pt", "vocab.json"))
        engine = ChatterboxEngine("chatterbox", ChatterboxSettings(str(directory), tmp_path, device="cpu"), 5, 100)
        for missing, said in (("vocab.json", r"vocab\.json"), ("conds.pt", r"conds\.pt")):
            with pytest.raises(EngineError, match=said):
                await engine.start()
            assert not engine.ready
            (directory / missing).symlink_to(small_model / missing)
        await engine.start()
        assert await pcm_of(engine, HELLO)
        await engine.stop()

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
    async def test_a_device_that_is_not_here(self, small_model: Path, tmp_path: Path, fresh_cfg_scale: object) -> None:
        settings = ChatterboxSettings(str(small_model), tmp_path, device="cuda")
        with pytest.raises(EngineError, match="there is no device cuda"):
            await ChatterboxEngine("chatterbox", settings, 5, 100).start()

    async def test_half_precision(self, small_model: Path, tmp_path: Path, fresh_cfg_scale: object) -> None:
        settings = ChatterboxSettings(str(small_model), tmp_path, device="cpu", precision="bfloat16")
        engine = ChatterboxEngine("chatterbox", settings, 5, 100)
        await engine.start()
        assert np.abs(samples_of(await pcm_of(engine, HELLO))).max() > 1000
        await engine.stop()


class TestGuidance:
    async def test_it_changes_what_is_said(self, running: Running, fresh_cfg_scale: pytest.MonkeyPatch) -> None:
        heard = []
        for scale in ("", "0", "1.5"):
            fresh_cfg_scale.setenv(VARIABLE, scale)
            engine_module.cfg_scale.cache_clear()
            async with running() as engine:
                heard.append(await pcm_of(engine, HELLO))
        assert heard[0] == heard[1]
        assert heard[2]
        assert heard[2] != heard[0]

    @pytest.mark.parametrize("scale", ["high", "-1", "nan", "inf", "11"])
    def test_unfit(self, scale: str, small_model: Path, tmp_path: Path, fresh_cfg_scale: pytest.MonkeyPatch) -> None:
        fresh_cfg_scale.setenv(VARIABLE, scale)
        for kind in (ValueError, EngineError):
            with pytest.raises(kind, match=f"CHATTERBOX_CFG_SCALE is '{scale}'; it must be a number from 0"):
                ChatterboxEngine("chatterbox", ChatterboxSettings(str(small_model), tmp_path), 5, 100)


class TestRequests:
    @pytest.mark.parametrize(
        ("request_", "error"),
        [
            (SpeechRequest("Hi.", voice="nobody"), UnknownVoiceError),
            (SpeechRequest("Hi.", voice="../anna"), UnknownVoiceError),
            (SpeechRequest("Hi.", voice=""), UnknownVoiceError),
            (SpeechRequest("x" * 10_001), TextTooLongError),
            (SpeechRequest("Hi.", sample_rate=44100), UnsupportedSampleRateError),
        ],
    )
    async def test_refused(
        self, running: Running, steps: Steps, request_: SpeechRequest, error: type[EngineError]
    ) -> None:
        async with running() as engine:
            with pytest.raises(error):
                engine.check(request_)
            with pytest.raises(error):
                engine.synthesize(request_)
            assert (engine.open_streams, steps.count) == (0, 0)

    async def test_no_more_than_max_streams(self, running: Running) -> None:
        async with running() as engine:
            streams = [engine.synthesize(SpeechRequest(HELLO)) for _ in range(20)]
            with pytest.raises(EngineBusyError, match="20 streams"):
                engine.synthesize(SpeechRequest(HELLO))
            streams[3].cancel()
            last = engine.synthesize(SpeechRequest("Hi."))
            for stream in streams:
                stream.cancel()
            assert await read(last)
            assert engine.open_streams == 0


class TestVoices:
    async def test_each_sounds_otherwise(self, running: Running, tmp_path: Path) -> None:
        store_voice(tmp_path / "voices", "bob", seed=2)
        async with running() as engine:
            assert engine.voices == ("default", "anna", "bob")
            heard = [await pcm_of(engine, HELLO, voice=voice) for voice in (None, "anna", "bob", "default")]
        assert heard[0] == heard[1]
        assert len(set(heard)) == 3

    async def test_one_that_is_added_while_it_runs(self, running: Running, tmp_path: Path) -> None:
        async with running() as engine:
            with pytest.raises(UnknownVoiceError, match="'carol'; available: default, anna"):
                engine.check(SpeechRequest(HELLO, "carol"))
            store_voice(tmp_path / "voices", "carol", seed=3)
            assert await pcm_of(engine, HELLO, voice="carol") != await pcm_of(engine, HELLO)
            assert engine.voices == ("default", "anna", "carol")

    async def test_one_that_is_broken(self, running: Running, tmp_path: Path) -> None:
        """It fails those who ask for it, says why, and is as good as new once it is repaired."""
        whole = store_voice(tmp_path / "voices", "dora", seed=4)
        data = whole.read_bytes()
        whole.write_bytes(data[: len(data) // 2])
        async with running() as engine:
            others = [engine.synthesize(SpeechRequest(HELLO)) for _ in range(2)]
            with pytest.raises(EngineError, match=r"^dora\.safetensors is cut short") as raised:
                await pcm_of(engine, HELLO, voice="dora")
            assert HELLO not in str(raised.value)
            first, second = [await read(stream) for stream in others]
            assert first == second
            assert first
            whole.write_bytes(data)
            assert await pcm_of(engine, HELLO, voice="dora")
            assert engine.open_streams == 0

    async def test_one_that_was_removed(self, running: Running, tmp_path: Path) -> None:
        store_voice(tmp_path / "voices", "bob")
        async with running() as engine:
            VoiceStore(tmp_path / "voices").remove("bob")
            with pytest.raises(SynthesisError, match="unknown voice 'bob'; available: anna"):
                await pcm_of(engine, HELLO, voice="bob")


class TestAudio:
    async def test_the_same_request_gives_the_same_samples(self, running: Running) -> None:
        async with running() as engine:
            assert await pcm_of(engine, HELLO) == await pcm_of(engine, HELLO)
            assert await pcm_of(engine, HELLO) != await pcm_of(engine, "Thank you for calling Harbour Banks.")
        async with running(seed=1) as other:
            reseeded = await pcm_of(other, HELLO)
        async with running() as again:
            assert await pcm_of(again, HELLO) != reseeded

    async def test_several_at_once_sound_as_one_after_the_other(self, running: Running, tmp_path: Path) -> None:
        store_voice(tmp_path / "voices", "bob", seed=2)
        requests = [
            SpeechRequest(
                f"Caller {number}, please hold.",
                voice=("anna", "bob")[number % 2],
                sample_rate=(8000, 24_000)[number // 2],
                buffered_seconds=lambda number=number: number % 3,  # type: ignore[misc]
            )
            for number in range(4)
        ]
        async with running(**MANY_CHUNKS) as engine:
            in_turn = [await read(engine.synthesize(request)) for request in requests]
            at_once = await asyncio.gather(*(read(engine.synthesize(request)) for request in requests))
        assert at_once == in_turn
        assert sum(map(len, in_turn)) > 16, "the streams took turns"

    @pytest.mark.parametrize("rate", [8000, 24000])
    async def test_chunks_join_to_one_signal(self, running: Running, rate: int) -> None:
        """They are what resampling the whole utterance at once gives: no click, nothing lost, nothing doubled."""
        async with running(**MANY_CHUNKS) as engine:
            chunks = await read(engine.synthesize(SpeechRequest(LONG, sample_rate=rate)))
            whole = signal_of(engine, LONG)
        assert len(chunks) > 6
        assert {chunk.sample_rate for chunk in chunks} == {rate}
        assert all(chunk.pcm for chunk in chunks)
        heard = samples_of(b"".join(chunk.pcm for chunk in chunks))
        expected = samples_of(to_pcm16(Resampler(24_000, rate).process(whole, final=True)))
        assert len(heard) == len(expected)
        assert abs(len(heard) - len(whole) * rate / 24_000) <= 1
        assert np.abs(heard - expected).max() <= 1

    async def test_a_long_text_is_said_segment_by_segment(self, running: Running) -> None:
        segments = prepare(LONG)
        assert len(segments) > 2
        async with running() as engine:
            speaker = engine._speaker
            assert speaker is not None
            said = []
            with pytest.MonkeyPatch.context() as patch:
                encode = engine._model.tokenizer.encode  # type: ignore[union-attr]
                patch.setattr(engine._model.tokenizer, "encode", lambda text: said.append(text) or encode(text))  # type: ignore[union-attr,func-returns-value]
                assert await pcm_of(engine, LONG)
        assert said == segments

    async def test_the_watermark_changes_no_length(self, running: Running) -> None:
        heard: dict[tuple[bool, int], Samples] = {}
        for watermark in (False, True):
            async with running(watermark=watermark) as engine:
                for rate in (8000, 24_000):
                    heard[watermark, rate] = samples_of(await pcm_of(engine, HELLO, sample_rate=rate))
        for rate in (8000, 24_000):
            assert abs(len(heard[True, rate]) - len(heard[False, rate])) <= 1
        difference = heard[True, 24_000] - heard[False, 24_000]
        low, high = (band_power(difference, *band) for band in ((0, 2000), (2100, 10_000)))
        assert low > 20 * high, "the mark lies below 2 kHz"
        assert 1e-6 < low / band_power(heard[False, 24_000], 0, 2000) < 0.1, "a mark, and not much of one"


class TestTexts:
    """With a model that says the same 0.32 s of every segment: what is said can be counted."""

    @pytest.mark.parametrize("text", ["", " \n\t ", "...", "🙂", "🙂 👍🏽 ❤️", "\ud83d", "\udc00\ud83d", "\x00\x07\x1b"])
    async def test_nothing_to_say(self, running: Running, loaded_brief: Chatterbox, text: str) -> None:
        async with running(loaded_brief) as engine:
            assert await read(engine.synthesize(SpeechRequest(text))) == []
            assert engine.open_streams == 0

    @pytest.mark.parametrize(
        "text",
        [
            "[laugh]",
            "[sigh] [LAUGH]",
            "a",
            "Hi\x00\x07\x1b[31m there",
            "Hello \ud83d",
            "\udc00Hello",
            "\u202eHello\u200b",
            "日本語" * 99,
            "ﷺ" * 250,
            "é" * 200,
            "[unknown tag]",
            "<|endoftext|>",
            "9" * 50,
        ],
    )
    async def test_odd_ones(self, running: Running, loaded_brief: Chatterbox, text: str) -> None:
        async with running(loaded_brief) as engine:
            pcm = await pcm_of(engine, text)
            parts = [part for segment in prepare(text) for part in engine._speaker._fitting(segment)]  # type: ignore[union-attr]
        assert len(pcm) == 2 * BRIEF_SAMPLES * len(parts)
        assert np.abs(samples_of(pcm)).max() > 500

    async def test_10_000_characters(self, running: Running, loaded_brief: Chatterbox) -> None:
        text = ("a word, " * 600 + "[laugh]" * 500 + "a" * 10_000)[:10_000]
        async with running(loaded_brief) as engine:
            chunks = await read(engine.synthesize(SpeechRequest(text, sample_rate=8000)))
        segments = prepare(text)
        assert len(segments) > 9_000 / 300
        assert sum(chunk.seconds for chunk in chunks) == pytest.approx(
            len(segments) * BRIEF_SAMPLES / 24_000, abs=0.001
        )

    async def test_the_first_sound_of_a_long_text_does_not_wait_for_the_rest(
        self, running: Running, loaded_brief: Chatterbox, steps: Steps
    ) -> None:
        async with running(loaded_brief) as engine:
            stream = engine.synthesize(SpeechRequest((LONG + " ") * 30))
            assert (await anext(stream)).pcm
            assert steps.count <= 2
            stream.cancel()


class TestCancel:
    async def test_the_rest_is_never_spoken_and_all_is_freed(
        self, running: Running, steps: Steps, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        open_decoders: list[object] = []
        borrowed = DecoderPool.borrowed

        def counted(self: DecoderPool, prefix: Any, capacity: int) -> Any:
            @contextmanager
            def borrow() -> Iterator[Any]:
                with borrowed(self, prefix, capacity) as decoder:
                    open_decoders.append(decoder)
                    try:
                        yield decoder
                    finally:
                        open_decoders.remove(decoder)

            return borrow()

        monkeypatch.setattr(DecoderPool, "borrowed", counted)
        async with running() as engine:
            stream = engine.synthesize(SpeechRequest(LONG))
            await anext(stream)
            await settle(engine)
            assert len(open_decoders) == 1
            before = steps.count
            stream.cancel()
            stream.cancel()
            assert await read(stream) == []
            await settle(engine)
            assert steps.count == before
            assert open_decoders == [], "given back although the stream is still held"
            assert engine.open_streams == 0
            assert await pcm_of(engine, HELLO)

    async def test_in_the_middle_of_a_step(self, running: Running, steps: Steps) -> None:
        async with running() as engine:
            steps.gate.clear()
            stream = engine.synthesize(SpeechRequest(HELLO))
            reader = asyncio.create_task(read(stream))
            await steps.wait_until_begun()
            stream.cancel()
            assert await asyncio.wait_for(reader, 5) == []
            steps.gate.set()
            await settle(engine)
            assert steps.count == 1
            assert await pcm_of(engine, HELLO)

    async def test_a_forgotten_stream_gives_its_place_back(self, running: Running) -> None:
        async with running() as engine:
            stream = engine.synthesize(SpeechRequest(LONG))
            assert engine.open_streams == 1
            del stream
            await settle(engine)
            gc.collect()
            assert engine.open_streams == 0

    async def test_stop_ends_all_streams(self, running: Running, steps: Steps) -> None:
        async with running() as engine:
            steps.gate.clear()
            readers = [asyncio.create_task(read(engine.synthesize(SpeechRequest(LONG)))) for _ in range(3)]
            await steps.wait_until_begun()
            stopping = asyncio.create_task(engine.stop())
            assert await asyncio.gather(*readers) == [[]] * 3
            steps.gate.set()
            await stopping
            assert steps.count == 1


class TestFailure:
    async def test_a_message_never_holds_the_text(self, running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(text: str, **_: Any) -> list[str]:
            raise ValueError(f"cannot read {text!r}")

        monkeypatch.setattr(engine_module, "prepare", fail)
        async with running() as engine:
            with pytest.raises(SynthesisError) as raised:
                await pcm_of(engine, HELLO)
            assert str(raised.value) == "the voice failed on this text: ValueError"
            assert isinstance(raised.value.__cause__, ValueError)
            assert HELLO not in repr(SpeechRequest(HELLO))
            assert engine.open_streams == 0

    async def test_what_was_said_before_stands(self, running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
        segments = prepare(LONG)
        chunks = Speaker.chunks

        def fail_at_the_second(self: Speaker, voice: SpokenVoice, said: list[str], stopped: Any) -> Iterator[Samples]:
            yield from chunks(self, voice, said[:1])
            if len(said) > 1:
                raise RuntimeError("CUDA error: an illegal memory access was encountered")

        monkeypatch.setattr(Speaker, "chunks", fail_at_the_second)
        async with running() as engine:
            stream = engine.synthesize(SpeechRequest(LONG, sample_rate=24_000))
            heard = b""
            with pytest.raises(SynthesisError, match="RuntimeError"):
                async for chunk in stream:
                    heard += chunk.pcm
            assert heard == to_pcm16(
                np.concatenate(list(chunks(engine._speaker, engine._spoken("anna"), segments[:1])))
            )  # type: ignore[arg-type]
            assert await read(stream) == []
            assert await pcm_of(engine, HELLO), "the engine goes on"

    async def test_numbers_that_overflow_are_said_to(self, running: Running, loaded: Chatterbox) -> None:
        t3 = copy.deepcopy(loaded.t3)
        with torch.no_grad():
            t3.speech_head.bias.fill_(torch.nan)
        async with running(replace(loaded, t3=t3)) as engine:
            with pytest.raises(SynthesisError, match="the model's numbers overflowed; try another dtype"):
                await pcm_of(engine, HELLO)

    async def test_a_voice_of_odd_lengths(self, running: Running, loaded: Chatterbox) -> None:
        """The least that a voice file may hold."""
        async with running(replace(loaded, default_voice=make_voice(1, 1)), default_voice="default") as engine:
            assert await pcm_of(engine, HELLO)
