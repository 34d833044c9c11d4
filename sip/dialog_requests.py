"""Requests of ours within one dialog: BYE, INFO, re-INVITE, REFER."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import structlog
from sipmessage import Request, Response

from .acknowledger import Acknowledger
from .address import parse_uri
from .client_request import ClientRequest, Draft, OnFailure, OnResponse, Outbox
from .dialog import Dialog, response_tag, response_target
from .digest import DigestClient
from .info_queue import Info, InfoQueue, OnResult
from .machine_runner import Clock
from .message import IncomingRequest, SocketAddress
from .referral import OnProgress, Referral
from .reinvite import PENDING, Reinvites, ReinviteUser
from .session_handler import Reply
from .timers import TimerValues

_log = structlog.get_logger("sip.session")

GONE = 481


@dataclass(frozen=True, slots=True)
class RequestsUser:
    """What they need of their session."""

    blocked: Callable[[], bool]
    "Whether a re-INVITE of ours has to wait: the session is not confirmed, or the peer's is not finished."
    lost: Callable[[], None]
    "The peer knows no such session, or does not answer (RFC 3261 section 12.2.1.2); also when it is over already."


class DialogRequests:
    """Those of one session."""

    def __init__(
        self,
        outbox: Outbox,
        clock: Clock,
        timers: TimerValues,
        dialog: Dialog,
        peer: SocketAddress,
        user: RequestsUser,
        *,
        owns_call_id: bool,
    ) -> None:
        """peer: where they go when the dialog's next hop does not resolve."""
        self.outbox = outbox
        self.dialog = dialog
        self.peer = peer
        self.digest: DigestClient | None = None
        self.acks = Acknowledger(outbox)
        self.infos = InfoQueue(self._send_info)
        self._clock = clock
        self._lost = user.lost
        reinvites = ReinviteUser(self._send_reinvite, user.blocked, self._reinvite_accepted, user.lost)
        self.reinvites = Reinvites(reinvites, clock, timers, owns_call_id=owns_call_id)
        self._referral: Referral | None = None

    def open(self) -> None:
        """The session is confirmed: what waits is sent. To be called again when a re-INVITE of the peer's is done."""
        self.infos.open()
        self.reinvites.proceed()

    def close(self) -> None:
        """The session is over: what waits is not sent, and each has its result. Idempotent."""
        self.infos.close()
        self.reinvites.close()
        if self._referral is not None:
            self._referral.close()

    def discard(self) -> None:
        """Close without a word to anyone."""
        self.infos.discard()
        self.reinvites.discard()
        if self._referral is not None:
            self._referral.discard()

    def release(self) -> None:
        """Closed, and the session has been forgotten: let go of it, so that nothing waits for the cycle collector."""
        self._lost = _nothing
        self.infos.release()
        self.reinvites.release()

    def prepare(self, draft: Draft, on_response: OnResponse, on_failure: OnFailure) -> ClientRequest:
        """A request of this dialog, still to be sent."""
        return ClientRequest(self.outbox, self.dialog, draft, self.digest, on_response, on_failure)

    def send(self, draft: Draft, done: OnResult) -> None:
        """done: is given the code of the final response, 408 if none comes."""

        def answered(_request: Request, response: Response) -> None:
            if response.code >= 200:
                done(response.code)

        self.prepare(draft, answered, lambda code, _reason: done(code)).send(self.peer)

    def refer(self, target_uri: str, on_progress: OnProgress, referred_by: str | None) -> None:
        """See Session.refer()."""
        headers = [("Refer-To", f"<{parse_uri(target_uri)}>")]
        if referred_by is not None:
            headers.append(("Referred-By", f"<{parse_uri(referred_by)}>"))
        if self._referral is not None and self._referral.pending:
            on_progress(PENDING)
            return
        referral = self._referral = Referral(on_progress, self._clock)

        def answered(code: int) -> None:
            referral.answered(code)
            self._check(code, "REFER")

        self.send(Draft("REFER", tuple(headers)), answered)

    def notified(self, notify: IncomingRequest) -> Reply:
        """A NOTIFY has come: what it is answered."""
        event = (notify.header("Event") or "").partition(";")[0].strip().lower()
        if event != "refer":
            return Reply(489, "Bad Event", (("Allow-Events", "refer"),))
        if self._referral is None:
            return Reply(GONE, "Subscription Does Not Exist")
        return self._referral.notified(notify)

    def _send_info(self, info: Info, done: OnResult) -> None:
        def answered(code: int) -> None:
            self._check(code, "INFO")
            done(code)

        self.send(Draft("INFO", (), info.body, info.content_type), answered)

    def _check(self, code: int, method: str) -> None:
        if code == GONE:
            _log.warning("request_without_dialog", call_id=self.dialog.call_id, method=method)
            self._lost()

    def _send_reinvite(self, draft: Draft, on_response: OnResponse, on_failure: OnFailure) -> ClientRequest:
        request = self.prepare(draft, on_response, on_failure)
        request.send(self.peer)
        return request

    def _reinvite_accepted(self, request: Request, response: Response) -> None:
        if not self.acks.repeat(request, response_tag(response)):
            self.dialog.remote_target = response_target(response) or self.dialog.remote_target
            self.acks.acknowledge(self.dialog, request, self.peer)


def _nothing() -> None:
    pass
