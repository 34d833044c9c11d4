"""One call: its SIP session, RTP session and speech queue joined; ended once, in one place."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal
from uuid import uuid4

import structlog

from mediaserver.call.control import StreamOrder
from mediaserver.call.digits import CallDigits
from mediaserver.call.end import EndReason
from mediaserver.call.engines import CallEngine
from mediaserver.call.events import EventHub
from mediaserver.call.media import CallMedia, DigitsSent, MediaEvent, MediaServices
from mediaserver.call.peer import CallPeer
from mediaserver.call.reporter import CallReporter
from mediaserver.call.speech import QUEUE_RETRY_S, CallSpeech
from mediaserver.call.summary import tell_end
from mediaserver.call.view import CallState, Direction
from mediaserver.config import CallsConfig
from mediaserver.negotiation import MediaFormat
from mediaserver.refusal import RefusedError
from mediaserver.rtp.barge_in import Interruption
from mediaserver.rtp.dtmf import DtmfEvent
from mediaserver.rtp.health import MediaFailure
from mediaserver.rtp.playout import PlayoutBuffer
from mediaserver.rtp.session import RtpSession
from mediaserver.speech.utterance import CutSpeech

_FAILURES = {MediaFailure.NEVER_STARTED: EndReason.NO_MEDIA, MediaFailure.STOPPED: EndReason.MEDIA_STOPPED}

RTP_TIMEOUT = ("Reason", 'Q.850;cause=102;text="RTP timeout"')
"RFC 3326; 102 is: recovery on timer expiry."


@dataclass(slots=True)
class InterruptionCounters:
    """Of one call, by what interrupted."""

    speech: int = 0
    digit: int = 0


@dataclass(slots=True)
class CallTimes:
    """Seconds since 1970, UTC."""

    started_at: float
    answered_at: float | None = None
    ended_at: float | None = None
    began: float = field(default_factory=time.monotonic)
    "By a clock that does not jump."


@dataclass(frozen=True, slots=True)
class CallServices:
    """What all calls share."""

    media: MediaServices
    calls: CallsConfig
    hub: EventHub
    on_ended: Callable[[CallLeg], None]


@dataclass(slots=True)
class CallProfile:
    """What is known of a call when it begins."""

    direction: Direction
    from_uri: str
    to_uri: str
    sip_call_id: str = ""
    "Empty until an INVITE of ours is sent."
    trunk: str | None = None
    agent_url: str | None = None
    streams: tuple[StreamOrder, ...] = ()
    parameters: Mapping[str, str] = field(default_factory=dict)


class CallLeg:
    """What calls have in common, whoever placed them. All methods belong to the event loop."""

    def __init__(
        self,
        services: CallServices,
        engine: CallEngine,
        profile: CallProfile,
        make_media: Callable[[Callable[[MediaEvent], None], structlog.typing.FilteringBoundLogger], CallMedia],
    ) -> None:
        """make_media is given who is to be told of events. Raises what it does."""
        self.id = f"CA{uuid4().hex}"
        self.profile = profile
        self.engine = engine
        self.end_reason: EndReason | None = None
        self.failed_code: int | None = None
        "SIP's, if a call of ours was not answered."
        self.over = False
        self.times = CallTimes(time.time())
        self.log = structlog.get_logger("call").bind(call=self.id)
        if profile.sip_call_id:
            self.log = self.log.bind(call_id=profile.sip_call_id)
        self.reporter = CallReporter(services.hub, self.id)
        self.media = make_media(self._media_event, self.log)
        self.speech = CallSpeech(
            engine, self.media, services.calls, self.reporter, self._speech_idle, self._speech_failed, self.log
        )
        self.peer = CallPeer(self.media, self.reporter, self._change_media, self._resumed, self._transferred, self.log)
        self.digits = CallDigits(
            services.media.dtmf, self.media, self.peer.send_info, self._pressed, self._digits_sent, self.log
        )
        self.interruptions = InterruptionCounters()
        self._services = services
        self._loop = asyncio.get_running_loop()
        self._timers: list[asyncio.TimerHandle] = []
        self._hang_up_when_idle = False

    @property
    def playout(self) -> PlayoutBuffer:
        return self.media.playout

    @property
    def rtp(self) -> RtpSession:
        return self.media.rtp

    # The call's life:

    def _announce(self) -> None:
        """Tell of the call, before anything else is told of it."""
        profile = self.profile
        self.reporter.publish(
            "call.started",
            direction=profile.direction,
            **{"from": profile.from_uri, "to": profile.to_uri},
            trunk=profile.trunk,
            sip_call_id=profile.sip_call_id,
        )

    def _note_answered(self) -> None:
        """The INVITE has its 200."""
        self.times.answered_at = time.time()
        codec = self.media.format.codec.name if self.media.format is not None else None
        self.log.info("call_answered", codec=codec)
        self.reporter.publish("call.answered", codec=codec)

    def _begin_media(self) -> None:
        """The peer hears us from now on."""
        limit = self._services.calls.max_duration_s
        if not self.media.paced:
            if limit:
                self._timers.append(self._loop.call_later(limit, self.end, EndReason.TOO_LONG))
            self.speech.listening()
            self.media.pace()
        self._proceed_if_idle()

    def _change_media(self, media: MediaFormat) -> None:
        """Make so what a description and its answer have agreed."""
        before = self.media.format
        if media.sending and (before is None or not before.sending):
            self.speech.listening()
        self.media.change(media)
        if before is not None and media.sending != before.sending:
            self.reporter.publish("call.resumed" if media.sending else "call.held", by="peer")

    # What is wished of it:

    def hang_up_when_said(self) -> None:
        """End the call when all that is queued has been said."""
        self._hang_up_when_idle = True
        self.proceed()

    def check_digits(self, digits: str) -> None:
        """Raises RefusedError if they find no room."""
        if not self.digits.room_for(digits):
            raise RefusedError(413, "Digit Queue Is Full", (("Retry-After", QUEUE_RETRY_S),))

    def send_digits(self, digits: str) -> None:
        """Digits to be sent when what is queued has been said. Raises RefusedError."""
        self.check_digits(digits)
        self.digits.queue(digits)
        self.proceed()

    def clear(self) -> list[CutSpeech]:
        """Stop speaking: forget what is queued to be said or sent, and the wish to hang up after it. What was cut."""
        self._hang_up_when_idle = False
        self.digits.clear()
        return self.speech.clear()

    def proceed(self) -> None:
        """Do what waits for the speech to end, if it has; behind the answer to whoever wishes it."""
        self._loop.call_soon(self._proceed_if_idle)

    def _proceed_if_idle(self) -> None:
        if self.media.paced and self.speech.idle:
            self._speech_idle()

    def _speech_idle(self) -> None:
        if not self.media.held:  # nobody would take them
            self.digits.send_waiting()
        self._hang_up_if_done()

    def _resumed(self) -> None:
        """The peer no longer holds by our wish."""
        self.speech.listening()
        self.proceed()

    def _speech_failed(self) -> None:
        self.end(EndReason.FAILED)

    def _digits_sent(self, count: int) -> None:
        self.reporter.publish("dtmf.sent", count=count)
        self._hang_up_if_done()

    def _hang_up_if_done(self) -> None:
        if self._hang_up_when_idle and self.media.paced and self.speech.idle and self.digits.idle:
            self.end(EndReason.PLAYED)

    def _transferred(self) -> None:
        self.end(EndReason.TRANSFERRED)

    # What is heard:

    def _media_event(self, event: MediaEvent) -> None:
        """What the media thread reports."""
        if self.over:
            return
        match event:
            case DtmfEvent():
                self.digits.heard(event)
            case DigitsSent():
                self.digits.sent()
            case Interruption():
                if self.playout.halted or self.media.hearing.mid_utterance:  # else it was cleared meanwhile
                    self._cut(event.cause, event.at_ms - event.onset_ms)
            case MediaFailure():
                self.log.warning("media_failed", failure=event.value)
                self.end(_FAILURES[event], (RTP_TIMEOUT,))

    def _pressed(self, digit: str, source: str) -> None:
        """A digit told by INFO interrupts too; one in the audio has done so already."""
        self.log.debug("digit", digit=digit)
        hearing = self.media.hearing
        if hearing.barge_in_policy in ("digit", "either") and hearing.speaking:
            self._cut("digit", 0)
        self.reporter.publish("dtmf.received", digit=digit, source=source)

    def _cut(self, cause: Literal["speech", "digit"], after_ms: int) -> None:
        """The caller has interrupted, and hears nothing more of what was being said."""
        self._hang_up_when_idle = False  # it belonged to what is cut
        self.digits.clear()
        if cause == "speech":
            self.interruptions.speech += 1
        else:
            self.interruptions.digit += 1
        self.speech.interrupt(cause, after_ms)

    # What is seen:

    @property
    def state(self) -> CallState:
        if self.over:
            return "ended"
        if self.times.answered_at is None:
            return "ringing"
        media = self.media.format
        return "held" if self.peer.holds or (media is not None and not media.sending) else "answered"

    # The end:

    def end(self, reason: EndReason, headers: tuple[tuple[str, str], ...] = ()) -> None:
        """End the call from our side; headers: for its BYE."""
        if self.end_reason is None:
            self.end_reason = reason
            if self.peer.session is not None:
                self.peer.session.hang_up(headers)
            self._end(reason)

    def _end(self, reason: EndReason) -> None:
        if self.over:
            return
        self.end_reason = reason
        try:
            self._release()
            tell_end(self)
        except Exception:  # the node must not go on counting a call that is over
            self.log.exception("call_end_failed")
        finally:
            self._services.on_ended(self)
            self.reporter.close()

    def _release(self) -> None:
        self.over = True
        self.times.ended_at = time.time()
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        self.digits.close()
        self.media.close()
        self.speech.close()
        self.peer.close()
