from __future__ import annotations

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tts_engine.chatterbox.tiny_vocoder import tiny_vocoder
from tts_engine.chatterbox.constants import HARMONICS, SAMPLE_RATE, SAMPLES_PER_FRAME
from tts_engine.chatterbox.source import VOICED_NOISE, HarmonicSource, frame_phases


def _exact(f0: torch.Tensor, offsets: torch.Tensor, noise: torch.Tensor, mixer: torch.nn.Linear) -> torch.Tensor:
    """The definition, sample by sample, in float64. f0 (T,), offsets (9,), noise (9, 480 T), to (480 T,)."""
    hertz = f0.double().repeat_interleave(SAMPLES_PER_FRAME)
    harmonics = torch.arange(1, HARMONICS + 1)[:, None]
    cycles = torch.cumsum(harmonics * hertz / SAMPLE_RATE, dim=1)
    voiced = (hertz > 10).double()
    sines = 0.1 * torch.sin(math.tau * cycles + offsets.double()[:, None]) * voiced
    sines = sines + noise.double() * torch.where(voiced > 0, VOICED_NOISE, 0.1 / 3)
    return torch.tanh(mixer.weight.double()[0] @ sines + mixer.bias.double())


def _draws(frames: int, rows: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.rand(rows, HARMONICS) * math.tau - math.pi, torch.randn(rows, HARMONICS, SAMPLES_PER_FRAME * frames)


def test_source_is_nine_sines_and_noise() -> None:
    torch.manual_seed(1)
    f0 = torch.rand(2, 50) * 300
    f0[:, 20:30] = 4.0  # unvoiced
    offsets, noise = _draws(50, rows=2)
    vocoder = tiny_vocoder()
    with torch.inference_mode():
        source, _ = vocoder.source(f0, torch.zeros(2, HARMONICS), offsets, noise)
        for row in range(2):
            expected = _exact(f0[row], offsets[row], noise[row], vocoder.m_source.l_linear)
            assert source[row, 0].sub(expected).abs().max() < 2e-5


def test_error_does_not_grow_over_half_a_minute() -> None:
    torch.manual_seed(2)
    f0 = 150 + 100 * torch.rand(1, 1500)
    offsets, noise = _draws(1500)
    mixer = HarmonicSource()
    with torch.inference_mode():
        source = mixer(f0, frame_phases(f0, torch.zeros(1, HARMONICS))[..., :-1], offsets, noise)[0, 0]
        expected = _exact(f0[0], offsets[0], noise[0], mixer.l_linear)
    assert source.sub(expected)[-48000:].abs().max() < 1e-4


@given(st.lists(st.integers(1, 60), min_size=1, max_size=6), st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_phase_runs_on_to_the_bit_however_the_frames_are_cut(sizes: list[int], seed: int) -> None:
    f0 = 400 * torch.rand(2, sum(sizes), generator=torch.Generator().manual_seed(seed))
    whole = frame_phases(f0, torch.zeros(2, HARMONICS))
    phase, at = torch.zeros(2, HARMONICS), 0
    for size in sizes:
        part = frame_phases(f0[:, at : at + size], phase)
        assert torch.equal(part, whole[..., at : at + size + 1])
        phase, at = part[..., -1], at + size
    assert whole.min() >= 0
    assert whole.max() < 1


def test_silence_leaves_the_phase() -> None:
    phase = torch.arange(HARMONICS)[None] / 16
    assert torch.equal(frame_phases(torch.zeros(1, 7), phase)[..., -1], phase)


def test_phase_after_is_that_of_a_row_s_own_end() -> None:
    vocoder = tiny_vocoder()
    f0 = 200 * torch.rand(1, 30)
    f0[:, 12:] = 0  # What `Vocoder.f0` gives beyond a row's length.
    offsets, noise = _draws(30)
    _, after = vocoder.source(f0, torch.zeros(1, HARMONICS), offsets, noise)
    assert torch.equal(after, frame_phases(f0[:, :12], torch.zeros(1, HARMONICS))[..., -1])


def test_the_source_of_a_cut_joins() -> None:
    torch.manual_seed(3)
    vocoder, f0 = tiny_vocoder(), 100 + 100 * torch.rand(1, 40)
    offsets, noise = _draws(40)
    with torch.inference_mode():
        whole, end = vocoder.source(f0, torch.zeros(1, HARMONICS), offsets, noise)
        split = 13 * SAMPLES_PER_FRAME
        head, phase = vocoder.source(f0[:, :13], torch.zeros(1, HARMONICS), offsets, noise[..., :split])
        tail, after = vocoder.source(f0[:, 13:], phase, offsets, noise[..., split:])
    assert torch.allclose(torch.cat([head, tail], dim=-1), whole, atol=1e-6)
    assert torch.equal(after, end)
