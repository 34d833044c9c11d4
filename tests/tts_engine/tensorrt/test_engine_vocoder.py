"""The vocoder by a session of its module: equal to the plain one, row by row, in any packing."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

from tests.tts_engine.chatterbox.packed_windows import int32, starts_of
from tests.tts_engine.chatterbox.tiny_vocoder import tiny_vocoder
from tests.tts_engine.tensorrt.s3gen import PoisonedSession
from tts_engine.chatterbox.constants import HARMONICS, MEL_BINS, SAMPLES_PER_FRAME
from tts_engine.chatterbox.counter import SOURCE, key
from tts_engine.chatterbox.packing import BatchShape
from tts_engine.chatterbox.padded import PaddedVocoder
from tts_engine.tensorrt.engine_vocoder import EngineVocoder
from tts_engine.tensorrt.session import ModuleSession
from tts_engine.tensorrt.vocoder_stage import vocoder_stage

Rendered = tuple[Tensor, Tensor, Tensor]


class Windows:
    """Windows of random frames, then empty rows; NaN in the padding."""

    def __init__(self, chance: random.Random, lengths: list[int], *, idle: int = 0, padding: int = 0) -> None:
        rows, self.used = len(lengths) + idle, sum(lengths)
        self.lengths, self.size = lengths, self.used + padding
        mel, known_f0 = torch.randn(self.size, MEL_BINS), 80 + 200 * torch.rand(self.size)
        mel[self.used :] = known_f0[self.used :] = torch.nan
        known = [chance.randint(0, length) for length in lengths]
        self.inputs = (
            mel,
            starts_of(lengths, rows),
            torch.rand(rows, HARMONICS),
            6 * torch.rand(rows, HARMONICS) - 3,
            known_f0,
            int32([*known, *[0] * idle]),
            torch.tensor([key(chance.randrange(2**60), SOURCE) for _ in range(rows)]),
            int32([chance.randrange(3000) for _ in range(rows)]),
        )

    def shape(self, spare: int = 0, room: int = 0) -> BatchShape:
        return BatchShape(self.size, len(self.lengths) + spare, max(1, *self.lengths) + room)


def poisoned_session() -> PoisonedSession:
    along = {"wave": (1, SAMPLES_PER_FRAME), "f0": (1, 1), "phases": (2, 1)}
    return PoisonedSession(vocoder_stage(tiny_vocoder()), along)


def check(rendered: Rendered, expected: Rendered, windows: Windows) -> None:
    wave, f0, phases = rendered
    assert (wave.shape, f0.shape, phases.shape) == (
        (SAMPLES_PER_FRAME * windows.size,),
        (windows.size,),
        (windows.size, HARMONICS),
    )
    # Convolutions over more rows, or longer ones, may be added up in another order: F0 carries that to the phase.
    torch.testing.assert_close(f0, expected[1], atol=1e-3, rtol=1e-5)
    turns = (phases - expected[2]).abs()
    assert (torch.minimum(turns, 1 - turns) < 1e-3).all()
    torch.testing.assert_close(wave, expected[0], atol=2e-3, rtol=1e-3)
    for output, each in ((wave, SAMPLES_PER_FRAME), (f0, 1), (phases, 1)):
        assert output[each * windows.used :].eq(0).all()
        assert output.dtype == torch.float32


@pytest.mark.parametrize("seed", [random.randrange(2**32) for _ in range(3)], ids=range(3))
def test_it_equals_the_padded_vocoder(seed: int) -> None:
    print("seed", seed)
    chance = random.Random(seed)
    lengths = [chance.choice((0, 1, chance.randint(2, 24))) for _ in range(chance.randint(1, 4))]
    windows = Windows(chance, lengths, idle=chance.choice((0, 3)), padding=chance.choice((0, 5)))
    shape = windows.shape(spare=chance.choice((0, 2)), room=chance.choice((0, 6)))
    session = poisoned_session()
    rendered = EngineVocoder(session)(*windows.inputs, shape)
    check(rendered, PaddedVocoder(tiny_vocoder())(*windows.inputs, shape), windows)
    assert session.shapes == [(shape.rows, MEL_BINS, shape.longest)]


def test_at_the_same_rows_and_length_it_is_the_same_to_the_last_digits() -> None:
    windows = Windows(random.Random(3), [12, 7, 12])
    rendered = EngineVocoder(poisoned_session())(*windows.inputs, windows.shape())
    expected = PaddedVocoder(tiny_vocoder())(*windows.inputs, windows.shape())
    for ours, theirs in zip(rendered, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_fewer_rows_than_the_packing_names() -> None:
    windows = Windows(random.Random(4), [5, 9], idle=62)
    rendered = EngineVocoder(poisoned_session())(*windows.inputs, windows.shape())
    check(rendered, PaddedVocoder(tiny_vocoder())(*windows.inputs, windows.shape()), windows)


def test_nothing_to_render() -> None:
    windows = Windows(random.Random(5), [0, 0], padding=4)
    rendered = EngineVocoder(poisoned_session())(*windows.inputs, BatchShape(4, 2, 3))
    assert all(output.eq(0).all() for output in rendered)


def test_a_row_that_is_no_number_says_so_and_spoils_no_other() -> None:
    windows = Windows(random.Random(6), [6, 4, 6])
    expected = PaddedVocoder(tiny_vocoder())(*windows.inputs, windows.shape())[0]
    windows.inputs[0][6:10] = torch.nan
    engine = EngineVocoder(ModuleSession(vocoder_stage(tiny_vocoder())))
    wave = engine(*windows.inputs, windows.shape())[0].clone()
    spoilt = slice(6 * SAMPLES_PER_FRAME, 10 * SAMPLES_PER_FRAME)
    assert not wave[spoilt].isfinite().any()
    wave[spoilt] = expected[spoilt]
    torch.testing.assert_close(wave, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@torch.inference_mode()
def test_a_graph_serves_any_windows_of_its_shape() -> None:
    from copy import deepcopy

    device, chance = torch.device("cuda"), random.Random(7)
    torch.backends.cudnn.allow_tf32 = False
    engine = EngineVocoder(ModuleSession(vocoder_stage(deepcopy(tiny_vocoder()).to(device))))
    static = [tensor.to(device) for tensor in Windows(chance, [20, 1, 0, 0], padding=43).inputs]
    shape = BatchShape(64, 3, 24)
    engine(*static, shape)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = engine(*static, shape)
    for lengths in ([24, 0, 24, 0], [1, 13, 2, 0], [0, 0, 0, 0]):
        windows = Windows(chance, lengths, padding=64 - sum(lengths))
        for target, source in zip(static, windows.inputs, strict=True):
            target.copy_(source)
        for output in outputs:
            output.fill_(torch.nan)
        graph.replay()
        wave, f0, phases = (output.cpu() for output in outputs)
        expected = PaddedVocoder(tiny_vocoder())(*windows.inputs, shape)
        torch.testing.assert_close(f0, expected[1], atol=1e-2, rtol=1e-4)
        turns = (phases - expected[2]).abs()
        assert torch.minimum(turns, 1 - turns).max() < 5e-3
        assert (wave - expected[0]).norm() <= 0.05 * expected[0].norm()
        assert wave[SAMPLES_PER_FRAME * sum(lengths) :].eq(0).all()
