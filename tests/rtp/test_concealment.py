from __future__ import annotations

import asyncio
import itertools
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mediaserver.rtp.codec import PCMU
from mediaserver.rtp.concealment import Concealment
from tests.sentences import TELEPHONE_SENTENCES
from tts_engine.embedded import EmbeddedEngine
from tts_engine.engine import SpeechRequest

FRAME = 320


def tone(hertz: float, seconds: float = 1.0, level: float = 8000) -> bytes:
    """A voiced sound: a fundamental and two overtones."""
    time = np.arange(int(8000 * seconds)) / 8000
    wave = sum(np.sin(2 * np.pi * hertz * n * time) / n for n in (1, 2, 3))
    return (level * wave / 1.9).astype("<i2").tobytes()


def receive(pcm: bytes, lost: list[bool]) -> bytes:
    """What is heard of 20 ms frames of which some are lost."""
    concealment = Concealment()
    heard = []
    for number, is_lost in enumerate(lost):
        frame = pcm[number * FRAME : (number + 1) * FRAME]
        if is_lost:
            frame = concealment.conceal(160)
        elif concealment.active:
            frame = concealment.resume(frame)
        concealment.heard(frame)
        heard.append(frame)
    return b"".join(heard)


def samples(pcm: bytes) -> np.ndarray:
    return np.frombuffer(pcm, "<i2").astype(float)


def snr(clean: np.ndarray, heard: np.ndarray) -> float:
    return float(10 * np.log10((clean**2).sum() / ((clean - heard) ** 2).sum()))


def lost_at(*frames: int, of: int = 50) -> list[bool]:
    return [number in frames for number in range(of)]


@pytest.mark.parametrize("hertz", [80, 110, 150, 200, 250])
def test_a_voiced_sound_goes_on_through_a_lost_frame(hertz: float) -> None:
    pcm = tone(hertz)
    heard = samples(receive(pcm, lost_at(20)))
    clean = samples(pcm)
    part = slice(20 * 160, 21 * 160)
    assert snr(clean[part], heard[part]) > 9, "muting gives 0; the fade from 10 ms on takes its part"
    assert np.array_equal(heard[22 * 160 :], clean[22 * 160 :]), "and afterwards it is what came"
    assert np.array_equal(heard[: 20 * 160], clean[: 20 * 160])


@pytest.mark.parametrize("lost", [(20,), (20, 21), (20, 21, 22, 23, 24, 25)])
@pytest.mark.parametrize("hertz", [90, 133, 210])
def test_there_is_no_click_at_either_end(hertz: float, lost: tuple[int, ...]) -> None:
    pcm = tone(hertz)
    steps = np.abs(np.diff(samples(pcm))).max()
    assert np.abs(np.diff(samples(receive(pcm, lost_at(*lost))))).max() <= 1.3 * steps


def test_it_fades_to_silence_within_60_ms() -> None:
    heard = samples(receive(tone(120), [number >= 20 for number in range(40)]))
    levels = [np.abs(heard[start : start + 80]).max() for start in range(20 * 160, 24 * 160, 80)]
    assert levels[0] > 5000
    assert all(later <= earlier * 1.01 for earlier, later in itertools.pairwise(levels))
    assert not heard[20 * 160 + 480 :].any()


def test_silence_is_concealed_by_silence_and_so_is_the_start_of_a_stream() -> None:
    assert receive(bytes(FRAME * 10), lost_at(5, of=10)) == bytes(FRAME * 10)
    concealment = Concealment()
    assert concealment.conceal(160) == bytes(FRAME)
    assert len(concealment.resume(tone(100)[:FRAME])) == FRAME


def test_noise_is_not_turned_into_a_tone() -> None:
    noise = np.random.default_rng(1).normal(0, 2000, 8000).astype("<i2").tobytes()
    heard = samples(receive(noise, lost_at(20, 21)))[20 * 160 : 20 * 160 + 256]
    spectrum = np.abs(np.fft.rfft(heard * np.hanning(256))) ** 2
    # A repeated short piece would have all its power in few lines.
    assert np.sort(spectrum)[-13:].sum() / spectrum.sum() < 0.45
    assert 800 < heard[:80].std() < 3500


def test_a_splice_is_faded_over() -> None:
    """Audio was dropped: 20 ms of a tone whose phase then does not fit."""
    pcm = tone(137)
    concealment = Concealment()
    for start in range(0, 20 * FRAME, FRAME):
        concealment.heard(pcm[start : start + FRAME])
    concealment.splice()
    joined = samples(pcm[19 * FRAME : 20 * FRAME] + concealment.resume(pcm[21 * FRAME : 22 * FRAME]))
    assert np.abs(np.diff(joined)).max() <= 1.3 * np.abs(np.diff(samples(pcm))).max()
    assert not concealment.active


@pytest.mark.parametrize("sizes", [(80, 80), (40, 120), (1, 159), (160,)])
def test_parts_of_a_frame_make_the_whole(sizes: tuple[int, ...]) -> None:
    pcm = tone(100)
    concealment = Concealment()
    for start in range(0, 10 * FRAME, FRAME):
        concealment.heard(pcm[start : start + FRAME])
    assert b"".join(concealment.conceal(size) for size in sizes) == receive(pcm, lost_at(10))[10 * FRAME : 11 * FRAME]


@settings(max_examples=60, deadline=None)
@given(
    actions=st.lists(st.sampled_from(["hear", "conceal", "splice", "resume", "reset"]), max_size=40),
    sizes=st.lists(st.integers(1, 160), min_size=40, max_size=40),
    seed=st.integers(0, 1000),
)
def test_any_order_of_calls_gives_as_many_samples_as_asked_for(actions, sizes, seed) -> None:
    concealment = Concealment()
    pcm = np.random.default_rng(seed).integers(-32768, 32767, 160).astype("<i2").tobytes()
    for action, size in zip(actions, sizes, strict=False):
        match action:
            case "hear":
                concealment.heard(pcm[: 2 * size])
            case "conceal":
                assert len(concealment.conceal(size)) == 2 * size
            case "splice":
                concealment.splice()
            case "resume":
                assert len(concealment.resume(pcm[: 2 * size])) == 2 * size
            case "reset":
                concealment.reset()


@pytest.fixture(scope="module")
def speech() -> bytes:
    """Some sentences of the embedded voice, as a phone sends them."""

    async def speak() -> bytes:
        engine = EmbeddedEngine()
        await engine.start()
        try:
            text = " ".join(TELEPHONE_SENTENCES)
            return b"".join([chunk.pcm async for chunk in engine.synthesize(SpeechRequest(text, sample_rate=8000))])
        finally:
            await engine.stop()

    pcm = asyncio.run(speak())
    return PCMU.decode(PCMU.encode(pcm + bytes(-len(pcm) % FRAME)))


def band_levels(audio: np.ndarray) -> np.ndarray:
    """dB in 18 bands from 125 Hz to 4 kHz, each 8 ms."""
    starts = range(0, len(audio) - 256, 64)
    power = np.abs(np.fft.rfft([audio[start : start + 256] * np.hanning(256) for start in starts])) ** 2
    edges = np.unique(np.round(np.geomspace(4, 128, 19)).astype(int))
    return 10 * np.log10(np.add.reduceat(power[:, : edges[-1]], edges[:-1], axis=1) + 1e4)


@pytest.mark.parametrize("loss", [0.02, 0.05])
def test_speech_with_losses_is_nearer_to_what_was_said_than_if_muted(speech: bytes, loss: float) -> None:
    clean = samples(speech)
    reference = band_levels(clean)
    distances = []
    errors = []
    for seed in range(4):
        rng = random.Random(seed)
        lost = [number > 3 and rng.random() < loss for number in range(len(speech) // FRAME)]
        missing = np.repeat(lost, 160)
        windows = [slice(start, start + 256) for start in range(0, len(clean) - 256, 64)]
        hit = np.array([missing[part].any() and (clean[part] ** 2).mean() > 200**2 for part in windows])
        outcomes = np.where(missing, 0, clean), samples(receive(speech, lost))
        deviations = [(reference - band_levels(audio))[hit] for audio in outcomes]
        distances.append([np.sqrt((deviation**2).mean(axis=1)).mean() for deviation in deviations])
        errors.append([((clean - audio) ** 2).sum() for audio in outcomes])
    muted, concealed = np.mean(distances, axis=0)
    assert concealed < 0.85 * muted, "log spectral distance where something was lost"
    muted, concealed = np.sum(errors, axis=0)
    assert concealed < muted, "power of the error: 0.9 of it over many losses"
