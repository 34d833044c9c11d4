"""What one call has still to say: utterances in order, each synthesised while the one before is played.

Text comes in from the call's control; audio goes out to the leg's playout buffer. Nothing waits for a whole
utterance, and clear() reaches every stage at once: queued text, running synthesis, buffered frames.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from mediaserver.rtp.playout import PlayoutBuffer, PlayoutEvent
from tts_engine.engine import BYTES_PER_SAMPLE, Engine, PcmChunk, SpeechRequest, SpeechStream
from tts_engine.errors import EngineError

SAMPLE_RATE = 8000  # G.711
BUFFER_AHEAD_S = 5.0
"Audio is put into the playout buffer while less than this is in it: enough to outlast a busy moment."
PIECE_S = 1.0
"A chunk, which may be a long sentence, goes into the buffer in pieces of this length."
MAX_UTTERANCES = 100
"Not yet played to their end, in one call; short texts too take up room."
MAX_BUFFERED_S = BUFFER_AHEAD_S + 2 * PIECE_S
"What the playout buffer has to hold."
_PIECE_BYTES = int(PIECE_S * SAMPLE_RATE) * BYTES_PER_SAMPLE


class QueueFullError(Exception):
    """The call has as much text waiting as it may."""


@dataclass(slots=True)
class SpeechCounters:
    """Totals of one call."""

    utterances: int = 0
    played: int = 0
    "To their end."
    cleared: int = 0
    failed: int = 0
    "Ended early by an error of the engine's."
    unspeakable: int = 0
    "Utterances in whose text there was nothing to speak."
    synthesised_s: float = 0.0


@dataclass(slots=True, eq=False)
class Utterance:
    """One text on its way to be heard."""

    number: int
    text: str = field(repr=False)
    voice: str | None
    cleared: bool = False
    complete: bool = False
    "All of it has been synthesised."


class SpeechQueue:
    """The speech of one call. All methods belong to the event loop.

    on_idle is called when all that was asked for has been played, or cleared away; on_failure if the queue itself has
    broken down and will never speak again.
    """

    def __init__(
        self,
        engine: Engine,
        playout: PlayoutBuffer,
        max_queued_chars: int,
        on_idle: Callable[[], None],
        on_failure: Callable[[], None],
        log: structlog.typing.FilteringBoundLogger,
    ) -> None:
        self.counters = SpeechCounters()
        self._engine = engine
        self._playout = playout
        self._max_queued_chars = max_queued_chars
        self._on_idle = on_idle
        self._on_failure = on_failure
        self._log = log
        self._numbers = itertools.count(1)
        self._waiting: deque[Utterance] = deque()
        self._unfinished: dict[int, Utterance] = {}
        self._stream: SpeechStream | None = None
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def idle(self) -> bool:
        """Whether there is nothing left to say: all has been played."""
        return not self._unfinished

    def check(self, text: str, voice: str | None, *, behind_queue: bool = True) -> None:
        """Raise what say() would, short of saying it: EngineError or QueueFullError.

        behind_queue: whether the text would wait behind what is queued now; False if that is to be cleared first.
        """
        self._engine.check(SpeechRequest(text, voice, SAMPLE_RATE))
        queued = sum(len(utterance.text) for utterance in self._waiting) if behind_queue else 0
        if queued + len(text) > self._max_queued_chars:
            raise QueueFullError(f"{queued} characters are waiting to be spoken")
        if behind_queue and len(self._unfinished) >= MAX_UTTERANCES:
            raise QueueFullError(f"{MAX_UTTERANCES} utterances are waiting to be spoken")

    def say(self, text: str, voice: str | None) -> int:
        """Queue a text; returns the utterance's number. Raises as check() does."""
        self.check(text, voice)
        utterance = Utterance(next(self._numbers), text, voice)
        self.counters.utterances += 1
        self._unfinished[utterance.number] = utterance
        self._waiting.append(utterance)
        self._log.debug("speech_queued", utterance=utterance.number, text=text, voice=voice)
        self._wake.set()
        if self._task is None:
            self._task = asyncio.ensure_future(self._run())
            self._task.add_done_callback(self._ended)
        return utterance.number

    def clear(self) -> None:
        """Stop speaking and forget all that is queued; the frame after this is silence."""
        dropped = self._playout.clear()
        for utterance in self._unfinished.values():
            utterance.cleared = True
        count = len(self._unfinished)
        self.counters.cleared += count
        self._unfinished.clear()
        self._waiting.clear()
        if self._stream is not None:
            self._stream.cancel()
        self._wake.set()  # also out of a wait for the buffer to drain
        if count:
            unheard = sum(part.samples for part in dropped) / SAMPLE_RATE
            self._log.info("speech_cleared", utterances=count, unheard_s=round(unheard, 3))
            self._on_idle()

    def close(self) -> None:
        """The call is over. Idempotent."""
        self._on_idle = self._on_failure = _nothing
        self.clear()
        if self._task is not None:
            self._task.cancel()

    def playout_event(self, event: PlayoutEvent) -> None:
        """To be called in the event loop with what the playout buffer reports."""
        if event.kind == "started":
            self._log.info("speech_started", utterance=event.tag)
            return
        utterance = self._unfinished.pop(event.tag, None) if isinstance(event.tag, int) else None
        if utterance is None:
            return  # cleared meanwhile
        if utterance.complete:
            self.counters.played += 1
            self._log.info("speech_finished", utterance=event.tag)
        if self.idle:
            self._on_idle()

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            self._log.error("speech_queue_failed", exc_info=task.exception())
            self._on_failure()

    async def _run(self) -> None:
        """Synthesise one utterance after the other; lives as long as the call."""
        while True:
            while self._waiting:
                await self._speak(self._waiting.popleft())
            self._wake.clear()
            await self._wake.wait()

    async def _speak(self, utterance: Utterance) -> None:
        self._playout.begin(utterance.number)
        chunks = 0
        try:
            chunks = await self._synthesise(utterance)
        except EngineError as error:
            self._count_failure(utterance, str(error), error)
        except Exception as error:  # noqa: BLE001  whatever an engine does wrong, the call goes on
            self._count_failure(utterance, type(error).__name__, error)
        else:
            utterance.complete = chunks > 0
            if not chunks and not utterance.cleared:
                self.counters.unspeakable += 1
                self._log.warning("nothing_speakable", utterance=utterance.number, chars=len(utterance.text))
        finally:
            self._stream = None
        if not utterance.cleared:  # else clear() has closed it, and perhaps another has begun
            self._playout.end()

    def _count_failure(self, utterance: Utterance, reason: str, error: Exception) -> None:
        if not utterance.cleared:
            self.counters.failed += 1
            self._log.error("synthesis_failed", utterance=utterance.number, error=reason)
            self._log.debug("synthesis_failure", utterance=utterance.number, exc_info=error)

    async def _synthesise(self, utterance: Utterance) -> int:
        """Move one utterance's chunks from the engine to the buffer; returns how many."""
        chunks = 0
        request = SpeechRequest(
            utterance.text, utterance.voice, SAMPLE_RATE, buffered_seconds=lambda: self._playout.buffered_seconds
        )
        stream = self._stream = self._engine.synthesize(request)
        try:
            async for chunk in stream:
                chunks += 1
                self.counters.synthesised_s += chunk.seconds
                await self._play(utterance, chunk)
                if utterance.cleared:
                    break
        finally:
            stream.cancel()
        return chunks

    async def _play(self, utterance: Utterance, chunk: PcmChunk) -> None:
        for start in range(0, len(chunk.pcm), _PIECE_BYTES):
            if utterance.cleared:
                return
            self._playout.write(chunk.pcm[start : start + _PIECE_BYTES])
            await self._wait_for_room(utterance)

    async def _wait_for_room(self, utterance: Utterance) -> None:
        """Backpressure: no more is asked of the engine than is soon to be played."""
        while not utterance.cleared and (ahead := self._playout.buffered_seconds - BUFFER_AHEAD_S) > 0:
            self._wake.clear()
            try:
                async with asyncio.timeout(ahead):
                    await self._wake.wait()
            except TimeoutError:
                continue


def _nothing() -> None:
    pass
