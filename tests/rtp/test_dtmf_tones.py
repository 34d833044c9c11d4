"""Tones made and recognised: what Q.24 asks for, through G.711, noise and speech."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mediaserver.rtp.codec import audioop
from mediaserver.rtp.dtmf_event import DIGITS, DtmfEvent
from mediaserver.rtp.dtmf_tones import (
    HIGH_HZ,
    KEYPAD,
    LOW_HZ,
    ToneDetector,
    amplitude,
    digits_pcm,
    tone_pcm,
)

FRAME = 320
LEAD_INS = (0, 17, 40, 79, 80, 120, 159)  # samples: tones begin anywhere within a frame


def silence(samples: int) -> bytes:
    return bytes(2 * samples)


def heard(pcm: bytes, law: str = "u") -> list[DtmfEvent]:
    """What is recognised in PCM that went through G.711, followed by silence."""
    if law == "u":
        pcm = audioop.ulaw2lin(audioop.lin2ulaw(pcm, 2), 2) + silence(800)
    else:
        pcm = audioop.alaw2lin(audioop.lin2alaw(pcm, 2), 2) + silence(800)
    events: list[DtmfEvent] = []
    detector = ToneDetector(events.append)
    for start in range(0, len(pcm) - FRAME + 1, FRAME):
        detector.heard(pcm[start : start + FRAME], start // 16)
    return events


def digits_of(events: list[DtmfEvent]) -> str:
    assert [event.kind for event in events] == ["started", "ended"] * (len(events) // 2)
    assert all(event.source == "inband" for event in events)
    return "".join(event.digit for event in events[::2])


def with_noise(pcm: bytes, snr_db: float, seed: int = 1) -> bytes:
    samples = np.frombuffer(pcm, "<i2").astype(float)
    power = np.mean(samples[samples != 0] ** 2) / 10 ** (snr_db / 10)
    noisy = samples + np.random.default_rng(seed).normal(size=len(samples)) * np.sqrt(power)
    return np.clip(noisy, -32768, 32767).astype("<i2").tobytes()


@pytest.fixture(scope="module")
def speech() -> bytes:
    """Some 15 s of the embedded voice at 8 kHz."""
    from tests.sentences import TELEPHONE_SENTENCES
    from tts_engine.embedded.model import load_models, speak

    model = load_models({"heart"})["heart"]
    return b"".join(piece.pcm for text in TELEPHONE_SENTENCES[:4] for piece in speak(model, text, 1.0, 8000, 1))


def recognised(digits: str = DIGITS, duration_ms: int = 40, **tone: float) -> list[bool]:
    """Whether each digit is heard once and rightly, at each lead-in."""
    return [
        digits_of(heard(silence(800 + lead) + tone_pcm(digit, duration_ms, **tone) + silence(480))) == digit
        for digit in digits
        for lead in LEAD_INS
    ]


class TestTones:
    @pytest.mark.parametrize("digit", DIGITS)
    def test_two_frequencies(self, digit: str) -> None:
        samples = np.frombuffer(tone_pcm(digit, 1000), "<i2")
        spectrum = np.abs(np.fft.rfft(samples))
        row = next(n for n, keys in enumerate(KEYPAD) if digit in keys)
        assert set(np.argsort(spectrum)[-2:]) == {LOW_HZ[row], HIGH_HZ[KEYPAD[row].index(digit)]}

    def test_levels(self) -> None:
        samples = np.frombuffer(tone_pcm("5", 1000, low_dbm0=-12.0, high_dbm0=-6.0), "<i2")
        spectrum = 2 * np.abs(np.fft.rfft(samples)) / len(samples)
        assert spectrum[770] == pytest.approx(amplitude(-12.0), rel=0.01)
        assert spectrum[1336] == pytest.approx(amplitude(-6.0), rel=0.01)
        assert amplitude(3.14) == pytest.approx(32768)

    @pytest.mark.parametrize("rate", [8000, 16000])
    def test_lengths(self, rate: int) -> None:
        assert (
            len(digits_pcm("1w2", duration_ms=100, gap_ms=60, sample_rate=rate)) == 2 * rate * (160 + 500 + 160) // 1000
        )

    def test_no_click(self) -> None:
        samples = np.frombuffer(tone_pcm("1", 50), "<i2").astype(int)
        assert max(abs(samples[0]), abs(samples[-1])) < 1000

    @pytest.mark.parametrize("digit", ["", "x", "12", "a"])
    def test_what_is_no_digit(self, digit: str) -> None:
        with pytest.raises(ValueError, match="digit"):
            tone_pcm(digit, 100)
        with pytest.raises(ValueError, match="digits"):
            digits_pcm(f"{digit}x")


class TestAccepted:
    """ITU-T Q.24, with each tone beginning anywhere in a frame."""

    def test_40_ms(self) -> None:
        assert all(recognised())

    @pytest.mark.parametrize("deviation", [-0.015, 0.015])
    def test_frequencies_1_5_percent_off(self, deviation: float) -> None:
        assert all(recognised("159D", deviation=deviation))

    @pytest.mark.parametrize(("low", "high"), [(-12.0, -8.0), (-6.0, -14.0)])
    def test_twist(self, low: float, high: float) -> None:
        assert all(recognised("26#A", low_dbm0=low, high_dbm0=high))

    @pytest.mark.parametrize("level", [-25.0, -3.0])
    def test_levels(self, level: float) -> None:
        assert all(recognised("380C", low_dbm0=level, high_dbm0=level))

    @pytest.mark.parametrize("law", ["u", "A"])
    def test_a_sequence_at_the_fastest(self, law: str) -> None:
        pcm = silence(100) + digits_pcm(DIGITS + "55", duration_ms=40, gap_ms=40)
        assert digits_of(heard(pcm, law)) == DIGITS + "55"

    def test_noise(self) -> None:
        pcm = silence(333) + digits_pcm(DIGITS, duration_ms=50, gap_ms=50)
        assert digits_of(heard(with_noise(pcm, 15.0))) == DIGITS

    @pytest.mark.parametrize("lead", LEAD_INS)
    def test_interruptions_and_pauses(self, lead: int) -> None:
        """10 ms without the tone split nothing, 40 ms do."""
        tone = tone_pcm("4", 60)
        assert digits_of(heard(silence(lead) + tone + silence(80) + tone)) == "4"
        assert digits_of(heard(silence(lead) + tone + silence(320) + tone)) == "44"

    def test_durations(self) -> None:
        for duration in (60, 100, 1000):
            started, ended = heard(silence(40) + tone_pcm("7", duration))
            assert started.duration_ms <= 60
            assert abs(ended.duration_ms - duration) <= 20

    def test_a_digit_that_follows_without_a_pause(self) -> None:
        assert digits_of(heard(tone_pcm("1", 100) + tone_pcm("9", 100))) == "19"

    @settings(max_examples=25)
    @given(
        st.sampled_from(DIGITS),
        st.integers(40, 200),
        st.integers(0, 400),
        st.floats(-20.0, -5.0),
        st.floats(-7.5, 3.5),
        st.floats(-0.014, 0.014),
    )
    def test_anything_within_the_limits(
        self, digit: str, duration: int, lead: int, low: float, twist: float, deviation: float
    ) -> None:
        tone = tone_pcm(digit, duration, low_dbm0=low, high_dbm0=min(low + twist, -3.0), deviation=deviation)
        assert digits_of(heard(silence(lead) + tone)) == digit


class TestRejected:
    def test_20_ms(self) -> None:
        assert not any(recognised(duration_ms=20))

    @pytest.mark.parametrize("deviation", [-0.035, 0.035])
    def test_frequencies_3_5_percent_off(self, deviation: float) -> None:
        assert not any(recognised("159D", 100, deviation=deviation))

    @pytest.mark.parametrize(("low", "high"), [(-14.0, -7.0), (-4.0, -15.0)])
    def test_twist(self, low: float, high: float) -> None:
        assert not any(recognised("26#A", 100, low_dbm0=low, high_dbm0=high))

    def test_too_weak(self) -> None:
        assert not any(recognised("5", 100, low_dbm0=-35.0, high_dbm0=-35.0))

    def test_a_tone_with_harmonics(self) -> None:
        """As of a voice that hits both frequencies."""
        t = np.arange(1600) / 8000
        for share, expected in ((0.0, "1"), (0.2, "")):
            samples = sum(
                amplitude(-9.0) * (np.sin(2 * np.pi * hz * t) + share * np.sin(4 * np.pi * hz * t))
                for hz in (697, 1209)
            )
            assert digits_of(heard(np.asarray(samples).astype("<i2").tobytes())) == expected

    @pytest.mark.parametrize(("share", "expected"), [(0.04, "5"), (0.2, "")])
    def test_a_third_tone(self, share: float, expected: str) -> None:
        """share: of all energy."""
        tone = np.frombuffer(tone_pcm("5", 200), "<i2").astype(float)
        third = np.sin(2 * np.pi * 560 * np.arange(len(tone)) / 8000)
        third *= np.sqrt(share / (1 - share) * np.mean(tone**2) / np.mean(third**2))
        assert digits_of(heard(np.rint(tone + third).astype("<i2").tobytes())) == expected

    @pytest.mark.parametrize(
        "frequencies", [(440,), (350, 440), (480, 620), (697,), (1209,), (1209, 1477), (425,), (1100,), (2100,)]
    )
    def test_other_tones(self, frequencies: tuple[int, ...]) -> None:
        """Dial, ringing and busy tones, fax, half a digit, two of one group."""
        t = np.arange(8000) / 8000
        samples = sum(amplitude(-10.0) * np.sin(2 * np.pi * hz * t) for hz in frequencies)
        assert heard(np.asarray(samples).astype("<i2").tobytes()) == []

    @pytest.mark.parametrize("level", [30, 300, 3000, 10_000])
    def test_noise(self, level: int) -> None:
        samples = np.random.default_rng(level).normal(size=80_000) * level
        assert heard(np.clip(samples, -32768, 32767).astype("<i2").tobytes()) == []


@pytest.mark.parametrize("pitch", [0.75, 1.0, 1.3])
def test_speech_is_not_taken_for_digits(speech: bytes, pitch: float) -> None:
    """Talk-off. Other pitches stand for other voices."""
    samples = np.frombuffer(speech, "<i2")
    moved = np.interp(np.arange(0, len(samples) - 1, pitch), np.arange(len(samples)), samples)
    assert heard(np.rint(moved).astype("<i2").tobytes()) == []


def test_digits_among_speech(speech: bytes) -> None:
    """Said before, pressed between, said after, as a caller does."""
    assert digits_of(heard(speech[:64_000] + digits_pcm("0815*#") + speech[64_000:96_000])) == "0815*#"


def test_a_frame_of_another_size_is_not_looked_at() -> None:
    events: list[DtmfEvent] = []
    detector = ToneDetector(events.append)
    for size in (0, 1, 2, 161, 319, 321):
        detector.heard(bytes(size), 0)
        detector.heard(b"\x40" * size, 0)
    assert events == []


def test_another_stream_ends_a_digit() -> None:
    events: list[DtmfEvent] = []
    detector = ToneDetector(events.append)
    detector.reset()
    tone = tone_pcm("6", 200)
    for start in range(0, 8 * FRAME, FRAME):
        detector.heard(tone[start : start + FRAME], 0)
    detector.reset()
    detector.reset()
    assert digits_of(events) == "6"
