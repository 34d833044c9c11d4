"""What engines share whose utterances are generators, each step of which is a job of a worker pool."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from weakref import WeakValueDictionary

from tts_engine.engine import EngineLimits, Feature, SpeechRequest
from tts_engine.errors import (
    EngineBusyError,
    EngineError,
    EngineNotReadyError,
    TextTooLongError,
    UnknownVoiceError,
    UnsupportedSampleRateError,
)
from tts_engine.measures import Counter, Gauge, Measure
from tts_engine.pooled_stream import Piece, PooledStream
from tts_engine.step_meter import StepMeter
from tts_engine.worker_pool import WorkerPool

STOP_SECONDS = 2.0
"How long stop() waits for steps under way, or for a load; what takes longer ends with the process."


class Stop:
    """Whether work is no longer wanted. Set once, from any thread; calling it tells."""

    def __init__(self) -> None:
        self._set = threading.Event()
        self._actions: list[Callable[[], None]] = []

    def __call__(self) -> bool:
        return self._set.is_set()

    def set(self) -> None:
        """Idempotent. Runs what then() was given."""
        self._set.set()
        self._run()

    def then(self, action: Callable[[], None]) -> None:
        """Call that once, when it is set; now, if it is. The action must be short."""
        self._actions.append(action)
        if self():
            self._run()

    def _run(self) -> None:
        while self._actions:
            # Two threads may come for the last one.
            with contextlib.suppress(IndexError):
                self._actions.pop()()


class PooledEngine(ABC):
    """An Engine but for the voice itself. Start, use and stop it on one event loop; it can be started again."""

    def __init__(self, name: str, default_voice: str, limits: EngineLimits, workers: int) -> None:
        self._name = name
        self._default_voice = default_voice
        self._limits = limits
        self._workers = workers
        self._pool: WorkerPool | None = None
        # Weak: a stream that its reader forgot, unread and not cancelled, must not take up room for ever.
        self._streams: WeakValueDictionary[int, PooledStream] = WeakValueDictionary()
        self._numbers = itertools.count()
        self._changing = asyncio.Lock()
        self._loader: threading.Thread | None = None
        self._load_stop = Stop()
        "Of the load under way: set when nobody waits for it any more. For _load(), on its thread."
        self._begun = Counter("utterances", "Utterances begun")
        self._meter = StepMeter()
        self._measures = (self._begun, *self._pool_measures())

    @abstractmethod
    def _load(self) -> None:
        """Load and warm up, on a thread of its own. Raises EngineError.

        May look at `_load_stop` between its parts, and raise what it likes where that is set.
        """

    @abstractmethod
    def _unload(self) -> None:
        """Free what _load() took; no step is under way that is still wanted."""

    @abstractmethod
    def _speak(self, request: SpeechRequest, voice: str, stopped: Stop) -> Iterator[Piece]:
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
    def features(self) -> frozenset[Feature]:
        """None, unless the voice has some."""
        return frozenset()

    @property
    def ready(self) -> bool:
        return self._pool is not None

    @property
    def open_streams(self) -> int:
        """Streams that have, or may get, something to read. May be read from any thread."""
        streams = [reference() for reference in self._streams.valuerefs()]
        return sum(stream is not None and stream.open for stream in streams)

    @property
    def measures(self) -> Sequence[Measure]:
        return self._measures

    def _pool_measures(self) -> Iterator[Measure]:
        meter = self._meter

        def waiting() -> int:
            pool = self._pool
            return 0 if pool is None else pool.waiting

        yield Gauge("streams", "Utterances in synthesis", lambda: self.open_streams)
        yield Gauge("streams_limit", "Utterances that may be in synthesis at once", lambda: self._limits.max_streams)
        yield Gauge("steps_waiting", "Steps of utterances that wait for a worker", waiting)
        yield Gauge("workers", "Worker threads", lambda: self._workers)
        yield Gauge("workers_busy", "Worker threads that synthesise now", lambda: meter.running)
        yield Counter("synthesis_seconds", "Time that the workers have spent synthesising", lambda: meter.work_seconds)
        yield Counter("audio_seconds", "Length of the speech that was synthesised", lambda: meter.audio_seconds)

    async def start(self) -> None:
        """Load in a thread. Raises EngineError if what is needed cannot be had."""
        async with self._changing:
            if self._pool is not None:
                return
            await self._load_apart()
            # Each stream has at most one job, so the queue cannot run over while max_streams holds.
            pool = WorkerPool(self._workers, max_waiting=self._limits.max_streams, name=f"{self._name}-tts")
            pool.start()
            self._pool = pool

    async def _load_apart(self) -> None:
        """_load() on a daemon thread: the end of a process waits for those of the loop's executor, minutes if need be.

        A load that is not waited for any more is told so; what it gives all the same is freed.
        """
        loop = asyncio.get_running_loop()
        loaded: asyncio.Future[None] = loop.create_future()
        before, stop = self._loader, Stop()

        def load() -> None:
            if before is not None:
                before.join()
            self._load_stop = stop
            error: BaseException | None = None
            try:
                self._load()
            # Whatever it is, start() raises it.
            except BaseException as raised:  # noqa: BLE001
                error = raised
            with contextlib.suppress(RuntimeError):  # the loop has closed meanwhile
                loop.call_soon_threadsafe(_settle, loaded, error)

        def unload() -> None:
            loader.join()
            self._unload()

        loader = self._loader = self._begin("load", load)
        try:
            await asyncio.wait({loaded})
        except BaseException:
            stop.set()
            self._loader = self._begin("unload", unload)
            await asyncio.wait({loaded}, timeout=STOP_SECONDS)
            raise
        self._loader = None
        try:
            loaded.result()
        except BaseException:
            self._unload()
            raise

    def _begin(self, what: str, work: Callable[[], object]) -> threading.Thread:
        thread = threading.Thread(target=work, name=f"{self._name}-{what}", daemon=True)
        thread.start()
        return thread

    async def stop(self) -> None:
        """Cancel all streams, wait for steps under way, free the models. Idempotent."""
        async with self._changing:
            pool, self._pool = self._pool, None
            if pool is None:
                return
            for stream in list(self._streams.values()):
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

    def available(self) -> EngineError | None:
        """See Engine: by the number of streams alone."""
        return self._room()

    def _room(self) -> EngineError | None:
        """Why no stream can be begun now; None if one can."""
        if self._pool is None:
            return EngineNotReadyError(f"the {self._name} engine is not running")
        if self.open_streams >= self._limits.max_streams:
            return EngineBusyError(f"the {self._name} engine runs {self._limits.max_streams} streams already")
        return None

    def synthesize(self, request: SpeechRequest) -> PooledStream:
        """Begin an utterance on the workers; see Engine."""
        pool = self._pool
        if pool is None:
            raise EngineNotReadyError(f"the {self._name} engine is not running")
        self.check(request)
        fault = self._room()
        if fault is not None:
            raise fault
        stop = Stop()
        pieces = self._speak(request, self._voice_name(request), stop)
        metered = self._meter.metered(pieces, request.sample_rate)
        stream = PooledStream(metered, pool, request.sample_rate, request.buffered_seconds, stop.set)
        self._streams[next(self._numbers)] = stream
        self._begun.add()
        return stream

    def _voice_name(self, request: SpeechRequest) -> str:
        return self._default_voice if request.voice is None else request.voice


def check_voice(voice: str, known: Iterable[str]) -> None:
    """Raises UnknownVoiceError."""
    if voice not in known:
        raise UnknownVoiceError(voice, known)


def _settle(loaded: asyncio.Future[None], error: BaseException | None) -> None:
    if loaded.done():
        return
    if error is None:
        loaded.set_result(None)
    else:
        loaded.set_exception(error)
        loaded.exception()  # nobody may be left to look at it, which is no fault
