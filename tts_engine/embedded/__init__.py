"""The default voice: hibari, a small ONNX model that runs on a CPU core many times faster than speech."""

from tts_engine.embedded.engine import EmbeddedEngine
from tts_engine.embedded.model import EmbeddedVoice

__all__ = ["EmbeddedEngine", "EmbeddedVoice"]
