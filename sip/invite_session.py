"""A session that an INVITE from outside sets up: its answer, its dialog, its end.

RFC 3261 sections 13.3 (answering, the 2xx sent until its ACK comes), 14.2 (re-INVITE), 15 (BYE), 9.2 (CANCEL).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Protocol

import structlog
from sipmessage import Response

from .dialog import Dialog, contact_uri
from .errors import Fault
from .info_queue import Info, InfoQueue, OnResult
from .machine_runner import MachineRunner
from .message import IncomingRequest
from .timers import TimedMachine, TimerValues

if TYPE_CHECKING:
    from .transaction_layer import ServedRequest
    from .user_agent import UserAgent

_log = structlog.get_logger("sip.session")

REPEATED_INVITE_RETRY_S = "2"


class EndCause(Enum):
    """Why a session is over."""

    BYE_RECEIVED = auto()
    HUNG_UP = auto()
    CANCELLED = auto()
    NO_ACK = auto()


@dataclass(frozen=True, slots=True)
class Reply:
    """What the application answers to a request within the session."""

    code: int = 200
    reason: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    content_type: str | None = None

    @classmethod
    def of(cls, fault: Fault) -> Reply:
        return cls(fault.code, fault.reason, fault.headers)


class SessionHandler(Protocol):
    """What an application does with a session that it has been given. Called from the event loop; must not block."""

    def acknowledged(self, ack: IncomingRequest) -> None:
        """The ACK of the INVITE, or of a re-INVITE, has come: the first one only, not its retransmissions."""

    def reinvited(self, request: IncomingRequest) -> Reply:
        """A re-INVITE: a 2xx makes it so, anything else leaves all as it was."""

    def info_received(self, request: IncomingRequest) -> Reply: ...

    def ended(self, cause: EndCause) -> None:
        """The session is over. Called once, unless the application rejected the INVITE itself."""


class _State(Enum):
    PROCEEDING = auto()  # the INVITE has no final response yet
    ACCEPTED = auto()  # 2xx sent, its ACK awaited
    CONFIRMED = auto()
    LEAVING = auto()  # over for the application; our BYE is on its way, or waits for the ACK
    ENDED = auto()


class _AwaitAck(TimedMachine):
    """RFC 3261 section 13.3.1.4: a 2xx is sent again until its ACK comes, for at most 64 x T1."""

    def __init__(self, session: InviteSession, response: Response, timers: TimerValues, now: float) -> None:
        super().__init__()
        self.response = response
        self._session = session
        self._t2 = timers.t2
        self._interval = timers.t1
        self._start_timer("retransmit", now + timers.t1)
        self._start_timer("give up", now + timers.timeout)

    def _timer_fired(self, name: str, now: float) -> None:
        if name == "give up":
            self._stop_timers()
            self._session.ack_missing()
            return
        self._interval = min(2 * self._interval, self._t2)
        self._start_timer("retransmit", now + self._interval)
        self._session.retransmit_accepted(self.response)


class InviteSession:
    """One call as SIP sees it.

    The application calls ring(), then accept() or reject(), and later hang_up(); what happens to the session comes
    to its handler.
    """

    def __init__(self, agent: UserAgent, invite: ServedRequest, dialog: Dialog) -> None:
        self.dialog = dialog
        self.handler: SessionHandler | None = None
        self._agent = agent
        self._invite = invite
        self._state = _State.PROCEEDING
        self._await_ack: _AwaitAck | None = None
        self._ack_timer: MachineRunner | None = None
        self._awaited_cseq = dialog.remote_cseq
        self._bye_headers: tuple[tuple[str, str], ...] = ()
        self._infos = InfoQueue(self._send_info)
        self._log = _log.bind(call_id=dialog.call_id)

    @property
    def request(self) -> IncomingRequest:
        """The INVITE."""
        return self._invite.request

    @property
    def ended(self) -> bool:
        """Whether nothing more can be done with it."""
        return self._state in (_State.LEAVING, _State.ENDED)

    # What the application does:

    def ring(self) -> None:
        """Send 180 Ringing."""
        if self._state is _State.PROCEEDING:
            self._respond(self._invite, Reply(180))

    def accept(self, body: bytes, content_type: str, headers: tuple[tuple[str, str], ...] = ()) -> None:
        """Answer with a 200, sent until its ACK comes."""
        if self._state is _State.PROCEEDING:
            self._accept(self._invite, Reply(200, None, headers, body, content_type))
            self._state = _State.ACCEPTED

    def reject(self, code: int, reason: str | None = None, headers: tuple[tuple[str, str], ...] = ()) -> None:
        """Answer with a failure; the handler hears nothing more."""
        if self._state is _State.PROCEEDING:
            self.handler = None
            self._respond(self._invite, Reply(code, reason, headers))
            self._forget()

    def hang_up(self, headers: tuple[tuple[str, str], ...] = ()) -> None:
        """End the session with a BYE. It is over for the application at once; the rest happens behind it.

        Section 15: after our 200 the BYE has to wait for the ACK, or for its failing to come.
        """
        if self._state is _State.PROCEEDING:
            self._respond(self._invite, Reply(480))
            self._end(EndCause.HUNG_UP)
            self._forget()
        elif self._state in (_State.ACCEPTED, _State.CONFIRMED):
            self._bye_headers = headers
            confirmed = self._state is _State.CONFIRMED
            self._state = _State.LEAVING
            if confirmed:
                self._stop_awaiting_ack()  # of a re-INVITE
                self._send_bye()
            self._end(EndCause.HUNG_UP)

    def send_info(self, body: bytes, content_type: str, on_result: OnResult | None = None) -> None:
        """Queue an INFO; it is sent once the session is confirmed and those before it have been answered.

        on_result is given its final status code: 408 if no answer came, 481 if the session ended before it was sent.
        A 481 from the peer ends the session. Raises InfoQueueFullError.
        """
        self._infos.push(Info(body, content_type, on_result))

    # What the network does:

    def cancelled(self) -> None:
        """A CANCEL of the INVITE has come; too late if it is answered (section 9.2)."""
        if self._state is _State.PROCEEDING:
            self._respond(self._invite, Reply(487))
            self._end(EndCause.CANCELLED)
            self._forget()

    def receive_ack(self, ack: IncomingRequest) -> None:
        """An ACK within the dialog, matched to the 2xx that awaits it by its CSeq (section 13.2.2.4)."""
        if self._await_ack is None or ack.cseq != self._awaited_cseq:
            return
        self._stop_awaiting_ack()
        if self._state is _State.LEAVING:
            self._send_bye()
            return
        self._state = _State.CONFIRMED
        self._infos.open()
        if self.handler is not None:
            self.handler.acknowledged(ack)

    def receive_request(self, served: ServedRequest) -> None:
        """A request within the dialog other than ACK and CANCEL."""
        request = served.request
        fault = self.dialog.check(request)
        if fault is not None:
            self._refuse(served, fault)
        elif request.method == "BYE":
            self._receive_bye(served)
        elif self.ended:
            self._refuse(served, Fault(481, "Call Has Ended"))
        elif request.method == "INVITE":
            self._receive_reinvite(served)
        elif request.method == "OPTIONS":
            self._respond(served, self._agent.options())
        else:
            self._respond(served, self._handle_info(request))

    def _handle_info(self, request: IncomingRequest) -> Reply:
        return self.handler.info_received(request) if self.handler is not None else Reply(481)

    def _receive_bye(self, served: ServedRequest) -> None:
        self._respond(served, Reply(200))
        if self._state is _State.PROCEEDING:  # section 15.1.2
            self._respond(self._invite, Reply(487))
        leaving = self._state is _State.LEAVING
        waits_for_ack = self._await_ack is not None
        self._stop_awaiting_ack()
        self._end(EndCause.BYE_RECEIVED)
        if not leaving or waits_for_ack:  # else our own BYE is on its way: its answer ends the dialog
            self._forget()

    def _receive_reinvite(self, served: ServedRequest) -> None:
        if self._state is _State.PROCEEDING or self._await_ack is not None:  # section 14.2
            headers = (("Retry-After", REPEATED_INVITE_RETRY_S),)
            self._refuse(served, Fault(500, "Earlier INVITE Is Not Finished", headers))
            return
        try:
            target = contact_uri(served.request)
        except ValueError as error:
            self._refuse(served, Fault(400, str(error)))
            return
        reply = self.handler.reinvited(served.request) if self.handler is not None else Reply(481)
        if 200 <= reply.code <= 299:
            self.dialog.remote_target = target
            self._awaited_cseq = served.request.cseq
            self._accept(served, reply)
        else:
            self._respond(served, reply)

    # The 2xx and its ACK:

    def _accept(self, served: ServedRequest, reply: Reply) -> None:
        served.on_ack = self.receive_ack
        response = self._respond(served, reply)
        self._accepted_by = served
        clock = self._agent.clock
        self._await_ack = _AwaitAck(self, response, self._agent.timers, clock.time())
        self._ack_timer = MachineRunner(self._await_ack, clock, lambda: None)

    def retransmit_accepted(self, response: Response) -> None:
        """The ACK of our 2xx has not come yet."""
        self._agent.stats.accepted_retransmissions += 1
        self._accepted_by.transmit(bytes(response))

    def ack_missing(self) -> None:
        """The ACK of our 2xx has not come in 64 x T1: the session is to end (section 13.3.1.4)."""
        self._agent.stats.acks_missing += 1
        self._log.warning("ack_missing")
        self._stop_awaiting_ack()
        self._state = _State.LEAVING
        self._send_bye()
        self._end(EndCause.NO_ACK)

    def _stop_awaiting_ack(self) -> None:
        if self._await_ack is not None and self._ack_timer is not None:
            self._await_ack.clear_timers()
            self._ack_timer.reschedule()
            self._await_ack = self._ack_timer = None

    def _send_info(self, info: Info, done: OnResult) -> None:
        def answered(code: int) -> None:
            if code == 481 and not self.ended:  # RFC 3261 section 12.2.1.2: the peer has no such call
                self._log.warning("info_without_dialog")
                self.hang_up()
            done(code)

        self._send_request("INFO", (("Content-Type", info.content_type),), info.body, answered)

    def _send_request(self, method: str, headers: tuple[tuple[str, str], ...], body: bytes, done: OnResult) -> None:
        fallback = self.request.source  # if the peer's Contact or route does not resolve
        self._agent.send_in_dialog(self.dialog, method, headers, fallback, done, body)

    # Ends:

    def _send_bye(self) -> None:
        self._send_request("BYE", self._bye_headers, b"", lambda _code: self._forget())

    def _end(self, cause: EndCause) -> None:
        """For the application; once."""
        if self._state is not _State.LEAVING:
            self._state = _State.ENDED
        handler, self.handler = self.handler, None
        if handler is not None:
            handler.ended(cause)
        self._infos.close()

    def _forget(self) -> None:
        self._state = _State.ENDED
        self._stop_awaiting_ack()
        self._infos.close()
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
        self._infos.discard()
        self._state = _State.ENDED
