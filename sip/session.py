"""A session, whichever side has called: what is said within its dialog, and its end.

RFC 3261 sections 12.2 (requests within a dialog), 13.3.1.4 (a 2xx is sent until its ACK comes), 14 (re-INVITE both
ways), 15 (BYE); INFO (RFC 6086), REFER (RFC 3515).
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto
from typing import TYPE_CHECKING

import structlog
from sipmessage import Response

from .address import parse_name_addr
from .await_ack import AwaitedAck
from .client_request import Draft
from .dialog import Dialog, contact_uri
from .dialog_requests import GONE, DialogRequests, RequestsUser
from .digest import Credentials, DigestClient
from .errors import Fault
from .info_queue import Info, OnResult
from .message import IncomingRequest, SocketAddress
from .referral import OnProgress
from .reinvite import OnAnswer
from .session_handler import EndCause, Reply, SessionHandler

if TYPE_CHECKING:
    from .transaction_layer import ServedRequest
    from .user_agent import UserAgent

_log = structlog.get_logger("sip.session")

REPEATED_INVITE_RETRY_S = "2"


class State(Enum):
    """Of a session."""

    PROCEEDING = auto()  # the INVITE has no final response yet
    ACCEPTED = auto()  # our 2xx is sent, its ACK awaited
    CONFIRMED = auto()
    LEAVING = auto()  # over for the application; our BYE or CANCEL is on its way, or waits for the ACK
    ENDED = auto()


class Session:
    """One call as SIP sees it: what incoming and outgoing ones share. What happens to it comes to its handler."""

    handler: SessionHandler | None

    def __init__(self, agent: UserAgent, dialog: Dialog, peer: SocketAddress, *, owns_call_id: bool) -> None:
        """peer: where its signalling comes from or goes to, for when the peer's Contact does not resolve."""
        self.handler = None
        self._agent = agent
        self._state = State.PROCEEDING
        self._awaited_ack: AwaitedAck | None = None
        self._bye_headers: tuple[tuple[str, str], ...] = ()
        user = RequestsUser(blocked=self._is_blocked, lost=self._lost)
        self._requests = DialogRequests(
            agent.outbox, agent.clock, agent.timers, dialog, peer, user, owns_call_id=owns_call_id
        )
        self._log = _log.bind(call_id=dialog.call_id)

    @property
    def dialog(self) -> Dialog:
        """Of an outgoing session one without a remote tag, until it is answered."""
        return self._requests.dialog

    @property
    def call_id(self) -> str:
        """SIP's Call-ID."""
        return self.dialog.call_id

    @property
    def peer_host(self) -> str:
        """The host that its signalling comes from or goes to: an address, once it is resolved."""
        return self._requests.peer[0]

    @property
    def local_uri(self) -> str:
        """Our URI, of From or To."""
        return _uri_of(self.dialog.local_address)

    @property
    def remote_uri(self) -> str:
        """The peer's URI, of From or To."""
        return _uri_of(self.dialog.remote_address)

    @property
    def from_uri(self) -> str:
        """Who called."""
        return self.remote_uri

    @property
    def to_uri(self) -> str:
        """Who was called."""
        return self.local_uri

    @property
    def ended(self) -> bool:
        """Whether nothing more can be done with it."""
        return self._state in (State.LEAVING, State.ENDED)

    @property
    def confirmed(self) -> bool:
        """Answered and acknowledged, and not over."""
        return self._state is State.CONFIRMED

    # What the application does:

    def authenticate(self, credentials: Credentials) -> None:
        """Answer challenges (401, 407) to our requests with these from now on."""
        self._requests.digest = DigestClient(credentials)

    def hang_up(self, headers: tuple[tuple[str, str], ...] = ()) -> None:
        """End the session with a BYE. It is over for the application at once; the rest happens behind it.

        Section 15: after our 200 the BYE has to wait for the ACK, or for its failing to come.
        """
        if self._state in (State.ACCEPTED, State.CONFIRMED):
            self._bye_headers = headers
            confirmed = self._state is State.CONFIRMED
            self._state = State.LEAVING
            if confirmed:
                self._stop_awaiting_ack()  # of a re-INVITE
                self._send_bye()
            self._end(EndCause.HUNG_UP)

    def send_info(self, body: bytes, content_type: str, on_result: OnResult | None = None) -> None:
        """Queue an INFO; it is sent once the session is confirmed and those before it have been answered.

        on_result is given its final status code: 408 if no answer came, 481 if the session ended before it was sent.
        A 481 from the peer ends the session. Raises InfoQueueFullError.
        """
        self._requests.infos.push(Info(body, content_type, on_result))

    def reinvite(self, offer: Callable[[], bytes], content_type: str, on_result: OnAnswer) -> None:
        """Queue a re-INVITE with an offer, made when it is sent: once the session is confirmed and the way is free.

        on_result is given the final status code and the answer, once; the ACK is sent by itself. A 491 is tried again
        as section 14.1 says; 408 and 481 end the session; anything else leaves all as it was.
        """
        headers = self._agent.capabilities
        self._requests.reinvites.push(lambda: Draft("INVITE", headers, offer(), content_type), on_result)

    def refer(self, target_uri: str, on_progress: OnProgress, referred_by: str | None = None) -> None:
        """Ask the peer to call somebody else instead (RFC 3515): a blind transfer. One at a time, else 491.

        on_progress: see OnProgress. The session goes on; to end it when the transfer has succeeded is the application's
        part. Raises ValueError for what is no URI.
        """
        if self._state is State.CONFIRMED:
            self._requests.refer(target_uri, on_progress, referred_by)
        else:
            on_progress(GONE)

    # What the network does:

    def receive_ack(self, ack: IncomingRequest) -> None:
        """An ACK within the dialog, matched to the 2xx that awaits it by its CSeq (section 13.2.2.4)."""
        if self._awaited_ack is None or ack.cseq != self._awaited_ack.cseq:
            return
        self._stop_awaiting_ack()
        if self._state is State.LEAVING:
            self._send_bye()
            return
        self._state = State.CONFIRMED
        self._requests.infos.open()
        if self.handler is not None:
            self.handler.acknowledged(ack)
        self._requests.open()

    def receive_request(self, served: ServedRequest) -> None:
        """A request within the dialog other than ACK and CANCEL."""
        request = served.request
        fault = self.dialog.check(request)
        if fault is not None:
            self._refuse(served, fault)
        elif request.method == "BYE":
            self._receive_bye(served)
        elif self.ended:
            self._refuse(served, Fault(GONE, "Call Has Ended"))
        elif request.method == "INVITE":
            self._receive_reinvite(served)
        elif request.method == "OPTIONS":
            self._respond(served, self._agent.options())
        elif request.method == "NOTIFY":
            self._respond(served, self._requests.notified(request))
        else:
            reply = self.handler.info_received(request) if self.handler is not None else Reply(GONE)
            self._respond(served, reply)

    def _receive_bye(self, served: ServedRequest) -> None:
        self._respond(served, Reply(200))
        leaving = self._state is State.LEAVING
        waits_for_ack = self._awaited_ack is not None
        self._stop_awaiting_ack()
        self._end(EndCause.BYE_RECEIVED)
        if not leaving or waits_for_ack:  # else our own BYE is on its way: its answer ends the dialog
            self._forget()

    def _receive_reinvite(self, served: ServedRequest) -> None:
        if self._state is State.PROCEEDING or self._awaited_ack is not None:  # section 14.2
            headers = (("Retry-After", REPEATED_INVITE_RETRY_S),)
            self._refuse(served, Fault(500, "Earlier INVITE Is Not Finished", headers))
            return
        if self._requests.reinvites.under_way:
            self._refuse(served, Fault(491, "Request Pending"))
            return
        try:
            target = contact_uri(served.request)
        except ValueError as error:
            self._refuse(served, Fault(400, str(error)))
            return
        reply = self.handler.reinvited(served.request) if self.handler is not None else Reply(GONE)
        if 200 <= reply.code <= 299:
            self.dialog.remote_target = target
            self._accept(served, reply)
        else:
            self._respond(served, reply)

    # The 2xx of ours and its ACK:

    def _accept(self, served: ServedRequest, reply: Reply) -> None:
        served.on_ack = self.receive_ack
        response = self._respond(served, reply)
        agent = self._agent
        self._awaited_ack = AwaitedAck(served, response, agent.clock, agent.timers, agent.stats, self._ack_missing)

    def _ack_missing(self) -> None:
        """The ACK of our 2xx has not come in 64 x T1: the session is to end (section 13.3.1.4)."""
        self._agent.stats.acks_missing += 1
        self._log.warning("ack_missing")
        self._stop_awaiting_ack()
        self._state = State.LEAVING
        self._send_bye()
        self._end(EndCause.NO_ACK)

    def _stop_awaiting_ack(self) -> None:
        if self._awaited_ack is not None:
            self._awaited_ack.stop()
            self._awaited_ack = None

    def _is_blocked(self) -> bool:
        return self._state is not State.CONFIRMED or self._awaited_ack is not None

    def _lost(self) -> None:
        if not self.ended:
            self.hang_up()

    # Ends:

    def _send_bye(self) -> None:
        self._requests.send(Draft("BYE", self._bye_headers), lambda _code: self._forget())

    def _end(self, cause: EndCause) -> None:
        """For the application; once."""
        if self._state is not State.LEAVING:
            self._state = State.ENDED
        handler, self.handler = self.handler, None
        if handler is not None:
            handler.ended(cause)
        self._requests.close()

    def _forget(self) -> None:
        self._state = State.ENDED
        self._stop_awaiting_ack()
        self._requests.close()
        self._requests.release()
        self._agent.forget(self)

    def _respond(self, served: ServedRequest, reply: Reply) -> Response:
        return self._agent.respond(served, reply, self.dialog.local_tag)

    def _refuse(self, served: ServedRequest, fault: Fault) -> None:
        self._log.info("request_refused", method=served.request.method, code=fault.code, reason=fault.reason)
        self._respond(served, Reply.of(fault))

    def break_down(self) -> None:
        """The application has failed on something in this session: end it, if it has not been."""
        if not self.ended:
            self.hang_up()
            self._end(EndCause.HUNG_UP)

    def terminate(self) -> None:
        """Stop all timers without a word to anyone: the user agent is closing."""
        self._stop_awaiting_ack()
        self._requests.discard()
        self._requests.release()
        self._state = State.ENDED


def _uri_of(address: str) -> str:
    """The URI of a From or To; the whole if it cannot be read."""
    try:
        return parse_name_addr(address).uri.text
    except ValueError:
        return address
