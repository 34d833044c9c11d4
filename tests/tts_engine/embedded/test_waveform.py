"""Our waveform is hibari's, at both rates and however its frames are divided."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import soxr
from hibari import dsp
from hypothesis import given
from hypothesis import strategies as st

from tests.sentences import TELEPHONE_SENTENCES
from tts_engine.embedded.model import VoiceModel
from tts_engine.embedded.waveform import FULL_RATE, NARROW, PARTS, WIDE, Band, Waveform

FRAMES = 200
BINS = WIDE.bins
SILENT = {"lh": -30.0, "theta": 0.0, "ln": -30.0, "lr": -30.0, "phi": 0.0}


class SameNoise:
    """Gives what the other draws of a spectrum's noise, to hibari in its order and to us in ours."""

    def __init__(self, frames: int, bins: int = BINS) -> None:
        self._noise = np.random.default_rng(3).standard_normal((BINS, frames, 2), dtype=np.float32)
        self._bins = bins
        self._at = 0

    def standard_normal(self, shape: tuple[int, int], dtype: Any) -> np.ndarray:
        if shape == (BINS, 2 * self._noise.shape[1]):
            return self._noise.reshape(shape).copy()
        count, width = shape
        assert width == 2 * self._bins
        begin, self._at = self._at, self._at + count
        return np.ascontiguousarray(self._noise[: self._bins, begin : self._at].transpose(1, 0, 2)).reshape(shape)


def outputs(**given: np.ndarray | float) -> list[np.ndarray]:
    """The network's outputs, [601, frames] each, silent but for what is given, and f0."""
    shaped = [
        np.broadcast_to(np.asarray(given.get(name, value), np.float32), (BINS, FRAMES)).copy()
        for name, value in SILENT.items()
    ]
    return [*shaped, np.broadcast_to(np.asarray(given.get("f0", 0.0), np.float32), (FRAMES,)).copy()]


def spectra_of(parts: list[np.ndarray], band: Band) -> np.ndarray:
    """The same in our layout: [frames, PARTS * bins]."""
    return np.concatenate([part[: band.bins].T for part in parts[:PARTS]], axis=1)


def waveform(band: Band, parts: list[np.ndarray], rng: Any, cuts: tuple[int, ...] = ()) -> np.ndarray:
    made = Waveform(band, parts[PARTS], rng)
    return np.concatenate([made.add(part) for part in np.split(spectra_of(parts, band), cuts)])


def error_db(expected: np.ndarray, actual: np.ndarray) -> float:
    """Power of the difference over the power of what was expected."""
    assert len(expected) == len(actual)
    return float(10 * np.log10(np.mean((expected - actual) ** 2) / np.mean(expected**2)))


CASES = {
    "noise": {"ln": -2.0},
    "free phase": {"lr": -2.0, "phi": np.random.default_rng(1).uniform(-3, 3, (BINS, FRAMES))},
    "a low voice": {"lh": -1.0, "f0": 120.0},
    "a high voice": {"lh": -1.0, "f0": 300.0, "theta": 0.5},
    "more than may be": {"ln": 9.0},
    "all, and a voice that rises": {"ln": -2.0, "lr": -3.0, "phi": 1.0, "lh": -1.0, "f0": np.linspace(90, 260, FRAMES)},
}


@pytest.mark.parametrize("given", CASES.values(), ids=CASES)
class TestEachBranchIsHibaris:
    def test_at_its_rate(self, given: dict[str, np.ndarray | float]) -> None:
        full = dsp.synth(*outputs(**given), SameNoise(FRAMES))
        ours = waveform(WIDE, outputs(**given), SameNoise(FRAMES))
        assert error_db(full, ours) < -70

    def test_at_half_of_it(self, given: dict[str, np.ndarray | float]) -> None:
        full = dsp.synth(*outputs(**given), SameNoise(FRAMES))
        ours = waveform(NARROW, outputs(**given), SameNoise(FRAMES, NARROW.bins))
        assert len(ours) == FRAMES * NARROW.hop
        full, ours = (soxr.resample(wave, rate, 8000) for wave, rate in ((full, FULL_RATE), (ours, NARROW.rate)))
        assert error_db(full[400:-400], ours[400:-400]) < -45


@pytest.mark.parametrize("sentence", TELEPHONE_SENTENCES[:5])
def test_real_speech_is_equal_to_within_what_the_line_adds(heart: VoiceModel, sentence: str) -> None:
    """Mu-law's own noise is at some -37 dB."""
    ids = np.asarray([0, *(heart._vocabulary[symbol] for symbol in heart.phonemize(sentence)[0]), 0], np.int64)
    features = heart._network.plan(ids, 1.0)
    frames = len(features.f0)
    spectra = heart._network.decode(features, 0, frames, WIDE)
    parts = [*(part.T for part in np.split(spectra, PARTS, axis=1)), features.f0]
    full = dsp.synth(*parts, SameNoise(frames))
    assert error_db(full, waveform(WIDE, parts, SameNoise(frames))) < -70
    narrow = waveform(NARROW, parts, SameNoise(frames, NARROW.bins))
    assert error_db(soxr.resample(full, FULL_RATE, 8000), soxr.resample(narrow, NARROW.rate, 8000)) < -34


@given(cuts=st.lists(st.integers(0, FRAMES - 1), max_size=8).map(sorted), band=st.sampled_from([NARROW, WIDE]))
def test_parts_join_to_the_whole(cuts: list[int], band: Band) -> None:
    parts = outputs(**CASES["all, and a voice that rises"])
    whole = waveform(band, parts, np.random.default_rng(5))
    joined = waveform(band, parts, np.random.default_rng(5), tuple(cuts))
    np.testing.assert_allclose(joined, whole, atol=1e-5 * np.max(np.abs(whole)))


@given(cut=st.integers(1, FRAMES - 1))
def test_what_is_given_is_all_that_later_frames_leave_alone(cut: int) -> None:
    parts = outputs(ln=-2.0)
    made = Waveform(NARROW, parts[PARTS], np.random.default_rng(0))
    assert made.frames_left == FRAMES
    assert len(made.add(spectra_of(parts, NARROW)[:cut])) == max(0, cut - 2) * NARROW.hop
    assert made.frames_left == FRAMES - cut


def test_the_bin_at_half_of_the_rate_is_left_out_where_there_are_more() -> None:
    """Sound of just 6 kHz would fold onto itself at 12 kHz; 12 kHz is the network's own last bin."""
    levels = np.full((BINS, 1), -30.0)
    levels[NARROW.bins - 1] = levels[WIDE.bins - 1] = 2.0
    assert np.max(np.abs(waveform(NARROW, outputs(ln=levels), np.random.default_rng(0)))) < 1e-6
    levels[NARROW.bins - 1] = -30.0
    assert np.max(np.abs(waveform(WIDE, outputs(ln=levels), np.random.default_rng(0)))) > 1e-3


def test_nothing_gives_silence() -> None:
    assert np.max(np.abs(waveform(NARROW, outputs(), np.random.default_rng(0)))) < 1e-6


@pytest.mark.parametrize("band", [NARROW, WIDE])
@pytest.mark.parametrize("frames", [1, 2, 3, 5])
def test_the_shortest_sounds(frames: int, band: Band) -> None:
    short = [part[..., :frames] for part in outputs(ln=-2.0, lh=-1.0, f0=100.0)]
    samples = waveform(band, short, np.random.default_rng(0))
    assert len(samples) == frames * band.hop
    assert np.all(np.isfinite(samples))
