"""One call: its SIP session, RTP session and speech queue joined; ended once, in one place."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import structlog

from mediaserver.call_engines import CallEngine
from mediaserver.config import CallsConfig, RtpConfig
from mediaserver.negotiation import MediaFormat, Negotiator, NotAcceptableError
from mediaserver.refusal import RefusedError
from mediaserver.rtp.endpoint import RtpEndpoint, deliver_to
from mediaserver.rtp.latch import Latch, LatchPolicy
from mediaserver.rtp.pacer_thread import PacerThread
from mediaserver.rtp.playout import PlayoutBuffer
from mediaserver.rtp.session import RtpSession, SendFormat
from mediaserver.speech_order import SpeechOrder, parse_order
from mediaserver.speech_queue import MAX_BUFFERED_S, QueueFullError, SpeechLimits, SpeechQueue
from sip.invite_session import EndCause, InviteSession, Reply
from sip.message import IncomingRequest
from sip.sdp import CONTENT_TYPE as SDP_TYPE
from sip.sdp import SdpError
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
    DRAINED = "drained"
    FAILED = "failed"
    "An error of our own."


_REASONS = {
    EndCause.BYE_RECEIVED: EndReason.CALLER_HUNG_UP,
    EndCause.CANCELLED: EndReason.CANCELLED,
    EndCause.NO_ACK: EndReason.NO_ACK,
}


@dataclass(frozen=True, slots=True)
class CallServices:
    """What all calls share."""

    pacer: PacerThread
    calls: CallsConfig
    rtp: RtpConfig
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
        self._endpoint = endpoint
        self._negotiator = Negotiator(services.rtp.codecs, services.rtp.ptime_ms, advertised)
        self._media: MediaFormat | None = None
        self._offer_pending = order.sdp is None
        self._local_sdp, self._media = self._negotiate(order.sdp)
        self.playout = PlayoutBuffer(max_seconds=MAX_BUFFERED_S)
        self.speech = SpeechQueue(
            engine.engine,
            self.playout,
            SpeechLimits(services.calls.max_queued_chars, services.calls.speech_wait_s),
            engine.measures,
            self._hang_up_if_done,
            self._speech_failed,
            self.log,
        )
        self.playout.on_event = deliver_to(self._loop, self.speech.playout_event)
        self.rtp = self._make_rtp()
        self._paced = False
        self._timers: list[asyncio.TimerHandle] = []
        self._began = self._loop.time()
        self._voice = self._known(order.voice)
        self._hang_up_when_idle = order.hang_up
        self._ended = False
        if order.text is not None:
            self._check(order.text, self._voice)
            self.speech.say(order.text, self._voice)
        else:
            self._check("", self._voice)
            self.speech.say(services.calls.greeting, self._voice)

    # The call's beginning:

    async def answer(self) -> None:
        """Open the media and answer the INVITE, after the configured ringing. Raises OSError."""
        await self._endpoint.start(self.rtp.receive)
        delay = self._services.calls.answer_delay_ms / 1000
        if delay and not self.session.ended:
            self.session.ring()
            self._timers.append(self._loop.call_later(delay, self._accept))
        else:
            self._accept()

    def _accept(self) -> None:
        if self.end_reason is None:
            self.session.accept(self._local_sdp, SDP_TYPE)
            self.log.info("call_answered", codec=self._media.codec.name if self._media else None)

    def acknowledged(self, ack: IncomingRequest) -> None:
        """The caller hears us from now on."""
        if self._offer_pending:
            self._offer_pending = False
            try:
                self._change_media(self._take_answer(ack))
            except RefusedError as error:
                self.log.warning("answer_unusable", error=error.fault.reason)
                self.end(EndReason.BAD_ANSWER)
                return
        limit = self._services.calls.max_duration_s
        if limit and not self._paced:
            self._timers.append(self._loop.call_later(limit, self.end, EndReason.TOO_LONG))
        self._pace()
        self._hang_up_if_done()

    # Requests within the call:

    def reinvited(self, request: IncomingRequest) -> Reply:
        """A new offer: hold, resume, another address or codec; or, without SDP, a request for ours."""
        try:
            order = parse_order(request, (SDP_TYPE,))
            sdp, media = self._negotiate(order.sdp)
        except RefusedError as error:
            self.log.info("reinvite_refused", code=error.fault.code, reason=error.fault.reason)
            return error.reply
        self._offer_pending = order.sdp is None
        if media is not None:
            self._change_media(media)
        return Reply(200, body=sdp, content_type=SDP_TYPE)

    def info_received(self, request: IncomingRequest) -> Reply:
        """More text, another wish about the end, or: stop speaking."""
        try:
            order = parse_order(request, ("text/plain",))
            voice = self._known(order.voice) if order.voice else self._voice
            if order.text is not None:
                self._check(order.text, voice, behind_queue=not order.clear)
        except RefusedError as error:
            self.log.info("info_refused", code=error.fault.code, reason=error.fault.reason)
            return error.reply
        if order.clear:
            self._hang_up_when_idle = False  # it belonged to what is cleared
            self.speech.clear()
        self._hang_up_when_idle = self._hang_up_when_idle or order.hang_up
        if order.text is not None:
            self.speech.say(order.text, voice)
        self._loop.call_soon(self._hang_up_if_done)  # after our 200
        return Reply(200)

    # Speech:

    def _known(self, voice: str | None) -> str | None:
        """The voice that this call's engine is to speak with."""
        chosen = self.engine.voice(voice)
        if chosen != voice:
            self.log.warning("voice_replaced", voice=voice, by=self.engine.engine.default_voice)
        return chosen

    def _check(self, text: str, voice: str | None, *, behind_queue: bool = True) -> None:
        """Raises RefusedError with what a caller should be told."""
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

    def _speech_failed(self) -> None:
        self.end(EndReason.FAILED)

    def _hang_up_if_done(self) -> None:
        if self._hang_up_when_idle and self._paced and self.speech.idle:
            self.end(EndReason.PLAYED)

    # Media:

    def _negotiate(self, sdp: bytes | None) -> tuple[bytes, MediaFormat | None]:
        """Our SDP, and what was agreed if the other side has offered. Raises RefusedError."""
        if sdp is None:
            return self._negotiator.offer(), None
        try:
            return self._negotiator.answer(sdp)
        except SdpError as error:
            raise RefusedError(400, f"Bad SDP: {error}") from None
        except NotAcceptableError as error:
            warning = ("Warning", f'305 {self._negotiator.host} "{error}"')  # RFC 3261 section 20.43
            raise RefusedError(488, None, (warning,)) from None

    def _take_answer(self, ack: IncomingRequest) -> MediaFormat:
        order = parse_order(ack, (SDP_TYPE, "multipart/mixed", "text/plain"))
        if order.sdp is None:
            raise RefusedError(400, "ACK Has No SDP Answer")
        try:
            return self._negotiator.accept_answer(order.sdp)
        except (SdpError, NotAcceptableError) as error:
            raise RefusedError(488, str(error)) from None

    def _make_rtp(self) -> RtpSession:
        latch = Latch(LatchPolicy(self._services.rtp.symmetric))
        rtp = RtpSession(self._endpoint.send, self.playout, self._send_format(), latch)
        rtp.send_silence = self._services.rtp.send_silence
        if self._media is not None:
            self._set_rtp(rtp, self._media)
            rtp.set_remote(self._media.remote, [self.session.request.source[0]])
        return rtp

    def _send_format(self) -> SendFormat:
        media = self._media
        if media is None:  # until the answer comes in the ACK nothing is sent
            return SendFormat(self._negotiator.preferred, self._negotiator.preferred.payload_type)
        return SendFormat(media.codec, media.payload_type, media.ptime_ms)

    def _set_rtp(self, rtp: RtpSession, media: MediaFormat) -> None:
        rtp.set_receive_types([media.payload_type], media.event_payload_type)
        rtp.paused = not media.sending

    def _change_media(self, media: MediaFormat) -> None:
        """Make a new agreement so. A mere session refresh disturbs nothing: not the pace, nor what was latched."""
        before, self._media = self._media, media
        if media == before:
            return
        if media.sending and (before is None or not before.sending):
            self.speech.listening()
        paced = self._paced
        if media.ptime_ms != self.rtp.interval_ms:
            self._unpace()
        self.rtp.set_send_format(self._send_format())
        self._set_rtp(self.rtp, media)
        if before is None or media.remote != before.remote:
            self.rtp.set_remote(media.remote, [self.session.request.source[0]])
        if paced:
            self._pace()
        self.log.info("media_changed", codec=media.codec.name, ptime_ms=media.ptime_ms, sending=media.sending)

    def _pace(self) -> None:
        if not self._paced and self._media is not None:
            self._paced = True
            self.speech.listening()
            self._services.pacer.add(self.rtp)

    def _unpace(self) -> None:
        if self._paced:
            self._paced = False
            self._services.pacer.remove(self.rtp)

    # The end:

    def ended(self, cause: EndCause) -> None:
        """SIP says that the session is over."""
        self._end(self.end_reason or _REASONS.get(cause, EndReason.FAILED))

    def end(self, reason: EndReason) -> None:
        """End the call from our side."""
        if self.end_reason is None:
            self.end_reason = reason
            self.session.hang_up()
            self._end(reason)

    def _end(self, reason: EndReason) -> None:
        if self._ended:
            return
        self.end_reason = reason
        self._release()
        self._log_summary(reason)
        self._services.on_ended(self)

    def _release(self) -> None:
        self._ended = True
        for timer in self._timers:
            timer.cancel()
        self._unpace()
        self.speech.close()
        self._endpoint.close()

    def _log_summary(self, reason: EndReason) -> None:
        rtp, stats, counters = self.rtp, self.rtp.stats, self.speech.counters
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
            packets_sent=rtp.sent.packets,
            underruns=self.playout.underruns,
            packets_received=rtp.received.packets,
            lost=stats.lost,
            jitter_ms=round(stats.jitter_seconds * 1000, 2),
            strangers=rtp.received.strangers,
        )
