"""A session that we set up: RFC 3261 sections 13.2 (INVITE, its answers and ACKs, forks) and 9.1 (CANCEL)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from sipmessage import Request, Response

from .client_request import UNRESOLVED, ClientRequest, Draft
from .dialog import Dialog, response_tag
from .message import SocketAddress, clean_reason
from .outgoing_invite import OutgoingInvite
from .session import Session, State
from .session_handler import OutgoingHandler
from .transport import resolve

if TYPE_CHECKING:
    from .user_agent import UserAgent

MAX_ANSWERS = 8
"2xx of different forks that are acknowledged, and ended but for the first."


class OutgoingSession(Session):
    """One call that we place.

    What comes of it is told to its handler. hang_up() before the answer cancels it.
    """

    handler: OutgoingHandler | None

    def __init__(self, agent: UserAgent, invite: OutgoingInvite, handler: OutgoingHandler) -> None:
        dialog = self._to_be = Dialog.to_be(invite.from_address(), invite.target)
        host, port = invite.next_hop or dialog.next_hop()
        super().__init__(agent, dialog, (host.strip("[]"), port), owns_call_id=True)
        self.handler = handler
        if invite.credentials is not None:
            self.authenticate(invite.credentials)
        self._timeout_s = invite.timeout_s
        self._answer_timer: asyncio.TimerHandle | None = None
        self._answers: set[str] = set()
        headers = (*agent.capabilities, *invite.headers)
        draft = Draft("INVITE", headers, invite.body, invite.content_type)
        self._inviting: ClientRequest | None = self._requests.prepare(draft, self._received, self._not_answered)

    @property
    def from_uri(self) -> str:
        """Who called: we."""
        return self.local_uri

    @property
    def to_uri(self) -> str:
        """Who was called."""
        return self.remote_uri

    def start(self) -> None:
        """Send the INVITE. Called by the user agent, once."""
        clock = self._agent.clock
        self._answer_timer = clock.call_at(clock.time() + self._timeout_s, self._unanswered)
        self._agent.outbox.start(self._send_invite(self._requests.peer))

    async def _send_invite(self, hop: SocketAddress) -> None:
        try:
            self._requests.peer = await resolve(hop)
        except OSError as error:
            self._log.warning("next_hop_unresolved", host=hop[0], error=str(error))
            self._not_answered(503, UNRESOLVED)
            return
        if self._inviting is not None:
            self._inviting.send_to(self._requests.peer)

    def hang_up(self, headers: tuple[tuple[str, str], ...] = ()) -> None:
        """See Session. Before the answer it is a CANCEL, sent once there has been a provisional response, and the
        handler's failed(487); an answer that comes all the same gets its ACK and a BYE.
        """
        if self._state is State.PROCEEDING:
            self._bye_headers = headers
            self._cancel(487, "Request Terminated")
        else:
            super().hang_up(headers)

    def terminate(self) -> None:
        """See Session."""
        super().terminate()
        self._stop_answer_timer()
        if self._inviting is not None:
            self._inviting.abandon()
            self._inviting = None

    def _unanswered(self) -> None:
        if self._state is State.PROCEEDING:
            self._log.info("unanswered", seconds=self._timeout_s)
            self._cancel(408, "Not Answered In Time")

    def _cancel(self, code: int, reason: str) -> None:
        self._state = State.LEAVING
        if self._inviting is not None:
            self._inviting.cancel()
        self._fail(code, reason)

    # Answers to the INVITE:

    def _received(self, request: Request, response: Response) -> None:
        code = response.code
        if code < 200:
            if self._state is State.PROCEEDING and self.handler is not None:
                self.handler.ringing(code, response.body)
        elif code < 300:
            self._accepted(request, response)
        else:
            self._not_answered(code, response.phrase)

    def _accepted(self, request: Request, response: Response) -> None:
        """A 2xx: the first makes the session, each other fork's is ended at once (section 13.2.2.4)."""
        tag = response_tag(response)
        if self._requests.acks.repeat(request, tag) or len(self._answers) >= MAX_ANSWERS:
            return
        first = not self._answers
        self._answers.add(tag)
        usable = True
        try:
            dialog = self._to_be.answered(response)
        except ValueError as error:
            self._log.warning("answer_unusable", error=str(error))
            response.headers.remove("Record-Route")
            dialog, usable = self._to_be.answered(response), False
        self._requests.acks.acknowledge(dialog, request, self._requests.peer)
        if not first:
            self._log.info("fork_ended")
            self._end_fork(dialog)
            return
        self._take(dialog, response, usable)

    def _take(self, dialog: Dialog, response: Response, usable: bool) -> None:
        """Make this answer's dialog the session's."""
        self._requests.dialog = dialog
        self._stop_answer_timer()
        self._agent.adopt(self)
        if self._state is not State.PROCEEDING:  # cancelled: too late
            self._send_bye()
        elif not usable:
            self._state = State.LEAVING
            self._send_bye()
            self._fail(502, "Answer Is Not Valid")
        else:
            self._state = State.CONFIRMED
            self._tell_answered(response)
            self._requests.open()

    def _tell_answered(self, response: Response) -> None:
        if self.handler is None:
            return
        try:
            self.handler.answered(response.body, response.headers)
        except Exception:  # noqa: BLE001 - what the application stumbles over must not leave the peer in a dead call
            self._log.exception("answer_failed")
            self.break_down()

    def _end_fork(self, dialog: Dialog) -> None:
        def done(*_result: object) -> None:
            pass

        requests = self._requests
        bye = ClientRequest(requests.outbox, dialog, Draft("BYE"), requests.digest, done, done)
        bye.send(requests.peer)

    def _forget(self) -> None:
        super()._forget()
        self._inviting = None  # its transaction has it for as long as further answers may come

    # No session:

    def _not_answered(self, code: int, reason: str) -> None:
        """The INVITE has failed, or has been cancelled: that was all of it."""
        if self._answers:  # a fork's straggler
            return
        self._state = State.LEAVING
        try:
            self._fail(code, clean_reason(reason))
        finally:
            self._forget()

    def _fail(self, code: int, reason: str) -> None:
        """For the application; once."""
        self._stop_answer_timer()
        handler, self.handler = self.handler, None
        try:
            if handler is not None:
                self._log.info("not_answered", code=code, reason=reason)
                handler.failed(code, reason)
        finally:
            self._requests.close()

    def _stop_answer_timer(self) -> None:
        if self._answer_timer is not None:
            self._answer_timer.cancel()
            self._answer_timer = None
