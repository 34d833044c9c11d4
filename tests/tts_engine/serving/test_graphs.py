"""Graphs and fused kernels against the eager modules; needs an NVIDIA GPU."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmarks.make_checkpoint import small_sizes
from tts_engine.chatterbox.decoder import TokenDecoder
from tts_engine.chatterbox.flow import Flow
from tts_engine.chatterbox.sampling import SamplingSettings
from tts_engine.chatterbox.step_attention import StepAttention, fused_fault
from tts_engine.chatterbox.t3 import T3, T3Sizes, VoicePrefix
from tts_engine.chatterbox.vocoder import Vocoder
from tts_engine.engine import SpeechRequest

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

DEVICE = torch.device("cuda")


@pytest.fixture(autouse=True)
def exact() -> Iterator[None]:
    torch.manual_seed(0)
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


def livened(module: torch.nn.Module) -> torch.nn.Module:
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return module.to(DEVICE).eval()


def small_t3() -> T3:
    t3 = livened(T3(T3Sizes(3, 256, 4, positions=2048, text_vocabulary=200)))
    assert isinstance(t3, T3)
    return t3


def prefix_of(t3: T3, prompt: int = 40) -> VoicePrefix:
    return t3.prefix(torch.randn(256, device=DEVICE), torch.randint(0, 6561, (prompt,), device=DEVICE))


@pytest.mark.parametrize(("batch", "heads", "prefix"), [(1, 16, 376), (2, 12, 376), (5, 4, 1), (64, 16, 201)])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)]
)  # one rounding of values up to 3
def test_the_fused_step_is_the_plain_one(
    batch: int, heads: int, prefix: int, dtype: torch.dtype, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fused_fault() is None
    capacity = 300
    with torch.device(DEVICE):
        projected = torch.randn(batch, 1, 3 * heads * 64).to(dtype)
        keys, values = (torch.randn(heads, prefix, 64).to(dtype) for _ in range(2))
        own = torch.randn(2, batch, heads, capacity, 64).to(dtype)
        at = torch.randint(0, capacity, (batch,))
        at[0] = 0
        rows, positions = torch.arange(batch), torch.arange(capacity)
    plain_own, fused_own = own.clone(), own.clone()
    fused = StepAttention(rows, positions, at, capacity, dtype)(projected, fused_own, keys, values)
    monkeypatch.setattr("tts_engine.chatterbox.step_attention.fused_fault", lambda: "for the test")
    plain = StepAttention(rows, positions, at, capacity, dtype)(projected, plain_own, keys, values)
    assert torch.equal(fused_own, plain_own)
    assert float((fused.float() - plain.float()).abs().max()) <= tolerance


@pytest.mark.parametrize("cfg_scale", [0.0, 0.7])
def test_the_captured_decoder_says_what_the_eager_one_says(cfg_scale: float) -> None:
    from tts_engine.serving.graphs import GraphDecoder

    t3 = small_t3()
    voices = [prefix_of(t3), prefix_of(t3)]
    draw = random.Random(1)
    uniforms = [draw.random() for _ in range(60)]

    def said(decoder: TokenDecoder, text: list[int]) -> list[int]:
        decoder.begin(text)
        return [decoder.next(uniform, forbid_stop=step < 40) for step, uniform in enumerate(uniforms)]

    captured = GraphDecoder(t3, voices[0], 100, SamplingSettings(), cfg_scale)
    for voice, text in ((voices[0], [3, 1, 4]), (voices[1], [1, 5, 9, 2, 6]), (voices[0], [3, 1, 4])):
        assert captured.use(voice)
        eager = TokenDecoder(t3, voice, 100, SamplingSettings(), cfg_scale)
        assert said(captured, text) == said(eager, text)
    assert not captured.use(prefix_of(t3, prompt=10))


@pytest.mark.parametrize("look_ahead", [0, 3])
def test_the_captured_flow_is_the_eager_one(look_ahead: int) -> None:
    from tts_engine.serving.graphs import GraphFlow

    flow = livened(Flow(small_sizes().flow))
    captured = GraphFlow(flow, DEVICE, torch.float32)
    for size in (32, 64, 96):
        captured.prepare(size)
    # Up and down over bucket borders: what an earlier, longer call left in the buffers must not be heard.
    for size in (70, 32, 33, 64, 20, 96, 100):  # the last was not prepared
        with torch.inference_mode(), torch.device(DEVICE):
            prompt = 12
            given = {
                "tokens": torch.randint(0, 6561, (1, size)),
                "lengths": torch.tensor([size]),
                "prompt_mel": torch.randn(1, 2 * prompt, 80),
                "prompt_frames": torch.tensor([2 * prompt]),
                "x_vector": torch.randn(1, 192),
                "noise": torch.randn(1, 80, 2 * size),
            }
            expected = flow(**given, look_ahead=look_ahead)
            torch.testing.assert_close(captured(**given, look_ahead=look_ahead), expected, atol=2e-4, rtol=1e-3)


def test_in_half_precision_noise_and_frames_stay_float32() -> None:
    from tts_engine.serving.graphs import GraphFlow

    flow = livened(Flow(small_sizes().flow)).to(torch.bfloat16)
    captured = GraphFlow(flow, DEVICE, torch.bfloat16)  # type: ignore[arg-type]
    captured.prepare(32)
    with torch.inference_mode(), torch.device(DEVICE):
        given = {
            "tokens": torch.randint(0, 6561, (1, 30)),
            "prompt_mel": torch.randn(1, 24, 80).bfloat16(),
            "x_vector": torch.randn(1, 192).bfloat16(),
            "noise": torch.randn(1, 80, 60),
        }
        mel = captured(lengths=None, prompt_frames=None, **given)
        expected = flow(lengths=None, prompt_frames=None, **given)
    assert mel.dtype == expected.dtype == torch.float32
    assert not torch.equal(mel, mel.bfloat16().float())
    assert float((mel - expected).abs().max()) < 0.1


def test_the_captured_vocoder_is_the_eager_one() -> None:
    from tts_engine.serving.graphs import GraphVocoder

    vocoder = livened(Vocoder(small_sizes().vocoder))
    assert isinstance(vocoder, Vocoder)
    captured = GraphVocoder(vocoder, DEVICE)
    for frames in (64, 128):
        captured.prepare(frames)
    for frames, known in ((100, 30), (24, 0), (64, 15), (65, 15), (10, 9), (130, 0)):  # the last was not prepared
        with torch.inference_mode(), torch.device(DEVICE):
            given = {
                "mel": torch.randn(1, 80, frames) * 2 - 4,
                "phase": torch.rand(1, 9),
                "offsets": torch.rand(1, 9),
                "noise": torch.randn(1, 9, 480 * frames),
                "known_f0": torch.rand(1, frames) * 200,
                "known": torch.tensor([known]),
            }
            expected = vocoder.render(**given)
            for got, wanted in zip(captured.render(**given), expected, strict=True):
                torch.testing.assert_close(got, wanted, atol=1e-3, rtol=1e-3)


def test_the_engine_speaks_with_graphs(tmp_path: Path) -> None:
    from benchmarks.make_checkpoint import write_checkpoint
    from tts_engine.serving.engine import ChatterboxEngine, ChatterboxSettings

    write_checkpoint(tmp_path / "model", sizes=small_sizes())
    settings = ChatterboxSettings(model=str(tmp_path / "model"), voices_dir=tmp_path / "voices", precision="float32")
    texts = ["Good morning.", "Your parcel comes at 10:30.", "Good morning."]

    async def heard(engine: ChatterboxEngine, text: str) -> bytes:
        return b"".join([chunk.pcm async for chunk in engine.synthesize(SpeechRequest(text, None, 8000))])

    async def run() -> tuple[list[bytes], list[bytes]]:
        engine = ChatterboxEngine("chatterbox", settings, max_streams=4, max_text_chars=1000)
        await engine.start()
        try:
            together = await asyncio.gather(*(heard(engine, text) for text in texts))
            return together, [await heard(engine, text) for text in texts]
        finally:
            await engine.stop()

    together, alone = asyncio.run(run())
    assert together == alone
    assert together[0] == together[2] != together[1]
    assert all(len(pcm) > 8000 for pcm in together)
