"""Silence is taken from the start of a sentence, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from tests.sentences import TELEPHONE_SENTENCES
from tts_engine.embedded.model import VoiceModel, speak
from tts_engine.embedded.silence import AUDIBLE_RMS, PRE_ROLL_S, WINDOW_S, first_sound, trim_start
from tts_engine.embedded.waveform import FULL_RATE

RATE = 24_000


def tone(seconds: float, level: float) -> np.ndarray:
    time = np.arange(int(seconds * RATE)) / RATE
    return (level * np.sqrt(2) * np.sin(2 * np.pi * 400 * time)).astype(np.float32)


def silence(seconds: float) -> np.ndarray:
    return np.zeros(int(seconds * RATE), np.float32)


@pytest.mark.parametrize("lead", [0.03, 0.1, 0.33, 2.0])
def test_the_start_is_cut_to_the_pre_roll(lead: float) -> None:
    sound = np.concatenate([silence(lead), tone(0.5, 0.1), silence(0.4)])
    trimmed = trim_start(sound, RATE)
    kept = len(trimmed) - int(0.9 * RATE)
    assert PRE_ROLL_S * RATE <= kept <= (PRE_ROLL_S + WINDOW_S) * RATE
    np.testing.assert_array_equal(trimmed, sound[-len(trimmed) :])


def test_what_begins_at_once_is_left_alone() -> None:
    sound = np.concatenate([silence(0.005), tone(0.2, 0.1)])
    np.testing.assert_array_equal(trim_start(sound, RATE), sound)


def test_a_soft_onset_is_kept() -> None:
    sound = np.concatenate([silence(0.3), tone(0.1, AUDIBLE_RMS * 1.2), tone(0.2, 0.1)])
    assert len(trim_start(sound, RATE)) >= int(0.3 * RATE)


@pytest.mark.parametrize("samples", [silence(0.5), silence(0.0), tone(0.3, AUDIBLE_RMS / 2), tone(0.002, 0.5)])
def test_where_nothing_is_audible_nothing_is_taken(samples: np.ndarray) -> None:
    np.testing.assert_array_equal(trim_start(samples, RATE), samples)
    assert first_sound(samples, RATE) is None


def test_every_sentence_begins_within_a_frame_or_two(heart: VoiceModel) -> None:
    """What a caller waits for: 10 ms before the first breath, not 300."""
    for sentence in TELEPHONE_SENTENCES:
        pcm = b"".join(piece.pcm for piece in speak(heart, sentence, 1.0, FULL_RATE, 0))
        samples = np.frombuffer(pcm, "<i2").astype(np.float32) / 32768
        assert np.flatnonzero(np.abs(samples) > AUDIBLE_RMS)[0] < 0.035 * FULL_RATE
