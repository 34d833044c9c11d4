"""End to end: the reference's `ChatterboxTurboTTS.generate` and ours, text to waveform, with the same draws."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.parity import figures
from tests.parity.speakers import WHOLE, Speakers
from tts_engine.chatterbox.constants import SAMPLES_PER_TOKEN, START_TOKEN
from tts_engine.chatterbox.draws import Draws
from tts_engine.chatterbox.guards import EndReason

TOLERANCE = 1e-3
ONE_SECOND = 22
"Tokens; three of silence follow."

pytestmark = pytest.mark.timeout(600)  # released weights on a CPU


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.mark.parametrize(
    ("seed", "text"), [(1, "Hello there."), (2, "oh [laugh] “twelve fifty”, isn't it"), (3, "Yes!")]
)
def test_generate_is_the_reference_s(seed: int, text: str, speakers: Speakers, record_property: figures.Record) -> None:
    limit = _limit(speakers, ONE_SECOND)
    sampled, expected, _ = speakers.reference(text, seed, limit)
    tokens, reason = speakers.tokens(text, Draws(seed), limit)
    assert tokens == [token for token in sampled if token < START_TOKEN]
    assert reason is (EndReason.TOO_LONG if len(sampled) == limit else EndReason.STOPPED)

    wave = speakers.speech(tokens, Draws(seed), WHOLE)
    assert wave.shape == expected.shape == ((len(tokens) + 3) * SAMPLES_PER_TOKEN,)
    assert expected.std() > 0.003
    seconds = len(wave) / 24_000
    figures.error(record_property, f"generate: waveform of {seconds:.1f} s", wave, expected)
    assert (wave - expected).abs().max() <= _tolerance(speakers, seconds)


def test_longer_speech_differs_by_the_rounding_of_f0(speakers: Speakers, record_property: figures.Record) -> None:
    """The phase is F0 summed up, so rounding errors of F0 (of about 2e-6) add up to more, the longer the speech is."""
    text, seed, limit = "Your appointment is on Monday: please come early…", 4, _limit(speakers, 45)
    _, expected, f0 = speakers.reference(text, seed, limit)
    tokens, _ = speakers.tokens(text, Draws(seed), limit)
    assert len(expected) == (len(tokens) + 3) * SAMPLES_PER_TOKEN
    seconds = len(expected) / 24_000
    errors = []
    for what, given in ((", F0 given", f0), ("", None)):
        wave = speakers.speech_by_hand(tokens, Draws(seed), given)
        figures.error(record_property, f"generate: waveform of {seconds:.1f} s{what}", wave[960:], expected[960:])
        errors.append(float((wave - expected)[960:].abs().max()))
    assert errors[0] <= TOLERANCE
    assert errors[1] <= _tolerance(speakers, seconds)


def _limit(speakers: Speakers, tokens: int) -> int:
    return 1000 if speakers.pair.released else tokens  # 1000: the reference's own


def _tolerance(speakers: Speakers, seconds: float) -> float:
    """With released weights a text is spoken to its end, and F0's rounding adds up."""
    return TOLERANCE * max(1, seconds) if speakers.pair.released else TOLERANCE


def test_the_modules_called_by_hand_give_the_same(speakers: Speakers) -> None:
    text, seed = "One moment, please.", 5
    tokens, _ = speakers.tokens(text, Draws(seed), ONE_SECOND)
    _, expected, _ = speakers.reference(text, seed, ONE_SECOND)
    wave = speakers.speech_by_hand(tokens, Draws(seed))
    # The head: 20 ms of silence, 20 ms of a raised cosine.
    rise = torch.sin(torch.linspace(0, torch.pi / 2, 480)) ** 2
    fade = torch.cat((torch.zeros(480), rise))
    if not speakers.pair.released:  # speech may begin with silence
        assert (wave[:960] * (1 - fade)).abs().max() > 10 * TOLERANCE
    wave[:960] *= fade
    assert expected[:480].eq(0).all()
    assert (wave - expected).abs().max() <= TOLERANCE
    assembled = speakers.speech(tokens, Draws(seed), WHOLE)
    assert assembled[:480].eq(0).all()
    assert (assembled - wave).abs().max() <= 1e-5


def test_other_draws_say_something_else(speakers: Speakers) -> None:
    """Or the equality above would prove little."""
    tokens = [speakers.tokens("Hello there.", Draws(seed), ONE_SECOND)[0] for seed in (1, 1, 2)]
    assert tokens[0] == tokens[1] != tokens[2]
    waves = [speakers.speech(tokens[0][:8], Draws(seed), WHOLE) for seed in (1, 2)]
    assert (waves[0] - waves[1]).abs().max() > 10 * TOLERANCE
