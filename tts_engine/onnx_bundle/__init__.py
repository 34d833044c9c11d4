"""Chatterbox Turbo from its official ONNX bundle, through ONNX Runtime. Nothing that is imported here needs torch."""

from tts_engine.onnx_bundle.engine import OnnxBundleEngine
from tts_engine.onnx_bundle.faults import BundleError
from tts_engine.onnx_bundle.settings import OnnxBundleSettings

__all__ = ["BundleError", "OnnxBundleEngine", "OnnxBundleSettings"]
