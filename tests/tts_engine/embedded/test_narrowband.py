"""At 8 kHz the short way gives what the long way gives."""

from __future__ import annotations

import numpy as np
import pytest
import soxr
from hibari import dsp

from tests.sentences import TELEPHONE_SENTENCES
from tts_engine.embedded import narrowband
from tts_engine.embedded.model import MODEL_RATE, VoiceModel

FRAMES = 200
BINS = 601


def at_8k(samples: np.ndarray, rate: int) -> np.ndarray:
    return soxr.resample(samples, rate, 8000)


def error_db(expected: np.ndarray, actual: np.ndarray) -> float:
    """Power of the difference over the power of what was expected."""
    assert len(expected) == len(actual)
    return float(10 * np.log10(np.mean((expected - actual) ** 2) / np.mean(expected**2)))


@pytest.mark.parametrize("sentence", TELEPHONE_SENTENCES[:5])
def test_real_speech_is_equal_to_within_what_the_line_adds(heart: VoiceModel, sentence: str) -> None:
    """Mu-law's own noise is at some -37 dB. The noise drawn is the same: hibari draws the low bins first."""
    phonemes = heart.phonemize(sentence)[0]
    full = heart.infer(phonemes, 1.0, np.random.default_rng(3))
    narrow = heart.infer(phonemes, 1.0, np.random.default_rng(3), narrow=True)
    assert error_db(at_8k(full, MODEL_RATE), at_8k(narrow, narrowband.RATE)) < -34


def parts(**given: np.ndarray | float) -> list[np.ndarray]:
    """The network's outputs, silent but for what is given."""
    silent = {"lh": -30.0, "theta": 0.0, "ln": -30.0, "lr": -30.0, "phi": 0.0}
    shaped = [
        np.broadcast_to(np.asarray(given.get(name, value), np.float32), (BINS, FRAMES)).copy()
        for name, value in silent.items()
    ]
    return [*shaped, np.broadcast_to(np.asarray(given.get("f0", 0.0), np.float32), (FRAMES,)).copy()]


@pytest.mark.parametrize(
    "given",
    [
        {"ln": -2.0},
        {"lr": -2.0, "phi": np.random.default_rng(1).uniform(-3, 3, (BINS, FRAMES))},
        {"lh": -1.0, "f0": 120.0},
        {"lh": -1.0, "f0": 300.0, "theta": 0.5},
    ],
    ids=["noise", "free phase", "a low voice", "a high voice"],
)
def test_each_branch_is_equal(given: dict[str, np.ndarray | float]) -> None:
    full = dsp.synth(*parts(**given), np.random.default_rng(3))
    narrow = narrowband.synthesise(*parts(**given), np.random.default_rng(3))
    assert len(narrow) == FRAMES * narrowband.HOP
    assert error_db(at_8k(full, MODEL_RATE)[400:-400], at_8k(narrow, narrowband.RATE)[400:-400]) < -45


def test_nothing_gives_silence() -> None:
    samples = narrowband.synthesise(*parts(), np.random.default_rng(0))
    assert np.max(np.abs(samples)) < 1e-6


@pytest.mark.parametrize("frames", [1, 2, 3, 5])
def test_the_shortest_sounds(frames: int) -> None:
    short = [part[..., :frames] for part in parts(ln=-2.0, lh=-1.0, f0=100.0)]
    samples = narrowband.synthesise(*short, np.random.default_rng(0))
    assert len(samples) == frames * narrowband.HOP
    assert np.all(np.isfinite(samples))
