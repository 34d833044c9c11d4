"""What keeps a bundle from being used."""

from __future__ import annotations

from tts_engine.errors import EngineError


class BundleError(EngineError):
    """The bundle, or what it runs on, is not as it has to be. The message says what is wrong and what helps."""
