from __future__ import annotations

import torch
from torch import Tensor

from tests.tts_engine.chatterbox.kernels.test_conv import bounds_of, rows_of
from tests.tts_engine.chatterbox.triton_interpreter import DEVICE, NEEDED
from tts_engine.chatterbox.istft import Istft, Stft

pytestmark = NEEDED

FRAMES = [1, 0, 3, 2]


def _analysis() -> Tensor:
    kernel = torch.zeros(16, 32)
    kernel[:, :18] = Stft().kernel[:, 0].T
    return kernel.to(DEVICE)


def test_each_row_is_reflected_at_its_own_ends() -> None:
    from tts_engine.chatterbox.kernels.spectrum import stft

    bounds = bounds_of(FRAMES)
    source = torch.full((bounds.shape[1] * 480,), torch.nan, device=DEVICE)
    for row in rows_of(bounds, 480):
        source[row] = torch.randn(row.stop - row.start, device=DEVICE)
    spectrum = stft(source, _analysis(), bounds, torch.float32)
    assert spectrum.shape == (bounds.shape[1] * 120, 32)
    plain = Stft().to(DEVICE)
    for samples, columns in zip(rows_of(bounds, 480), rows_of(bounds, 120, edge=True), strict=True):
        expected = plain(source[samples][None, None])[0].T
        torch.testing.assert_close(spectrum[columns, :18], expected, atol=1e-5, rtol=1e-5)
        assert not spectrum[columns, 18:].any()


def _waves(spectrum: Tensor, bounds: Tensor) -> Tensor:
    from tts_engine.chatterbox.kernels.spectrum import istft

    plain = Istft().to(DEVICE)
    frames = sum(FRAMES) + 2
    kernel = plain.kernel[:, 0].contiguous()
    return istft(spectrum, kernel, plain.left, plain.right, bounds, frames)


def test_each_row_has_its_own_edges_and_padding_is_silent() -> None:
    bounds = bounds_of(FRAMES, padding=2)
    spectrum = torch.full((18, bounds.shape[1] * 120), torch.nan, device=DEVICE)
    rows = rows_of(bounds, 120, edge=True)
    for row in rows:
        spectrum[:, row] = torch.randn(18, row.stop - row.start, device=DEVICE)
    wave = _waves(spectrum, bounds)
    at = 0
    for row in rows:
        expected = Istft().to(DEVICE)(spectrum[None, :, row])[0].clamp(-0.99, 0.99)
        torch.testing.assert_close(wave[at : at + len(expected)], expected, atol=1e-5, rtol=1e-5)
        at += len(expected)
    assert at == 480 * sum(FRAMES)
    assert not wave[at:].any()


def test_what_is_no_number_is_not_hidden_by_the_limit() -> None:
    bounds = bounds_of(FRAMES, padding=2)
    spectrum = torch.zeros(18, bounds.shape[1] * 120, device=DEVICE)
    spectrum[0] = 100.0
    spectrum[3, 30] = torch.nan
    wave = _waves(spectrum, bounds)
    assert wave[~wave.isnan()].abs().max() == torch.tensor(0.99)
    spoilt = wave.isnan().nonzero().flatten()
    # Sixteen samples, of which the window makes the first nothing times nothing: still no number.
    assert spoilt.tolist() == list(range(4 * 30 - 8, 4 * 30 + 8))
