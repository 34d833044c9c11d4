"""The client transactions: RFC 3261 section 17.1, INVITE with the Accepted state of RFC 6026 section 7.2."""

from __future__ import annotations

from sipmessage import CSeq, Request, Response

from .timers import TimerValues
from .transaction import ClientTransaction, State, TransactionUser


class InviteClientTransaction(ClientTransaction):
    """Figure 5 of RFC 3261 as replaced by figure 6 of RFC 6026. The ACK of a 2xx is its user's to send."""

    def __init__(self, request: Request, user: TransactionUser, timers: TimerValues) -> None:
        super().__init__(request, user, timers)
        self._interval = timers.t1
        self._ack: bytes | None = None

    def start(self, now: float) -> None:
        self.state = State.CALLING
        self._start_timer("A", now + self._interval)
        self._start_timer("B", now + self._t.timeout)
        self._user.transmit(self._request_bytes)

    def receive(self, response: Response, now: float) -> None:
        if self.state in (State.CALLING, State.PROCEEDING):
            self._receive_first(response, now)
        elif self.state is State.COMPLETED and response.code >= 300 and self._ack is not None:
            self._user.transmit(self._ack)
        elif self.state is State.ACCEPTED and 200 <= response.code <= 299:
            self._user.received(response)  # again, or another fork's: each needs its ACK

    def _receive_first(self, response: Response, now: float) -> None:
        if response.code < 200:
            if self.state is State.CALLING:
                self._enter(State.PROCEEDING)
        elif response.code < 300:
            self._enter(State.ACCEPTED)
            self._start_timer("M", now + self._t.timeout)
        else:
            self._ack = bytes(self._make_ack(response))
            self._user.transmit(self._ack)
            self._enter(State.COMPLETED)
            self._start_timer("D", now + self._t.d)
        self._user.received(response)

    def _make_ack(self, response: Response) -> Request:
        """Section 17.1.1.3: the ACK of a failure belongs to the transaction and has its branch."""
        invite = self.request
        ack = Request("ACK", invite.uri)
        ack.headers.set("Via", invite.headers["Via"])
        for value in invite.headers.getlist("Route"):
            ack.headers.add("Route", value)
        for name in ("Max-Forwards", "From", "Call-ID"):
            ack.headers.set(name, invite.headers[name])
        ack.headers.set("To", response.headers.get("To") or invite.headers["To"])
        ack.headers.set("CSeq", str(CSeq(invite.cseq.sequence, "ACK")))
        ack.headers.set("Content-Length", "0")
        return ack

    def _timer_fired(self, name: str, now: float) -> None:
        if name == "A":
            self._user.transmit(self._request_bytes)
            self._interval *= 2
            self._start_timer("A", now + self._interval)
        elif name == "B":
            self._time_out()
        else:  # D, M: no more responses to absorb
            self._terminate()


class NonInviteClientTransaction(ClientTransaction):
    """Figure 6 of RFC 3261."""

    def __init__(self, request: Request, user: TransactionUser, timers: TimerValues) -> None:
        super().__init__(request, user, timers)
        self._interval = timers.t1

    def start(self, now: float) -> None:
        self.state = State.TRYING
        self._start_timer("E", now + self._interval)
        self._start_timer("F", now + self._t.timeout)
        self._user.transmit(self._request_bytes)

    def receive(self, response: Response, now: float) -> None:
        if self.state not in (State.TRYING, State.PROCEEDING):
            return
        if response.code < 200:
            self.state = State.PROCEEDING
        else:
            self._enter(State.COMPLETED)
            self._start_timer("K", now + self._t.t4)
        self._user.received(response)

    def _timer_fired(self, name: str, now: float) -> None:
        if name == "E":
            self._user.transmit(self._request_bytes)
            proceeding = self.state is State.PROCEEDING
            self._interval = self._t.t2 if proceeding else min(2 * self._interval, self._t.t2)
            self._start_timer("E", now + self._interval)
        elif name == "F":
            self._time_out()
        else:  # K: no more responses to absorb
            self._terminate()
