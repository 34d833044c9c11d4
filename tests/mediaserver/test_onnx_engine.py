"""From [tts.onnx] to speech on a call."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from mediaserver import cli_models, onnx_engine
from mediaserver.cli import app
from mediaserver.onnx_engine import OnnxConfig, make_onnx_engine
from tests.tts_engine.onnx_bundle.synthetic_bundle import write_bundle, write_recording
from tts_engine.engine import Engine, SpeechRequest
from tts_engine.errors import EngineError, UnknownVoiceError
from tts_engine.onnx_bundle.engine import OnnxBundleEngine


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
    assert engine.limits.max_streams == 2
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
        "max_first_audio_ms": 1500,
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
    for key in (
        "precision",
        "part_precision",
        "workers",
        "threads",
        "max_first_audio_ms",
        "prompt_seconds",
        "telephone_reading",
    ):
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
        {"max_first_audio_ms": -1},
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
    with pytest.raises(EngineError, match=r"precision q4: `chatterline fetch-model onnx --precision q4`"):
        made(OnnxConfig())


@pytest.mark.parametrize("model", ["/srv/no/bundle", "./bundle", "~/no-bundle-here", "bundle"])
def test_a_directory_that_is_not_there(model: str) -> None:
    with pytest.raises(EngineError, match=f"the directory {model} does not exist; .*--to {model}`"):
        made(OnnxConfig(model=model))


def test_the_command_fetches_what_is_configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Single parts too, where the bundle is not there at all and where files are missing."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    command = "`chatterline fetch-model onnx --precision fp16 --part conditional_decoder=q4"
    parts = {"conditional_decoder": "q4"}
    with pytest.raises(EngineError, match=f"precision fp16, conditional_decoder q4: {command}`"):
        made(OnnxConfig.model_validate({"precision": "fp16", "part_precision": parts}))
    with pytest.raises(EngineError, match=f"{command} --to {tmp_path}`"):
        made(OnnxConfig.model_validate({"model": str(tmp_path), "precision": "fp16", "part_precision": parts}))


class Fetched:
    """What `fetch-model` asked for."""

    def __init__(self) -> None:
        self.bundles: list[dict[str, object]] = []

    def __call__(self, **wanted: object) -> Path:
        self.bundles.append(wanted)
        return Path("somewhere")


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> Fetched:
    record = Fetched()
    monkeypatch.setattr(cli_models, "fetch_bundle", record)
    monkeypatch.setattr(cli_models, "fetch_model", lambda *_, **__: pytest.fail("another model was fetched"))
    return record


@pytest.mark.parametrize(
    ("options", "precision", "parts"),
    [
        ([], "q4", {}),
        (
            ["--precision", "fp16", "--part", "conditional_decoder=q4", "--part", "embed_tokens=fp32"],
            "fp16",
            {"conditional_decoder": "q4", "embed_tokens": "fp32"},
        ),
    ],
)
def test_fetching_precisions(fetched: Fetched, options: list[str], precision: str, parts: dict[str, str]) -> None:
    result = CliRunner().invoke(app, ["fetch-model", "onnx", *options])
    assert result.exit_code == 0, result.output
    [wanted] = fetched.bundles
    assert (wanted["precision"], wanted["part_precision"]) == (precision, parts)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["turbo", "--precision", "q4"], "not for turbo"),
        (["nano", "--part", "embed_tokens=q4"], "not for nano"),
        (["onnx", "--precision", "int4"], "int4"),
        (["onnx", "--part", "embed_tokens"], "NAME=PRECISION"),
        (["onnx", "--part", "vocoder=q4"], "NAME=PRECISION"),
        (["onnx", "--part", "embed_tokens=int4"], "NAME=PRECISION"),
    ],
)
def test_fetching_what_there_is_not(fetched: Fetched, arguments: list[str], said: str) -> None:
    result = CliRunner().invoke(app, ["fetch-model", *arguments])
    assert result.exit_code != 0
    assert said in result.output
    assert not fetched.bundles


def test_a_default_voice_that_nobody_recorded(bundle: Path) -> None:
    with pytest.raises(UnknownVoiceError, match="'anna'"):
        made(OnnxConfig(model=str(bundle), default_voice="anna"))


def test_a_package_that_is_missing(monkeypatch: pytest.MonkeyPatch, bundle: Path) -> None:
    monkeypatch.setattr(onnx_engine, "missing_packages", lambda: ["tokenizers", "soundfile"])
    with pytest.raises(EngineError, match=r"needs tokenizers, soundfile: pip install 'chatterline\[onnx\]'"):
        made(OnnxConfig(model=str(bundle)))
    monkeypatch.undo()
    assert onnx_engine.missing_packages() == []
