from __future__ import annotations

from pathlib import Path

import pytest

from tests.tts_engine.serving.small_model import brief_model, fresh_cfg_scale, small_model
from tts_engine.chatterbox.model import Chatterbox, load

__all__ = ["brief_model", "fresh_cfg_scale", "small_model"]


@pytest.fixture(scope="session")
def loaded(small_model: Path) -> Chatterbox:
    """The small model; not to be changed."""
    return load(small_model)


@pytest.fixture(scope="session")
def loaded_brief(brief_model: Path) -> Chatterbox:
    return load(brief_model)
