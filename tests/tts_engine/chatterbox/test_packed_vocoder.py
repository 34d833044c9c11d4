from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cache

import pytest
import torch
from torch import Tensor

from tests.tts_engine.chatterbox.tiny_vocoder import tiny_vocoder
from tests.tts_engine.chatterbox.triton_interpreter import DEVICE, NEEDED
from tts_engine.chatterbox import counter
from tts_engine.chatterbox.constants import HARMONICS, MEL_BINS, SAMPLES_PER_FRAME
from tts_engine.chatterbox.packing import BatchShape
from tts_engine.chatterbox.vocoder import Vocoder, VocoderSizes

pytestmark = NEEDED
SHAPE = BatchShape(0, 0, 0)
"Of no use to packed rows."

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@dataclass
class Packing:
    """Inputs of PackedVocoder, on the CPU; padding is not a number."""

    frames: Sequence[int]
    mel: Tensor
    starts: Tensor
    phase: Tensor
    offsets: Tensor
    known_f0: Tensor
    known: Tensor
    keys: Tensor
    first_frame: Tensor

    def inputs(self, device: str = DEVICE) -> list[Tensor]:
        names = ("mel", "starts", "phase", "offsets", "known_f0", "known", "keys", "first_frame")
        return [getattr(self, name).to(device) for name in names]

    def span(self, row: int, width: int = 1) -> slice:
        return slice(width * int(self.starts[row]), width * int(self.starts[row + 1]))


def packing(frames: Sequence[int], padding: int, known: Sequence[int] = (), seed: int | None = None) -> Packing:
    generator = torch.Generator()
    generator.manual_seed(seed) if seed is not None else generator.seed()
    rows, total = len(frames), sum(frames)
    size = total + padding
    mel = torch.randn(size, MEL_BINS, generator=generator)
    known_f0 = 300 * torch.rand(size, generator=generator)
    mel[total:] = known_f0[total:] = torch.nan
    return Packing(
        frames,
        mel,
        torch.tensor([0, *frames]).cumsum(0).int(),
        torch.rand(rows, HARMONICS, generator=generator),
        (torch.rand(rows, HARMONICS, generator=generator) * 2 - 1) * math.pi,
        known_f0,
        torch.tensor([*known, *[0] * (rows - len(known))], dtype=torch.int32),
        torch.tensor([counter.key(row, counter.SOURCE) for row in range(rows)]),
        torch.randint(0, 4000, (rows,), generator=generator, dtype=torch.int32),
    )


def noise(given: Packing, row: int) -> Tensor:
    """(1, 9, 480 T): what a row's key stands for."""
    first, count = int(given.first_frame[row]), given.frames[row]
    sample = SAMPLES_PER_FRAME * first + torch.arange(SAMPLES_PER_FRAME * count)
    index = sample[None] * HARMONICS + torch.arange(HARMONICS)[:, None]
    return counter.normal(int(given.keys[row]), index)[None]


def alone(vocoder: Vocoder, given: Packing, row: int, f0: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Vocoder.render of one row, in float32 on the CPU; with `f0` (T,), of those."""
    span = given.span(row)
    known = given.known[row : row + 1] if f0 is None else torch.tensor([given.frames[row]])
    wave, pitch, phases = vocoder.render(
        given.mel[span].T[None],
        given.phase[row : row + 1],
        given.offsets[row : row + 1],
        noise(given, row),
        None,
        given.known_f0[None, span] if f0 is None else f0[None],
        known,
    )
    return wave[0], pitch[0], phases[0].T


def render(vocoder: Vocoder, given: Packing) -> tuple[Tensor, Tensor, Tensor]:
    from tts_engine.chatterbox.packed_vocoder import PackedVocoder

    wave, f0, phases = PackedVocoder(deepcopy(vocoder).to(DEVICE))(*given.inputs(), SHAPE)
    return wave.cpu(), f0.cpu(), phases.cpu()


_SPOILT = 4
"The row of the sample that holds no numbers."


@cache
def _sample() -> tuple[Packing, tuple[Tensor, Tensor, Tensor]]:
    """Rows of 1, 2 and more frames, empty ones first, last and between; once, as the interpreter is slow."""
    given = packing([0, 1, 4, 0, 1, 2, 0], 2, known=[0, 0, 2, 0, 0, 1])
    given.mel[given.span(_SPOILT)] = torch.nan
    return given, render(tiny_vocoder(), given)


@torch.inference_mode()
@pytest.mark.parametrize("row", [1, 2, 5])
def test_each_row_is_as_if_alone(row: int) -> None:
    given, (wave, f0, phases) = _sample()
    vocoder = tiny_vocoder()
    expected, expected_f0, expected_phases = alone(vocoder, given, row)
    span = given.span(row)
    assert expected.std() > 0.05
    torch.testing.assert_close(f0[span], expected_f0, atol=2e-3, rtol=1e-5)
    # Phases of the F0 itself are exact; of another's rounding, nearly. They are of a circle.
    apart = (phases[span] - expected_phases + 0.5).remainder(1) - 0.5
    assert apart.abs().max() < 1e-3
    same, _, same_phases = alone(vocoder, given, row, f0[span])
    assert torch.equal(phases[span], same_phases)
    heard = wave[given.span(row, SAMPLES_PER_FRAME)]
    assert heard.sub(same).abs().max() < 5e-5
    assert heard.sub(expected).abs().max() < 2e-3


def test_known_f0_is_taken_as_it_is() -> None:
    given, (_, f0, _) = _sample()
    for row, count in enumerate(given.known.tolist()):
        first = int(given.starts[row])
        assert torch.equal(f0[first : first + count], given.known_f0[first : first + count])
    span = given.span(2)
    assert (f0[span][2:] != given.known_f0[span][2:]).all()


def test_padding_is_silent_though_it_held_no_numbers() -> None:
    given, outputs = _sample()
    total = int(given.starts[-1])
    for output, width in zip(outputs, (SAMPLES_PER_FRAME, 1, 1), strict=True):
        assert len(output) == width * len(given.mel)
        assert not output[width * total :].any()


def test_a_row_that_is_no_number_says_so() -> None:
    """And spoils no other: those are compared above."""
    given, (wave, _, _) = _sample()
    assert wave[given.span(_SPOILT, SAMPLES_PER_FRAME)].isnan().any()


def test_a_module_without_kernels_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from tts_engine.chatterbox import packed_vocoder

    monkeypatch.setattr(packed_vocoder, "interpreted", lambda: False)
    with pytest.raises(RuntimeError, match="CUDA"):
        packed_vocoder.PackedVocoder(Vocoder(VocoderSizes(16, 8)))


@GPU
@torch.inference_mode()
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-3), (torch.bfloat16, 0.04), (torch.float16, 0.01)])
def test_full_width_on_a_gpu_captured_and_replayed_with_other_rows(dtype: torch.dtype, bound: float) -> None:
    """bound: root of the mean squared error, of the signal's."""
    from benchmarks.packed_vocoder import lively_vocoder
    from tts_engine.chatterbox.packed_vocoder import PackedVocoder

    plain = lively_vocoder()
    packed = PackedVocoder(lively_vocoder().to("cuda").cast(dtype))
    static = packing([64, 0, 0, 0], 64, seed=0).inputs()
    packed(*static, SHAPE)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = packed(*static, SHAPE)
    for frames in ([128, 0, 0, 0], [1, 50, 2, 75], [0, 17, 0, 3]):
        given = packing(frames, 128 - sum(frames))
        for target, source in zip(static, given.inputs(), strict=True):
            target.copy_(source)
        for output in outputs:
            output.fill_(torch.nan)
        graph.replay()
        wave, f0, phases = (output.cpu() for output in outputs)
        assert wave.isfinite().all()
        for row, count in enumerate(frames):
            if not count:
                continue
            expected, _, expected_phases = alone(plain, given, row, f0[given.span(row)])
            assert torch.equal(phases[given.span(row)], expected_phases)
            error = wave[given.span(row, SAMPLES_PER_FRAME)] - expected
            assert error.square().mean().sqrt() < bound * expected.square().mean().sqrt()
