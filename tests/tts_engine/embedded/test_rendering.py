"""The first samples come soon, the others in few parts, and no cut is heard."""

from __future__ import annotations

import numpy as np
import pytest

from tests.sentences import TELEPHONE_SENTENCES
from tts_engine.embedded.model import VoiceModel
from tts_engine.embedded.network import Features
from tts_engine.embedded.rendering import (
    HEAD_FRAMES,
    MIN_HEAD_SECONDS,
    MIN_REST_FRAMES,
    PART_FRAMES,
    Rendering,
    audible_parts,
)
from tts_engine.embedded.silence import PRE_ROLL_S
from tts_engine.embedded.waveform import NARROW, PARTS, WIDE, Band

LOUD, SILENT = -1.0, -30.0


class Scripted:
    """A network that says noise where it is told to, and counts the frames of each decoding."""

    def __init__(self, loud: np.ndarray) -> None:
        self._loud = loud
        self.decoded: list[int] = []

    def plan(self, ids: np.ndarray, speed: float) -> Features:
        return Features(np.zeros((1, 1, len(self._loud)), np.float32), np.zeros(len(self._loud), np.float32))

    def decode(self, features: Features, begin: int, end: int, band: Band) -> np.ndarray:
        self.decoded.append(end - begin)
        spectra = np.full((end - begin, PARTS, band.bins), SILENT, np.float32)
        spectra[:, 2] = np.where(self._loud[begin:end], LOUD, SILENT)[:, None]
        return spectra.reshape(end - begin, -1)


def scripted(frames: int, silent: int) -> tuple[Scripted, Rendering]:
    """`frames` of speech, the first of them silent."""
    network = Scripted(np.arange(frames) >= silent)
    return network, Rendering(network, np.zeros(1, np.int64), 1.0, NARROW, np.random.default_rng(0))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("frames", "parts"),
    [
        (1, [1]),
        (HEAD_FRAMES + MIN_REST_FRAMES - 1, [HEAD_FRAMES + MIN_REST_FRAMES - 1]),
        (HEAD_FRAMES + MIN_REST_FRAMES, [HEAD_FRAMES, MIN_REST_FRAMES]),
        (HEAD_FRAMES + PART_FRAMES, [HEAD_FRAMES, PART_FRAMES]),
        (HEAD_FRAMES + PART_FRAMES + 41, [HEAD_FRAMES, 221, 220]),
        (HEAD_FRAMES + 3 * PART_FRAMES, [HEAD_FRAMES, PART_FRAMES, PART_FRAMES, PART_FRAMES]),
    ],
)
def test_a_short_part_then_long_ones(frames: int, parts: list[int]) -> None:
    network, rendering = scripted(frames, 0)
    samples = [len(part) for part in audible_parts(rendering, soon=True)]
    assert network.decoded == parts
    assert sum(samples) == frames * NARROW.hop
    assert rendering.frames_left == 0


def test_of_what_nobody_waits_for_all_parts_are_long() -> None:
    network, rendering = scripted(PART_FRAMES + 50, 0)
    list(audible_parts(rendering))
    assert network.decoded == [225, 225]


def test_no_part_is_made_before_it_is_asked_for() -> None:
    network, rendering = scripted(300, 0)
    parts = audible_parts(rendering, soon=True)
    assert network.decoded == []
    next(parts)
    assert network.decoded == [HEAD_FRAMES]
    assert rendering.frames_left == 300 - HEAD_FRAMES


def test_the_silence_at_the_start_is_left_out() -> None:
    network, rendering = scripted(300, 24)
    first, rest = audible_parts(rendering, soon=True)
    kept = HEAD_FRAMES - 2 - 24 + 2  # the windows of the first loud frames reach back over two hops
    assert len(first) == pytest.approx(kept * NARROW.hop + PRE_ROLL_S * NARROW.rate, abs=NARROW.hop)
    assert network.decoded == [HEAD_FRAMES, 220]
    assert len(rest) == 222 * NARROW.hop


@pytest.mark.parametrize("silent", [60, 100, 299])
def test_a_part_that_would_be_over_before_the_next_has_come_waits_for_it(silent: int) -> None:
    network, rendering = scripted(300, silent)
    (only,) = audible_parts(rendering, soon=True)
    assert network.decoded == [HEAD_FRAMES, 220]
    assert len(only) == pytest.approx((302 - silent) * NARROW.hop, abs=3 * NARROW.hop)
    assert HEAD_FRAMES - 60 < MIN_HEAD_SECONDS * 80


def test_silence_alone_is_left_as_it_is() -> None:
    _, rendering = scripted(700, 700)
    assert sum(len(part) for part in audible_parts(rendering, soon=True)) == 700 * NARROW.hop


@pytest.mark.parametrize("band", [NARROW, WIDE])
@pytest.mark.parametrize("sentence", TELEPHONE_SENTENCES[:6])
def test_a_cut_sounds_as_the_whole_does(heart: VoiceModel, sentence: str, band: Band) -> None:
    """The difference is that of 8-bit products with another scale, at the cut as everywhere."""
    phonemes = heart.phonemize(sentence)[0]
    cut = np.concatenate(list(audible_parts(heart.render(phonemes, 1.0, band, np.random.default_rng(3)), soon=True)))
    rendering = heart.render(phonemes, 1.0, band, np.random.default_rng(3))
    whole = rendering.take(rendering.frames_left)
    lag = len(whole) - len(cut)
    error = np.square(whole[lag:] - cut)
    assert 10 * np.log10(np.mean(error) / np.mean(np.square(whole))) < -24
    at = HEAD_FRAMES * band.hop - lag
    near = error[at - 5 * band.hop : at + 5 * band.hop]
    assert np.max(near) <= np.max(error)
    assert 10 * np.log10(np.mean(near) / np.mean(np.square(whole))) < -20
