"""The flow by sessions of its modules: equal to the plain flow, row by row, in any packing."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

from tests.tts_engine.chatterbox.packed_windows import int32, starts_of
from tests.tts_engine.chatterbox.voices import make_voice
from tests.tts_engine.tensorrt.s3gen import PROMPTS, SIZES, PoisonedSession, small_flow, voices
from tts_engine.chatterbox.constants import FRAMES_PER_TOKEN, MEL_BINS
from tts_engine.chatterbox.flow import Flow
from tts_engine.chatterbox.packing import BatchShape
from tts_engine.chatterbox.padded import PaddedFlow
from tts_engine.chatterbox.voice import Voice
from tts_engine.tensorrt.engine_flow import EngineFlow
from tts_engine.tensorrt.flow_stages import encoder_stage, estimator_stage
from tts_engine.tensorrt.session import ModuleSession


def sessions(flow: Flow) -> tuple[PoisonedSession, PoisonedSession]:
    encoder = PoisonedSession(encoder_stage(flow), {"mu": (1, FRAMES_PER_TOKEN)})
    return encoder, PoisonedSession(estimator_stage(flow), {"change": (1, 1)})


@pytest.fixture(scope="module")
def flow() -> Flow:
    return small_flow()


def engine_flow(flow: Flow, spoken: list[Voice], most_prompt_frames: int = 500) -> EngineFlow:
    engine = EngineFlow(flow, *sessions(flow), voices=len(spoken), most_prompt_frames=most_prompt_frames)
    for index, voice in enumerate(spoken):
        engine.set_voice(index, voice)
    return engine


def padded_flow(flow: Flow, spoken: list[Voice]) -> PaddedFlow:
    padded = PaddedFlow(flow, voices=len(spoken))
    for index, voice in enumerate(spoken):
        padded.set_voice(index, voice)
    return padded


class Batch:
    """Rows of a voice's prompt and new tokens, then empty ones; NaN, and no tokens, in the padding."""

    def __init__(self, chance: random.Random, rows: int, idle: int, padding: int) -> None:
        self.voices = [chance.randrange(len(PROMPTS)) for _ in range(rows)]
        new = [chance.choice((0, 4, chance.randint(4, 30))) for _ in self.voices]
        self.lengths = [PROMPTS[v] + count if count else 0 for v, count in zip(self.voices, new, strict=True)]
        self.look_ahead = [chance.choice((0, 3)) for _ in self.voices]
        self.starts = starts_of(self.lengths, rows + idle)
        self.size = sum(self.lengths) + padding
        self.tokens = torch.randint(SIZES.vocabulary, (self.size,))
        self.noise = torch.randn(2 * self.size, MEL_BINS)
        self.tokens[sum(self.lengths) :] = 1 << 40
        self.noise[2 * sum(self.lengths) :] = torch.nan
        self._idle = idle

    def shape(self, spare: int = 0, room: int = 0) -> BatchShape:
        return BatchShape(self.size, len(self.lengths) + spare, max(4, *self.lengths) + room)

    def run(self, flow: EngineFlow | PaddedFlow, shape: BatchShape) -> Tensor:
        numbers = int32([*self.look_ahead, *[0] * self._idle]), int32([*self.voices, *[77] * self._idle])
        return flow(self.tokens, self.starts, *numbers, self.noise, shape)


@pytest.mark.parametrize("seed", [random.randrange(2**32) for _ in range(6)], ids=range(6))
def test_it_equals_the_padded_flow(flow: Flow, seed: int) -> None:
    print("seed", seed)
    chance = random.Random(seed)
    batch = Batch(chance, rows=chance.randint(1, 5), idle=chance.choice((0, 2)), padding=chance.choice((0, 5)))
    shape = batch.shape(spare=chance.choice((0, 1, 3)), room=chance.choice((0, 7)))
    expected = batch.run(padded_flow(flow, voices()), shape)
    mel = batch.run(engine_flow(flow, voices()), shape)
    assert mel.dtype == torch.float32
    torch.testing.assert_close(mel, expected, atol=1e-5, rtol=1e-5)
    for row, length in enumerate(batch.lengths):
        end = 2 * int(batch.starts[row + 1])
        assert mel[end - 2 * min(length, batch.look_ahead[row]) : end].eq(0).all()
    assert mel[2 * sum(batch.lengths) :].eq(0).all()


def test_the_batch_has_the_rows_and_the_length_of_its_shape(flow: Flow) -> None:
    encoder, estimator = sessions(flow)
    engine = EngineFlow(flow, encoder, estimator, voices=3)
    batch = Batch(random.Random(1), rows=3, idle=2, padding=4)
    mel = batch.run(engine, BatchShape(batch.size, 8, 64))
    assert mel.shape == (2 * batch.size, MEL_BINS)
    assert encoder.shapes == [(8, 64)]
    assert estimator.shapes == [(8, 128, MEL_BINS)] * 2


def test_fewer_rows_than_the_packing_names(flow: Flow) -> None:
    batch = Batch(random.Random(2), rows=2, idle=62, padding=0)
    expected = batch.run(padded_flow(flow, voices()), batch.shape())
    torch.testing.assert_close(batch.run(engine_flow(flow, voices()), batch.shape()), expected, atol=1e-5, rtol=1e-5)


def test_there_is_nothing_at_all(flow: Flow) -> None:
    none, noise = int32([0]), torch.zeros(0, MEL_BINS)
    mel = engine_flow(flow, voices())(torch.zeros(0).long(), int32([0, 0]), none, none, noise, BatchShape(0, 1, 4))
    assert mel.shape == (0, MEL_BINS)


def test_nobody_speaks(flow: Flow) -> None:
    none, starts = int32([0] * 4), int32([0] * 5)
    noise = torch.full((20, MEL_BINS), torch.nan)
    mel = engine_flow(flow, voices())(torch.zeros(10).long(), starts, none, none, noise, BatchShape(10, 2, 5))
    assert mel.eq(0).all()


def test_a_prompt_as_long_as_the_bank_s_and_longer_than_the_row(flow: Flow) -> None:
    """Of a row cut short the prompt is cut, too."""
    spoken = [make_voice(1, 10, 3)]
    tokens, noise = torch.randint(SIZES.vocabulary, (8,)), torch.randn(16, MEL_BINS)
    given = (tokens, int32([0, 8]), int32([0]), int32([0]), noise, BatchShape(8, 1, 8))
    expected = padded_flow(flow, spoken)(*given)
    engine = engine_flow(flow, spoken, most_prompt_frames=20)
    torch.testing.assert_close(engine(*given), expected, atol=1e-5, rtol=1e-5)


def test_a_voice_that_is_no_number_spoils_its_own_rows_alone(flow: Flow) -> None:
    spoken = voices()
    spoken[1] = Voice(**{**vars(spoken[1]), "x_vector": torch.full((192,), torch.nan)})
    starts, look_ahead = starts_of([15, 16, 12]), int32([3, 0, 3])
    tokens, noise = torch.randint(SIZES.vocabulary, (43,)), torch.randn(86, MEL_BINS)
    shape = BatchShape(43, 3, 16)
    plain = EngineFlow(flow, ModuleSession(encoder_stage(flow)), ModuleSession(estimator_stage(flow)), voices=3)
    for index, voice in enumerate(spoken):
        plain.set_voice(index, voice)
    mel = plain(tokens, starts, look_ahead, int32([0, 1, 2]), noise, shape)
    good = engine_flow(flow, voices())(tokens, starts, look_ahead, int32([0, 0, 2]), noise, shape)
    assert not mel[30:62].isfinite().any()
    for rows in (slice(0, 30), slice(62, 86)):
        torch.testing.assert_close(mel[rows], good[rows], atol=1e-5, rtol=1e-5)


def test_what_does_not_fit_the_bank(flow: Flow) -> None:
    engine = engine_flow(flow, [make_voice(1, 1)], most_prompt_frames=20)
    with pytest.raises(ValueError, match="voice 1 of a bank of 1"):
        engine.set_voice(1, make_voice(1, 1))
    with pytest.raises(ValueError, match="22 frames, the bank's have up to 20"):
        engine.set_voice(0, make_voice(1, 11))


def test_constants_are_float32_whatever_the_flow_computes_in() -> None:
    half = small_flow().to(torch.bfloat16)
    encoder, estimator = ModuleSession(encoder_stage(half)), ModuleSession(estimator_stage(half))
    engine = EngineFlow(half, encoder, estimator, voices=1)
    engine.set_voice(0, make_voice(1, 3))
    exact = small_flow()
    exact.load_state_dict({name: tensor.float() for name, tensor in half.state_dict().items()})
    tokens, noise = torch.randint(SIZES.vocabulary, (20,)), torch.randn(40, MEL_BINS)
    given = (tokens, int32([0, 20]), int32([3]), int32([0]), noise, BatchShape(20, 1, 20))
    expected = padded_flow(exact, [make_voice(1, 3)])(*given)
    mel = engine(*given)
    assert mel.dtype == torch.float32
    assert (mel - expected).norm() < 0.03 * expected.norm()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-4), (torch.float16, 0.02)])
def test_a_graph_serves_any_rows_of_its_shape(dtype: torch.dtype, bound: float) -> None:
    device, plain = torch.device("cuda"), small_flow()
    flow = small_flow().to(device, dtype)
    engine = EngineFlow(flow, ModuleSession(encoder_stage(flow)), ModuleSession(estimator_stage(flow)), voices=3)
    for index, voice in enumerate(voices()):
        engine.set_voice(index, voice)
    shape = BatchShape(160, 4, 48)
    tokens = torch.zeros(160, dtype=torch.int64, device=device)
    noise = torch.zeros(320, MEL_BINS, device=device)
    starts, look_ahead, numbers = (torch.zeros(size, dtype=torch.int32, device=device) for size in (7, 6, 6))

    def call() -> Tensor:
        return engine(tokens, starts, look_ahead, numbers, noise, shape)

    call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        mel = call()
    for seed in range(3):
        batch = Batch(random.Random(seed), rows=4, idle=2, padding=0)
        batch.tokens = torch.cat((batch.tokens, torch.zeros(160 - batch.size, dtype=torch.int64)))
        batch.noise = torch.cat((batch.noise, torch.zeros(320 - 2 * batch.size, MEL_BINS)))
        tokens.copy_(batch.tokens)
        noise.copy_(batch.noise)
        starts.copy_(batch.starts)
        look_ahead.copy_(int32([*batch.look_ahead, 0, 0]))
        numbers.copy_(int32([*batch.voices, 77, 77]))
        mel.fill_(torch.nan)
        graph.replay()
        expected = batch.run(padded_flow(plain, voices()), shape)
        assert (mel.cpu() - expected).norm() <= bound * expected.norm()
        assert mel[2 * sum(batch.lengths) :].eq(0).all()
