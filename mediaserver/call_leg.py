"""One call: its SIP session, RTP session and speech queue joined; ended once, in one place."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

import structlog

from mediaserver.call_digits import CallDigits
from mediaserver.call_engines import CallEngine
from mediaserver.call_media import CallMedia, DigitsSent, MediaEvent, MediaServices
from mediaserver.call_quality import quality_fields
from mediaserver.config import CallsConfig
from mediaserver.dtmf_info import DTMF_TYPES, parse_dtmf_info
from mediaserver.negotiation import MediaFormat
from mediaserver.refusal import RefusedError
from mediaserver.rtp.barge_in import Interruption
from mediaserver.rtp.dtmf import DtmfEvent
from mediaserver.rtp.endpoint import RtpEndpoint, deliver_to
from mediaserver.rtp.health import MediaFailure
from mediaserver.rtp.playout import PlayoutBuffer, PlayoutEvent
from mediaserver.rtp.session import RtpSession
from mediaserver.speech_order import BODY_TYPES, SpeechOrder, parse_order
from mediaserver.speech_queue import QueueFullError, SpeechLimits, SpeechQueue
from sip.invite_session import EndCause, InviteSession, Reply
from sip.message import IncomingRequest
from sip.sdp import CONTENT_TYPE as SDP_TYPE
from tts_engine.errors import EngineError, TextTooLongError, UnknownVoiceError

QUEUE_RETRY_S = "5"


class EndReason(StrEnum):
    """Why a call ended, for the log and the metrics."""

    CALLER_HUNG_UP = "caller_hung_up"
    PLAYED = "played"
    "X-TTS-Hangup: all has been said."
    CANCELLED = "cancelled"
    NO_ACK = "no_ack"
    BAD_ANSWER = "bad_answer"
    "The SDP answer in the ACK was missing, or none that we can use."
    TOO_LONG = "max_duration"
    NO_MEDIA = "rtp_never_started"
    "Nothing came from the caller's phone, neither RTP nor RTCP."
    MEDIA_STOPPED = "rtp_stopped"
    DRAINED = "drained"
    FAILED = "failed"
    "An error of our own."


_REASONS = {
    EndCause.BYE_RECEIVED: EndReason.CALLER_HUNG_UP,
    EndCause.CANCELLED: EndReason.CANCELLED,
    EndCause.NO_ACK: EndReason.NO_ACK,
}

_FAILURES = {MediaFailure.NEVER_STARTED: EndReason.NO_MEDIA, MediaFailure.STOPPED: EndReason.MEDIA_STOPPED}

RTP_TIMEOUT = ("Reason", 'Q.850;cause=102;text="RTP timeout"')
"RFC 3326; 102 is: recovery on timer expiry."


@dataclass(slots=True)
class InterruptionCounters:
    """Of one call, by what interrupted."""

    speech: int = 0
    digit: int = 0


@dataclass(frozen=True, slots=True)
class CallServices:
    """What all calls share."""

    media: MediaServices
    calls: CallsConfig
    on_ended: Callable[[CallLeg], None]


class CallLeg:
    """One call. All methods belong to the event loop."""

    def __init__(
        self,
        services: CallServices,
        engine: CallEngine,
        session: InviteSession,
        order: SpeechOrder,
        endpoint: RtpEndpoint,
        advertised: tuple[str, int],
    ) -> None:
        """Negotiates and begins to synthesise. Raises RefusedError."""
        self.session = session
        self.engine = engine
        self.end_reason: EndReason | None = None
        self._loop = asyncio.get_running_loop()
        self.log = structlog.get_logger("call").bind(call_id=session.request.call_id)
        self._services = services
        self.media = CallMedia(
            services.media, endpoint, advertised, session.request.source[0], order.sdp, self._media_event, self.log
        )
        self.speech = SpeechQueue(
            engine.engine,
            self.playout,
            SpeechLimits(services.calls.max_queued_chars, services.calls.speech_wait_s),
            engine.measures,
            self._speech_idle,
            self._speech_failed,
            self.log,
            sample_rate=self.media.playout_rate,
        )
        self.playout.on_event = deliver_to(self._loop, self.speech.playout_event)
        self.digits = CallDigits(
            services.media.dtmf, self.media, session, self._pressed, self._hang_up_if_done, self.log
        )
        self.interruptions = InterruptionCounters()
        self._timers: list[asyncio.TimerHandle] = []
        self._began = self._loop.time()
        self._voice = self._known(order.voice)
        self._hang_up_when_idle = order.hang_up
        self._ended = False
        text = order.text if order.text is not None else services.calls.greeting
        self._check(order, self._voice)
        self.speech.say(text, self._voice)
        self._take_wishes(order)

    @property
    def playout(self) -> PlayoutBuffer:
        return self.media.playout

    @property
    def rtp(self) -> RtpSession:
        return self.media.rtp

    # The call's beginning:

    def answer(self) -> None:
        """Answer the INVITE, after the configured ringing."""
        if self._ended:
            return
        delay = self._services.calls.answer_delay_ms / 1000
        if delay and not self.session.ended:
            self.session.ring()
            self._timers.append(self._loop.call_later(delay, self._accept))
        else:
            self._accept()

    def _accept(self) -> None:
        if self.end_reason is None:
            self.session.accept(self.media.local_sdp, SDP_TYPE)
            media = self.media.format
            self.log.info("call_answered", codec=media.codec.name if media else None)

    def acknowledged(self, ack: IncomingRequest) -> None:
        """The caller hears us from now on."""
        if self.media.answer_pending:
            try:
                order = parse_order(ack, BODY_TYPES)
                if order.sdp is None:
                    raise RefusedError(400, "ACK Has No SDP Answer")
                self._change_media(self.media.take_answer(order.sdp))
            except RefusedError as error:
                self.log.warning("answer_unusable", error=error.fault.reason)
                self.end(EndReason.BAD_ANSWER)
                return
        limit = self._services.calls.max_duration_s
        if limit and not self.media.paced:
            self._timers.append(self._loop.call_later(limit, self.end, EndReason.TOO_LONG))
        if not self.media.paced:
            self.speech.listening()
            self.media.pace()
        self._proceed_if_idle()

    # Requests within the call:

    def reinvited(self, request: IncomingRequest) -> Reply:
        """A new offer: hold, resume, another address or codec; or, without SDP, a request for ours."""
        try:
            order = parse_order(request, (SDP_TYPE,))
            sdp, media = self.media.renegotiate(order.sdp)
        except RefusedError as error:
            self.log.info("reinvite_refused", code=error.fault.code, reason=error.fault.reason)
            return error.reply
        if media is not None:
            self._change_media(media)
        return Reply(200, body=sdp, content_type=SDP_TYPE)

    def info_received(self, request: IncomingRequest) -> Reply:
        """A digit; or more text, another wish about the end, or: stop speaking."""
        try:
            if _content_type(request) in DTMF_TYPES:
                return self._digit_received(request)
            order = parse_order(request, ("text/plain",))
            voice = self._known(order.voice) if order.voice else self._voice
            self._check(order, voice, behind_queue=not order.clear)
        except RefusedError as error:
            self.log.info("info_refused", code=error.fault.code, reason=error.fault.reason)
            return error.reply
        if order.clear:
            self.clear()
        self._hang_up_when_idle = self._hang_up_when_idle or order.hang_up
        if order.text is not None:
            self.speech.say(order.text, voice)
        self._take_wishes(order)
        self._loop.call_soon(self._proceed_if_idle)  # after our 200
        return Reply(200)

    def _digit_received(self, request: IncomingRequest) -> Reply:
        """Raises RefusedError."""
        try:
            event = parse_dtmf_info(_content_type(request), request.body)
        except ValueError as error:
            raise RefusedError(400, str(error)) from None
        if event is not None:
            self.media.told_by_info(event.digit)
            self.digits.heard(event)
        return Reply(200)

    def _take_wishes(self, order: SpeechOrder) -> None:
        """What a request asks for besides its text."""
        if order.barge_in is not None:
            self.media.set_barge_in(order.barge_in)
        if order.digits is not None:
            self.digits.queue(order.digits)

    # Speech:

    def _known(self, voice: str | None) -> str | None:
        """The voice that this call's engine is to speak with."""
        chosen = self.engine.voice(voice)
        if chosen != voice:
            self.log.warning("voice_replaced", voice=voice, by=self.engine.engine.default_voice)
        return chosen

    def _check(self, order: SpeechOrder, voice: str | None, *, behind_queue: bool = True) -> None:
        """Raises RefusedError with what a caller should be told."""
        if order.digits is not None and behind_queue and not self.digits.room_for(order.digits):
            raise RefusedError(413, "Digit Queue Is Full", (("Retry-After", QUEUE_RETRY_S),))
        text = order.text or ""
        limit = self._services.calls.max_text_chars
        try:
            if len(text) > limit:
                raise TextTooLongError(len(text), limit)
            self.speech.check(text, voice, behind_queue=behind_queue)
        except UnknownVoiceError as error:
            raise RefusedError(400, f"Unknown Voice '{error.voice}'") from None
        except TextTooLongError as error:
            reason = f"Text Of {error.length} Characters Is Over The Limit Of {error.limit}"
            raise RefusedError(413, reason) from None
        except QueueFullError:
            raise RefusedError(413, "Speech Queue Is Full", (("Retry-After", QUEUE_RETRY_S),)) from None
        except EngineError as error:
            raise RefusedError(503, f"Speech Engine: {error}", (("Retry-After", QUEUE_RETRY_S),)) from None

    def clear(self) -> None:
        """Stop speaking: forget what is queued to be said or sent, and the wish to hang up after it."""
        self._hang_up_when_idle = False
        self.digits.clear()
        self.speech.clear()

    def _speech_idle(self) -> None:
        self.digits.send_waiting()
        self._hang_up_if_done()

    def _speech_failed(self) -> None:
        self.end(EndReason.FAILED)

    def _proceed_if_idle(self) -> None:
        if self.media.paced and self.speech.idle:
            self._speech_idle()

    def _hang_up_if_done(self) -> None:
        if self._hang_up_when_idle and self.media.paced and self.speech.idle and self.digits.idle:
            self.end(EndReason.PLAYED)

    # Media:

    def _media_event(self, event: MediaEvent) -> None:
        """What the media thread reports."""
        if self._ended:
            return
        match event:
            case DtmfEvent():
                self.digits.heard(event)
            case DigitsSent():
                self.digits.sent()
            case Interruption():
                self._interrupted(event)
            case MediaFailure():
                self.log.warning("media_failed", failure=event.value)
                self.end(_FAILURES[event], (RTP_TIMEOUT,))

    def _interrupted(self, interruption: Interruption) -> None:
        """The caller has interrupted, and hears nothing more of what was being said."""
        if self.playout.halted:  # else it was cleared meanwhile
            self._cut(interruption.cause, interruption.at_ms - interruption.onset_ms)

    def _pressed(self, digit: str) -> None:
        """A digit told by INFO interrupts too; one in the audio has done so already."""
        self.log.debug("digit", digit=digit)
        if self.media.barge_in_policy in ("digit", "either") and self.media.speaking:
            self._cut("digit", 0)

    def _cut(self, cause: Literal["speech", "digit"], after_ms: int) -> None:
        self._hang_up_when_idle = False  # it belonged to what is cut
        self.digits.clear()
        cut = self.speech.clear()
        if cause == "speech":
            self.interruptions.speech += 1
        else:
            self.interruptions.digit += 1
        for spoken in cut[:1]:
            self.log.info(
                "interrupted",
                cause=cause,
                after_ms=after_ms,
                utterance=spoken.number,
                played_ms=spoken.played_ms,
                total_ms=spoken.total_ms,
                words_heard=len(spoken.heard_text.split()),
                utterances=len(cut),
            )
            self.log.debug("interrupted_text", utterance=spoken.number, heard=spoken.heard_text)

    def _change_media(self, media: MediaFormat) -> None:
        before = self.media.format
        if media.sending and (before is None or not before.sending):
            self.speech.listening()
        self.media.change(media)

    # The end:

    def ended(self, cause: EndCause) -> None:
        """SIP says that the session is over."""
        self._end(self.end_reason or _REASONS.get(cause, EndReason.FAILED))

    def end(self, reason: EndReason, headers: tuple[tuple[str, str], ...] = ()) -> None:
        """End the call from our side; headers: for its BYE."""
        if self.end_reason is None:
            self.end_reason = reason
            self.session.hang_up(headers)
            self._end(reason)

    def _end(self, reason: EndReason) -> None:
        if self._ended:
            return
        self.end_reason = reason
        try:
            self._release()
            self._log_summary(reason)
        except Exception:  # the node must not go on counting a call that is over
            self.log.exception("call_end_failed")
        finally:
            self._services.on_ended(self)

    def _release(self) -> None:
        self._ended = True
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        self.digits.close()
        self.media.close()
        self.speech.close()
        self.playout.on_event = _unheard

    def _log_summary(self, reason: EndReason) -> None:
        rtp, counters, digits = self.rtp, self.speech.counters, self.digits.counters
        self.log.info(
            "call_ended",
            reason=reason.value,
            seconds=round(self._loop.time() - self._began, 3),
            utterances=counters.utterances,
            played=counters.played,
            cleared=counters.cleared,
            failed=counters.failed,
            unspeakable=counters.unspeakable,
            waited=counters.waited,
            interruptions=self.interruptions.speech + self.interruptions.digit,
            digits_received=digits.received,
            digits_sent=digits.sent,
            packets_sent=rtp.sending.counters.packets,
            underruns=self.playout.underruns,
            packets_received=rtp.receiving.counters.packets,
            strangers=rtp.receiving.counters.strangers,
            **quality_fields(self.media.quality()),
        )


def _unheard(_event: PlayoutEvent) -> None:
    """The call is over."""


def _content_type(request: IncomingRequest) -> str:
    return (request.header("Content-Type") or "").partition(";")[0].strip().lower()
