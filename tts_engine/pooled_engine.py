"""What engines share whose utterances are generators, each step of which is a job of a worker pool."""

from __future__ import annotations

import asyncio
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from weakref import WeakSet

from tts_engine.engine import EngineLimits, SpeechRequest
from tts_engine.errors import (
    EngineBusyError,
    EngineNotReadyError,
    TextTooLongError,
    UnknownVoiceError,
    UnsupportedSampleRateError,
)
from tts_engine.pooled_stream import Piece, PooledStream
from tts_engine.worker_pool import WorkerPool

STOP_SECONDS = 2.0
"How long stop() waits for steps under way; what takes longer ends with the process."


class PooledEngine(ABC):
    """An Engine but for the voice itself. Start, use and stop it on one event loop; it can be started again."""

    def __init__(self, name: str, default_voice: str, limits: EngineLimits, workers: int) -> None:
        self._name = name
        self._default_voice = default_voice
        self._limits = limits
        self._workers = workers
        self._pool: WorkerPool | None = None
        # Weak: a stream that its reader forgot, unread and not cancelled, must not take up room for ever.
        self._streams: WeakSet[PooledStream] = WeakSet()
        self._changing = asyncio.Lock()

    @abstractmethod
    def _load(self) -> None:
        """Load and warm up, on a thread of its own. Raises EngineError."""

    @abstractmethod
    def _unload(self) -> None:
        """Free what _load() took; no step is under way that is still wanted."""

    @abstractmethod
    def _speak(self, request: SpeechRequest, voice: str, stopped: Callable[[], bool]) -> Iterator[Piece]:
        """The utterance, step by step; called on the event loop, so it must not work before the first step.

        `stopped` says, to a step that takes long, that nobody wants the rest.
        """

    @property
    @abstractmethod
    def voices(self) -> tuple[str, ...]: ...

    @property
    def name(self) -> str:
        return self._name

    @property
    def limits(self) -> EngineLimits:
        return self._limits

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
        """Load in a thread. Raises EngineError if what is needed cannot be had."""
        async with self._changing:
            if self._pool is not None:
                return
            try:
                await asyncio.to_thread(self._load)
            except BaseException:
                self._unload()
                raise
            # Each stream has at most one job, so the queue cannot run over while max_streams holds.
            pool = WorkerPool(self._workers, max_waiting=self._limits.max_streams, name=f"{self._name}-tts")
            pool.start()
            self._pool = pool

    async def stop(self) -> None:
        """Cancel all streams, wait for steps under way, free the models. Idempotent."""
        async with self._changing:
            pool, self._pool = self._pool, None
            if pool is None:
                return
            for stream in list(self._streams):
                stream.cancel()
            pool.close()
            await asyncio.to_thread(pool.join, STOP_SECONDS)
            self._unload()

    def check(self, request: SpeechRequest) -> None:
        """Raises UnknownVoiceError, TextTooLongError or UnsupportedSampleRateError."""
        check_voice(self._voice_name(request), self.voices)
        if len(request.text) > self._limits.max_text_chars:
            raise TextTooLongError(len(request.text), self._limits.max_text_chars)
        if request.sample_rate not in self._limits.sample_rates:
            raise UnsupportedSampleRateError(request.sample_rate, self._limits.sample_rates)

    def synthesize(self, request: SpeechRequest) -> PooledStream:
        """Begin an utterance on the workers; see Engine."""
        if self._pool is None:
            raise EngineNotReadyError(f"the {self._name} engine is not running")
        self.check(request)
        if self.open_streams >= self._limits.max_streams:
            raise EngineBusyError(f"the engine runs {self._limits.max_streams} streams already")
        stop = threading.Event()
        pieces = self._speak(request, self._voice_name(request), stop.is_set)
        stream = PooledStream(pieces, self._pool, request.sample_rate, request.buffered_seconds, stop.set)
        self._streams.add(stream)
        return stream

    def _voice_name(self, request: SpeechRequest) -> str:
        return self._default_voice if request.voice is None else request.voice


def check_voice(voice: str, known: Iterable[str]) -> None:
    """Raises UnknownVoiceError."""
    if voice not in known:
        raise UnknownVoiceError(voice, known)
