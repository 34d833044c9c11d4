"""The parts of a line: levels, responses, delays, companding."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.telephone_line import (
    Clips,
    Samples,
    Scene,
    at_level,
    delayed,
    echo_response,
    frame_levels,
    g711,
    line,
    noise_like,
    to_pcm,
)
from mediaserver.rtp.voice_activity import SAMPLE_RATE, level_of

TIMES = np.arange(SAMPLE_RATE) / SAMPLE_RATE
TONE = np.sin(2 * np.pi * 300 * TIMES) * 1000
CLIPS = Clips([TONE], [TONE, TONE[:5000]])


def received(scene: Scene, sent: Samples, caller: Samples) -> Samples:
    return np.frombuffer(line(scene, sent, caller, CLIPS, 1), "<i2").astype(float)


def level(samples: Samples) -> float:
    return float(np.sqrt(np.mean(samples**2)))


def test_level_is_of_the_active_part() -> None:
    tone = at_level(np.concatenate((TONE, np.zeros(8000))), -26)

    assert level(tone[:8000]) == pytest.approx(level_of(-26), rel=0.01)
    assert frame_levels(tone).shape == (100,)


@pytest.mark.parametrize("room", ["handset", "room"])
def test_responses_have_energy_one(room: str) -> None:
    energies = [np.sum(echo_response(room, seed) ** 2) for seed in range(50)]

    assert np.mean(energies) == pytest.approx(1, rel=0.15)


def test_a_delay_between_samples() -> None:
    click = np.zeros(400)
    click[100] = 8.0

    assert np.flatnonzero(delayed(click, 10.0)).tolist() == [180]
    late = delayed(click, 10.0625)  # 80.5 samples
    assert late[180] == late[181] == 4.0


@pytest.mark.parametrize("kind", ["white", "babble", "music"])
def test_noise_is_of_full_level(kind: str) -> None:
    assert level(noise_like(kind, 16000, CLIPS, np.random.default_rng(1))) == pytest.approx(32768)


def test_companding_is_that_of_mu_law() -> None:
    heard = np.frombuffer(g711(TONE), "<i2")

    assert to_pcm(TONE) != heard.tobytes()
    assert 30 < 20 * np.log10(level(TONE) / level(heard - TONE)) < 45
    assert to_pcm(np.array([1e6, -1e6])) == b"\xff\x7f\x00\x80"


def test_echo_lies_as_far_below_and_as_late_as_said() -> None:
    heard = received(Scene("", echo_db=20, delay_ms=100, noise_dbov=None), TONE, np.zeros(8000))

    assert np.max(np.abs(heard[:800])) == 0
    assert 20 * np.log10(level(TONE) / level(heard[1600:])) == pytest.approx(20, abs=4)


def test_the_caller_is_heard_over_noise() -> None:
    quiet = received(Scene("", noise_dbov=-50), np.zeros(8000), np.zeros(8000))
    spoken = received(Scene("", noise_dbov=-50), np.zeros(8000), TONE)

    assert level(quiet) == pytest.approx(level_of(-50), rel=0.1)
    assert level(spoken) == pytest.approx(level(TONE), rel=0.1)
