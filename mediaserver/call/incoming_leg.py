"""A call that has come in: from its INVITE to its answer."""

from __future__ import annotations

from mediaserver.call.engines import CallEngine
from mediaserver.call.leg import CallProfile, CallServices
from mediaserver.call.media import CallMedia
from mediaserver.call.order import SpeechOrder
from mediaserver.call.sip_leg import SipLeg
from mediaserver.rtp.endpoint import RtpEndpoint
from sip.invite_session import InviteSession
from sip.sdp import CONTENT_TYPE as SDP_TYPE


class IncomingLeg(SipLeg):
    """All methods belong to the event loop."""

    def __init__(
        self,
        services: CallServices,
        engine: CallEngine,
        profile: CallProfile,
        session: InviteSession,
        order: SpeechOrder,
        endpoint: RtpEndpoint,
        advertised: tuple[str, int],
        greeting: str | None,
    ) -> None:
        """Negotiates. greeting: said if the INVITE brings no text; None for silence. Raises RefusedError."""
        super().__init__(
            services,
            engine,
            profile,
            lambda on_event, log: CallMedia(
                services.media, endpoint, advertised, session.peer_host, order.sdp, on_event, log
            ),
        )
        self.session = session
        self._order = order
        self._text = order.text if order.text is not None else greeting
        self.peer.session = session
        self.speech.voice = self.speech.known(order.voice)
        self._check(order, self.speech.voice)

    def begin(self) -> None:
        """Begin to synthesise. Raises RefusedError."""
        if self.over:  # whoever was told of it wants none of it
            return
        self._announce()
        # With nothing to say, the wish to hang up after it would end the call before its agent's first word.
        self._hang_up_when_idle |= self._order.hang_up and self._text is not None
        if self._text is not None:
            self.speech.say(self._text)
        self._take_wishes(self._order)

    def answer(self) -> None:
        """Answer the INVITE, after the configured ringing."""
        if self.over:
            return
        delay = self._services.calls.answer_delay_ms / 1000
        if delay and not self.session.ended:
            self.session.ring()
            self.reporter.publish("call.ringing", status=180)
            self._timers.append(self._loop.call_later(delay, self._accept))
        else:
            self._accept()

    def _accept(self) -> None:
        if self.end_reason is None:
            self.session.accept(self.media.local_sdp, SDP_TYPE)
            self._note_answered()
