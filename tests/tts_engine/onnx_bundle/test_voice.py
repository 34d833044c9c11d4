"""Enrolment, and voices on disk."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.tts_engine.onnx_bundle.synthetic_bundle import FEATURES, PROMPT_TOKENS, WIDTH, write_recording
from tts_engine.chatterbox.clip import ClipError, read_clip
from tts_engine.onnx_bundle.faults import BundleError
from tts_engine.onnx_bundle.sessions import open_part
from tts_engine.onnx_bundle.voice import BundleVoice, VoiceCache, encode, problems


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    write_recording(tmp_path / "voice.wav", pitch=171)
    return tmp_path / "voice.wav"


@pytest.fixture
def graph(fp32: Path) -> Path:
    return fp32 / "onnx" / "speech_encoder.onnx"


@pytest.fixture
def enrol(graph: Path) -> Callable[[Path], BundleVoice]:
    session = open_part("speech_encoder", graph, ["CPUExecutionProvider"], 1)
    return lambda path: encode(session, path)


class Counting:
    def __init__(self, enrol: Callable[[Path], BundleVoice]) -> None:
        self._enrol = enrol
        self.count = 0

    def __call__(self, path: Path) -> BundleVoice:
        self.count += 1
        return self._enrol(path)


@pytest.fixture
def counting(enrol: Callable[[Path], BundleVoice]) -> Counting:
    return Counting(enrol)


def same(one: BundleVoice, other: BundleVoice) -> bool:
    names = ("audio_features", "audio_tokens", "speaker_embeddings", "speaker_features")
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in names)


def test_what_the_encoder_gives(enrol: Callable[[Path], BundleVoice], recording: Path) -> None:
    voice = enrol(recording)
    samples = read_clip(recording).samples
    assert voice.audio_features.shape == (1, FEATURES, WIDTH)
    np.testing.assert_array_equal(voice.audio_features.ravel(), samples[1000 : 1000 + FEATURES * WIDTH])
    np.testing.assert_array_equal(voice.speaker_embeddings[0], samples[3000:3192])
    assert voice.audio_tokens.shape == (1, PROMPT_TOKENS)
    assert voice.audio_tokens.dtype == np.int64
    assert voice.speaker_features.shape == (1, 2 * PROMPT_TOKENS, 80)
    assert problems(voice) == []


@pytest.mark.parametrize("rate", [8000, 44100])
def test_any_sample_rate(enrol: Callable[[Path], BundleVoice], tmp_path: Path, rate: int) -> None:
    write_recording(tmp_path / "other.wav", rate=rate)
    write_recording(tmp_path / "full.wav")
    other, full = enrol(tmp_path / "other.wav"), enrol(tmp_path / "full.wav")
    np.testing.assert_allclose(other.speaker_embeddings, full.speaker_embeddings, atol=2e-2)


def test_too_little_speech(enrol: Callable[[Path], BundleVoice], tmp_path: Path) -> None:
    write_recording(tmp_path / "short.wav", seconds=2)
    with pytest.raises(ClipError, match="5 s"):
        enrol(tmp_path / "short.wav")


def test_a_shorter_prompt_is_cut_at_its_end(enrol: Callable[[Path], BundleVoice], recording: Path) -> None:
    voice = enrol(recording)
    shorter = voice.with_prompt(0.2)
    np.testing.assert_array_equal(shorter.audio_tokens, voice.audio_tokens[:, :5])
    np.testing.assert_array_equal(shorter.speaker_features, voice.speaker_features[:, :10])
    np.testing.assert_array_equal(shorter.audio_features, voice.audio_features)
    assert voice.with_prompt(10.0) is voice


def test_a_prompt_with_a_token_too_many(enrol: Callable[[Path], BundleVoice], recording: Path) -> None:
    """As a real clip may have: tokens without frames are left out."""
    voice = enrol(recording)
    odd = BundleVoice(
        voice.audio_features, voice.audio_tokens, voice.speaker_embeddings, voice.speaker_features[:, :-1]
    )
    assert odd.with_prompt(10.0).audio_tokens.shape[1] == PROMPT_TOKENS - 1
    assert odd.with_prompt(10.0).speaker_features.shape[1] == 2 * PROMPT_TOKENS - 2


def test_a_voice_is_enrolled_once(tmp_path: Path, graph: Path, counting: Counting, recording: Path) -> None:
    cache = tmp_path / "cache"
    first = VoiceCache(cache, graph).voice("anna", recording, counting)
    again = VoiceCache(cache, graph).voice("anna", recording, counting)
    assert counting.count == 1
    assert same(first, again)
    assert [path.name.partition("-")[0] for path in cache.iterdir()] == ["anna"]


def test_another_recording_is_another_voice(tmp_path: Path, graph: Path, counting: Counting, recording: Path) -> None:
    cache = VoiceCache(tmp_path / "cache", graph)
    first = cache.voice("anna", recording, counting)
    write_recording(recording, pitch=97)
    assert not same(first, cache.voice("anna", recording, counting))
    assert counting.count == 2


def test_another_encoder_enrols_anew(tmp_path: Path, graph: Path, counting: Counting, recording: Path) -> None:
    VoiceCache(tmp_path / "cache", graph).voice("anna", recording, counting)
    other = tmp_path / "speech_encoder.onnx"
    other.write_bytes(graph.read_bytes() + b"\0")
    VoiceCache(tmp_path / "cache", other).voice("anna", recording, counting)
    (tmp_path / "speech_encoder.onnx_data").write_bytes(b"12")
    VoiceCache(tmp_path / "cache", other).voice("anna", recording, counting)
    assert counting.count == 3


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "array missing", "wrong shape", "not a number"])
def test_a_damaged_file_is_made_anew(
    tmp_path: Path, graph: Path, counting: Counting, recording: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    cache = VoiceCache(tmp_path / "cache", graph)
    voice = cache.voice("anna", recording, counting)
    [path] = (tmp_path / "cache").iterdir()
    arrays = {name: array.copy() for name, array in np.load(path).items()}
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-200])
    elif damage in ("empty", "text"):
        path.write_bytes(b"" if damage == "empty" else b"a voice")
    else:
        if damage == "array missing":
            del arrays["audio_tokens"]
        elif damage == "wrong shape":
            arrays["speaker_features"] = arrays["speaker_features"][0]
        else:
            arrays["audio_features"][0, 0, 0] = np.nan
        np.savez(path, **arrays)
    with caplog.at_level(logging.WARNING):
        assert same(cache.voice("anna", recording, counting), voice)
    assert counting.count == 2
    assert "made anew" in caplog.text
    assert same(cache.voice("anna", recording, counting), voice)
    assert counting.count == 2


def test_without_a_directory_nothing_is_kept(graph: Path, counting: Counting, recording: Path) -> None:
    for _ in range(2):
        VoiceCache(None, graph).voice("anna", recording, counting)
    assert counting.count == 2


def test_a_cache_that_cannot_be_written_is_no_reason_not_to_speak(
    tmp_path: Path, graph: Path, counting: Counting, recording: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cache").write_text("a file")
    VoiceCache(tmp_path / "cache", graph).voice("anna", recording, counting)
    assert "enrolled again" in caplog.text
    assert counting.count == 1


def test_no_recording(tmp_path: Path, graph: Path, counting: Counting) -> None:
    with pytest.raises(BundleError, match=r"voice 'anna'.*nobody\.wav: No such file"):
        VoiceCache(None, graph).voice("anna", tmp_path / "nobody.wav", counting)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"audio_tokens": np.array([[6561]])}, "0 to 6560"),
        ({"audio_tokens": np.zeros((1, 0), np.int64)}, "audio_tokens are"),
        ({"audio_features": np.zeros((1, 8))}, "audio_features are"),
        ({"speaker_features": np.zeros((1, 4, 40))}, "speaker_features are"),
        ({"speaker_embeddings": np.full((1, 192), np.inf)}, "speaker_embeddings holds"),
    ],
)
def test_what_is_no_voice(change: dict[str, np.ndarray], said: str) -> None:
    arrays = {
        "audio_features": np.zeros((1, 3, 8)),
        "audio_tokens": np.zeros((1, 4), np.int64),
        "speaker_embeddings": np.zeros((1, 192)),
        "speaker_features": np.zeros((1, 8, 80)),
    }
    assert problems(BundleVoice(**arrays)) == []
    assert said in "; ".join(problems(BundleVoice(**{**arrays, **change})))
