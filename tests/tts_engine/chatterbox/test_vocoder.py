from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tts_engine.chatterbox.tiny_vocoder import tiny_vocoder
from tts_engine.chatterbox.constants import HARMONICS, MEL_BINS, SAMPLES_PER_FRAME
from tts_engine.chatterbox.vocoder import (
    DECODER_REACH_FRAMES,
    SOURCE_REACH_FRAMES,
    Snake,
    Vocoder,
    VocoderSizes,
    fold_weight_norm,
)


def _inputs(rows: int, frames: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mel, phase, offsets, noise."""
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(rows, MEL_BINS, frames, generator=generator),
        torch.rand(rows, HARMONICS, generator=generator),
        torch.rand(rows, HARMONICS, generator=generator) * math.tau - math.pi,
        torch.randn(rows, HARMONICS, SAMPLES_PER_FRAME * frames, generator=generator),
    )


def test_a_frame_is_480_samples_within_the_limit() -> None:
    with torch.inference_mode():
        wave = tiny_vocoder()(*_inputs(2, 25))
    assert wave.shape == (2, 12000)
    assert wave.dtype == torch.float32
    assert wave.abs().max() <= 0.99
    assert wave.std() > 0.05


def test_every_input_is_heard() -> None:
    """Or the tests that compare waveforms would prove little."""
    inputs = _inputs(1, 30)
    with torch.inference_mode():
        wave = tiny_vocoder()(*inputs)
        for at, other in enumerate(_inputs(1, 30, seed=1)):
            changed = [*inputs[:at], other, *inputs[at + 1 :]]
            assert tiny_vocoder()(*changed).sub(wave).std() > 0.02 * wave.std()


@given(st.lists(st.integers(1, 24), min_size=2, max_size=4), st.integers(0, 100))
@settings(max_examples=12, deadline=None)
def test_padded_rows_equal_single_ones_whatever_the_padding_holds(frames: list[int], seed: int) -> None:
    mel, phase, offsets, noise = _inputs(len(frames), max(frames), seed)
    lengths = torch.tensor(frames)
    beyond = torch.arange(max(frames)) >= lengths[:, None, None]
    padded = mel.masked_fill(beyond, torch.nan)
    loud = noise.masked_fill(beyond.repeat_interleave(SAMPLES_PER_FRAME, dim=-1), torch.nan)
    with torch.inference_mode():
        # F0 is given, as its rounding is a matter of its own: a padded convolution sums in another order.
        f0 = tiny_vocoder().f0(padded, lengths)
        wave = tiny_vocoder().render(padded, phase, offsets, loud, lengths)[0]
        for row, count in enumerate(frames):
            known = f0[row : row + 1, :count], torch.tensor([count])
            one = [x[row : row + 1, ..., : count * width] for x, width in ((mel, 1), (noise, SAMPLES_PER_FRAME))]
            alone = tiny_vocoder().render(one[0], phase[row : row + 1], offsets[row : row + 1], one[1], None, *known)[0]
            assert wave[row, : count * SAMPLES_PER_FRAME].sub(alone[0]).abs().max() < 1e-4
            assert (wave[row, count * SAMPLES_PER_FRAME :] == 0).all()


def _reach(touched: torch.Tensor, first: int, last: int) -> tuple[float, float]:
    """Frames by which not-a-number spread before and after samples first to last."""
    at = touched.isnan().nonzero().flatten()
    assert len(at)
    return (first - at.min().item()) / SAMPLES_PER_FRAME, (at.max().item() - last) / SAMPLES_PER_FRAME


def test_how_far_the_decoder_reads() -> None:
    """One frame of mel is not a number: so is every sample that reads it."""
    mel, _, _, noise = _inputs(1, 50)
    mel[..., 25] = torch.nan
    with torch.inference_mode():
        wave = tiny_vocoder().decode(mel, noise[:, :1] * 0.1)[0]
    before, after = _reach(wave, 25 * SAMPLES_PER_FRAME, 26 * SAMPLES_PER_FRAME - 1)
    assert DECODER_REACH_FRAMES - 1 < max(before, after) <= DECODER_REACH_FRAMES


@pytest.mark.parametrize("sample", [25 * SAMPLES_PER_FRAME, 26 * SAMPLES_PER_FRAME - 1])
def test_how_far_the_source_is_read(sample: int) -> None:
    mel, _, _, noise = _inputs(1, 50)
    source = noise[:, :1] * 0.1
    source[..., sample] = torch.nan
    with torch.inference_mode():
        wave = tiny_vocoder().decode(mel, source)[0]
    before, after = _reach(wave, sample, sample)
    assert SOURCE_REACH_FRAMES - 1 < max(before, after) <= SOURCE_REACH_FRAMES


def test_known_f0_takes_the_place_of_the_first_frames() -> None:
    mel, phase, offsets, noise = _inputs(2, 20)
    known_f0 = torch.full((2, 20), 123.0)
    with torch.inference_mode():
        own = tiny_vocoder().f0(mel)
        _, f0, phases = tiny_vocoder().render(mel, phase, offsets, noise, known_f0=known_f0, known=torch.tensor([0, 7]))
    assert torch.equal(f0[0], own[0])
    assert (f0[1, :7] == 123).all()
    assert torch.equal(f0[1, 7:], own[1, 7:])
    assert phases.shape == (2, HARMONICS, 20)
    assert torch.allclose(phases[..., 0], phase, atol=1e-7)


def test_names_are_those_of_the_released_file() -> None:
    names = set(Vocoder(VocoderSizes(16, 8)).state_dict())
    assert len(names) == 246
    for name in (
        "conv_pre.weight",
        "ups.2.bias",
        "source_downs.0.weight",
        "source_resblocks.2.convs1.1.weight",
        "resblocks.8.convs2.2.bias",
        "resblocks.0.activations1.0.alpha",
        "m_source.l_linear.weight",
        "f0_predictor.condnet.8.weight",
        "f0_predictor.classifier.bias",
        "conv_post.weight",
    ):
        assert name in names


def test_sizes_come_from_the_shapes_and_the_meta_device_will_do() -> None:
    loaded = tiny_vocoder().state_dict()
    with torch.device("meta"):
        vocoder = Vocoder(VocoderSizes.from_shapes({name: tuple(value.shape) for name, value in loaded.items()}))
    vocoder.load_state_dict(loaded, assign=True)
    inputs = _inputs(1, 8)
    with torch.inference_mode():
        assert torch.equal(vocoder(*inputs), tiny_vocoder()(*inputs))


def test_shapes_of_something_else() -> None:
    with pytest.raises(ValueError, match=r"not the vocoder of Chatterbox.*conv_pre\.bias"):
        VocoderSizes.from_shapes({"tfmr.wpe.weight": (8196, 1024)})


def test_released_sizes() -> None:
    with torch.device("meta"):
        vocoder = Vocoder()
    assert sum(parameter.numel() for parameter in vocoder.parameters()) == pytest.approx(20.8e6, rel=0.01)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_model_keeps_f0_and_source_in_float32(dtype: torch.dtype) -> None:
    half = Vocoder(VocoderSizes(16, 8)).eval()
    half.load_state_dict(tiny_vocoder().state_dict())
    half.cast(dtype)
    inputs = _inputs(2, 20)
    with torch.inference_mode():
        wave, f0, phases = half.render(*inputs, torch.tensor([20, 11]))
        exact, exact_f0, exact_phases = tiny_vocoder().render(*inputs, torch.tensor([20, 11]))
    assert half.conv_pre.weight.dtype == dtype
    assert torch.equal(f0, exact_f0)
    assert torch.equal(phases, exact_phases)
    assert wave.dtype == torch.float32
    assert 0 < wave.sub(exact).std() < 0.1 * exact.std()


@pytest.mark.parametrize("shape", [(6, 4, 3), (6, 4, 1)])
def test_weight_norm_is_folded(shape: tuple[int, ...]) -> None:
    layer = torch.nn.utils.parametrizations.weight_norm(torch.nn.Conv1d(shape[1], shape[0], shape[2]))
    with torch.no_grad():
        layer.parametrizations.weight.original0 *= 3.0
        original = layer.parametrizations.weight.original0, layer.parametrizations.weight.original1
        assert torch.allclose(fold_weight_norm(*original), layer.weight)


def test_snake() -> None:
    snake = Snake(3)
    with torch.no_grad():
        snake.alpha.copy_(torch.tensor([0.5, -2.0, 0.0]))
        x = torch.randn(2, 3, 7)
        expected = torch.stack(
            [x[:, 0] + 2 * (0.5 * x[:, 0]).sin() ** 2, x[:, 1] - 0.5 * (2 * x[:, 1]).sin() ** 2, x[:, 2]], dim=1
        )
        assert torch.allclose(snake(x), expected, atol=1e-6)


def test_it_exports() -> None:
    """No complex numbers, no data-dependent control flow: one graph, with the length left open."""
    inputs, lengths = _inputs(2, 20), torch.tensor([20, 9])
    frames = torch.export.Dim("frames", min=4, max=4000)
    shapes = ({2: frames}, None, None, {2: SAMPLES_PER_FRAME * frames}, None)
    with torch.no_grad():
        exported = torch.export.export(tiny_vocoder(), (*inputs, lengths), dynamic_shapes=shapes)
        other = (*_inputs(2, 31, seed=4), torch.tensor([13, 31]))
        assert torch.allclose(exported.module()(*other), tiny_vocoder()(*other), atol=1e-4)
    assert not [node for node in exported.graph.nodes if "complex" in str(node.target) or "fft" in str(node.target)]
