"""Against torch.stft and torch.istft."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tts_engine.chatterbox.istft import BINS, HOP, POINTS, Istft, Stft

WINDOW = torch.hann_window(POINTS)


def _spectrum(signal: torch.Tensor) -> torch.Tensor:
    bins = torch.stft(signal[:, 0], POINTS, HOP, POINTS, window=WINDOW, return_complex=True)
    return torch.cat([bins.real, bins.imag], dim=1)


def _wave(spectrum: torch.Tensor) -> torch.Tensor:
    bins = torch.complex(spectrum[:, :BINS], spectrum[:, BINS:])
    return torch.istft(bins, POINTS, HOP, POINTS, window=WINDOW)


@given(st.integers(3, 60), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_stft_is_torch_s(frames: int, seed: int) -> None:
    signal = torch.randn(2, 1, frames * HOP, generator=torch.Generator().manual_seed(seed))
    assert torch.allclose(Stft()(signal), _spectrum(signal), atol=1e-5)


@given(st.integers(3, 60), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_istft_is_torch_s_at_both_edges_too(frames: int, seed: int) -> None:
    """Any spectrum, not only one that a signal has: the imaginary parts of the first and last bin are ignored."""
    spectrum = torch.randn(2, 2 * BINS, frames + 1, generator=torch.Generator().manual_seed(seed))
    wave = Istft()(spectrum)
    assert wave.shape == (2, frames * HOP)
    assert torch.allclose(wave, _wave(spectrum), atol=1e-5)


def test_there_and_back() -> None:
    signal = torch.randn(1, 1, 480)
    assert torch.allclose(Istft()(Stft()(signal)), signal[:, 0], atol=1e-5)


@given(st.lists(st.integers(3, 40), min_size=1, max_size=4), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_each_row_has_its_own_end(frames: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    longest, lengths = max(frames), torch.tensor(frames) * HOP
    signal = torch.randn(len(frames), 1, longest * HOP, generator=generator)
    spectrum = torch.randn(len(frames), 2 * BINS, longest + 1, generator=generator)
    beyond = torch.arange(longest + 1) > torch.tensor(frames)[:, None, None]
    found = Stft()(signal.masked_fill(torch.arange(longest * HOP) >= lengths[:, None, None], torch.nan), lengths)
    wave = Istft()(spectrum.masked_fill(beyond, 0.0), lengths)
    for row, count in enumerate(frames):
        alone = signal[row : row + 1, :, : count * HOP]
        assert torch.allclose(found[row, :, : count + 1], _spectrum(alone)[0], atol=1e-5)
        assert torch.allclose(wave[row, : count * HOP], _wave(spectrum[row : row + 1, :, : count + 1])[0], atol=1e-5)
        assert (wave[row, count * HOP :] == 0).all()


@pytest.mark.parametrize("module", [Stft, Istft])
def test_constants_survive_the_meta_device_and_a_cast_and_are_in_no_checkpoint(module: type[Stft | Istft]) -> None:
    with torch.device("meta"):
        made = module()
    assert made.state_dict() == {}
    x = torch.randn(1, 1 if module is Stft else 2 * BINS, 40)
    assert torch.equal(made(x), module()(x))
    assert torch.equal(made.to(torch.float16)(x), module()(x))
