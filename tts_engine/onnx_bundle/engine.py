"""The speech engine over the bundle: ONNX Runtime in the server's process."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from weakref import WeakSet

from tts_engine.engine import EngineLimits, SpeechRequest
from tts_engine.errors import EngineBusyError, EngineError, EngineNotReadyError
from tts_engine.onnx_bundle.bundle import Bundle, load_bundle
from tts_engine.onnx_bundle.faults import BundleError
from tts_engine.onnx_bundle.files import DEFAULT_VOICE, BundleFiles, find_files
from tts_engine.onnx_bundle.sessions import CPU
from tts_engine.onnx_bundle.settings import OnnxBundleSettings
from tts_engine.onnx_bundle.speech import speak
from tts_engine.pooled_engine import PooledEngine, Stop, check_voice
from tts_engine.pooled_stream import Piece

logger = logging.getLogger(__name__)

NAME = "chatterbox-onnx"

BUNDLED_VOICE = "default"
"The bundle's default_voice.wav."


class OnnxBundleEngine(PooledEngine):
    """An Engine over the official ONNX bundle."""

    def __init__(self, settings: OnnxBundleSettings, *, max_streams: int = 2, max_text_chars: int = 5000) -> None:
        """Raises BundleError for files that are missing, or without any voice; UnknownVoiceError."""
        limits = EngineLimits(max_text_chars=max_text_chars, max_streams=max_streams)
        super().__init__(NAME, settings.default_voice, limits, settings.workers)
        self._settings = settings
        self._files = find_files(settings.directory, settings.precision, settings.part_precision)
        self._recordings = _recordings(self._files, settings)
        check_voice(settings.default_voice, self._recordings)
        self._bundle: Bundle | None = None
        # Weak: one ends where its stream drops it. Changed on the event loop only.
        self._utterances: WeakSet[_Utterance] = WeakSet()

    @property
    def voices(self) -> tuple[str, ...]:
        return tuple(self._recordings)

    def _load(self) -> None:
        bundle = load_bundle(self._files, self._recordings, self._settings, self._load_stop)
        self._log_pace(bundle)
        self._bundle = bundle

    def _unload(self) -> None:
        self._bundle = None

    def _speak(self, request: SpeechRequest, voice: str, stopped: Stop) -> Iterator[Piece]:
        bundle = self._bundle
        if bundle is None:
            raise EngineNotReadyError(f"the {NAME} engine is not running")
        utterance = _Utterance(
            stopped, speak(bundle, voice, request.text, self._settings, request.sample_rate, stopped)
        )
        self._utterances.add(utterance)
        return utterance

    def available(self) -> EngineError | None:
        """See Engine: by the number of streams, and by how late a further one would be heard.

        An engine that does nothing refuses nobody: waiting would make it no faster.
        """
        fault, bundle, limit = self._room(), self._bundle, self._settings.max_first_audio_ms / 1000
        sounding = [utterance.sounding for utterance in self._utterances if not utterance.stopped()]
        if fault is not None or bundle is None or not limit or not sounding:
            return fault
        speaking = sum(sounding)
        wait = bundle.pace.wait(len(sounding) - speaking, speaking, self._settings.workers)
        if wait <= limit:
            return None
        return EngineBusyError(
            f"a text would be heard after {wait:.1f} s, more than {limit:g} s", max(1.0, wait - limit)
        )

    def _log_pace(self, bundle: Bundle) -> None:
        pace, limit = bundle.pace, self._settings.max_first_audio_ms / 1000
        streams, workers = self._limits.max_streams, self._settings.workers
        factor = pace.real_time_factor
        logger.log(
            logging.WARNING if factor >= 1 else logging.INFO,
            "%s: %.2f s of work for a second of speech (real-time factor), first sound after %.1f s; a step %.0f ms, "
            "a decode of a second of speech %.0f ms",
            NAME, factor, pace.first_sound, pace.step * 1000, pace.decode * 1000,
        )  # fmt: skip
        if factor >= 1:
            logger.warning("%s cannot keep up with one listener here: there will be gaps in what it says", NAME)
        elif bundle.provider == CPU and streams > workers and factor * streams > workers:
            logger.warning("max_streams = %d is more than this CPU keeps up with: texts will be late", streams)
        if limit and pace.first_sound > limit:
            logger.warning("the first sound is later than max_first_audio_ms even alone: calls are taken one at a time")


class _Utterance:
    """The pieces of one utterance, and whether any of them was sound."""

    def __init__(self, stopped: Stop, pieces: Iterator[Piece]) -> None:
        self.stopped = stopped
        self.sounding = False
        self._pieces = pieces

    def __iter__(self) -> Iterator[Piece]:
        return self

    def __next__(self) -> Piece:
        piece = next(self._pieces)
        self.sounding = self.sounding or bool(piece.pcm)
        return piece


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
