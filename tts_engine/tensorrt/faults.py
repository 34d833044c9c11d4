"""What keeps an engine from being built or run: each fault with a message of its own, for log and command."""

from __future__ import annotations

from tts_engine.errors import EngineError


class TensorRtError(EngineError):
    """Any of these. The message says what is wrong and, where there is something to do, what."""


class NotInstalledError(TensorRtError):
    """No flavour of TensorRT, or not the one that is wanted, can be imported."""


class BuildError(TensorRtError):
    """The builder refused, or there was no room for what it made."""


class PlanError(TensorRtError):
    """A plan, or the manifest beside it, cannot be used here: missing, truncated, foreign or stale."""
