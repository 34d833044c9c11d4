from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.tts_engine.serving.served import Plain, Serve, Served, calm, changed, settings_for, write_voices
from tests.tts_engine.serving.small_model import brief_model, fresh_cfg_scale, small_model
from tts_engine.chatterbox.model import Chatterbox, load
from tts_engine.serving import loading

__all__ = ["brief_model", "fresh_cfg_scale", "small_model"]


@pytest.fixture(scope="session")
def loaded(small_model: Path) -> Chatterbox:
    """The small model; not to be changed."""
    return load(small_model)


@pytest.fixture(scope="session")
def loaded_brief(brief_model: Path) -> Chatterbox:
    return load(brief_model)


@pytest.fixture(scope="session")
def steady(loaded: Chatterbox) -> Chatterbox:
    """The small model with a calm voice: with its random F0 a rounding of float32 is heard, as the phase adds it up."""
    return changed(loaded, "vocoder", calm)


@pytest.fixture(scope="session")
def voices_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Voices with prompts of different lengths; not to be changed."""
    return write_voices(tmp_path_factory.mktemp("voices"))


@pytest.fixture(scope="session")
def plain(steady: Chatterbox, voices_dir: Path) -> Plain:
    return Plain(steady, voices_dir)


@pytest.fixture
def serve(small_model: Path, steady: Chatterbox, voices_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Serve:
    """A model of your own, or the steady one, without reading it again."""

    def make(
        model: Chatterbox | None = None, /, *, streams: int = 16, cfg_scale: float = 0.0, **changes: Any
    ) -> Served:
        monkeypatch.setattr(loading, "load_model", lambda *_, **__: model or steady)
        return Served.over(settings_for(small_model, voices_dir, **changes), streams=streams, cfg_scale=cfg_scale)

    return make
