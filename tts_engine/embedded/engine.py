"""The speech engine that runs inside the server's process, on CPU threads."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from types import MappingProxyType
from weakref import WeakSet

from tts_engine.embedded.memory import share_one_malloc_arena
from tts_engine.embedded.model import EmbeddedVoice, VoiceModel, load_models, speak
from tts_engine.embedded.stream import EmbeddedStream
from tts_engine.engine import EngineLimits, SpeechRequest
from tts_engine.errors import (
    EngineBusyError,
    EngineError,
    EngineNotReadyError,
    TextTooLongError,
    UnknownVoiceError,
    UnsupportedSampleRateError,
)
from tts_engine.worker_pool import WorkerPool

logger = logging.getLogger(__name__)

DEFAULT_VOICES: Mapping[str, EmbeddedVoice] = MappingProxyType({"heart": EmbeddedVoice("heart")})

STOP_SECONDS = 2.0
"How long stop() waits for inferences under way; what takes longer ends with the process."

_WARM_UP = "Chatterline answers at ten past nine."


class EmbeddedEngine:
    """An Engine over hibari's models. Start, use and stop it on one event loop; it can be started again."""

    def __init__(
        self,
        voices: Mapping[str, EmbeddedVoice] = DEFAULT_VOICES,
        default_voice: str = "heart",
        *,
        workers: int = 2,
        max_streams: int = 200,
        max_text_chars: int = 5000,
        seed: int = 0,
    ) -> None:
        """`seed` decides the noise in every utterance (see model.speak). Raises UnknownVoiceError."""
        if default_voice not in voices:
            raise UnknownVoiceError(default_voice, voices)
        self._voices = dict(voices)
        self._default_voice = default_voice
        self._workers = workers
        self._limits = EngineLimits(max_text_chars=max_text_chars, max_streams=max_streams)
        self._seed = seed
        self._models: dict[str, VoiceModel] = {}
        self._pool: WorkerPool | None = None
        # Weak: a stream that its reader forgot, unread and not cancelled, must not take up room for ever.
        self._streams: WeakSet[EmbeddedStream] = WeakSet()
        self._changing = asyncio.Lock()

    @property
    def name(self) -> str:
        return "embedded"

    @property
    def limits(self) -> EngineLimits:
        return self._limits

    @property
    def voices(self) -> tuple[str, ...]:
        return tuple(self._voices)

    @property
    def default_voice(self) -> str:
        return self._default_voice

    @property
    def ready(self) -> bool:
        return self._pool is not None

    @property
    def open_streams(self) -> int:
        """Streams that have, or may get, something to read."""
        return sum(stream.open for stream in self._streams)

    async def start(self) -> None:
        """Load the models in a thread and speak once with each. Raises EngineError if one cannot be had."""
        async with self._changing:
            if self._pool is None:
                self._pool = await self._start_pool()

    async def _start_pool(self) -> WorkerPool:
        share_one_malloc_arena()
        names = {voice.model for voice in self._voices.values()}
        self._models = await asyncio.to_thread(_load_and_warm_up, names)
        # Each stream has at most one job, so the queue cannot run over while max_streams holds.
        pool = WorkerPool(self._workers, max_waiting=self._limits.max_streams, name="embedded-tts")
        pool.start()
        return pool

    async def stop(self) -> None:
        """Cancel all streams, wait for inferences under way, free the models. Idempotent."""
        async with self._changing:
            pool, self._pool = self._pool, None
            if pool is None:
                return
            for stream in list(self._streams):
                stream.cancel()
            pool.close()
            await asyncio.to_thread(pool.join, STOP_SECONDS)
            self._models = {}

    def check(self, request: SpeechRequest) -> None:
        """Raises UnknownVoiceError, TextTooLongError or UnsupportedSampleRateError."""
        if self._voice_name(request) not in self._voices:
            raise UnknownVoiceError(self._voice_name(request), self._voices)
        if len(request.text) > self._limits.max_text_chars:
            raise TextTooLongError(len(request.text), self._limits.max_text_chars)
        if request.sample_rate not in self._limits.sample_rates:
            raise UnsupportedSampleRateError(request.sample_rate, self._limits.sample_rates)

    def synthesize(self, request: SpeechRequest) -> EmbeddedStream:
        """Begin an utterance on the workers; see Engine."""
        if self._pool is None:
            raise EngineNotReadyError("the embedded engine is not running")
        self.check(request)
        if self.open_streams >= self._limits.max_streams:
            raise EngineBusyError(f"the engine runs {self._limits.max_streams} streams already")
        voice = self._voices[self._voice_name(request)]
        pieces = speak(self._models[voice.model], request.text, voice.speed, request.sample_rate, self._seed)
        stream = EmbeddedStream(pieces, self._pool, request.sample_rate, request.buffered_seconds)
        self._streams.add(stream)
        return stream

    def _voice_name(self, request: SpeechRequest) -> str:
        return self._default_voice if request.voice is None else request.voice


def _load_and_warm_up(names: set[str]) -> dict[str, VoiceModel]:
    models = load_models(names)
    for name, model in models.items():
        # The first inference is slower than those that follow; no caller should wait for it.
        if not sum(len(piece.pcm) for piece in speak(model, _WARM_UP, 1.0, 8000, 0)):
            raise EngineError(f"the model of voice {name!r} gave no sound")
        logger.info("voice model %s is loaded", name)
    return models
