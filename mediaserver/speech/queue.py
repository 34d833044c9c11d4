"""What one call has still to say: utterances in order, the parts of each heard directly one after the other.

Scripts come in from the call's control, whole or word by word; audio goes out to the leg's playout buffer. Nothing
waits for a whole utterance, and clear() reaches every stage at once: queued text, running synthesis, buffered frames.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

import structlog

from mediaserver.config import BargeInPolicy
from mediaserver.rtp.playout import PlayoutBuffer, PlayoutEvent
from mediaserver.speech.backlog import Backlog
from mediaserver.speech.events import SpeechEvent, SpeechFailed, SpeechStarted
from mediaserver.speech.feed import BUFFER_AHEAD_S, MAX_BUFFERED_S, PIECE_S, SpeechFeed
from mediaserver.speech.limits import MAX_UTTERANCES, QueueFullError, SpeechCounters, SpeechLimits, TurnOpenError
from mediaserver.speech.measures import SpeechMeasures
from mediaserver.speech.script import Script, Sound, Words, plain_text
from mediaserver.speech.segment import Segment
from mediaserver.speech.turn import SpeechTurn
from mediaserver.speech.underruns import UnderrunWatch
from mediaserver.speech.utterance import CutSpeech, Utterance
from mediaserver.speech.view import SpeechView
from tts_engine.engine import Engine

__all__ = [
    "BUFFER_AHEAD_S",
    "MAX_BUFFERED_S",
    "MAX_UTTERANCES",
    "PIECE_S",
    "QueueFullError",
    "SpeechCounters",
    "SpeechLimits",
    "SpeechQueue",
    "TurnOpenError",
]

SAMPLE_RATE = 8000
"G.711's, Hz."


class SpeechQueue:
    """The speech of one call. All methods belong to the event loop.

    on_event is called with what happens to utterances, in order: for each that is not cut, a SpeechFinished. on_idle is
    called when all that was asked for has been heard, or cleared away, and no utterance is open; on_failure if the
    queue itself has broken down and will never speak again.
    """

    def __init__(
        self,
        engine: Engine,
        playout: PlayoutBuffer,
        limits: SpeechLimits,
        measures: SpeechMeasures,
        on_event: Callable[[SpeechEvent], None],
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
        self._on_event = on_event
        self._on_idle = on_idle
        self._on_failure = on_failure
        self._log = log
        self._sample_rate = sample_rate
        self._backlog = Backlog()
        self._silent_since = self._loop.time()
        "When the caller last began to listen, or the last segment ended."
        self._underruns = UnderrunWatch(engine, playout, self.counters, log)
        self._feed = SpeechFeed(
            engine,
            playout,
            limits.wait_s,
            measures,
            self.counters,
            self._backlog.take,
            self._synthesised,
            self._broken,
            log,
            sample_rate=sample_rate,
        )

    @property
    def idle(self) -> bool:
        """Whether there is nothing left to say: all has been heard, and no utterance is open."""
        return not self._backlog.utterances

    @property
    def barge_in(self) -> BargeInPolicy | None:
        """What interrupts the utterance that is being heard; None for the call's policy, or if none is."""
        first = self._backlog.first
        return first.barge_in if first is not None and first.started else None

    def views(self) -> tuple[SpeechView, ...]:
        """What is being said, then what waits."""
        return self._backlog.views(self._playout.buffered_seconds)

    def check(self, script: Script | str, voice: str | None, *, behind_queue: bool = True) -> None:
        """Raise what say() would, short of saying it: EngineError or QueueFullError.

        behind_queue: whether it would wait behind what is queued now; False if that is to be cleared first.
        """
        self._check_parts(_as_script(script), voice, behind_queue=behind_queue)
        if behind_queue and len(self._backlog.utterances) >= MAX_UTTERANCES:
            raise QueueFullError(f"{MAX_UTTERANCES} utterances are waiting to be spoken")

    def say(
        self,
        script: Script | str,
        voice: str | None = None,
        *,
        mark: str | None = None,
        barge_in: BargeInPolicy | None = None,
    ) -> int:
        """Queue an utterance; its number. Raises as check() does.

        voice: of words that have none of their own. mark: one at its end. barge_in: what interrupts it while it is
        heard, None for the call's policy.
        """
        parts = _as_script(script)
        self.check(parts, voice)
        utterance = self._backlog.begin(voice, mark, barge_in, open_=False)
        self.counters.utterances += 1
        self._log.debug("speech_queued", utterance=utterance.number, text=plain_text(parts), voice=voice)
        self._append(utterance, parts)
        return utterance.number

    def open(self, voice: str | None = None, *, barge_in: BargeInPolicy | None = None) -> SpeechTurn:
        """Queue an utterance whose words are yet to come. Raises EngineError, QueueFullError, TurnOpenError."""
        if any(utterance.open for utterance in self._backlog.utterances.values()):
            raise TurnOpenError("an utterance is still open")
        self.check("", voice)
        utterance = self._backlog.begin(voice, None, barge_in, open_=True)
        self.counters.utterances += 1
        return SpeechTurn(utterance, self._add, self._end)

    def clear(self) -> list[CutSpeech]:
        """Stop speaking and forget all that is queued; the frame after this is silence.

        Returns what was cut, in the order of saying: an utterance that has been heard to its end is not among it.
        """
        dropped = {part.tag: part for part in self._playout.clear()}
        was_idle = self.idle
        for segment in tuple(self._backlog.segments.values()):
            if segment.ended and segment.tag not in dropped:  # it has been played out, and the event is on its way
                self._heard(segment)
        events = self._leave()
        cut, segments = self._backlog.cut(dropped, self._sample_rate)
        for segment in segments:
            self._underruns.over(segment)
        self._feed.cut()
        if cut:
            self.counters.cleared += len(cut)
            unheard = sum(part.samples for part in dropped.values()) / self._sample_rate
            self._log.info("speech_cleared", utterances=len(cut), unheard_s=round(unheard, 3))
        self._tell(events)
        if not was_idle and self.idle:
            self._on_idle()
        return cut

    def close(self) -> None:
        """The call is over: nothing more is told. Idempotent."""
        self._on_idle = self._on_failure = _nothing
        self._on_event = _untold
        self.clear()
        self._feed.close()

    def listening(self) -> None:
        """The caller hears us from now on: after the ACK, or after a hold."""
        self._silent_since = self._loop.time()

    def playout_event(self, event: PlayoutEvent) -> None:
        """To be called in the event loop with what the playout buffer reports."""
        segment = self._backlog.segments.get(event.tag) if isinstance(event.tag, int) else None
        if event.kind == "finished":
            self._silent_since = self._loop.time()
        if segment is None:
            return  # cleared meanwhile
        match event.kind:
            case "started":
                self._started(segment)
            case "underrun":
                self._underruns.began(segment, event.at)
            case "resumed":
                self._underruns.over(segment, event.gap_s)
            case "finished":
                self._heard(segment)
                self._advance()

    # What comes in:

    def _check_parts(self, parts: Script, voice: str | None, *, behind_queue: bool) -> None:
        for part in parts:
            if isinstance(part, Words):
                self._engine.check(self._feed.request(part, voice))
        self._backlog.check_room(parts, self._limits.max_queued_chars, behind_queue=behind_queue)

    def _add(self, utterance: Utterance, parts: Script) -> None:
        """More of an open utterance."""
        self._check_parts(parts, utterance.voice, behind_queue=True)
        self._log.debug("speech_added", utterance=utterance.number, text=plain_text(parts))
        self._append(utterance, parts)

    def _end(self, utterance: Utterance) -> None:
        utterance.open = False
        self._judge(utterance)
        self._proceed()

    def _append(self, utterance: Utterance, parts: Script) -> None:
        self._backlog.append(utterance, parts, self._loop.time())
        self._proceed()

    def _proceed(self) -> None:
        self._feed.news()
        if self._backlog.passable:
            # After whoever spoke to us has the answer: an utterance is not over before its number is known.
            self._loop.call_soon(self._advance)

    # What is spoken:

    def _synthesised(self, segment: Segment, failure: str | None) -> None:
        utterance = self._backlog.utterances[segment.number]
        utterance.audible = utterance.audible or segment.chunks > 0
        if failure is not None:
            self._failed(utterance, segment, failure)
        self._judge(utterance)

    def _failed(self, utterance: Utterance, segment: Segment, reason: str) -> None:
        if isinstance(segment.part, Sound):
            self.counters.sounds_failed += 1
        elif not utterance.failed:
            self.counters.failed += 1
        if not utterance.failed:
            utterance.failed = True
            self._on_event(SpeechFailed(utterance.number, reason))

    def _judge(self, utterance: Utterance) -> None:
        """Whether there was anything to speak in it, once that is known."""
        silent = utterance.worded and not utterance.audible and not utterance.failed
        if silent and not utterance.unspeakable and utterance.synthesised:
            utterance.unspeakable = True
            self.counters.unspeakable += 1
            self._log.warning("nothing_speakable", utterance=utterance.number, chars=utterance.chars)

    def _broken(self) -> None:
        self._on_failure()

    # What is heard:

    def _started(self, segment: Segment) -> None:
        segment.started = True
        utterance = self._backlog.utterances[segment.number]
        if isinstance(segment.part, Words):
            waited = self._loop.time() - max(segment.came, self._silent_since)
            self._measures.first_packet(waited, queued=segment.queued)
        if not utterance.started:
            utterance.started = True
            self._log.info("speech_started", utterance=utterance.number)
            self._on_event(SpeechStarted(utterance.number))

    def _heard(self, segment: Segment) -> None:
        """To its end."""
        self._backlog.heard(segment)
        self._underruns.over(segment)

    def _advance(self) -> None:
        """Tell of the marks that were passed and of the utterances that are over."""
        was_idle = self.idle
        self._tell(self._leave())
        if not was_idle and self.idle:
            self._on_idle()

    def _leave(self) -> list[SpeechEvent]:
        """What to tell once all is in order again: who hears of it may clear, or say more."""
        events, over = self._backlog.leave()
        for utterance in over:
            if not utterance.failed and not utterance.unspeakable:
                self.counters.played += 1
                self._log.info("speech_finished", utterance=utterance.number)
        return events

    def _tell(self, events: Iterable[SpeechEvent]) -> None:
        for event in events:
            self._on_event(event)


def _as_script(script: Script | str) -> Script:
    return (Words(script),) if isinstance(script, str) else script


def _nothing() -> None:
    pass


def _untold(_event: SpeechEvent) -> None:
    pass
