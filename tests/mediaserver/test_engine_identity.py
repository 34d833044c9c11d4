"""What makes a kept prompt one of another sound."""

from __future__ import annotations

import importlib.metadata
import os
import sys
import types
from pathlib import Path
from typing import Any

import hibari.voices
import pytest

from mediaserver import engine_identity
from mediaserver.config import ChatterboxConfig, TtsConfig, VoiceConfig
from mediaserver.engine_identity import EngineIdentity
from mediaserver.onnx_engine import OnnxConfig
from tts_engine.errors import EngineError


def loaded(config: TtsConfig, kind: Any) -> EngineIdentity:
    identity = EngineIdentity(config, kind)
    identity.load()
    return identity


def test_before_it_is_loaded() -> None:
    assert EngineIdentity(TtsConfig(), "embedded").of("heart") is None


class TestEmbedded:
    @pytest.fixture
    def model(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        path = tmp_path / "heart.onnx"
        path.write_bytes(b"weights")
        monkeypatch.setattr(hibari.voices, "voice_path", lambda name, download_missing: str(path))
        return path

    def identity(self, voice: str = "heart", **settings: Any) -> str:
        voices = {"heart": VoiceConfig(), "slow": VoiceConfig(speed=0.8)}
        found = loaded(TtsConfig(**{"voices": voices, **settings}), "embedded").of(voice)
        assert found is not None
        return found

    def test_the_same_for_the_same(self, model: Path) -> None:
        assert self.identity() == self.identity()
        os.utime(model, (1, 1))
        assert self.identity() == self.identity(workers=7, default_voice="slow", overflow="embedded")
        assert loaded(TtsConfig(), "embedded").of("nobody") is None

    def test_what_changes_it(self, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        found = {
            self.identity(),
            self.identity("slow"),
            self.identity(seed=1),
            self.identity(voices={"heart": VoiceConfig(speed=1.1)}),
            self.identity(voices={"heart": VoiceConfig(model="emma")}),
        }
        model.write_bytes(b"others!")
        found.add(self.identity())
        monkeypatch.setattr(engine_identity, "__version__", "99")
        found.add(self.identity())
        monkeypatch.setattr(importlib.metadata, "version", lambda name: "9.9")
        found.add(self.identity())
        assert len(found) == 8

    def test_a_model_that_is_not_there(self, monkeypatch: pytest.MonkeyPatch) -> None:
        config = TtsConfig(voices={"heart": VoiceConfig(model="nobody")})
        with pytest.raises(EngineError, match="unknown voice"):
            loaded(config, "embedded")
        monkeypatch.setenv("HIBARI_HOME", "/nonexistent")
        with pytest.raises(OSError, match="emma"):
            loaded(TtsConfig(voices={"heart": VoiceConfig(model="emma")}), "embedded")


class TestChatterbox:
    @pytest.fixture(autouse=True)
    def voice_store(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The real one brings torch, and only the path is asked for."""
        store = types.ModuleType("tts_engine.chatterbox.voice_store")
        store.BUILT_IN_VOICE = "default"  # type: ignore[attr-defined]
        store.VoiceStore = lambda directory: types.SimpleNamespace(  # type: ignore[attr-defined]
            path=lambda name: directory / f"{name}.safetensors"
        )
        monkeypatch.setitem(sys.modules, "tts_engine.chatterbox.voice_store", store)

    @pytest.fixture
    def model(self, tmp_path: Path) -> Path:
        path = tmp_path / "model"
        path.mkdir()
        for name in ("t3_turbo_v1.safetensors", "s3gen_meanflow.safetensors", "conds.pt", "vocab.json", "merges.txt"):
            (path / name).write_bytes(name.encode())
        return path

    def config(self, model: Path, **settings: Any) -> TtsConfig:
        given = {"model": str(model), "nano_model": str(model), "voices_dir": str(model.parent / "voices"), **settings}
        return TtsConfig(chatterbox=ChatterboxConfig(**given))

    def identity(self, model: Path, **settings: Any) -> str:
        found = loaded(self.config(model, **settings), "chatterbox").of("default")
        assert found is not None
        return found

    def test_every_setting_that_may_be_heard(self, model: Path) -> None:
        plain = self.identity(model)
        heard = {
            "temperature": 0.7,
            "top_k": 50,
            "top_p": 0.8,
            "repetition_penalty": 1.1,
            "watermark": True,
            "telephone_reading": False,
            "max_segment_chars": 200,
            "precision": "float32",
            "backend": "eager",
            "devices": ("cpu",),
        }
        found = [self.identity(model, **{name: value}) for name, value in heard.items()]
        assert len({plain, *found}) == len(heard) + 1
        silent = {
            "max_streams": 3,
            "max_first_audio_ms": 7,
            "kv_memory_mb": 64,
            "ahead_s": 3,
            "voices_at_once": 2,
            "default_voice": "anna",
            "engines_dir": "/e",
        }
        assert {self.identity(model, **{name: value}) for name, value in silent.items()} == {plain}
        others = {"model", "nano_model", "voices_dir"}  # by content, tested below
        assert set(heard) | set(silent) | others == set(ChatterboxConfig.model_fields), "is a new key heard?"

    def test_the_models_files_wherever_they_lie(self, model: Path, tmp_path: Path) -> None:
        plain = self.identity(model)
        moved = model.rename(tmp_path / "moved")
        assert self.identity(moved) == plain
        (moved / "ve.safetensors").write_bytes(b"for enrolment only")
        (moved / "README.md").write_bytes(b"nothing of ours")
        assert self.identity(moved) == plain
        for name in ("t3_turbo_v1.safetensors", "s3gen_meanflow.safetensors", "conds.pt", "vocab.json"):
            (moved / name).write_bytes(b"changed")
            changed = self.identity(moved)
            assert changed != plain, name
            plain = changed

    def test_nano_is_another_engine(self, model: Path) -> None:
        assert loaded(self.config(model), "chatterbox-nano").of("default") != self.identity(model)

    def test_a_voice_that_is_replaced_while_the_server_runs(self, model: Path) -> None:
        voices = model.parent / "voices"
        voices.mkdir()
        identity = loaded(self.config(model), "chatterbox")
        assert identity.of("anna") is None
        (voices / "anna.safetensors").write_bytes(b"one")
        first = identity.of("anna")
        assert first is not None
        assert identity.of("anna") == first
        assert identity.of("default") != first
        other = voices / "new"
        other.write_bytes(b"two")
        other.replace(voices / "anna.safetensors")
        assert identity.of("anna") not in (first, None)

    def test_a_model_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(EngineError, match="are not here"):
            loaded(self.config(tmp_path / "none"), "chatterbox")


class TestOnnx:
    @pytest.fixture
    def bundle(self, tmp_path: Path) -> Path:
        path = tmp_path / "bundle"
        (path / "onnx").mkdir(parents=True)
        for part in ("speech_encoder", "embed_tokens", "language_model", "conditional_decoder"):
            name = f"{part}_q4.onnx"
            (path / "onnx" / name).write_bytes(f"...{name}_data...".encode())
            (path / "onnx" / f"{name}_data").write_bytes(b"weights")
        (path / "tokenizer.json").write_bytes(b"{}")
        (path / "default_voice.wav").write_bytes(b"RIFF")
        (tmp_path / "anna.wav").write_bytes(b"RIFF anna")
        return path

    def identity(self, bundle: Path, voice: str = "default", **settings: Any) -> str | None:
        voices = {"anna": bundle.parent / "anna.wav"}
        given = {"model": str(bundle), "voices": voices, **settings}
        return loaded(TtsConfig(onnx=OnnxConfig(**given)), "chatterbox-onnx").of(voice)

    def test_settings_files_and_recordings(self, bundle: Path) -> None:
        plain = self.identity(bundle)
        assert plain is not None
        assert self.identity(bundle, workers=2, threads=3, max_streams=9, default_voice="anna") == plain
        assert self.identity(bundle, "nobody") is None
        found = {plain, self.identity(bundle, "anna")}
        for setting in (
            {"temperature": 0.7},
            {"prompt_seconds": 5},
            {"chunk_tokens": (24, 50)},
            {"providers": ("CPUExecutionProvider",)},
            {"telephone_reading": False},
        ):
            found.add(self.identity(bundle, **setting))
        (bundle.parent / "anna.wav").write_bytes(b"RIFF another anna")
        found.add(self.identity(bundle, "anna"))
        (bundle / "onnx" / "language_model_q4.onnx_data").write_bytes(b"others!")
        found.add(self.identity(bundle))
        assert len(found) == 9

    def test_a_bundle_that_is_not_whole(self, bundle: Path, tmp_path: Path) -> None:
        (bundle / "tokenizer.json").unlink()
        with pytest.raises(EngineError, match=r"tokenizer\.json"):
            self.identity(bundle)
        with pytest.raises(EngineError, match="is not here"):
            self.identity(tmp_path / "none" / "at" / "all")
