"""The server transactions: RFC 3261 section 17.2, INVITE with the Accepted state of RFC 6026 section 7.1."""

from __future__ import annotations

from sipmessage import Response

from .message import IncomingRequest, build_response
from .timers import TimerValues
from .transaction import ServerTransaction, State, TransactionUser


class InviteServerTransaction(ServerTransaction):
    """Figure 7 of RFC 3261 as replaced by figure 5 of RFC 6026."""

    def __init__(self, request: IncomingRequest, user: TransactionUser, timers: TimerValues, now: float) -> None:
        super().__init__(request, user, timers)
        self.state = State.PROCEEDING
        self._interval = timers.t1
        self._start_timer("trying", now + timers.trying)

    def receive(self, request: IncomingRequest, now: float) -> None:
        if request.method == "ACK":
            self._receive_ack(request, now)
        elif self.state in (State.PROCEEDING, State.COMPLETED):
            self._retransmit()
        # Accepted: the transaction user retransmits the 2xx by itself; Confirmed: the INVITE is a straggler.

    def _receive_ack(self, ack: IncomingRequest, now: float) -> None:
        if self.state is State.COMPLETED:
            self._enter(State.CONFIRMED)
            self._start_timer("I", now + self._t.t4)
        elif self.state is State.ACCEPTED:
            self._user.received(ack)

    def respond(self, response: Response, now: float) -> None:
        code = response.code
        if self.state is State.ACCEPTED and 200 <= code <= 299:
            self._transmit(response)
        if self.state is not State.PROCEEDING:
            return
        self._transmit(response)
        if 200 <= code <= 299:
            self._enter(State.ACCEPTED)
            self._start_timer("L", now + self._t.timeout)
        elif code >= 300:
            self._enter(State.COMPLETED)
            self._start_timer("G", now + self._t.t1)
            self._start_timer("H", now + self._t.timeout)
        else:
            self._stop_timers("trying")

    def _timer_fired(self, name: str, now: float) -> None:
        if name == "trying":
            self._transmit(build_response(self.request.message, 100))
        elif name == "G":
            self._retransmit()
            self._interval = min(2 * self._interval, self._t.t2)
            self._start_timer("G", now + self._interval)
        elif name == "H":
            self._time_out()
        else:  # I: no more ACKs to absorb; L: no more INVITEs
            self._terminate()


class NonInviteServerTransaction(ServerTransaction):
    """Figure 8 of RFC 3261."""

    def __init__(self, request: IncomingRequest, user: TransactionUser, timers: TimerValues) -> None:
        super().__init__(request, user, timers)
        self.state = State.TRYING

    def receive(self, request: IncomingRequest, now: float) -> None:
        if self.state in (State.PROCEEDING, State.COMPLETED):
            self._retransmit()

    def respond(self, response: Response, now: float) -> None:
        if self.state not in (State.TRYING, State.PROCEEDING):
            return
        self._transmit(response)
        if response.code >= 200:
            self._enter(State.COMPLETED)
            self._start_timer("J", now + self._t.timeout)
        else:
            self.state = State.PROCEEDING

    def _timer_fired(self, name: str, now: float) -> None:
        self._terminate()  # J: no more retransmissions to absorb
