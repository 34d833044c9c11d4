"""What one call has still to say: utterances in order, each synthesised while the one before is played.

Text comes in from the call's control; audio goes out to the leg's playout buffer. Nothing waits for a whole
utterance, and clear() reaches every stage at once: queued text, running synthesis, buffered frames.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from mediaserver.patience import Patience
from mediaserver.rtp.playout import PlayoutBuffer, PlayoutEvent
from mediaserver.speech_measures import SpeechMeasures
from mediaserver.speech_underruns import Underrun
from mediaserver.utterance import CutSpeech, Utterance
from tts_engine.engine import BYTES_PER_SAMPLE, Engine, PcmChunk, SpeechRequest, SpeechStream
from tts_engine.errors import EngineBusyError, EngineError, EngineNotReadyError

SAMPLE_RATE = 8000
"G.711's, Hz."
BUFFER_AHEAD_S = 5.0
"Audio is put into the playout buffer while less than this is in it: enough to outlast a busy moment."
PIECE_S = 2.0
"A chunk, which may be a long sentence, goes into the buffer in pieces of this length."
MAX_UTTERANCES = 100
"Not yet played to their end, in one call; short texts too take up room."
MAX_BUFFERED_S = BUFFER_AHEAD_S + 2 * PIECE_S
"What the playout buffer has to hold."


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
    waited: int = 0
    "Utterances that the engine had no room for at first."
    synthesised_s: float = 0.0
    underruns_engine: int = 0
    "Gaps in the middle of an utterance by cause: see speech_underruns."
    underruns_engine_busy: int = 0
    underruns_event_loop: int = 0


@dataclass(frozen=True, slots=True)
class SpeechLimits:
    """What one call may ask of its queue."""

    max_queued_chars: int
    "Of text that waits."
    wait_s: float = 0.0
    "How long a text waits for an engine that is busy or not ready."


class SpeechQueue:
    """The speech of one call. All methods belong to the event loop.

    on_idle is called when all that was asked for has been played, or cleared away; on_failure if the queue itself has
    broken down and will never speak again.
    """

    def __init__(
        self,
        engine: Engine,
        playout: PlayoutBuffer,
        limits: SpeechLimits,
        measures: SpeechMeasures,
        on_idle: Callable[[], None],
        on_failure: Callable[[], None],
        log: structlog.typing.FilteringBoundLogger,
        *,
        sample_rate: int = SAMPLE_RATE,
    ) -> None:
        """sample_rate: Hz, that of the playout buffer."""
        self.counters = SpeechCounters()
        self._loop = asyncio.get_running_loop()
        self._engine = engine
        self._playout = playout
        self._limits = limits
        self._measures = measures
        self._on_idle = on_idle
        self._on_failure = on_failure
        self._log = log
        self._sample_rate = sample_rate
        self._piece_bytes = int(PIECE_S * sample_rate) * BYTES_PER_SAMPLE
        self._numbers = itertools.count(1)
        self._waiting: deque[Utterance] = deque()
        self._unfinished: dict[int, Utterance] = {}
        self._stream: SpeechStream | None = None
        self._silent_since = self._loop.time()
        "When the caller last began to listen, or the last utterance ended."
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
        self._engine.check(SpeechRequest(text, voice, self._sample_rate))
        queued = sum(len(utterance.text) for utterance in self._waiting) if behind_queue else 0
        if queued + len(text) > self._limits.max_queued_chars:
            raise QueueFullError(f"{queued} characters are waiting to be spoken")
        if behind_queue and len(self._unfinished) >= MAX_UTTERANCES:
            raise QueueFullError(f"{MAX_UTTERANCES} utterances are waiting to be spoken")

    def say(self, text: str, voice: str | None) -> int:
        """Queue a text; returns the utterance's number. Raises as check() does."""
        self.check(text, voice)
        utterance = Utterance(next(self._numbers), text, voice, came=self._loop.time(), queued=not self.idle)
        self.counters.utterances += 1
        self._unfinished[utterance.number] = utterance
        self._waiting.append(utterance)
        self._log.debug("speech_queued", utterance=utterance.number, text=text, voice=voice)
        self._wake.set()
        if self._task is None:
            self._task = asyncio.ensure_future(self._run())
            self._task.add_done_callback(self._ended)
        return utterance.number

    def clear(self) -> list[CutSpeech]:
        """Stop speaking and forget all that is queued; the frame after this is silence.

        Returns what was cut, in the order of saying: an utterance that has been heard to its end is not among it.
        """
        dropped = {part.tag: part for part in self._playout.clear()}
        unfinished = list(self._unfinished.values())
        cut = []
        for utterance in unfinished:
            utterance.cleared = True
            self._count_underrun(utterance)
            part = dropped.get(utterance.number)
            if part is not None or not utterance.ended:  # else it has been played out, and the event is on its way
                cut.append(utterance.cut(part, self._sample_rate))
        self.counters.cleared += len(unfinished)
        self._unfinished.clear()
        self._waiting.clear()
        if self._stream is not None:
            self._stream.cancel()
        self._wake.set()  # also out of a wait for the buffer to drain
        if unfinished:
            unheard = sum(part.samples for part in dropped.values()) / self._sample_rate
            self._log.info("speech_cleared", utterances=len(unfinished), unheard_s=round(unheard, 3))
            self._on_idle()
        return cut

    def close(self) -> None:
        """The call is over. Idempotent."""
        self._on_idle = self._on_failure = _nothing
        self.clear()
        if self._task is not None:
            self._task.cancel()

    def listening(self) -> None:
        """The caller hears us from now on: after the ACK, or after a hold."""
        self._silent_since = self._loop.time()

    def playout_event(self, event: PlayoutEvent) -> None:
        """To be called in the event loop with what the playout buffer reports."""
        utterance = self._unfinished.get(event.tag) if isinstance(event.tag, int) else None
        if event.kind == "started":
            self._log.info("speech_started", utterance=event.tag)
        if event.kind == "finished":
            self._silent_since = self._loop.time()
        if utterance is None:
            return  # cleared meanwhile
        match event.kind:
            case "started":
                waited = self._loop.time() - max(utterance.came, self._silent_since)
                self._measures.first_packet(waited, queued=utterance.queued)
            case "underrun":
                self._note_underrun(utterance, event.at)
            case "resumed":
                self._count_underrun(utterance, event.gap_s)
            case "finished":
                self._finished(utterance)

    def _finished(self, utterance: Utterance) -> None:
        del self._unfinished[utterance.number]
        self._count_underrun(utterance)
        if utterance.complete:
            self.counters.played += 1
            self._log.info("speech_finished", utterance=utterance.number)
        if self.idle:
            self._on_idle()

    def _note_underrun(self, utterance: Utterance, began: float) -> None:
        busy = isinstance(self._engine.available(), EngineBusyError)
        utterance.underrun = underrun = Underrun(began, time.monotonic(), busy)
        if utterance.written_at >= began:  # before we came to this
            underrun.audio = utterance.written_at

    def _count_underrun(self, utterance: Utterance, gap_s: float | None = None) -> None:
        """The underrun that lasted, if one did, is over; without gap_s, because the utterance is."""
        underrun, utterance.underrun = utterance.underrun, None
        if underrun is None:
            return
        now = time.monotonic()
        cause = underrun.cause(now)
        match cause:
            case "engine":
                self.counters.underruns_engine += 1
            case "engine_busy":
                self.counters.underruns_engine_busy += 1
            case "event_loop":
                self.counters.underruns_event_loop += 1
        self._log.warning(
            "speech_underrun",
            utterance=utterance.number,
            cause=cause,
            gap_ms=round(1000 * (now - underrun.began if gap_s is None else gap_s)),
            loop_late_ms=round(1000 * underrun.late),
            prebuffer_ms=round(1000 * self._playout.depth_s),
        )

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
        try:
            await self._synthesise(utterance)
        except EngineError as error:
            self._count_failure(utterance, str(error), error)
        except Exception as error:  # noqa: BLE001  whatever an engine does wrong, the call goes on
            self._count_failure(utterance, type(error).__name__, error)
        else:
            utterance.complete = utterance.chunks > 0
            if not utterance.chunks and not utterance.cleared:
                self.counters.unspeakable += 1
                self._log.warning("nothing_speakable", utterance=utterance.number, chars=len(utterance.text))
        finally:
            self._stream = None
        if not utterance.cleared:  # else clear() has closed it, and perhaps another has begun
            self._playout.end()
            utterance.ended = True

    def _count_failure(self, utterance: Utterance, reason: str, error: Exception) -> None:
        if not utterance.cleared:
            self.counters.failed += 1
            self._log.error("synthesis_failed", utterance=utterance.number, error=reason)
            self._log.debug("synthesis_failure", utterance=utterance.number, exc_info=error)

    async def _synthesise(self, utterance: Utterance) -> None:
        """Have one utterance spoken, as soon as the engine has room for it within the limit. Raises EngineError."""
        turn = self._loop.time()
        patience = Patience(self._limits.wait_s, turn)
        waited = False
        while not utterance.cleared:
            try:
                await self._receive(utterance, turn)
                return
            except (EngineBusyError, EngineNotReadyError) as error:
                pause = patience.pause(self._loop.time())
                if utterance.chunks or pause is None:
                    raise
                if not waited:
                    waited = True
                    self.counters.waited += 1
                    self._log.warning("speech_waits", utterance=utterance.number, reason=str(error))
            await self._sleep(utterance, pause)

    async def _receive(self, utterance: Utterance, turn: float) -> None:
        """Move one utterance's chunks from the engine to the buffer."""
        request = SpeechRequest(
            utterance.text, utterance.voice, self._sample_rate, buffered_seconds=lambda: self._playout.buffered_seconds
        )
        stream = self._stream = self._engine.synthesize(request)
        try:
            async for chunk in stream:
                if not utterance.chunks:
                    since = turn if utterance.queued else utterance.came
                    self._measures.first_pcm(self._loop.time() - since, queued=utterance.queued)
                utterance.chunks += 1
                utterance.received_s += chunk.seconds
                self.counters.synthesised_s += chunk.seconds
                await self._play(utterance, chunk)
                if utterance.cleared:
                    break
        finally:
            stream.cancel()

    async def _play(self, utterance: Utterance, chunk: PcmChunk) -> None:
        pcm = memoryview(chunk.pcm)  # pieces without copies: a cached prompt is one object for all calls
        for start in range(0, len(pcm), self._piece_bytes):
            if utterance.cleared:
                return
            self._playout.write(pcm[start : start + self._piece_bytes])
            utterance.written_at = time.monotonic()
            if utterance.underrun is not None and utterance.underrun.audio is None:
                utterance.underrun.audio = utterance.written_at
            await self._wait_for_room(utterance)

    async def _wait_for_room(self, utterance: Utterance) -> None:
        """Backpressure: no more is asked of the engine than is soon to be played."""
        while not utterance.cleared and (ahead := self._playout.buffered_seconds - BUFFER_AHEAD_S) > 0:
            await self._sleep(utterance, ahead)

    async def _sleep(self, utterance: Utterance, seconds: float) -> None:
        """That long, or until something has happened: a clear, a close, a new text."""
        if utterance.cleared:
            return
        self._wake.clear()
        timer = self._loop.call_later(seconds, self._wake.set)
        try:
            await self._wake.wait()
        finally:
            timer.cancel()


def _nothing() -> None:
    pass
