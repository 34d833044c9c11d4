"""Small models in the released layout, written once a session, and what tests of an engine over them share.

`small_model` speaks for about a second a segment, `brief_model` for five tokens whatever the text: as few as are let
through.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import random_weights
from benchmarks.make_checkpoint import small_sizes, write_checkpoint
from tests.tts_engine.chatterbox.voices import make_voice
from tts_engine.chatterbox.cfg import VARIABLE, cfg_scale
from tts_engine.chatterbox.constants import TRAILING_SILENCE_TOKENS
from tts_engine.chatterbox.guards import MIN_TOKENS
from tts_engine.chatterbox.voice_file import VoiceMetadata
from tts_engine.chatterbox.voice_store import VoiceStore

TOKEN_SAMPLES = 960
"Of 24 kHz."

BRIEF_SAMPLES = (MIN_TOKENS + TRAILING_SILENCE_TOKENS) * TOKEN_SAMPLES
"What the brief model says of one segment."

_SOON, _CERTAIN = 6.8, 40.0
"Biases of STOP: about once in 30 tokens, and as soon as it is allowed."


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _written(tmp_path_factory, "small-model", _SOON)


@pytest.fixture(scope="session")
def brief_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _written(tmp_path_factory, "brief-model", _CERTAIN)


def _written(tmp_path_factory: pytest.TempPathFactory, name: str, stop_bias: float) -> Path:
    # Each module that imports a fixture has its own: the directory is what they share.
    directory = tmp_path_factory.getbasetemp() / name
    if not directory.exists():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(random_weights, "STOP_BIAS", stop_bias)
            write_checkpoint(directory, sizes=small_sizes(), unread=False)
    return directory


@pytest.fixture
def fresh_cfg_scale(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """CHATTERBOX_CFG_SCALE unset, and read anew before and after the test."""
    monkeypatch.delenv(VARIABLE, raising=False)
    cfg_scale.cache_clear()
    yield monkeypatch
    cfg_scale.cache_clear()


def linked(model: Path, directory: Path, *, without: tuple[str, ...] = ()) -> Path:
    """A model's directory whose files are links to another's, some left out."""
    directory.mkdir(parents=True)
    for file in model.iterdir():
        if file.name not in without:
            (directory / file.name).symlink_to(file)
    return directory


def store_voice(directory: Path, name: str, seed: int = 1) -> Path:
    """A voice of a short prompt, quick to speak with."""
    return VoiceStore(directory).add(name, make_voice(40, 20, seed=seed), VoiceMetadata(name, source=f"{name}.wav"))
