"""A call that we place: from its order to its answer."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable
from dataclasses import dataclass, field

from sipmessage import Headers

from mediaserver.call.control import PlaceOrder
from mediaserver.call.end import EndReason, reason_of_failure
from mediaserver.call.engines import CallEngine
from mediaserver.call.leg import CallProfile, CallServices
from mediaserver.call.media import CallMedia
from mediaserver.call.sip_leg import SipLeg
from mediaserver.refusal import RefusedError
from mediaserver.rtp.endpoint import RtpEndpoint
from mediaserver.trunk_config import TrunkConfig
from mediaserver.trunks import from_uri
from sip.digest import Credentials
from sip.message import SocketAddress
from sip.outgoing_invite import OutgoingInvite
from sip.outgoing_session import OutgoingSession
from sip.session_handler import OutgoingHandler
from sip.transport import resolve

UNRESOLVED = 503

SendInvite = Callable[[OutgoingInvite, OutgoingHandler], OutgoingSession]


@dataclass(frozen=True, slots=True)
class Dialling:
    """How a call is placed: its order, checked."""

    order: PlaceOrder
    trunk: TrunkConfig
    target: str
    from_name: str
    headers: tuple[tuple[str, str], ...]
    send: SendInvite = field(repr=False)
    hosts_towards: Callable[[SocketAddress], tuple[str, str]] = field(repr=False)
    "Our addresses as that peer sees them: for signalling, and for media."
    on_outcome: Callable[[int], None] = field(repr=False)
    "Is given the status of the final response, once."


class OutgoingLeg(SipLeg):
    """All methods belong to the event loop."""

    def __init__(
        self,
        services: CallServices,
        engine: CallEngine,
        profile: CallProfile,
        endpoint: RtpEndpoint,
        dialling: Dialling,
    ) -> None:
        """Raises RefusedError."""
        local = "", endpoint.address[1]  # the host is known when the trunk's address is
        super().__init__(
            services,
            engine,
            profile,
            lambda on_event, log: CallMedia(services.media, endpoint, local, "", None, on_event, log, unanswered=True),
        )
        self._dialling = dialling
        self._early_sdp = b""
        self._ringing_code: int | None = None
        self._resolving: asyncio.Task[None] | None = None
        order = dialling.order
        self.speech.voice = self.speech.known(order.voice)
        if order.script:
            self.speech.check(order.script, self.speech.voice)
        if order.barge_in is not None:
            self.speech.set_policy(order.barge_in)

    def begin(self) -> None:
        """Send the INVITE, and begin to synthesise what is to be said: its first word is ready at the answer."""
        if self.over:  # whoever was told of it wants none of it
            return
        next_hop = self._dialling.trunk.host, self._dialling.trunk.port
        try:
            ipaddress.ip_address(next_hop[0])
        except ValueError:
            self._resolving = asyncio.ensure_future(self._resolve(next_hop))
            self._resolving.add_done_callback(self._resolved)
        else:
            self._dial(next_hop)

    def _say_first(self) -> None:
        order = self._dialling.order
        if self.over or not order.script:
            return
        self._hang_up_when_idle |= order.hang_up_after
        self.speech.say(order.script)

    async def _resolve(self, next_hop: SocketAddress) -> None:
        try:
            address = await resolve(next_hop)
        except OSError as error:
            self.log.warning("trunk_unresolved", host=next_hop[0], error=str(error))
            self._announce()
            self.failed(UNRESOLVED, "Host Not Found")
        else:
            self._dial(address)

    def _resolved(self, task: asyncio.Task[None]) -> None:
        self._resolving = None
        if not task.cancelled() and task.exception() is not None:
            self.log.error("place_failed", exc_info=task.exception())
            self.end(EndReason.FAILED)

    def _dial(self, next_hop: SocketAddress) -> None:
        dialling, trunk = self._dialling, self._dialling.trunk
        own_host, media_host = dialling.hosts_towards(next_hop)
        try:
            self.profile.from_uri = from_uri(dialling.order.from_user, trunk, own_host)
            invite = OutgoingInvite(
                target=dialling.target,
                from_uri=self.profile.from_uri,
                from_name=dialling.from_name,
                next_hop=next_hop,
                headers=dialling.headers,
                body=self.media.offer(media_host, next_hop[0]),
                credentials=_credentials(trunk),
                timeout_s=dialling.order.answer_timeout_s or trunk.answer_timeout_s,
            )
            session = dialling.send(invite, self)
        except (RefusedError, ValueError) as error:
            self.log.warning("invite_not_sent", error=str(error))
            self._announce()
            self.failed(400, "Bad Request")
            return
        self.peer.session = session
        self.profile.sip_call_id = session.call_id
        self.log.info("call_placed", call_id=session.call_id, trunk=self.profile.trunk)
        self._announce()
        self._say_first()

    # What becomes of it:

    def ringing(self, code: int, body: bytes) -> None:
        """A provisional response. Early media is not played to, but its SDP may be the only one that comes."""
        self._early_sdp = body or self._early_sdp
        if code != self._ringing_code and not self.over:
            self._ringing_code = code
            self.log.info("call_ringing", code=code)
            self.reporter.publish("call.ringing", status=code)

    def answered(self, body: bytes, headers: Headers) -> None:
        """The 200, whose ACK is on its way: the peer hears us from now on."""
        if self.over:
            return
        self._dialling.on_outcome(200)
        try:
            self._change_media(self.media.take_answer(body or self._early_sdp))
        except RefusedError as error:
            self.log.warning("answer_unusable", error=error.fault.reason)
            self.end(EndReason.BAD_ANSWER)
            return
        self._note_answered()
        self._begin_media()

    def failed(self, code: int, reason: str) -> None:
        """There will be no session."""
        if self.over:
            return
        self.failed_code = code
        self.log.info("call_failed", code=code, reason=reason)
        self._dialling.on_outcome(code)
        self._end(self.end_reason or reason_of_failure(code))

    def _release(self) -> None:
        if self._resolving is not None:
            self._resolving.cancel()
        super()._release()


def _credentials(trunk: TrunkConfig) -> Credentials | None:
    return Credentials(trunk.username, trunk.password.get_secret_value()) if trunk.username else None
