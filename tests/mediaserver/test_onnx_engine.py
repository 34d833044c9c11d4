"""From [tts.onnx] to speech on a call."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from mediaserver import onnx_engine
from mediaserver.onnx_engine import OnnxConfig, make_onnx_engine
from tests.tts_engine.onnx_bundle.synthetic_bundle import write_bundle, write_recording
from tts_engine.engine import Engine, SpeechRequest
from tts_engine.errors import EngineError, UnknownVoiceError
from tts_engine.onnx_bundle import OnnxBundleEngine


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundle"), "q4")


def made(config: OnnxConfig, voice_cache: Path | None = None, max_streams: int = 100) -> Engine:
    return make_onnx_engine(config, seed=3, max_streams=max_streams, max_text_chars=400, voice_cache=voice_cache)


async def test_a_configured_engine_speaks(bundle: Path, tmp_path: Path) -> None:
    write_recording(tmp_path / "anna.wav", pitch=190)
    config = OnnxConfig.model_validate(
        {"model": str(bundle), "threads": 1, "voices": {"anna": str(tmp_path / "anna.wav")}, "default_voice": "anna"}
    )
    engine = made(config, tmp_path / "voices" / "onnx")
    assert engine.name == "chatterbox-onnx"
    assert engine.voices == ("anna", "default")
    assert engine.limits.max_streams == 4
    assert engine.limits.max_text_chars == 400
    await engine.start()
    try:
        chunks = [chunk async for chunk in engine.synthesize(SpeechRequest("Your code is 42.", sample_rate=8000))]
        assert sum(chunk.seconds for chunk in chunks) > 0.3
        assert all(chunk.sample_rate == 8000 for chunk in chunks)
    finally:
        await engine.stop()
    assert len(list((tmp_path / "voices" / "onnx").glob("*.npz"))) == 2


def test_every_key_reaches_the_engine(bundle: Path, tmp_path: Path) -> None:
    write_bundle(tmp_path / "mixed", "q4f16")
    write_bundle(tmp_path / "mixed", "fp32")
    given = {
        "model": str(tmp_path / "mixed"),
        "precision": "q4f16",
        "part_precision": {"conditional_decoder": "fp32"},
        "providers": ["CPUExecutionProvider"],
        "workers": 3,
        "threads": 2,
        "max_streams": 9,
        "prompt_seconds": 5,
        "chunk_tokens": [24, 50],
        "telephone_reading": False,
        "max_segment_chars": 100,
        "temperature": 0.5,
        "top_k": 10,
        "top_p": 0.9,
        "repetition_penalty": 1.1,
    }
    engine = made(OnnxConfig.model_validate(given))
    assert isinstance(engine, OnnxBundleEngine)
    settings = engine._settings
    for key in ("precision", "part_precision", "workers", "threads", "prompt_seconds", "telephone_reading"):
        assert getattr(settings, key) == given[key]
    assert settings.max_segment_chars == 100
    assert settings.providers == ("CPUExecutionProvider",)
    assert settings.chunk_tokens == (24, 50)
    sampling = settings.sampling
    assert (sampling.temperature, sampling.top_k, sampling.top_p, sampling.repetition_penalty) == (0.5, 10, 0.9, 1.1)
    assert settings.seed == 3
    assert engine.limits.max_streams == 9
    assert made(OnnxConfig(model=str(bundle)), max_streams=2).limits.max_streams == 2
    automatic = made(OnnxConfig(model=str(bundle)))
    assert isinstance(automatic, OnnxBundleEngine)
    assert automatic._settings.chunk_tokens is None
    whole = made(OnnxConfig(model=str(bundle), chunk_tokens=()))
    assert isinstance(whole, OnnxBundleEngine)
    assert whole._settings.chunk_tokens == ()


@pytest.mark.parametrize(
    "wrong",
    [
        {"precision": "int4"},
        {"part_precision": {"vocoder": "q4"}},
        {"part_precision": {"language_model": "int4"}},
        {"voices": {"Not A Name": "a.wav"}},
        {"voices": {"../anna": "a.wav"}},
        {"chunk_tokens": [0]},
        {"workers": 0},
        {"prompt_seconds": 0.5},
        {"model": ""},
        {"devices": "cpu"},
    ],
)
def test_a_wrong_key(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        OnnxConfig.model_validate(wrong)


def test_a_bundle_that_is_not_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(EngineError, match=r"precision q4: `chatterline fetch-model onnx`"):
        made(OnnxConfig())


def test_a_default_voice_that_nobody_recorded(bundle: Path) -> None:
    with pytest.raises(UnknownVoiceError, match="'anna'"):
        made(OnnxConfig(model=str(bundle), default_voice="anna"))


def test_a_package_that_is_missing(monkeypatch: pytest.MonkeyPatch, bundle: Path) -> None:
    monkeypatch.setattr(onnx_engine, "missing_packages", lambda: ["tokenizers", "soundfile"])
    with pytest.raises(EngineError, match=r"needs tokenizers, soundfile: pip install 'chatterline\[onnx\]'"):
        made(OnnxConfig(model=str(bundle)))
    monkeypatch.undo()
    assert onnx_engine.missing_packages() == []
