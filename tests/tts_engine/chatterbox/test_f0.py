from __future__ import annotations

import torch

from tests.tts_engine.chatterbox.tiny_vocoder import tiny_vocoder
from tts_engine.chatterbox.constants import MEL_BINS
from tts_engine.chatterbox.f0 import F0_REACH_FRAMES, F0Predictor


def test_f0_is_a_frequency_of_each_frame() -> None:
    with torch.inference_mode():
        f0 = tiny_vocoder().f0(torch.randn(2, MEL_BINS, 60))
    assert f0.shape == (2, 60)
    assert f0.dtype == torch.float32
    assert (f0 >= 0).all()
    assert f0.std() > 10


def test_a_half_mel_gives_float32_f0() -> None:
    mel = torch.randn(1, MEL_BINS, 20).bfloat16()
    with torch.inference_mode():
        assert torch.equal(tiny_vocoder().f0(mel), tiny_vocoder().f0(mel.float()))


def test_f0_reads_five_frames_on_either_side_and_no_more() -> None:
    mel = torch.randn(1, MEL_BINS, 40)
    mel[..., 20] = torch.nan
    with torch.inference_mode():
        touched = tiny_vocoder().f0(mel)[0].isnan().nonzero().flatten()
    assert (touched.min(), touched.max()) == (20 - F0_REACH_FRAMES, 20 + F0_REACH_FRAMES)


def test_padded_rows_equal_single_ones_whatever_the_padding_holds() -> None:
    predictor, mel, lengths = tiny_vocoder(), torch.randn(3, MEL_BINS, 30), torch.tensor([1, 30, 17])
    padded = mel.clone()
    for row, length in enumerate(lengths):
        padded[row, :, length:] = torch.nan
    with torch.inference_mode():
        f0 = predictor.f0(padded, lengths)
        for row, length in enumerate(lengths):
            single = predictor.f0(mel[row : row + 1, :, :length])[0]
            assert torch.allclose(f0[row, :length], single, atol=2e-3, rtol=1e-6)
            assert (f0[row, length:] == 0).all()


def test_widths_are_free() -> None:
    assert F0Predictor(width=24).condnet[8].weight.shape == (24, 24, 3)
