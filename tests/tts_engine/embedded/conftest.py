from __future__ import annotations

import pytest

from tts_engine.embedded.model import VoiceModel, load_models


@pytest.fixture(scope="session")
def heart() -> VoiceModel:
    return load_models({"heart"})["heart"]
