"""What the peer of a call asks within it, and its going."""

from __future__ import annotations

from mediaserver.call.end import EndReason
from mediaserver.call.leg import CallLeg
from mediaserver.call.order import BODY_TYPES, SpeechOrder, parse_order
from mediaserver.dtmf_info import DTMF_TYPES, parse_dtmf_info
from mediaserver.refusal import RefusedError
from sip.message import IncomingRequest
from sip.sdp import CONTENT_TYPE as SDP_TYPE
from sip.session_handler import EndCause, Reply

_REASONS = {
    EndCause.CANCELLED: EndReason.CANCELLED,
    EndCause.NO_ACK: EndReason.NO_ACK,
    EndCause.HUNG_UP: EndReason.LOST,  # by the session itself, or we would have said why
}


class SipLeg(CallLeg):
    """The handler of a SIP session (sip.session_handler)."""

    def acknowledged(self, ack: IncomingRequest) -> None:
        """The ACK of the INVITE, or of a re-INVITE: the caller hears us from now on."""
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
        self._begin_media()

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
            voice = self.speech.known(order.voice) if order.voice else self.speech.voice
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
        self.proceed()  # after our 200
        return Reply(200)

    def _digit_received(self, request: IncomingRequest) -> Reply:
        """Raises RefusedError."""
        try:
            event = parse_dtmf_info(_content_type(request), request.body)
        except ValueError as error:
            raise RefusedError(400, str(error)) from None
        if event is not None:
            self.media.hearing.told_by_info(event.digit)
            self.digits.heard(event)
        return Reply(200)

    def _check(self, order: SpeechOrder, voice: str | None, *, behind_queue: bool = True) -> None:
        """Raises RefusedError with what a caller should be told."""
        if order.digits is not None and behind_queue:
            self.check_digits(order.digits)
        self.speech.check(order.text or "", voice, behind_queue=behind_queue)

    def _take_wishes(self, order: SpeechOrder) -> None:
        """What a request asks for besides its text."""
        if order.barge_in is not None:
            self.speech.set_policy(order.barge_in)
        if order.digits is not None:
            self.digits.queue(order.digits)

    def ended(self, cause: EndCause) -> None:
        """SIP says that the session is over."""
        hung_up = EndReason.CALLER_HUNG_UP if self.profile.direction == "inbound" else EndReason.CALLEE_HUNG_UP
        self._end(self.end_reason or _REASONS.get(cause, hung_up))


def _content_type(request: IncomingRequest) -> str:
    return (request.header("Content-Type") or "").partition(";")[0].strip().lower()
