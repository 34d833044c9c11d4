"""Moves the audio of one segment after the other from its source into the playout buffer.

A segment is asked of its source while the one before is played, and only so much of it as is soon to be heard.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from mediaserver.rtp.playout import PlayoutBuffer
from mediaserver.speech.limits import SpeechCounters
from mediaserver.speech.measures import SpeechMeasures
from mediaserver.speech.patience import Patience
from mediaserver.speech.script import Pause, Sound, Words
from mediaserver.speech.segment import Segment
from mediaserver.speech.source import SilenceStream, SoundError, SoundStream
from tts_engine.engine import BYTES_PER_SAMPLE, Engine, PcmChunk, SpeechRequest, SpeechStream
from tts_engine.errors import EngineBusyError, EngineError, EngineNotReadyError

BUFFER_AHEAD_S = 5.0
"Audio is put into the playout buffer while less than this is in it: enough to outlast a busy moment."
PIECE_S = 2.0
"A chunk, which may be a long sentence, goes into the buffer in pieces of this length."
MAX_BUFFERED_S = BUFFER_AHEAD_S + 2 * PIECE_S
"What the playout buffer has to hold."


@dataclass(slots=True, eq=False)
class _Begun:
    """A segment that was asked of its source before the task came to it."""

    segment: Segment
    turn: float
    outcome: SpeechStream | Exception


class SpeechFeed:
    """Of one call; belongs to the event loop.

    take: the next segment, None while there is none. on_done: a segment has ended, with the reason if it failed; not
    for one that was cleared. on_broken: nothing will ever be spoken again.
    """

    def __init__(
        self,
        engine: Engine,
        playout: PlayoutBuffer,
        wait_s: float,
        measures: SpeechMeasures,
        counters: SpeechCounters,
        take: Callable[[], Segment | None],
        on_done: Callable[[Segment, str | None], None],
        on_broken: Callable[[], None],
        log: structlog.typing.FilteringBoundLogger,
        *,
        sample_rate: int,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._engine = engine
        self._playout = playout
        self._wait_s = wait_s
        self._measures = measures
        self._counters = counters
        self._take = take
        self._on_done = on_done
        self._on_broken = on_broken
        self._log = log
        self._sample_rate = sample_rate
        self._piece_bytes = int(PIECE_S * sample_rate) * BYTES_PER_SAMPLE
        self._resting = True
        self._closed = False
        self._begun: _Begun | None = None
        self._stream: SpeechStream | None = None
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def request(self, words: Words, voice: str | None) -> SpeechRequest:
        """What the engine is asked for."""
        return SpeechRequest(
            words.text,
            words.voice or voice,
            self._sample_rate,
            buffered_seconds=lambda: self._playout.buffered_seconds,
            rate=words.rate,
            phonemes=words.phonemes,
        )

    def news(self) -> None:
        """There may be something to speak: if nothing else is in hand it is asked for now, not when the task runs."""
        if self._closed:
            return
        if self._resting and self._begun is None and (segment := self._take()) is not None:
            self._begun = _Begun(segment, self._loop.time(), self._try(segment))
        self._wake.set()
        if self._task is None:
            self._task = asyncio.ensure_future(self._run())
            self._task.add_done_callback(self._ended)

    def cut(self) -> None:
        """What is in hand has been cleared."""
        if self._stream is not None:
            self._stream.cancel()
        begun, self._begun = self._begun, None
        if begun is not None and not isinstance(begun.outcome, Exception):
            begun.outcome.cancel()
        self._wake.set()  # also out of a wait for the buffer to drain

    def close(self) -> None:
        """Idempotent."""
        self._closed = True
        self.cut()
        if self._task is not None:
            self._task.cancel()

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            self._log.error("speech_queue_failed", exc_info=task.exception())
            self._on_broken()

    async def _run(self) -> None:
        """Lives as long as the call."""
        while True:
            while (begun := self._next()) is not None:
                self._resting = False
                await self._speak(begun)
            self._resting = True
            self._wake.clear()
            await self._wake.wait()

    def _next(self) -> _Begun | None:
        begun, self._begun = self._begun, None
        if begun is None and (segment := self._take()) is not None:
            begun = _Begun(segment, self._loop.time(), self._try(segment))
        return begun

    def _try(self, segment: Segment) -> SpeechStream | Exception:
        try:
            return self._open(segment)
        except Exception as error:  # noqa: BLE001  raised again where it is dealt with
            return error

    def _open(self, segment: Segment) -> SpeechStream:
        match segment.part:
            case Words():
                return self._engine.synthesize(self.request(segment.part, segment.voice))
            case Pause(milliseconds):
                return SilenceStream(milliseconds, self._sample_rate)
            case Sound():
                return SoundStream(segment.part, self._sample_rate)

    async def _speak(self, begun: _Begun) -> None:
        segment = begun.segment
        self._playout.begin(segment.tag)
        failure: str | None = None
        try:
            await self._fetch(begun)
        except Exception as error:  # noqa: BLE001  whatever an engine or a sound does wrong, the call goes on
            failure = self._failed(segment, error)
        else:
            segment.complete = not segment.cleared
        finally:
            self._stream = None
        if not segment.cleared:  # else the queue has closed it, and perhaps another has begun
            self._playout.end()
            segment.ended = True
            self._on_done(segment, failure)

    def _failed(self, segment: Segment, error: Exception) -> str:
        """What to tell of it. Only an engine's own messages are known to quote no text."""
        ours = isinstance(error, EngineError | SoundError)
        reason = str(error) if ours else type(error).__name__
        if segment.cleared:
            return reason
        if isinstance(segment.part, Sound):
            self._log.warning("sound_failed", utterance=segment.number, sound=segment.part.label, error=reason)
            self._log.debug("sound_failure", utterance=segment.number, exc_info=error)
            return f"Sound: {reason if ours else str(error) or reason}"
        self._log.error("synthesis_failed", utterance=segment.number, error=reason)
        self._log.debug("synthesis_failure", utterance=segment.number, exc_info=error)
        return reason

    async def _fetch(self, begun: _Begun) -> None:
        """Have one segment spoken, as soon as the engine has room for it within the limit. Raises as its source."""
        segment, outcome = begun.segment, begun.outcome
        patience = Patience(self._wait_s, begun.turn)
        waited = False
        while not segment.cleared:
            try:
                await self._receive(segment, outcome, begun.turn)
                return
            except (EngineBusyError, EngineNotReadyError) as error:
                pause = patience.pause(self._loop.time())
                if segment.chunks or pause is None:
                    raise
                if not waited:
                    waited = True
                    self._counters.waited += 1
                    self._log.warning("speech_waits", utterance=segment.number, reason=str(error))
            await self._sleep(segment, pause)
            if not segment.cleared:
                outcome = self._try(segment)

    async def _receive(self, segment: Segment, outcome: SpeechStream | Exception, turn: float) -> None:
        """Move one segment's chunks from its source to the buffer."""
        if isinstance(outcome, Exception):
            raise outcome
        stream = self._stream = outcome
        try:
            async for chunk in stream:
                self._note(segment, chunk, turn)
                await self._play(segment, chunk)
                if segment.cleared:
                    break
        finally:
            stream.cancel()

    def _note(self, segment: Segment, chunk: PcmChunk, turn: float) -> None:
        if isinstance(segment.part, Words):
            if not segment.chunks:
                since = turn if segment.queued else segment.came
                self._measures.first_pcm(self._loop.time() - since, queued=segment.queued)
            self._counters.synthesised_s += chunk.seconds
        segment.chunks += 1
        segment.received_s += chunk.seconds

    async def _play(self, segment: Segment, chunk: PcmChunk) -> None:
        pcm = memoryview(chunk.pcm)  # pieces without copies: a cached prompt is one object for all calls
        for start in range(0, len(pcm), self._piece_bytes):
            if segment.cleared:
                return
            piece = pcm[start : start + self._piece_bytes]
            self._playout.write(piece)
            segment.written_s += len(piece) / (BYTES_PER_SAMPLE * self._sample_rate)
            segment.written_at = time.monotonic()
            if segment.underrun is not None and segment.underrun.audio is None:
                segment.underrun.audio = segment.written_at
            await self._wait_for_room(segment)

    async def _wait_for_room(self, segment: Segment) -> None:
        """Backpressure: no more is asked of the source than is soon to be played."""
        while not segment.cleared and (ahead := self._playout.buffered_seconds - BUFFER_AHEAD_S) > 0:
            await self._sleep(segment, ahead)

    async def _sleep(self, segment: Segment, seconds: float) -> None:
        """That long, or until something has happened: a clear, a close, more to speak."""
        if segment.cleared:
            return
        self._wake.clear()
        timer = self._loop.call_later(seconds, self._wake.set)
        try:
            await self._wake.wait()
        finally:
            timer.cancel()
