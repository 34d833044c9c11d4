"""Runs transactions: matches messages to them, sends for them, and wakes them in time."""

from __future__ import annotations

from collections.abc import Callable

from sipmessage import Request, Response

from .client_transaction import InviteClientTransaction, NonInviteClientTransaction
from .machine_runner import Clock, MachineRunner
from .message import IncomingRequest, SocketAddress
from .server_transaction import InviteServerTransaction, NonInviteServerTransaction
from .stats import SipStats
from .timers import TimerValues
from .transaction import ServerTransaction, Transaction, TransactionKey, client_key, server_key
from .via import response_address

CLIENT_METHODS = ("INVITE", "CANCEL", "BYE", "INFO", "REFER", "OPTIONS")
"Of requests that have a client transaction here."

Send = Callable[[bytes, SocketAddress], None]


def _nothing() -> None:
    pass


def _ignore_response(_response: Response) -> None:
    pass


def _ignore_failure(_code: int, _reason: str) -> None:
    pass


class _Run:
    """A transaction on its way: woken in time, and forgotten when it is over."""

    def __init__(self, layer: TransactionLayer, transaction: Transaction, forget: Callable[[], object]) -> None:
        self._layer = layer
        self._machine = transaction
        self._forget = forget
        self._runner = MachineRunner(transaction, layer.clock, self._forget_if_over)

    def stop(self) -> None:
        self._machine.clear_timers()
        self._runner.reschedule()

    def _settle(self) -> None:
        self._runner.reschedule()
        self._forget_if_over()

    def _forget_if_over(self) -> None:
        if self._machine.terminated:
            forget, self._forget = self._forget, _nothing
            forget()
            # Freed at once: with thousands of them, a collector that looks for cycles stops the media for too long.
            self._runner.close()
            self._machine.release()
            self._let_go()

    def _let_go(self) -> None:
        """Nothing will be told any more: forget who would have been."""


class ServedRequest(_Run):
    """A request and the server transaction that answers it: what the transaction user holds."""

    def __init__(self, layer: TransactionLayer, request: IncomingRequest, key: TransactionKey) -> None:
        self.request = request
        self.on_ack: Callable[[IncomingRequest], None] | None = None
        "Is given the ACKs of a 2xx that share the INVITE's branch."
        self._destination = response_address(request.via, request.source)
        self._transaction: ServerTransaction = (
            InviteServerTransaction(request, self, layer.timers, layer.clock.time())
            if request.method == "INVITE"
            else NonInviteServerTransaction(request, self, layer.timers)
        )
        super().__init__(layer, self._transaction, lambda: layer.servers.pop(key, None))

    def respond(self, response: Response) -> None:
        """Send a response; ignored once a final one has been sent."""
        self._layer.stats.responses_sent[response.code] += 1
        self._transaction.respond(response, self._layer.clock.time())
        if response.code >= 200:
            self.request.message.body = b""  # it stays for 32 s, and is not needed any more
        self._settle()

    def receive(self, request: IncomingRequest) -> None:
        self._transaction.receive(request, self._layer.clock.time())
        self._settle()

    # As the transaction's user:

    def transmit(self, message: bytes) -> None:
        self._layer.send(message, self._destination)

    def received(self, message: IncomingRequest | Response) -> None:
        if self.on_ack is not None and isinstance(message, IncomingRequest):
            self.on_ack(message)

    def failed(self, code: int, reason: str) -> None:
        """No ACK came for our failure response: there is nobody to tell."""

    def _let_go(self) -> None:
        self.on_ack = None


class SentRequest(_Run):
    """A request of ours and the client transaction that carries it."""

    def __init__(
        self,
        layer: TransactionLayer,
        request: Request,
        destination: SocketAddress,
        on_response: Callable[[Response], None],
        on_failure: Callable[[int, str], None],
    ) -> None:
        key = client_key(request)
        if key is None:
            raise ValueError("a request of ours without a Via")
        self._destination = destination
        self._on_response = on_response
        self._on_failure = on_failure
        machine = InviteClientTransaction if request.method == "INVITE" else NonInviteClientTransaction
        self._transaction = machine(request, self, layer.timers)
        super().__init__(layer, self._transaction, lambda: layer.clients.pop(key, None))
        layer.clients[key] = self
        self._transaction.start(layer.clock.time())
        self._settle()

    def receive(self, response: Response) -> None:
        self._transaction.receive(response, self._layer.clock.time())
        self._settle()

    def abandon(self) -> None:
        """Wait for no answer any more."""
        self._transaction.abandon()
        self._settle()

    # As the transaction's user:

    def transmit(self, message: bytes) -> None:
        self._layer.send(message, self._destination)

    def received(self, message: IncomingRequest | Response) -> None:
        if isinstance(message, Response):
            self._on_response(message)

    def failed(self, code: int, reason: str) -> None:
        self._on_failure(code, reason)

    def _let_go(self) -> None:
        self._on_response, self._on_failure = _ignore_response, _ignore_failure


class TransactionLayer:
    """All transactions of one transport."""

    def __init__(self, send: Send, clock: Clock, timers: TimerValues, stats: SipStats) -> None:
        self.send = send
        self.clock = clock
        self.timers = timers
        self.stats = stats
        self.servers: dict[TransactionKey, ServedRequest] = {}
        self.clients: dict[TransactionKey, SentRequest] = {}

    def close(self) -> None:
        """Stop all timers; nothing more is sent."""
        runs: list[_Run] = [*self.servers.values(), *self.clients.values()]
        for run in runs:
            run.stop()
        self.servers.clear()
        self.clients.clear()

    def receive_request(self, request: IncomingRequest) -> bool:
        """Give a request to its transaction; False if it starts a new one."""
        served = self.servers.get(server_key(request))
        if served is None:
            return False
        served.receive(request)
        return True

    def serves(self, request: IncomingRequest) -> bool:
        """Whether a request has its transaction."""
        return server_key(request) in self.servers

    def invite_of(self, cancel: IncomingRequest) -> ServedRequest | None:
        """The INVITE that a CANCEL means (RFC 3261 section 9.2), if its transaction is still here."""
        return self.servers.get(server_key(cancel, "INVITE"))

    def serve(self, request: IncomingRequest) -> ServedRequest:
        """Start a server transaction for a request that matches none."""
        key = server_key(request)
        served = self.servers[key] = ServedRequest(self, request, key)
        return served

    def request(
        self,
        request: Request,
        destination: SocketAddress,
        on_response: Callable[[Response], None],
        on_failure: Callable[[int, str], None],
    ) -> SentRequest:
        """Send a request of ours through a client transaction."""
        self.stats.requests_sent[request.method] += 1
        return SentRequest(self, request, destination, on_response, on_failure)

    def awaits(self, branch: str) -> bool:
        """Whether a response with this branch could be one to a request of ours."""
        return any((branch, method) in self.clients for method in CLIENT_METHODS)

    def receive_response(self, response: Response) -> bool:
        """Give a response to its transaction; False if there is none."""
        key = client_key(response)
        sent = self.clients.get(key) if key is not None else None
        if sent is None:
            return False
        sent.receive(response)
        return True
