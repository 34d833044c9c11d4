"""Having a file of prompts said and written to the store, by each engine that speaks for calls."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from mediaserver.prompt_file import PromptLine
from tts_engine.engine import Engine, SpeechRequest
from tts_engine.errors import EngineBusyError, EngineError
from tts_engine.prompts import Identity, PromptStore, StoredPrompt, key_of

JOBS = 4
"Texts in synthesis at once: a GPU makes them together, a CPU's workers are two by default."

BUSY_PAUSE_S = 0.5


class LineError(Exception):
    """A prompt cannot be said; the message names its line."""


@dataclass(slots=True)
class Warmed:
    """What came of a file, with one engine."""

    made: int = 0
    there: int = 0
    "Were in the store already."
    failed: int = 0
    seconds: float = 0.0
    "Speech made."


@dataclass(frozen=True, slots=True)
class _Job:
    line: PromptLine
    request: SpeechRequest


class Warmer:
    """One engine, which runs, and the store."""

    def __init__(
        self,
        engine: Engine,
        identity: Identity,
        store: PromptStore,
        tell: Callable[[str], None],
        complain: Callable[[str], None],
    ) -> None:
        """`identity` is loaded. `tell` is given a line for each prompt that is made, `complain` for each that fails."""
        self._engine = engine
        self._identity = identity
        self._store = store
        self._tell = tell
        self._complain = complain

    async def warm(self, lines: Sequence[PromptLine], rates: Sequence[int], *, any_voice: bool = False) -> Warmed:
        """All prompts at all rates. Raises LineError before any is said, StoreError.

        `any_voice`: the default speaks for voices that this engine does not have, as it does in calls that overflow.
        """
        jobs = self._jobs(lines, rates, any_voice=any_voice)
        done = Warmed()
        waiting = iter(jobs)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(JOBS, self._engine.limits.max_streams, len(jobs))):
                    group.create_task(self._work(waiting, done))
        except ExceptionGroup as faults:
            # The others are of the same kind, mostly: a disk that is full.
            raise faults.exceptions[0] from None
        return done

    def _jobs(self, lines: Sequence[PromptLine], rates: Sequence[int], *, any_voice: bool) -> list[_Job]:
        return [_Job(line, self._request(line, rate, any_voice=any_voice)) for line in lines for rate in rates]

    def _request(self, line: PromptLine, rate: int, *, any_voice: bool) -> SpeechRequest:
        voice = line.voice
        if any_voice and voice not in self._engine.voices:
            voice = None
        request = SpeechRequest(line.text, voice, rate)
        try:
            self._engine.check(request)
        except EngineError as error:
            raise LineError(f"line {line.number}: {error}") from None
        return request

    async def _work(self, waiting: Iterator[_Job], done: Warmed) -> None:
        for job in waiting:
            key = key_of(job.request, self._engine, self._identity)
            if key is None:
                raise LineError(f"line {job.line.number}: the files of its voice cannot be read")
            if await asyncio.to_thread(self._store.read, key) is not None:
                done.there += 1
                continue
            try:
                pcm = await self._speak(job.request)
            except EngineError as error:
                self._failed(job, done, str(error))
                continue
            if not pcm:
                self._failed(job, done, "there is nothing speakable in it")
                continue
            await self._write(key, job, pcm, done)

    async def _write(self, key: bytes, job: _Job, pcm: bytes, done: Warmed) -> None:
        voice = job.request.voice or self._engine.default_voice
        identity = self._identity.of(voice)
        # A voice that was replaced while it spoke.
        if identity is None or key_of(job.request, self._engine, self._identity) != key:
            self._failed(job, done, "its voice was changed meanwhile")
            return
        prompt = StoredPrompt(self._engine.name, voice, identity, job.request.sample_rate, pcm)
        await asyncio.to_thread(self._store.write, key, prompt)
        done.made += 1
        done.seconds += prompt.seconds
        self._tell(f"line {job.line.number}: {voice}, {prompt.sample_rate} Hz, {prompt.seconds:.1f} s")

    def _failed(self, job: _Job, done: Warmed, why: str) -> None:
        done.failed += 1
        self._complain(f"line {job.line.number}: {why}")

    async def _speak(self, request: SpeechRequest) -> bytes:
        while True:
            try:
                return b"".join([chunk.pcm async for chunk in self._engine.synthesize(request)])
            except EngineBusyError:
                await asyncio.sleep(BUSY_PAUSE_S)
