"""An engine for tests: what it says, and when, is the test's to decide."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Sequence

from tts_engine.engine import EngineLimits, Feature, PcmChunk, SpeechRequest
from tts_engine.errors import (
    EngineBusyError,
    EngineError,
    EngineNotReadyError,
    SynthesisError,
    TextTooLongError,
    UnknownVoiceError,
)
from tts_engine.measures import Measure

SAMPLES_PER_WORD = 1600  # 200 ms at 8 kHz


def pcm_of(word: str, rate: int = 8000) -> bytes:
    """What the engine says for a word: a level that tells the words apart."""
    level = 1000 + sum(word.encode()) % 20_000
    return struct.pack("<h", level) * (SAMPLES_PER_WORD * rate // 8000)


class FakeStream:
    def __init__(self, engine: FakeEngine, request: SpeechRequest) -> None:
        self.request = request
        self.cancelled = False
        self.taken = 0
        self._engine = engine
        self._words = request.text.split()
        self._cancel = asyncio.Event()

    def __aiter__(self) -> FakeStream:
        return self

    async def __anext__(self) -> PcmChunk:
        if self._engine.gate is not None:
            gate = asyncio.ensure_future(self._engine.gate.acquire())
            cancel = asyncio.ensure_future(self._cancel.wait())
            await asyncio.wait((gate, cancel), return_when=asyncio.FIRST_COMPLETED)
            gate.cancel()
            cancel.cancel()
        if self.cancelled or not self._words:
            raise StopAsyncIteration
        word = self._words.pop(0)
        if word == "FAIL":
            raise SynthesisError("asked to fail")
        if word == "CRASH":
            raise ZeroDivisionError
        if word == "RESTART":
            self._engine.ready = False
            raise EngineNotReadyError("starting again")
        self.taken += 1
        return PcmChunk(pcm_of(word, self.request.sample_rate), self.request.sample_rate)

    def cancel(self) -> None:
        self.cancelled = True
        self._cancel.set()


class FakeEngine:
    """Each word is a chunk of 200 ms; FAIL, CRASH and RESTART are words that do so.

    `gate`, if set, lets one chunk each out. `busy` refuses streams, and so does `ready` when False.
    """

    default_voice = "heart"

    def __init__(self, name: str = "fake", voices: tuple[str, ...] = ("heart", "other")) -> None:
        self.name = name
        self.voices = voices
        self.limits = EngineLimits(max_text_chars=1000, max_streams=100)
        self.measures: Sequence[Measure] = ()
        self.features: frozenset[Feature] = frozenset()
        self.ready = True
        self.busy = False
        self.retry_after: float | None = None
        self.asked = 0
        "How often synthesize() was called."
        self.gate: asyncio.Semaphore | None = None
        self.streams: list[FakeStream] = []

    async def start(self) -> None:
        self.ready = True

    async def stop(self) -> None:
        self.ready = False

    def check(self, request: SpeechRequest) -> None:
        if request.voice is not None and request.voice not in self.voices:
            raise UnknownVoiceError(request.voice, self.voices)
        if len(request.text) > self.limits.max_text_chars:
            raise TextTooLongError(len(request.text), self.limits.max_text_chars)

    def available(self) -> EngineError | None:
        if not self.ready:
            return EngineNotReadyError(f"the {self.name} engine is starting again")
        if self.busy:
            return EngineBusyError(f"the {self.name} engine is busy", self.retry_after)
        return None

    def synthesize(self, request: SpeechRequest) -> FakeStream:
        self.asked += 1
        fault = self.available()
        if fault is not None:
            raise fault
        self.check(request)
        stream = FakeStream(self, request)
        self.streams.append(stream)
        return stream
