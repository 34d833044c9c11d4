from __future__ import annotations

import numpy as np
import pytest
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from tts_engine.resample import Resampler, Samples, to_pcm16


def tone(hertz: float, seconds: float, rate: int = 24000) -> Samples:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def in_pieces(samples: Samples, cuts: list[int], rate_out: int) -> Samples:
    resampler = Resampler(24000, rate_out)
    out = [resampler.process(piece) for piece in np.split(samples, sorted(cuts))]
    return np.concatenate([*out, resampler.flush()])


@settings(max_examples=40, deadline=None)
@given(cuts=st.lists(st.integers(0, 12000), max_size=12), rate_out=st.sampled_from([8000, 16000]))
def test_pieces_give_what_the_whole_gives(cuts: list[int], rate_out: int) -> None:
    samples = tone(437, 0.5) + np.random.default_rng(1).normal(0, 0.1, 12000).astype(np.float32)
    whole = soxr.resample(samples, 24000, rate_out)
    np.testing.assert_array_equal(in_pieces(samples, cuts, rate_out), whole)


def test_joints_do_not_click() -> None:
    # A tone's steps are bounded; separately resampled pieces, as a check of the check, break the bound.
    samples = tone(300, 1.0)
    cuts = [3001, 7013, 15017]
    joined = in_pieces(samples, cuts, 8000)[200:-200]
    clicking = np.concatenate([soxr.resample(piece, 24000, 8000) for piece in np.split(samples, cuts)])
    bound = 0.5 * (2 * np.pi * 300 / 8000) ** 2 * 1.05
    assert np.abs(np.diff(joined, 2)).max() <= bound
    assert np.abs(np.diff(clicking[200:-200], 2)).max() > bound


@pytest.mark.parametrize("rate_out", [8000, 16000, 24000])
@pytest.mark.parametrize("length", [1, 2, 100, 4800, 4801, 23999, 24000])
def test_length(rate_out: int, length: int) -> None:
    out = in_pieces(np.zeros(length, np.float32), [length // 3], rate_out)
    assert abs(len(out) - length * rate_out / 24000) <= 1


@pytest.mark.parametrize("rate_out", [8000, 16000])
def test_the_last_piece_can_flush(rate_out: int) -> None:
    samples = tone(437, 0.7)
    resampler = Resampler(24000, rate_out)
    joined = np.concatenate([resampler.process(samples[:9000]), resampler.process(samples[9000:], final=True)])
    np.testing.assert_array_equal(joined, soxr.resample(samples, 24000, rate_out))


@pytest.mark.parametrize("rate_out", [8000, 16000, 24000])
def test_nothing_in_nothing_out(rate_out: int) -> None:
    assert len(Resampler(24000, rate_out).flush()) == 0


def test_what_8_khz_cannot_hold_is_removed() -> None:
    above, below = tone(5000, 0.5), tone(1000, 0.5)
    assert np.abs(in_pieces(above, [], 8000)[200:-200]).max() < 1e-3
    assert np.abs(in_pieces(below, [], 8000)[200:-200]).max() == pytest.approx(0.5, abs=0.01)


def test_equal_rates_pass_through() -> None:
    samples = tone(437, 0.1)
    np.testing.assert_array_equal(in_pieces(samples, [100], 24000), samples)


def test_pcm16_rounds_and_clips() -> None:
    samples = np.array([0, 1, -1, 1.5, -1.5, 0.6 / 32767, -0.6 / 32767, 0.4 / 32767], np.float32)
    pcm = np.frombuffer(to_pcm16(samples), "<i2")
    assert pcm.tolist() == [0, 32767, -32767, 32767, -32768, 1, -1, 0]
