from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from hibari import Hibari, dsp
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.sentences import TELEPHONE_SENTENCES
from tts_engine.embedded.model import (
    MAX_SPEED,
    MIN_SPEED,
    EmbeddedVoice,
    VoiceModel,
    load_models,
    pace,
    speak,
)
from tts_engine.embedded.rendering import Rendering
from tts_engine.embedded.silence import WINDOW_S, trim_start
from tts_engine.embedded.text import MAX_PIECE_PHONEMES
from tts_engine.embedded.waveform import FULL_RATE, NARROW, WIDE, Band
from tts_engine.errors import EngineError


def spoken(model: VoiceModel, text: str, rate: int = 8000, seed: int = 0, speed: float = 1.0) -> bytes:
    return b"".join(piece.pcm for piece in speak(model, text, speed, rate, seed))


class CountingModel(VoiceModel):
    """Counts how much work was asked for."""

    def __init__(self, model: VoiceModel) -> None:
        super().__init__(model._network, model._g2p, model._vocabulary)
        self.inferences = 0
        self.sentences: list[str] = []
        self.bands: list[Band] = []

    def phonemize(self, sentence: str) -> list[str]:
        self.sentences.append(sentence)
        return super().phonemize(sentence)

    def render(self, phonemes: str, speed: float, band: Band, rng: np.random.Generator) -> Rendering:
        self.inferences += 1
        self.bands.append(band)
        return super().render(phonemes, speed, band, rng)


def test_speaks_what_hibari_speaks(heart: VoiceModel) -> None:
    """Two sentences of one piece each: hibari's own samples, but for the silence at the start of each, the noise of
    breath and fricatives, whose draws come in another order, and the rounding of parts."""
    sentences = TELEPHONE_SENTENCES[1:3]
    hibari = Hibari()
    expected = np.concatenate([trim_start(hibari(sentence), FULL_RATE) for sentence in sentences])
    samples = np.frombuffer(spoken(heart, " ".join(sentences), FULL_RATE), "<i2") / 32767
    assert abs(len(samples) - len(expected)) <= 4 * WINDOW_S * FULL_RATE
    levels, expected_levels = (levels_db(wave) for wave in (samples, expected))
    frames = min(len(levels), len(expected_levels))
    loud = expected_levels[:frames] > -50
    assert np.median(np.abs(levels[:frames] - expected_levels[:frames])[loud]) < 1.0


def levels_db(wave: np.ndarray) -> np.ndarray:
    """Of each 20 ms in each of eight bands of 500 Hz."""
    spectrum = np.abs(dsp.stft(wave.astype(np.float32), len(wave) // dsp.HOP))
    bands = np.square(spectrum[:200]).reshape(8, 25, -1).mean(axis=1)
    return 10 * np.log10(bands + 1e-12)


def test_the_same_request_gives_the_same_samples(heart: VoiceModel) -> None:
    text = " ".join(TELEPHONE_SENTENCES[:3])
    assert spoken(heart, text) == spoken(heart, text)
    assert spoken(heart, text) != spoken(heart, text, seed=1)


def test_pieces_come_one_by_one_with_no_work_ahead(heart: VoiceModel) -> None:
    model = CountingModel(heart)
    pieces = speak(model, "One. Two. Three.", 1.0, 8000, 0)
    assert model.sentences == []
    finals = []
    for number, piece in enumerate(pieces, 1):
        assert (model.inferences, len(model.sentences)) == (number, number)
        finals.append(piece.final)
    assert finals == [False, False, True]


@pytest.mark.parametrize("rate", [8000, 16000, 24000])
def test_length_is_that_of_the_sentences(heart: VoiceModel, rate: int) -> None:
    text = " ".join(TELEPHONE_SENTENCES[:2])
    at_model_rate = len(spoken(heart, text, FULL_RATE)) / 2
    trims_differ = 2 * WINDOW_S * rate if rate == 8000 else 0  # at half the rate a sentence may begin a window apart
    assert abs(len(spoken(heart, text, rate)) / 2 - at_model_rate * rate / FULL_RATE) <= 1 + trims_differ


@pytest.mark.parametrize(("rate", "band"), [(8000, NARROW), (16000, WIDE), (24000, WIDE)])
def test_the_telephone_is_spoken_to_at_half_of_the_rate(heart: VoiceModel, rate: int, band: Band) -> None:
    """For half of the work."""
    model = CountingModel(heart)
    spoken(model, "One.", rate)
    assert model.bands == [band]


def test_unspeakable_end_still_gets_the_resamplers_tail(heart: VoiceModel) -> None:
    assert spoken(heart, "Hello there. ...") == spoken(heart, "Hello there.")
    pieces = list(speak(heart, "Hello there. ...", 1.0, 8000, 0))
    assert [piece.final for piece in pieces] == [False, True]


def test_a_sentence_that_fails_does_not_take_the_others_along(heart: VoiceModel) -> None:
    class Stumbling(CountingModel):
        def phonemize(self, sentence: str) -> list[str]:
            if "bad" in sentence:
                raise IndexError(sentence)
            return super().phonemize(sentence)

    pieces = speak(Stumbling(heart), "One. This is bad. Two.", 1.0, FULL_RATE, 0)
    heard = b""
    with pytest.raises(IndexError):
        for piece in pieces:
            assert not piece.final
            heard += piece.pcm
    assert heard == spoken(heart, "One. Two.", FULL_RATE)


def test_speed(heart: VoiceModel) -> None:
    slow, normal, fast = (len(spoken(heart, TELEPHONE_SENTENCES[0], speed=speed)) for speed in (0.8, 1.0, 1.5))
    assert slow > normal > fast
    assert fast == pytest.approx(normal / 1.5, rel=0.15)


@pytest.mark.parametrize("text", ["", "   ", "\n\n", "...", "?!", "🙂🙃", "\x00\x07\x1b", "—", "()", "“”"])
def test_nothing_speakable_gives_no_pieces(heart: VoiceModel, text: str) -> None:
    assert list(speak(heart, text, 1.0, 8000, 0)) == []


@pytest.mark.parametrize(
    "text",
    [
        "lone \ud800 surrogate \udfff",
        "control \x00\x01\x7f\x85 characters\u200b\u202e",
        "x" * 2000,
        "Donaudampfschifffahrtsgesellschaft" * 10,
        "Привет, как дела? 你好世界。 مرحبا",
        "[word](/wˈɜɹd/) and [other](/\x00🙂garbage☃/) and [x](/[/) [y](//) [z](",
        "[[[[((((" * 100,
        "1" * 30 + " 3.14.15 $5.999 -12:99",
        "e\u0301" * 300,
        ")" * 2000 + "a",
    ],
)
def test_odd_text_is_survived(heart: VoiceModel, text: str) -> None:
    pcm = spoken(heart, text)
    assert len(pcm) % 2 == 0


def test_2000_characters_without_punctuation_come_in_bounded_pieces(heart: VoiceModel) -> None:
    text = ("and then we spoke of many things which people say " * 50)[:2000]
    seconds = [len(piece.pcm) / 16000 for piece in speak(heart, text, 1.0, 8000, 0)]
    assert max(seconds) < 6
    assert min(seconds[1:]) > 2  # no lone word at the end of a cut
    assert sum(seconds) > 60


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=200))
def test_phonemes_of_any_text_are_what_the_model_knows(heart: VoiceModel, text: str) -> None:
    try:
        pieces = heart.phonemize(text)
    except Exception:  # noqa: BLE001 - what hibari raises on garbage is the stream's to report
        return
    for piece in pieces:
        assert 0 < len(piece) <= MAX_PIECE_PHONEMES
        assert set(piece) <= set(heart._vocabulary)


def test_threads_may_share_a_model(heart: VoiceModel) -> None:
    alone = [spoken(heart, sentence) for sentence in TELEPHONE_SENTENCES[:4]]
    together: dict[int, bytes] = {}

    def work(number: int) -> None:
        together[number] = spoken(heart, TELEPHONE_SENTENCES[number])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [together[number] for number in range(4)] == alone


class TestLoading:
    def test_unknown_model(self) -> None:
        with pytest.raises(EngineError, match="no voice model 'nobody'; hibari has heart"):
            load_models({"nobody"})

    def test_absent_model_is_not_fetched(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HIBARI_HOME", str(tmp_path / "models"))
        with pytest.raises(EngineError) as raised:
            load_models({"heart", "emma"})
        message = str(raised.value)
        assert "fetch https://" in message
        assert str(tmp_path / "models" / "bf_emma.int8.onnx") in message
        assert not (tmp_path / "models").exists()

    def test_broken_model(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HIBARI_HOME", str(tmp_path))
        (tmp_path / "bf_emma.int8.onnx").write_bytes(b"not a model")
        with pytest.raises(EngineError, match=r"'emma' at .* cannot be loaded"):
            load_models({"emma"})

    def test_a_model_in_the_cache_is_used(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from hibari.voices import voice_path

        monkeypatch.setenv("HIBARI_HOME", str(tmp_path))
        (tmp_path / "af_kore.int8.onnx").symlink_to(voice_path("heart"))
        models = load_models({"heart", "kore"})
        assert models["kore"]._g2p is models["heart"]._g2p
        assert spoken(models["kore"], "Yes.") == spoken(models["heart"], "Yes.")


@pytest.mark.parametrize("speed", [0.0, 0.49, 2.01, float("nan")])
def test_voice_refuses_a_speed(speed: float) -> None:
    with pytest.raises(ValueError, match="speed"):
        EmbeddedVoice("heart", speed)


class TestPhonemes:
    def test_they_are_spoken_instead_of_the_text(self, heart: VoiceModel) -> None:
        named = b"".join(piece.pcm for piece in speak(heart, "Krim", 1.0, 8000, 0, "təˈmeɪɾoʊ"))
        assert heart.phonemize("tomato") == ["təmˈATO"]
        assert named == spoken(heart, "tomato")
        assert named != spoken(heart, "Krim")

    @pytest.mark.parametrize("phonemes", ["", "øre", "tomato!", "a" * 2000])
    def test_where_they_cannot_be_the_text_is(self, heart: VoiceModel, phonemes: str) -> None:
        pcm = b"".join(piece.pcm for piece in speak(heart, "Tomato.", 1.0, 8000, 0, phonemes))
        assert pcm == spoken(heart, "Tomato.")

    def test_long_ones_are_cut_as_text_is(self, heart: VoiceModel) -> None:
        pieces = heart.pronounce(" ".join(["təˈmeɪtoʊ"] * 60))
        assert pieces is not None
        assert len(pieces) > 1
        assert all(len(piece) <= MAX_PIECE_PHONEMES for piece in pieces)

    def test_all_symbols_of_speech_can_be_written(self, heart: VoiceModel) -> None:
        """What the voice's own reading of a text gives is taken back, but for what is no IPA."""
        letters = str.maketrans({"A": "eɪ", "I": "aɪ", "O": "oʊ", "W": "aʊ", "Y": "ɔɪ", "T": "ɾ", "ʤ": "dʒ", "ʧ": "tʃ"})
        for text in TELEPHONE_SENTENCES[:10]:
            for piece in heart.phonemize(text):
                plain = "".join(symbol for symbol in piece if symbol.isalpha() or symbol in " ˈˌ").strip()
                assert heart.pronounce(plain.translate(letters)) == [plain]


@pytest.mark.parametrize(
    ("speed", "rate", "expected"),
    [(1.0, 1.0, 1.0), (1.4, 0.5, 0.7), (1.0, 3.0, 2.0), (0.5, 0.1, 0.5), (1.0, float("inf"), 2.0), (1.0, -1.0, 0.5)],
)
def test_pace(speed: float, rate: float, expected: float) -> None:
    assert pace(speed, rate) == pytest.approx(expected)


def test_no_rate_is_none_that_the_model_cannot_do() -> None:
    assert MIN_SPEED <= pace(1.0, float("nan")) <= MAX_SPEED
