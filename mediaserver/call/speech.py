"""What is said on one call: taken or refused, interrupted by what may interrupt it, and told about."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import structlog

from mediaserver.call.control import SpeechTurn
from mediaserver.call.engines import CallEngine
from mediaserver.call.media import CallMedia
from mediaserver.call.reporter import CallReporter
from mediaserver.config import BargeInPolicy, CallsConfig
from mediaserver.refusal import RefusedError
from mediaserver.rtp.endpoint import deliver_to
from mediaserver.rtp.playout import PlayoutEvent
from mediaserver.speech.events import MarkReached, SpeechEvent, SpeechFailed, SpeechFinished, SpeechStarted
from mediaserver.speech.limits import QueueFullError, SpeechCounters, SpeechLimits, TurnOpenError
from mediaserver.speech.queue import SpeechQueue
from mediaserver.speech.script import Part, Script, Words, plain_text
from mediaserver.speech.utterance import CutSpeech
from mediaserver.speech.view import SpeechView
from tts_engine.errors import EngineError, TextTooLongError, UnknownVoiceError

QUEUE_RETRY_S = "5"


class CallSpeech:
    """All methods belong to the event loop."""

    def __init__(
        self,
        engine: CallEngine,
        media: CallMedia,
        calls: CallsConfig,
        reporter: CallReporter,
        on_idle: Callable[[], None],
        on_failure: Callable[[], None],
        log: structlog.typing.FilteringBoundLogger,
    ) -> None:
        """on_idle is called when all has been said or cleared; on_failure if no more can be."""
        self.voice: str | None = None
        "The call's."
        self.first_audio_ms: float | None = None
        "From when the peer first listened to the first speech that it was sent."
        self._engine = engine
        self._media = media
        self._max_text_chars = calls.max_text_chars
        self._reporter = reporter
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._listening_since: float | None = None
        self._policy = media.hearing.barge_in_policy
        self._policies: dict[int, BargeInPolicy | None] = {}
        "Of the utterances not heard to their end, in order."
        self._queue = SpeechQueue(
            engine.engine,
            media.playout,
            SpeechLimits(calls.max_queued_chars, calls.speech_wait_s),
            engine.measures,
            self._happened,
            on_idle,
            on_failure,
            log,
            sample_rate=media.playout_rate,
        )
        media.playout.on_event = deliver_to(self._loop, self._queue.playout_event)

    @property
    def idle(self) -> bool:
        """All has been heard, and no turn is open."""
        return self._queue.idle

    @property
    def counters(self) -> SpeechCounters:
        return self._queue.counters

    def views(self) -> tuple[SpeechView, ...]:
        return self._queue.views()

    # Taking it:

    def known(self, voice: str | None) -> str | None:
        """The voice that this call's engine is to speak with."""
        chosen = self._engine.voice(voice)
        if chosen != voice:
            self._log.warning("voice_replaced", voice=voice, by=self._engine.engine.default_voice)
        return chosen

    def check(self, script: Script | str, voice: str | None, *, behind_queue: bool = True) -> None:
        """Raises RefusedError as say() would; behind_queue: False if what is queued is to be cleared first."""
        with _in_words():
            self._check_length(script if isinstance(script, str) else plain_text(script))
            self._queue.check(script, voice, behind_queue=behind_queue)

    def say(
        self,
        script: Script | str,
        voice: str | None = None,
        *,
        mark: str | None = None,
        barge_in: BargeInPolicy | None = None,
    ) -> int:
        """Queue an utterance; its number. voice: None for the call's. Raises RefusedError."""
        with _in_words():
            self._check_length(script if isinstance(script, str) else plain_text(script))
            number = self._queue.say(script, voice or self.voice, mark=mark, barge_in=barge_in)
        self._queued(number, mark, barge_in)
        return number

    def open_turn(self, voice: str | None = None, *, barge_in: BargeInPolicy | None = None) -> SpeechTurn:
        """Queue an utterance whose words are yet to come. Raises RefusedError."""
        with _in_words():
            turn = self._queue.open(voice or self.voice, barge_in=barge_in)
        self._queued(turn.number, None, barge_in)
        return _Turn(turn, self._check_length)

    def _check_length(self, text: str) -> None:
        """Raises TextTooLongError."""
        if len(text) > self._max_text_chars:
            raise TextTooLongError(len(text), self._max_text_chars)

    def _queued(self, number: int, mark: str | None, barge_in: BargeInPolicy | None) -> None:
        self._policies[number] = barge_in
        self._apply_policy()
        self._reporter.publish("speech.queued", utterance=number, mark=mark)

    # What interrupts it:

    def set_policy(self, policy: BargeInPolicy) -> None:
        """What interrupts utterances that have no policy of their own."""
        self._policy = policy
        self._apply_policy()

    def _apply_policy(self) -> None:
        """That of the utterance being heard, or about to be."""
        own = next(iter(self._policies.values()), None)
        policy = self._policy if own is None else own
        if policy != self._media.hearing.barge_in_policy:
            self._media.hearing.set_barge_in(policy)

    def clear(self) -> list[CutSpeech]:
        """Stop speaking and forget what is queued; what was cut."""
        cut = self._cut()
        if cut:
            self._reporter.publish(
                "speech.cleared", utterance=cut[0].number, played_ms=cut[0].played_ms, utterances=len(cut)
            )
        return cut

    def interrupt(self, cause: Literal["speech", "digit"], after_ms: int) -> None:
        """The caller has interrupted. after_ms: how long before the caller began to."""
        cut = self._cut()
        if not cut:
            return
        spoken = cut[0]
        fields: dict[str, object] = {
            "cause": cause,
            "utterance": spoken.number,
            "played_ms": spoken.played_ms,
            "total_ms": spoken.total_ms,
            "utterances": len(cut),
        }
        self._log.info("interrupted", after_ms=after_ms, words_heard=len(spoken.heard_text.split()), **fields)
        self._log.debug("interrupted_text", utterance=spoken.number, heard=spoken.heard_text)
        if cause == "digit":
            fields["digit"] = self._media.hearing.last_digit
        self._reporter.publish("speech.interrupted", heard_text=spoken.heard_text, **fields)

    def _cut(self) -> list[CutSpeech]:
        self._policies.clear()  # first: whoever hears of the end of one may say the next
        self._media.hearing.mid_utterance = False
        cut = self._queue.clear()
        self._apply_policy()
        return cut

    # The call's life:

    def listening(self) -> None:
        """The peer hears us from now on: after the answer, or after a hold."""
        if self._listening_since is None:
            self._listening_since = self._loop.time()
        self._queue.listening()

    def close(self) -> None:
        """The call is over. Idempotent."""
        self._queue.close()
        self._media.playout.on_event = _unheard

    def _happened(self, event: SpeechEvent) -> None:
        match event:
            case SpeechStarted(number):
                self._forget_before(number)
                self._media.hearing.mid_utterance = True
                if self.first_audio_ms is None and self._listening_since is not None:
                    self.first_audio_ms = round(1000 * (self._loop.time() - self._listening_since), 1)
                self._reporter.publish("speech.started", utterance=number)
            case SpeechFinished(number, played_ms, mark):
                self._forget_before(number + 1)
                self._media.hearing.mid_utterance = False
                self._reporter.publish("speech.finished", utterance=number, played_ms=played_ms, mark=mark)
            case MarkReached(name, number):
                self._reporter.publish("mark.reached", name=name, utterance=number)
            case SpeechFailed(number, reason):
                self._reporter.publish("speech.failed", utterance=number, reason=reason)

    def _forget_before(self, number: int) -> None:
        """Those before it have been heard."""
        for heard in [other for other in self._policies if other < number]:
            del self._policies[heard]
        self._apply_policy()


class _Turn:
    """An open utterance: its errors in words."""

    def __init__(self, turn: SpeechTurn, check: Callable[[str], None]) -> None:
        self._turn = turn
        self._check = check

    @property
    def number(self) -> int:
        return self._turn.number

    @property
    def open(self) -> bool:
        return self._turn.open

    def add(self, *parts: Part) -> None:
        """Raises RefusedError."""
        if not self._turn.open:
            return
        with _in_words():
            self._check(_text_of(parts))
            self._turn.add(*parts)

    def end(self) -> None:
        self._turn.end()


def _text_of(parts: Sequence[Part]) -> str:
    return " ".join(part.text for part in parts if isinstance(part, Words))


@contextmanager
def _in_words() -> Iterator[None]:
    """What a queue or an engine refuses, as whoever asked is to be told."""
    try:
        yield
    except UnknownVoiceError as error:
        raise RefusedError(400, f"Unknown Voice '{error.voice}'") from None
    except TextTooLongError as error:
        reason = f"Text Of {error.length} Characters Is Over The Limit Of {error.limit}"
        raise RefusedError(413, reason) from None
    except TurnOpenError:
        raise RefusedError(491, "Another Utterance Is Still Being Written") from None
    except QueueFullError:
        raise RefusedError(413, "Speech Queue Is Full", (("Retry-After", QUEUE_RETRY_S),)) from None
    except EngineError as error:
        raise RefusedError(503, f"Speech Engine: {error}", (("Retry-After", QUEUE_RETRY_S),)) from None


def _unheard(_event: PlayoutEvent) -> None:
    """The call is over."""
