"""CUDA graphs, and the runners with them against the plain modules. All but the buckets need an NVIDIA GPU."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import make_checkpoint
from benchmarks.make_checkpoint import Sizes
from tests.tts_engine.chatterbox.voices import make_voice
from tests.tts_engine.serving.runner_cases import (
    Sounding,
    decode_alone,
    decode_together,
    fresh_chance,
    next_row,
    pcm_of,
    random_sequences,
    random_soundings,
    relative_error,
    speak_together,
)
from tests.tts_engine.serving.served import Plain, calm, settings_for, write_voices
from tts_engine.chatterbox.chunk_policy import ChunkPolicy
from tts_engine.chatterbox.flow import FlowSizes
from tts_engine.chatterbox.model import Chatterbox, load
from tts_engine.chatterbox.packing import bucket_of
from tts_engine.chatterbox.padded import PaddedFlow, PaddedVocoder
from tts_engine.chatterbox.paged_t3 import PAGE, BatchDecoder, PagedCache
from tts_engine.chatterbox.sampling_settings import SamplingSettings
from tts_engine.chatterbox.t3 import T3Sizes, VoicePrefix
from tts_engine.chatterbox.vocoder import VocoderSizes
from tts_engine.chatterbox.windows import SpeechState
from tts_engine.engine import SpeechRequest
from tts_engine.serving.engine import ChatterboxEngine
from tts_engine.serving.graphs import CapturedCall
from tts_engine.serving.laps import Laps, to_host
from tts_engine.serving.speech_runner import SpeechRunner
from tts_engine.serving.speech_shapes import EngineShapes
from tts_engine.serving.t3_runner import Begin, T3Runner
from tts_engine.tensorrt.engine_flow import EngineFlow
from tts_engine.tensorrt.engine_vocoder import EngineVocoder
from tts_engine.tensorrt.faults import TensorRtError
from tts_engine.tensorrt.flow_stages import encoder_stage, estimator_stage
from tts_engine.tensorrt.graph_scope import current_scope
from tts_engine.tensorrt.profiles import Profile
from tts_engine.tensorrt.session import ModuleSession
from tts_engine.tensorrt.step_shapes import STEP_ROWS
from tts_engine.tensorrt.vocoder_stage import vocoder_stage


class FakeCapture:
    """torch.cuda.graph: ending a capture that has failed raises an error in place of what went wrong."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            raise RuntimeError("operation failed due to a previous error during capture")


class Context:
    def __init__(self, why: str = "") -> None:
        self.why = why

    def refusal(self, stream: int) -> str:
        return self.why


class TestCapturing:
    @pytest.fixture(autouse=True)
    def on_a_made_up_gpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        stream = SimpleNamespace(synchronize=lambda: None, cuda_stream=0)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda: stream)
        monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: SimpleNamespace(replay=lambda: None))
        monkeypatch.setattr(torch.cuda, "graph", FakeCapture)

    @pytest.mark.parametrize("fault", [TensorRtError("the engine t3_step did not run"), RuntimeError("illegal")])
    def test_what_went_wrong_is_what_is_raised(self, fault: Exception) -> None:
        calls: list[int] = []

        def function() -> tuple[torch.Tensor, ...]:
            calls.append(1)
            if len(calls) == 3:
                raise fault
            return ()

        with pytest.raises(type(fault), match=str(fault)) as raised:
            CapturedCall(function, {}, None)
        assert raised.value is fault
        assert current_scope() is None

    @pytest.mark.parametrize("why", ["", "no graph can hold the engine t3_step"])
    def test_one_that_no_graph_can_hold_is_called_each_time(self, why: str, caplog: pytest.LogCaptureFixture) -> None:
        scopes: list[object] = []

        def function(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            scope = current_scope()
            scopes.append(scope)
            if scope is not None:
                scope.keep("session", scope.place("session"), Context(why))
            return (x + 1,)

        call = CapturedCall(function, {"x": torch.zeros(3)}, None)
        assert len(scopes) == (2 if why else 3)
        (result,) = call(x=torch.ones(2))
        assert scopes[-1] is (None if why else scopes[0])
        assert result.tolist() == ([2, 2, 1] if why else [1, 1, 1])
        assert caplog.text.count(f"launched without a graph: {why}") == bool(why)


gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

DEVICE = torch.device("cuda")
SIZES = Sizes(
    T3Sizes(3, 256, 4, positions=2048),
    FlowSizes(
        width=128,
        heads=2,
        feed_forward=256,
        layers=2,
        up_layers=1,
        channels=64,
        time_width=64,
        estimator_heads=2,
        estimator_feed_forward=128,
        mid_blocks=2,
        transformers=2,
    ),
    VocoderSizes(64, 64),
)
"Small, and such as the kernels can run: heads are of 64."

SLOTS, PAGES = 6, 60
POLICIES = (ChunkPolicy(sizes=(20, 40)), ChunkPolicy(sizes=(14,)), ChunkPolicy(sizes=(500,)))


class TestBuckets:
    @given(st.sets(st.integers(1, 1000), min_size=1), st.integers(0, 1100))
    def test_the_smallest_that_holds_it(self, sizes: set[int], size: int) -> None:
        expected = min((bucket for bucket in sizes if bucket >= size), default=None)
        assert bucket_of(size, sorted(sizes)) == expected

    def test_a_step_of_one_is_not_padded(self) -> None:
        assert bucket_of(1, STEP_ROWS) == 1
        assert bucket_of(257, STEP_ROWS) is None


@pytest.fixture(autouse=True)
def exact() -> Iterator[None]:
    before = torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic
    torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic = False, True
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic = before


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that the kernels can run."""
    directory = tmp_path_factory.mktemp("gpu") / "model"
    make_checkpoint.write_checkpoint(directory, sizes=SIZES, unread=False)
    return directory


def read(directory: Path, dtype: torch.dtype = torch.float32) -> Chatterbox:
    """With a calm voice: the phase adds up what F0 is rounded otherwise."""
    model = load(directory, device=DEVICE, dtype=dtype)
    with torch.no_grad():
        calm(model.vocoder)
    return model


@gpu
class TestCapturedCall:
    def test_inputs_are_copied_and_what_lies_beyond_stays(self) -> None:
        with torch.cuda.stream(torch.cuda.Stream()):  # type: ignore[no-untyped-call]
            given = torch.arange(8.0, device=DEVICE)
            call = CapturedCall(lambda x: (x * 2, x.sum()[None]), {"x": given}, torch.cuda.graph_pool_handle())
            for size in (8, 3, 1):
                fresh = torch.randn(size, device=DEVICE)
                expected = given.clone()
                expected[:size] = fresh
                doubled, total = call(x=fresh)
                torch.testing.assert_close(doubled, expected * 2)
                torch.testing.assert_close(total[0], expected.sum())
            assert call()[0].data_ptr() == doubled.data_ptr(), "the same tensors every time"

    def test_results_and_their_time_come_without_waiting(self) -> None:
        with torch.cuda.stream(torch.cuda.Stream()):  # type: ignore[no-untyped-call]
            laps = Laps(DEVICE)
            busy = torch.randn(4000, 4000, device=DEVICE)
            for _ in range(20):
                busy = busy @ busy / 100
            laps.mark()
            fetched = to_host(busy[:2])
            laps.mark()
            laps.wait()
            assert laps.done
            assert all(seconds >= 0 for seconds in laps.seconds())
            assert laps.seconds()[0] > 1e-4
            assert torch.equal(fetched, busy[:2].cpu())


@gpu
class TestT3:
    @staticmethod
    def runner(
        model: Chatterbox, voices: list[VoicePrefix], settings: SamplingSettings, cfg_scale: float = 0.0
    ) -> tuple[T3Runner, PagedCache]:
        twins = bool(cfg_scale)
        cache = PagedCache(
            model.sizes,
            slots=SLOTS,
            pages=PAGES * (2 if twins else 1),
            positions=10 * PAGE,
            voices=len(voices),
            most_prefix=100,
            dtype=model.dtype,
            device=DEVICE,
            twins=twins,
        )
        decoder = BatchDecoder(model.t3, cache, settings, cfg_scale, most_tokens=100, fused=True)
        runner = T3Runner(decoder, cache, graphs=True)
        torch.cuda.synchronize()
        cache.keys_values.fill_(torch.nan)  # what nobody has written must not be read
        cache.keys_values[:, cache.pages] = 0  # but the idle row's
        torch.cuda.synchronize()
        for index, voice in enumerate(voices):
            runner.set_voice(index, voice)
        torch.cuda.synchronize()
        runner.capture()
        return runner, cache

    @staticmethod
    def voices(model: Chatterbox) -> list[VoicePrefix]:
        with torch.inference_mode():
            found = [
                model.t3.prefix(
                    torch.randn(256, device=DEVICE, dtype=model.dtype),
                    torch.randint(0, 6561, (prompt,), device=DEVICE),
                )
                for prompt in (3, 40, 90)
            ]
        torch.cuda.synchronize()
        return found

    @pytest.mark.parametrize("cfg_scale", [0.0, 0.7])
    def test_in_float32_every_token_is_the_plain_decoder_s(self, files: Path, cfg_scale: float) -> None:
        chance, model = fresh_chance(), read(files)
        voices = self.voices(model)
        runner, _ = self.runner(model, voices, SamplingSettings(), cfg_scale)
        sequences = random_sequences(chance, 20, voices=len(voices), steps=60)
        decode_together(runner, sequences, slots=SLOTS, pages=PAGES, chance=chance)
        torch.cuda.synchronize()
        same = sum(each.tokens == decode_alone(model.t3, voices[each.voice], each, cfg_scale) for each in sequences)
        # A draw may fall upon the border between two tokens, as no float32 sum is added in the same order.
        assert same >= len(sequences) - 1
        assert runner.padding > 0

    def test_in_bfloat16_the_likeliest_tokens_mostly_are(self, files: Path) -> None:
        """Random logits lie close: sooner or later one is rounded otherwise, and then all that follows differs."""
        chance, model = fresh_chance(), read(files, torch.bfloat16)
        voices = self.voices(model)
        greedy = SamplingSettings(top_k=1)
        runner, cache = self.runner(model, voices, greedy)
        sequences = random_sequences(chance, 40, voices=len(voices), steps=12)
        decode_together(runner, sequences, slots=SLOTS, pages=PAGES, chance=chance)
        torch.cuda.synchronize()
        plain = T3Runner(BatchDecoder(model.t3, cache, greedy, most_tokens=100, fused=False), cache, graphs=False)
        heard = [each.tokens for each in sequences]
        for each in sequences:
            each.slot, each.pages, each.tokens, each.launched = -1, [], [], 0
        cache.keys_values.zero_()
        torch.cuda.synchronize()
        decode_together(plain, sequences, slots=SLOTS, pages=PAGES, chance=chance)
        same = sum(
            len(fused) == len(each.tokens) and fused[:2] == each.tokens[:2]
            for fused, each in zip(heard, sequences, strict=True)
        )
        assert same >= 0.6 * len(sequences)

    def test_a_text_too_long_for_a_graph_and_the_next_step_launched_ahead(self, files: Path) -> None:
        model = read(files)
        voices = self.voices(model)
        runner, _ = self.runner(model, voices, SamplingSettings())
        draws = np.full(10, 0.3, np.float32)
        begun = runner.begin([Begin(0, 1, list(range(200)), tuple(range(7)), draws, 100)])
        steps = [runner.step([0]) for _ in range(3)]
        tokens = [sampled.wait()[0] for sampled in (begun, *steps)]
        assert all(finite for _, finite in tokens)
        assert begun.done
        assert all(sampled.seconds > 0 for sampled in steps)
        assert runner.stream is not None

    def test_what_is_no_number_is_its_row_s_alone(self, files: Path) -> None:
        model = read(files)
        voices = self.voices(model)
        runner, cache = self.runner(model, voices, SamplingSettings())
        torch.cuda.synchronize()
        cache.keys_values.zero_()
        broken = VoicePrefix(torch.full_like(voices[1].keys, torch.nan), voices[1].values)
        torch.cuda.synchronize()
        runner.set_voice(1, broken)
        draws = np.full(10, 0.3, np.float32)
        begun = runner.begin([Begin(0, 0, [1, 2], (3,), draws, 100), Begin(1, 1, [1, 2], (5,), draws, 100)])
        assert {slot: finite for slot, (_, finite) in begun.wait().items()} == {0: True, 1: False}
        stepped = runner.step([0, 1]).wait()
        assert {slot: finite for slot, (_, finite) in stepped.items()} == {0: True, 1: False}
        runner.clean(1)
        torch.cuda.synchronize()
        assert cache.keys_values.isfinite().all()


@gpu
class TestS3Gen:
    @staticmethod
    def runner(model: Chatterbox, *, graphs: bool) -> SpeechRunner:
        from tts_engine.chatterbox.packed_flow import PackedFlow
        from tts_engine.chatterbox.packed_vocoder import PackedVocoder

        state = SpeechState(SLOTS, ChunkPolicy(), DEVICE)
        for held in (state.mel, state.f0, state.phase, state.tail):
            held.fill_(torch.nan)  # what nobody has kept must not be used
        runner = SpeechRunner(
            PackedFlow(model.flow, voices=2) if graphs else PaddedFlow(model.flow, voices=2),
            PackedVocoder(model.vocoder) if graphs else PaddedVocoder(model.vocoder),
            state,
            slots=SLOTS,
            rows=8,
            tokens=704,
            frames=1152,
            device=DEVICE,
            graphs=graphs,
        )
        voices = [make_voice(1, prompt, index).to(DEVICE, model.dtype) for index, prompt in enumerate((2, 30))]
        torch.cuda.synchronize()
        for index, voice in enumerate(voices):
            runner.set_voice(index, voice)
        torch.cuda.synchronize()
        runner.capture()
        return runner

    @pytest.mark.parametrize("rate", [8000, 24_000])
    def test_by_engines_and_captured_it_says_what_the_plain_modules_say(self, files: Path, rate: int) -> None:
        """The modules are the engines: sessions that a graph can hold."""
        chance, model = fresh_chance(), read(files)
        captured, plain = self.engine_runner(model), self.runner(model, graphs=False)
        voices = [make_voice(1, prompt, index) for index, prompt in enumerate((2, 30))]
        utterances = random_soundings(chance, 3, voices=2, policies=POLICIES)
        again = [Sounding(each.voice, each.slot, each.sequences) for each in utterances]
        speak_together(captured, utterances, voices, rate, chance)
        for each in again:
            speak_together(plain, [each], voices, rate, chance)
        errors = [relative_error(pcm_of(a), pcm_of(b)) for a, b in zip(utterances, again, strict=True)]
        print("errors", errors)
        assert max(errors) < 0.02
        assert captured.padded_tokens > 0
        assert (captured.padded_frames > 0) is (rate == 8000)

    @staticmethod
    def engine_runner(model: Chatterbox) -> SpeechRunner:
        sessions = ModuleSession(encoder_stage(model.flow)), ModuleSession(estimator_stage(model.flow))
        profiles = {
            "flow_encoder": (Profile("all", {"rows": (1, 2, 4), "tokens": (4, 64, 288)}),),
            "estimator": (Profile("all", {"rows": (1, 2, 4), "frames": (8, 128, 576)}),),
            "vocoder": (Profile("all", {"rows": (1, 2, 4), "frames": (4, 64, 192)}),),
        }
        runner = SpeechRunner(
            EngineFlow(model.flow, *sessions, voices=2),
            EngineVocoder(ModuleSession(vocoder_stage(model.vocoder))),
            SpeechState(SLOTS, ChunkPolicy(), DEVICE),
            slots=SLOTS,
            rows=8,
            tokens=1152,
            frames=1152,
            device=DEVICE,
            graphs=True,
            shapes=EngineShapes(1152, 1152, profiles=profiles),
        )
        for index, prompt in enumerate((2, 30)):
            runner.set_voice(index, make_voice(1, prompt, index).to(DEVICE, model.dtype))
        torch.cuda.synchronize()
        runner.capture()
        return runner

    @pytest.mark.parametrize(
        ("dtype", "most"),
        # Both round to bfloat16, at different places, and the vocoder's magnitudes are exponentials.
        [(torch.float32, 0.02), (torch.bfloat16, 0.3)],
    )
    @pytest.mark.parametrize("rate", [8000, 24_000])
    def test_packed_and_captured_it_says_what_the_plain_modules_say(
        self, files: Path, dtype: torch.dtype, most: float, rate: int
    ) -> None:
        """8 kHz has graphs for the vocoder, other rates have none."""
        chance, model = fresh_chance(), read(files, dtype)
        captured, plain = self.runner(model, graphs=True), self.runner(model, graphs=False)
        voices = [make_voice(1, prompt, index) for index, prompt in enumerate((2, 30))]
        utterances = random_soundings(chance, 5, voices=2, policies=POLICIES)
        again = [Sounding(each.voice, each.slot, each.sequences) for each in utterances]
        speak_together(captured, utterances, voices, rate, chance)
        for each in again:
            speak_together(plain, [each], voices, rate, chance)
        errors = [relative_error(pcm_of(a), pcm_of(b)) for a, b in zip(utterances, again, strict=True)]
        print("errors", errors)
        assert max(errors) < most
        assert captured.padded_tokens > 0
        assert (captured.padded_frames > 0) is (rate == 8000)

    def test_what_is_no_number_is_its_row_s_alone(self, files: Path) -> None:
        model = read(files)
        runner, plain = self.runner(model, graphs=True), self.runner(model, graphs=False)
        voices = [make_voice(1, prompt, index) for index, prompt in enumerate((2, 30))]
        broken = voices[1].to(DEVICE, model.dtype)
        broken.flow_prompt_mel.fill_(torch.nan)
        torch.cuda.synchronize()
        runner.set_voice(1, broken)
        torch.cuda.synchronize()
        good, bad = Sounding(0, 0, [(1, list(range(40)), POLICIES[2])]), Sounding(1, 2, [(2, [7] * 30, POLICIES[2])])
        rows = [next_row(runner, bad, voices[1], 8000), next_row(runner, good, voices[0], 8000)]
        (_, bad_finite), (heard, good_finite) = runner.speak(rows, 8000).rows()
        assert (bad_finite, good_finite) == (False, True)
        runner.forget(2)
        alone = Sounding(0, 0, good.sequences)
        speak_together(plain, [alone], voices, 8000, fresh_chance())
        assert relative_error(np.frombuffer(heard, "<i2"), pcm_of(alone)) < 0.02


@gpu
def test_an_engine_on_the_gpu_in_a_process_of_its_own(files: Path, tmp_path: Path) -> None:
    """As it is used: with graphs, 8 kHz from the GPU, batches with others or none."""
    voices_dir = write_voices(tmp_path / "voices")
    settings = settings_for(
        files, voices_dir, devices=(), isolation="auto", precision="float32", kv_memory_mb=200, backend="cuda-graphs"
    )
    requests = [("Hold the line.", "anna"), ("Your parcel comes at noon today.", "bob"), ("Good morning.", "carol")]

    async def heard(engine: ChatterboxEngine, text: str, voice: str) -> np.ndarray:
        chunks = [chunk.pcm async for chunk in engine.synthesize(SpeechRequest(text, voice))]
        return np.frombuffer(b"".join(chunks), "<i2")

    async def run() -> tuple[list[np.ndarray], list[np.ndarray]]:
        engine = ChatterboxEngine("chatterbox", settings, max_streams=8, max_text_chars=1000)
        await engine.start()
        try:
            together = await asyncio.gather(*(heard(engine, *request) for request in requests * 2))
            alone = [await heard(engine, *request) for request in requests]
            assert engine.available() is None
            return together, alone
        finally:
            await engine.stop()

    together, alone = asyncio.run(run())
    plain = Plain(load(files, device=DEVICE), voices_dir, DEVICE)
    for number, request in enumerate(requests):
        expected = plain(*request)
        errors = [relative_error(each, expected) for each in (together[number], together[number + 3], alone[number])]
        print("errors", errors)
        # F0 as random weights make it: the phase adds up what is rounded otherwise.
        assert max(errors) < 0.1
