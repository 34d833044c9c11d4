"""Which words were heard: the estimate against plain cases, and against the times of real speech."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediaserver.speech.progress import heard_text
from tests.recogniser import WHISPER_RATE, Recogniser
from tts_engine.embedded import EmbeddedEngine
from tts_engine.engine import SpeechRequest

TEXT = "Hello and welcome. Your call is important to us, so please stay on the line."


def words_at(text: str, played_s: float, **known: float) -> int:
    return len(heard_text(text, played_s, **known).split())


class TestEstimate:
    def test_nothing_and_all(self) -> None:
        assert heard_text(TEXT, 0.0, total_s=5.0) == ""
        assert heard_text(TEXT, 5.0, total_s=5.0) == TEXT
        assert heard_text(f"  {TEXT}\n", 6.0, total_s=5.0) == TEXT
        assert heard_text("", 1.0, total_s=5.0) == ""
        assert heard_text("   ", 1.0, received_s=2.0) == ""
        assert heard_text("...", 0.0, total_s=0.0) == "..."

    def test_the_middle(self) -> None:
        assert heard_text("one two six ten", 1.01, total_s=2.0 + 0.5 * 2.0 / (12 * 0.055)) == "one two"

    def test_a_pause_is_no_word(self) -> None:
        """Half a second after the end of a sentence it is still the same words."""
        first_s = 0.055 * len("Helloandwelcome")
        assert heard_text(TEXT, first_s + 0.01, received_s=3.0) == "Hello and welcome."
        assert heard_text(TEXT, first_s + 0.49, received_s=3.0) == "Hello and welcome."

    def test_a_number_takes_as_long_as_it_is_said(self) -> None:
        digits = "The code is 4 7 1 9 and the name is Bob"
        words = "The code is a b c d and the name is Bob"
        assert words_at(digits, 1.0, received_s=1.0) < words_at(words, 1.0, received_s=1.0)
        assert heard_text("pay $1,250 now", 1.0, received_s=1.0) == "pay"

    def test_what_came_already_is_a_bound(self) -> None:
        """A voice slower than the model's: the whole is at least what there is so far."""
        assert words_at(TEXT, 5.0, received_s=5.0) > words_at(TEXT, 5.0, received_s=10.0) > 0

    def test_spacing_of_the_text_stays(self) -> None:
        assert heard_text("one\n\ttwo  three four", 0.9, total_s=1.6) == "one\n\ttwo  three"

    @given(
        st.text(max_size=200),
        st.floats(0, 100),
        st.floats(0, 100),
        st.none() | st.floats(0, 100),
        st.floats(0, 100),
    )
    def test_always_whole_words_and_never_fewer_with_time(
        self, text: str, played_s: float, longer_s: float, total_s: float | None, received_s: float
    ) -> None:
        heard = heard_text(text, played_s, total_s=total_s, received_s=received_s)
        assert text.strip().startswith(heard)
        words = heard.split()
        assert text.split()[: len(words)] == words
        later = heard_text(text, played_s + longer_s, total_s=total_s, received_s=received_s)
        assert later.startswith(heard)

    def test_a_long_text_takes_no_time(self) -> None:
        text = "word, " * 20_000
        assert words_at(text, 50.0, total_s=100.0) == pytest.approx(10_000, rel=0.01)


SPOKEN = (
    "To reset your password, open the settings page, choose security, and press the red button at the bottom of the "
    "screen.",
    "Good afternoon, this is the dental clinic. We would like to remind you of your visit next week, and we ask you to "
    "bring the papers that we sent you.",
)


class TestRealSpeech:
    """The embedded voice, its words timed by a recogniser."""

    @pytest.fixture
    async def spoken(self) -> list[bytes]:
        engine = EmbeddedEngine()
        await engine.start()
        try:
            return [
                b"".join(
                    [chunk.pcm async for chunk in engine.synthesize(SpeechRequest(text, sample_rate=WHISPER_RATE))]
                )
                for text in SPOKEN
            ]
        finally:
            await engine.stop()

    def test_within_a_word_or_two(self, spoken: list[bytes], recogniser: Recogniser) -> None:
        known, unknown = [], []
        for text, pcm in zip(SPOKEN, spoken, strict=True):
            total_s = len(pcm) / (2 * WHISPER_RATE)
            ends = _word_ends(recogniser, pcm)
            assert abs(len(ends) - len(text.split())) <= 1, "the recogniser's words are the text's"
            for played_s in np.arange(0.3, total_s, 0.3):
                true = sum(end <= played_s for end in ends)
                known.append(abs(words_at(text, played_s, total_s=total_s) - true))
                unknown.append(abs(words_at(text, played_s, received_s=min(total_s, played_s + 0.5)) - true))
        assert np.mean(known) <= 0.8
        assert max(known) <= 3
        assert np.mean(unknown) <= 1.5
        assert max(unknown) <= 5


def _word_ends(recogniser: Recogniser, pcm: bytes) -> list[float]:
    samples = np.frombuffer(pcm, "<i2").astype(np.float32) / 32768
    segments, _ = recogniser._model.transcribe(
        samples, language="en", beam_size=5, temperature=0.0, word_timestamps=True
    )
    return [word.end for segment in segments for word in segment.words]
