"""An Engine in front of another: what was said before comes from memory or disk, and costs no synthesis."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from typing import Any, Protocol
from weakref import WeakValueDictionary

from tts_engine.engine import Engine, EngineLimits, Feature, PcmChunk, SpeechRequest, SpeechStream
from tts_engine.errors import EngineBusyError, EngineError, EngineNotReadyError
from tts_engine.measures import Counter, Gauge, Measure
from tts_engine.prompts.cache import PromptCache, SeenBefore
from tts_engine.prompts.key import prompt_key
from tts_engine.prompts.ready import ReadyStream, StoredStream
from tts_engine.prompts.shared import SharedSynthesis
from tts_engine.prompts.store import PromptStore, StoreError

logger = logging.getLogger(__name__)

RECORDING_SHARE = 4
"What is being synthesised is recorded while all of it takes at most this part of the memory, beside what is kept."

RESCAN_S = 30.0
"How often, at most, the store is looked through for prompts that came after the start."

WARM_RETRY_S = 2.0
WARM_TRIES = 30
"For an engine that is busy; after that the first callers do the work."

WARM_BUFFERED_S = 1.0
"What warming claims to have in hand: any caller who has nothing yet is served first."


class Identity(Protocol):
    """What an engine's sound depends on beside text and rate: settings, files, versions."""

    def load(self) -> None:
        """Read what must be read; on a thread, once before the first of(). Raises OSError or EngineError."""

    def of(self, voice: str) -> str | None:
        """The same string, over restarts and on other machines, if and only if the voice sounds the same.

        On the event loop, for each request. None if it cannot be told: nothing is kept then.
        """


def key_of(request: SpeechRequest, engine: Engine, identity: Identity) -> bytes | None:
    """The prompt's key; None where it cannot be told what it would sound like. See prompt_key()."""
    voice = engine.default_voice if request.voice is None else request.voice
    # A name that no voice has may be the name of no file either.
    if voice not in engine.voices:
        return None
    own = identity.of(voice)
    if own is None:
        return None
    # What the engine ignores makes no other sound.
    rate = request.rate if "rate" in engine.features else 1.0
    phonemes = request.phonemes if "phonemes" in engine.features else None
    return prompt_key(own, voice, request.sample_rate, request.text, rate, phonemes)


class CachedEngine:
    """An Engine. Belongs to the event loop; its measures may be read from any thread.

    What is kept is served while the engine behind is busy or restarts; available() tells of that one all the same,
    since a call's next text may not be kept.
    """

    def __init__(
        self,
        engine: Engine,
        identity: Identity,
        memory_bytes: int,
        store: PromptStore | None = None,
        warm: Sequence[SpeechRequest] = (),
    ) -> None:
        """`warm`: said once in the background after the start, and kept."""
        self._engine = engine
        self._identity = identity
        self._store = store
        self._warm = tuple(warm)
        self._cache = PromptCache(memory_bytes)
        self._most_recorded = memory_bytes // RECORDING_SHARE
        self._seen = SeenBefore()
        self._stored: frozenset[bytes] = frozenset()
        "Keys of the store as last seen."
        self._scanned = 0.0
        self._shared: WeakValueDictionary[bytes, SharedSynthesis] = WeakValueDictionary()
        "Under way, and open to others. Weak: their readers hold them."
        self._identified = False
        self._running = False
        self._background: set[asyncio.Task[None]] = set()
        self._hits = {
            source: Counter("prompt_hits", "Texts that were not synthesised", labels={"source": source})
            for source in ("memory", "disk", "shared")
        }
        self._misses = Counter("prompt_misses", "Texts that were synthesised, though they might have been kept")
        cache = self._cache
        self._measures: tuple[Measure, ...] = (
            *self._hits.values(),
            self._misses,
            Counter("prompt_evictions", "Prompts dropped for others", lambda: cache.evicted),
            Gauge("prompt_bytes", "Memory that kept prompts take", lambda: cache.bytes),
            Gauge("prompts", "Prompts kept in memory", lambda: len(cache)),
        )

    @property
    def name(self) -> str:
        return self._engine.name

    @property
    def limits(self) -> EngineLimits:
        return self._engine.limits

    @property
    def voices(self) -> tuple[str, ...]:
        return self._engine.voices

    @property
    def default_voice(self) -> str:
        return self._engine.default_voice

    @property
    def features(self) -> frozenset[Feature]:
        return self._engine.features

    @property
    def ready(self) -> bool:
        """Of the engine behind."""
        return self._engine.ready

    @property
    def measures(self) -> Sequence[Measure]:
        """Those of the engine behind, and ours."""
        return (*self._engine.measures, *self._measures)

    def available(self) -> EngineError | None:
        """Of the engine behind."""
        return self._engine.available()

    def check(self, request: SpeechRequest) -> None:
        """As the engine behind does."""
        self._engine.check(request)

    async def start(self) -> None:
        """Start the engine behind; what is ours goes on in the background, and prompts are used once it is done."""
        await self._engine.start()
        if not self._running:
            self._running = True
            self._spawn(self._prepare())

    async def stop(self) -> None:
        """Stop the engine behind, and forget what was kept in memory."""
        # First: streams that a stop breaks off look like such that ended.
        self._running = self._identified = False
        background = list(self._background)
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        await self._engine.stop()
        self._shared.clear()
        self._cache.clear()

    def synthesize(self, request: SpeechRequest) -> SpeechStream:
        """Begin an utterance; see Engine. What is kept takes no stream of the engine's."""
        key = self._key(request)
        if key is None:
            return self._engine.synthesize(request)
        kept = self._cache.get(key)
        if kept is not None:
            self._engine.check(request)
            self._hits["memory"].add()
            return ReadyStream(kept)
        shared = self._shared.get(key)
        if shared is not None:
            self._engine.check(request)
            self._hits["shared"].add()
            return shared.read(request.buffered_seconds, lambda: self._engine.synthesize(request))
        return self._begin(key, request)

    def _key(self, request: SpeechRequest) -> bytes | None:
        """None for what is not to be kept."""
        if not self._identified or not request.cacheable:
            return None
        return key_of(request, self._engine, self._identity)

    def _begin(self, key: bytes, request: SpeechRequest, *, keep: bool = False) -> SpeechStream:
        """Synthesise, or read from disk, what others may join and what may be kept. Raises as synthesize() does."""
        stored = self._store if key in self._stored else None
        keep = keep or stored is not None

        def ended(shared: SharedSynthesis) -> None:
            if self._shared.get(key) is shared:
                del self._shared[key]
            if shared.complete and shared.recording and self._running and (keep or shared.joined or seen):
                self._cache.put(key, PcmChunk(shared.pcm, request.sample_rate))

        shared = SharedSynthesis(self._room, ended)
        order = replace(request, buffered_seconds=shared.listeners)
        # Before the engine is asked: it may ask back at once.
        stream = shared.read(request.buffered_seconds, None)
        if stored is not None:
            self._engine.check(request)
            shared.begin(StoredStream(stored, key, self._hits["disk"].add, lambda: self._instead(key, order)))
        else:
            shared.begin(self._synthesise(order))
            self._rescan()
        seen = self._seen.again(key)
        self._shared[key] = shared
        return stream

    def _synthesise(self, order: SpeechRequest) -> SpeechStream:
        stream = self._engine.synthesize(order)
        self._misses.add()
        return stream

    def _instead(self, key: bytes, order: SpeechRequest) -> SpeechStream:
        """The file cannot be used: it is not tried again before the next look at the store."""
        self._stored -= {key}
        return self._synthesise(order)

    def _room(self, recorded: int) -> bool:
        """Whether a synthesis of which so much is recorded is to be recorded further."""
        if recorded > self._cache.largest:
            return False
        return sum(shared.recorded for shared in self._shared.values()) <= self._most_recorded

    async def _prepare(self) -> None:
        try:
            await asyncio.to_thread(self._identity.load)
        except (OSError, EngineError) as error:
            logger.warning("prompts of the %s engine are not kept: %s", self.name, error)
            return
        await self._scan()
        self._identified = True
        for request in self._warm:
            await self._say(request)

    async def _say(self, request: SpeechRequest) -> None:
        """Have a text said and kept, when the engine has room."""
        for _ in range(WARM_TRIES):
            key = self._key(request)
            if key is None or self._cache.get(key) is not None:
                return
            order = replace(request, buffered_seconds=lambda: WARM_BUFFERED_S)
            stream: SpeechStream | None = None
            try:
                # A caller may be having it said; it is kept then, as all that two have asked for.
                stream = self.synthesize(order) if key in self._shared else self._begin(key, order, keep=True)
                async for _chunk in stream:
                    pass
                return
            except (EngineBusyError, EngineNotReadyError):
                await asyncio.sleep(WARM_RETRY_S)
            except EngineError as error:
                logger.warning("the %s engine cannot say a prompt in advance: %s", self.name, error)
                return
            finally:
                if stream is not None:
                    stream.cancel()

    def _rescan(self) -> None:
        """Prompts may have been written meanwhile."""
        if self._store is not None and time.monotonic() - self._scanned > RESCAN_S:
            self._scanned = time.monotonic()
            self._spawn(self._scan())

    async def _scan(self) -> None:
        if self._store is None:
            return
        self._scanned = time.monotonic()
        try:
            self._stored = await asyncio.to_thread(self._store.keys)
        except StoreError as error:
            logger.warning("kept prompts cannot be used: %s", error)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._background_ended)

    def _background_ended(self, task: asyncio.Task[None]) -> None:
        self._background.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # Its message may quote a text.
            logger.error("preparing prompts of the %s engine failed: %s", self.name, type(error).__name__)
