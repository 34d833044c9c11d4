from __future__ import annotations

import copy
import math
from collections.abc import Iterator

import pytest
import torch

from tests.parity import figures
from tests.parity.vocoder_reference import our_vocoder, reference_vocoder, run_reference
from tts_engine.chatterbox.constants import HARMONICS, MEL_BINS, SAMPLES_PER_FRAME

TOLERANCE = 1e-4
FRAMES = 16


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


def _inputs(rows: int = 2, frames: int = FRAMES) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mel (log, as the flow's), offsets, noise."""
    generator = torch.Generator().manual_seed(rows * 1000 + frames)
    offsets = torch.rand(rows, HARMONICS, generator=generator) * math.tau - math.pi
    offsets[:, 0] = 0
    return (
        torch.randn(rows, MEL_BINS, frames, generator=generator) * 2 - 4,
        offsets,
        torch.randn(rows, HARMONICS, SAMPLES_PER_FRAME * frames, generator=generator),
    )


def test_f0_is_the_reference_s(record_property: figures.Record) -> None:
    mel = _inputs(frames=60)[0]
    expected, f0 = reference_vocoder().f0_predictor(mel), our_vocoder().f0(mel)
    assert (expected > 60).any()
    assert (expected < 10).any(), "some of it unvoiced"
    figures.error(record_property, "F0, Hz", f0, expected)
    assert torch.allclose(f0, expected, atol=TOLERANCE, rtol=1e-5)


def test_source_is_the_reference_s(record_property: figures.Record) -> None:
    mel, offsets, noise = _inputs()
    _, expected = run_reference(mel, offsets, noise)
    source, _ = our_vocoder().source(our_vocoder().f0(mel), torch.zeros(2, HARMONICS), offsets, noise)
    assert expected.std() > 0.01
    figures.error(record_property, "source", source, expected)
    assert source.sub(expected).abs().max() <= TOLERANCE


@pytest.mark.parametrize("frames", [1, FRAMES])
def test_vocoder_is_the_reference_s(frames: int, record_property: figures.Record) -> None:
    mel, offsets, noise = _inputs(1, frames)
    expected, source = run_reference(mel, offsets, noise)
    assert expected.std() > 0.05
    assert our_vocoder().decode(mel, source).sub(expected).abs().max() <= TOLERANCE
    whole = our_vocoder()(mel, torch.zeros(1, HARMONICS), offsets, noise)
    figures.error(record_property, f"vocoder, {frames} frames: waveform", whole, expected)
    assert whole.sub(expected).abs().max() <= TOLERANCE


def test_every_input_is_heard() -> None:
    """Or equality with the reference would prove little."""
    mel, offsets, noise = _inputs(1, 4)
    expected, _ = run_reference(mel, offsets, noise)
    for changed in ((mel + 0.1, offsets, noise), (mel, offsets + 1, noise), (mel, offsets, -noise)):
        assert run_reference(*changed)[0].sub(expected).abs().max() > 50 * TOLERANCE


def test_a_padded_batch_is_the_reference_row_by_row() -> None:
    mel, offsets, noise = _inputs(2)
    lengths = torch.tensor([5, FRAMES])
    loud = mel.masked_fill(torch.arange(FRAMES) >= lengths[:, None, None], 1e6)
    wave = our_vocoder()(loud, torch.zeros(2, HARMONICS), offsets, noise, lengths)
    for row, count in enumerate(lengths.tolist()):
        samples = count * SAMPLES_PER_FRAME
        one = slice(row, row + 1)
        expected, source = run_reference(mel[one, :, :count], offsets[one], noise[one, :, :samples])
        padded = torch.full((2, 1, SAMPLES_PER_FRAME * FRAMES), torch.nan)
        padded[one, :, :samples] = source
        decoded = our_vocoder().decode(loud, padded, lengths)
        assert decoded[one, :samples].sub(expected).abs().max() <= TOLERANCE
        # From mel to waveform there is F0's rounding too, which the phase adds up and these weights amplify.
        assert torch.allclose(wave[one, :samples], expected, atol=TOLERANCE, rtol=1e-3)
        assert (wave[row, samples:] == 0).all()


@pytest.mark.parametrize(("dtype", "bound"), [(torch.bfloat16, 0.1), (torch.float16, 0.02)])
def test_half_precision(dtype: torch.dtype, bound: float, record_property: figures.Record) -> None:
    """F0 and source stay float32."""
    mel, offsets, noise = _inputs(1, 6)
    phase = torch.zeros(1, HARMONICS)
    exact = our_vocoder()(mel, phase, offsets, noise)
    with torch.inference_mode(False):
        half = copy.deepcopy(our_vocoder()).cast(dtype)
    wave = half(mel, phase, offsets, noise)
    assert 0 < figures.error(record_property, "vocoder: waveform", wave, exact, dtype) < bound
