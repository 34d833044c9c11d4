"""The frame's detector, and the close look at a candidate."""

from __future__ import annotations

import numpy as np
import pytest

from mediaserver.rtp.voice_activity import (
    FRAME_SAMPLES,
    HALF_CONTEXT,
    HALF_RATE,
    SAMPLE_RATE,
    Samples,
    VoiceActivity,
    is_speech,
    level_of,
    to_half_rate,
)

THRESHOLD = level_of(-45)
RNG = np.random.default_rng(6)


def pcm(samples: Samples) -> bytes:
    return np.clip(np.round(samples), -32768, 32767).astype("<i2").tobytes()


def frames(samples: Samples) -> list[bytes]:
    whole = len(samples) // FRAME_SAMPLES
    return [pcm(samples[n * FRAME_SAMPLES : (n + 1) * FRAME_SAMPLES]) for n in range(whole)]


def seconds(count: float, rate: int = SAMPLE_RATE) -> Samples:
    return np.arange(int(count * rate)) / rate


def tone(*hertz: float, length: float = 0.3, level: float = 4000, rate: int = SAMPLE_RATE) -> Samples:
    return np.sum([level * np.sin(2 * np.pi * f * seconds(length, rate)) for f in hertz], axis=0)


def vowel(pitch: float, length: float = 0.3, level: float = 4000, rate: int = SAMPLE_RATE) -> Samples:
    """Harmonics under formants at 700 and 1200 Hz, with the pitch falling as in speech."""
    times = seconds(length, rate)
    phase = 2 * np.pi * pitch * (times - 0.15 * times**2)
    sound = np.zeros(len(times))
    for n in range(1, int(1900 / pitch)):
        gain = sum(1 / (1 + ((n * pitch - formant) / 120) ** 2) for formant in (250, 700, 1200))
        sound += gain * np.sin(n * phase)
    return np.asarray(sound / np.sqrt(np.mean(sound**2)) * level)


def noise(length: float = 0.3, level: float = 4000, rate: int = SAMPLE_RATE) -> Samples:
    return RNG.standard_normal(int(length * rate)) * level


def breath(length: float = 0.3, level: float = 2000) -> Samples:
    """Noise under two broad resonances, swelling and fading."""
    sound = np.convolve(noise(length, 1, HALF_RATE), np.sin(np.arange(8)) * np.exp(-np.arange(8) / 3), "same")
    sound *= np.sin(np.pi * np.arange(len(sound)) / len(sound))
    return np.asarray(sound / np.sqrt(np.mean(sound**2)) * level)


def test_level_of_dbov() -> None:
    assert level_of(0) == 32768
    assert level_of(-20) == pytest.approx(3276.8)
    # A full-scale sine is 3.01 dB below (ITU-T G.100.1).
    assert np.sqrt(np.mean(tone(1000, level=32768) ** 2)) == pytest.approx(level_of(-3.01), rel=1e-3)


@pytest.mark.parametrize("aggressiveness", [-1, 4])
def test_aggressiveness_out_of_range(aggressiveness: int) -> None:
    with pytest.raises(ValueError, match="aggressiveness"):
        VoiceActivity(-45, aggressiveness)


@pytest.mark.parametrize("aggressiveness", range(4))
def test_a_vowel_is_voiced(aggressiveness: int) -> None:
    activity = VoiceActivity(-45, aggressiveness)

    assert sum(activity.is_voiced(frame) for frame in frames(vowel(120))) >= 13


def test_silence_is_not_voiced() -> None:
    activity = VoiceActivity(-45, 0)

    assert not any(activity.is_voiced(frame) for frame in frames(noise(1, level=level_of(-50))))


def test_the_floor_is_a_level() -> None:
    quiet = frames(vowel(120, level=level_of(-40)))

    assert any(map(VoiceActivity(-50, 1).is_voiced, quiet))
    assert not any(map(VoiceActivity(-30, 1).is_voiced, quiet))


def test_the_threshold_follows_a_noise_and_comes_back() -> None:
    activity = VoiceActivity(-45, 1)
    assert activity.threshold == THRESHOLD
    level = level_of(-36)

    for frame in frames(noise(20, level=level)):
        activity.is_loud(frame)
    assert activity.threshold == pytest.approx(2 * level, rel=0.2)
    assert not any(activity.is_loud(frame) for frame in frames(noise(1, level=level)))

    for frame in frames(noise(1, level=10)):
        activity.is_voiced(frame)
    assert activity.threshold == THRESHOLD


def test_the_threshold_does_not_follow_speech() -> None:
    activity = VoiceActivity(-45, 1)
    word_and_pause = np.concatenate((vowel(120, 0.6), noise(0.1, level=20)))

    for frame in frames(np.tile(word_and_pause, 10)):
        activity.is_voiced(frame)
    assert activity.threshold < 2.5 * THRESHOLD


def test_half_rate_keeps_the_voice_and_drops_what_would_alias() -> None:
    low, high = tone(1000, length=0.1), tone(3000, length=0.1)

    kept = to_half_rate(low)
    assert len(kept) == (len(low) - HALF_CONTEXT) // 2
    assert np.sqrt(np.mean(kept**2)) == pytest.approx(np.sqrt(np.mean(low**2)), rel=0.02)
    assert np.sqrt(np.mean(to_half_rate(high) ** 2)) < 0.01 * np.sqrt(np.mean(high**2))


@pytest.mark.parametrize("pitch", [75, 110, 150, 220, 300, 380])
def test_a_voice_is_speech_whatever_its_pitch(pitch: float) -> None:
    assert is_speech(vowel(pitch, 0.16, rate=HALF_RATE), THRESHOLD)


@pytest.mark.parametrize("snr_db", [20, 10])
def test_a_voice_in_noise_is_speech(snr_db: float) -> None:
    mixed = vowel(120, rate=HALF_RATE) + noise(level=4000 * 10 ** (-snr_db / 20), rate=HALF_RATE)

    assert is_speech(mixed, THRESHOLD)


def test_a_voice_below_the_threshold_is_none() -> None:
    assert not is_speech(vowel(120, level=THRESHOLD / 2, rate=HALF_RATE), THRESHOLD)


def test_a_voice_for_too_short_a_time_is_none() -> None:
    click = np.concatenate((np.zeros(600), vowel(120, 0.02, rate=HALF_RATE), np.zeros(600)))

    assert not is_speech(click, THRESHOLD)


@pytest.mark.parametrize("attempt", range(20))
def test_noise_is_no_speech(attempt: int) -> None:
    assert not is_speech(noise(rate=HALF_RATE), THRESHOLD)
    assert not is_speech(breath(), THRESHOLD)


@pytest.mark.parametrize("low", [697, 770, 852, 941])
@pytest.mark.parametrize("high", [1209, 1336, 1477, 1633])
@pytest.mark.parametrize("length", [0.08, 0.3])
def test_dtmf_is_no_speech(low: float, high: float, length: float) -> None:
    digit = tone(low, high, length=length, rate=HALF_RATE) + noise(length, 100, HALF_RATE)

    assert not is_speech(np.concatenate((np.zeros(160), digit)), THRESHOLD)


@pytest.mark.parametrize("hertz", [(425,), (350, 440), (440, 480), (480, 620), (1100,), (950,), (400,), (1400,)])
def test_call_progress_and_fax_tones_are_no_speech(hertz: tuple[float, ...]) -> None:
    assert not is_speech(tone(*hertz, rate=HALF_RATE) + noise(level=60, rate=HALF_RATE), THRESHOLD)


@pytest.mark.parametrize("count", [0, 1, 80, 159])
def test_too_little_to_tell(count: int) -> None:
    assert not is_speech(np.full(count, 1000.0), THRESHOLD)


def test_silence_and_a_constant_are_no_speech() -> None:
    assert not is_speech(np.zeros(1200), THRESHOLD)
    assert not is_speech(np.full(1200, 3000.0), THRESHOLD)
