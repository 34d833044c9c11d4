"""The speech engine over the bundle: ONNX Runtime in the server's process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from tts_engine.engine import EngineLimits, SpeechRequest
from tts_engine.errors import EngineNotReadyError
from tts_engine.onnx_bundle.bundle import Bundle, load_bundle
from tts_engine.onnx_bundle.faults import BundleError
from tts_engine.onnx_bundle.files import DEFAULT_VOICE, BundleFiles, find_files
from tts_engine.onnx_bundle.settings import OnnxBundleSettings
from tts_engine.onnx_bundle.speech import speak
from tts_engine.pooled_engine import PooledEngine, check_voice
from tts_engine.pooled_stream import Piece

NAME = "chatterbox-onnx"

BUNDLED_VOICE = "default"
"The bundle's default_voice.wav."


class OnnxBundleEngine(PooledEngine):
    """An Engine over the official ONNX bundle."""

    def __init__(self, settings: OnnxBundleSettings, *, max_streams: int = 4, max_text_chars: int = 5000) -> None:
        """Raises BundleError for files that are missing, or without any voice; UnknownVoiceError."""
        limits = EngineLimits(max_text_chars=max_text_chars, max_streams=max_streams)
        super().__init__(NAME, settings.default_voice, limits, settings.workers)
        self._settings = settings
        self._files = find_files(settings.directory, settings.precision, settings.part_precision)
        self._recordings = _recordings(self._files, settings)
        check_voice(settings.default_voice, self._recordings)
        self._bundle: Bundle | None = None

    @property
    def voices(self) -> tuple[str, ...]:
        return tuple(self._recordings)

    def _load(self) -> None:
        self._bundle = load_bundle(self._files, self._recordings, self._settings)

    def _unload(self) -> None:
        self._bundle = None

    def _speak(self, request: SpeechRequest, voice: str, stopped: Callable[[], bool]) -> Iterator[Piece]:
        # A step is a few tokens or one decode; neither can be broken off.
        bundle = self._bundle
        if bundle is None:
            raise EngineNotReadyError(f"the {NAME} engine is not running")
        return speak(bundle, voice, request.text, self._settings, request.sample_rate)


def _recordings(files: BundleFiles, settings: OnnxBundleSettings) -> dict[str, Path]:
    """Voices by name. Raises BundleError where there is none."""
    recordings = dict(settings.voices)
    if files.default_voice is not None:
        recordings.setdefault(BUNDLED_VOICE, files.default_voice)
    if not recordings:
        raise BundleError(
            f"there is no voice: the bundle has none of its own, so name a recording of 5 s or more in "
            f"[tts.onnx.voices], or put one at {settings.directory / DEFAULT_VOICE}"
        )
    return recordings
