"""Requests of ours: addressed, sent, and sent again with credentials where a server asks for them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import structlog
from sipmessage import CSeq, Request, Response

from .dialog import Dialog
from .digest import DigestClient, DigestExchange
from .message import SocketAddress
from .transaction_layer import SentRequest, TransactionLayer
from .transport import Transport, host_port, resolve

_log = structlog.get_logger("sip.client")

UNRESOLVED = "Host Does Not Resolve"
_WITH_CONTACT = ("INVITE", "REFER")
_AUTHORIZATION = ("Authorization", "Proxy-Authorization")

OnResponse = Callable[[Request, Response], None]
OnFailure = Callable[[int, str], None]


@dataclass(frozen=True, slots=True)
class Draft:
    """What a request says; its dialog gives the rest."""

    method: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    content_type: str = ""


class Outbox:
    """What requests of ours are sent with: one for a user agent."""

    def __init__(self, layer: TransactionLayer, transport: Transport, server_name: str) -> None:
        self.layer = layer
        self._transport = transport
        self._server_name = server_name
        self._tasks: set[asyncio.Task[None]] = set()

    def close(self) -> None:
        """What has not been sent yet is not sent."""
        for task in self._tasks:
            task.cancel()

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something that has to wait for a name to be resolved."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("request_failed", exc_info=error)

    def contact(self, peer: SocketAddress) -> str:
        """The Contact that this peer is told."""
        return f"<sip:chatterline@{host_port(self._transport.advertised(peer))}>"

    def build(self, dialog: Dialog, draft: Draft, destination: SocketAddress) -> Request:
        """The next request of a dialog."""
        sent_by = host_port(self._transport.advertised(destination))
        own = [("User-Agent", self._server_name)]
        if draft.method in _WITH_CONTACT:
            own.append(("Contact", self.contact(destination)))
        request = dialog.create_request(draft.method, sent_by, (*own, *draft.headers))
        if draft.body:
            request.body = draft.body
            request.headers.set("Content-Length", str(len(draft.body)))
            request.headers.set("Content-Type", draft.content_type)
        return request

    def build_ack(self, dialog: Dialog, invite: Request, destination: SocketAddress) -> Request:
        """The ACK of a 2xx, with the credentials of its INVITE (RFC 3261 section 13.2.2.4)."""
        sent_by = host_port(self._transport.advertised(destination))
        credentials = tuple((name, value) for name in _AUTHORIZATION for value in invite.headers.getlist(name))
        return dialog.create_ack(invite.cseq.sequence, sent_by, credentials)

    def transmit(self, data: bytes, destination: SocketAddress) -> None:
        self._transport.send(data, destination)


async def next_hop_address(dialog: Dialog, fallback: SocketAddress) -> SocketAddress:
    """Where a request of this dialog goes; `fallback` if its peer's name does not resolve."""
    try:
        return await resolve(dialog.next_hop())
    except OSError as error:
        host = dialog.next_hop()[0]
        _log.warning("next_hop_unresolved", call_id=dialog.call_id, host=host, error=str(error))
        return fallback


class ClientRequest:
    """One request of ours, until its last answer has come.

    on_response: is given each response other than 100, with the request that it answers: provisional ones, the final
    one, and every further 2xx of an INVITE. Challenges that can be answered are, and are not told.
    on_failure: is given 408 if there was no answer, 503 if the host does not resolve; then there was no final response.
    """

    def __init__(
        self,
        outbox: Outbox,
        dialog: Dialog,
        draft: Draft,
        digest: DigestClient | None,
        on_response: OnResponse,
        on_failure: OnFailure,
    ) -> None:
        self._outbox = outbox
        self._dialog = dialog
        self._draft = draft
        self._exchange = DigestExchange(digest) if digest is not None else None
        self._on_response = on_response
        self._on_failure = on_failure
        self._destination: SocketAddress = ("", 0)
        self._request: Request | None = None
        self._sent: SentRequest | None = None
        self._proceeding = self._final = self._cancel_wanted = False
        self._log = _log.bind(call_id=dialog.call_id, method=draft.method)

    def send(self, fallback: SocketAddress) -> None:
        """Send it to the dialog's next hop, or else to `fallback`."""

        async def work() -> None:
            self.send_to(await next_hop_address(self._dialog, fallback))

        self._outbox.start(work())

    def send_to(self, destination: SocketAddress) -> None:
        """Send it to this address, now."""
        self._destination = destination
        if self._cancel_wanted:
            self._fail(487, "Request Terminated")
            return
        headers = self._draft.headers
        if self._exchange is not None:
            uri = self._dialog.request_uri
            headers += self._exchange.headers(self._draft.method, uri)
        draft = Draft(self._draft.method, headers, self._draft.body, self._draft.content_type)
        self._proceeding = False
        self._request = request = self._outbox.build(self._dialog, draft, destination)
        layer = self._outbox.layer
        self._sent = layer.request(request, destination, lambda response: self._received(request, response), self._fail)

    def cancel(self) -> None:
        """Give an INVITE up (RFC 3261 section 9.1): a CANCEL goes out when there has been a provisional response.

        It may be answered all the same. Without a final response in 64 x T1 it fails, with 408. Idempotent.
        """
        if self._cancel_wanted or self._final:
            return
        self._cancel_wanted = True
        if self._proceeding:
            self._send_cancel()

    def abandon(self) -> None:
        """Forget it: nothing more is sent or told."""
        self._on_response, self._on_failure = _ignore_response, _ignore_failure
        if self._sent is not None:
            self._sent.abandon()

    def _received(self, request: Request, response: Response) -> None:
        if response.code < 200:
            self._received_provisional(request, response)
            return
        again = self._exchange is not None and not self._cancel_wanted and self._exchange.challenged(response)
        if again:
            self.send_to(self._destination)
            return
        if not self._final:
            self._final = True
            self._log.debug("request_answered", code=response.code)
        self._on_response(request, response)

    def _received_provisional(self, request: Request, response: Response) -> None:
        first, self._proceeding = not self._proceeding, True
        if first and self._cancel_wanted:
            self._send_cancel()
        if response.code > 100:
            self._on_response(request, response)

    def _fail(self, code: int, reason: str) -> None:
        self._final = True
        self._log.warning("request_failed", code=code, reason=reason)
        self._on_failure(code, reason)

    def _send_cancel(self) -> None:
        if self._request is None:
            return
        layer = self._outbox.layer
        layer.request(make_cancel(self._request), self._destination, lambda _response: None, _ignore_failure)
        layer.clock.call_at(layer.clock.time() + layer.timers.timeout, self._give_up)

    def _give_up(self) -> None:
        if not self._final:
            self._fail(408, "Request Timeout")
            self.abandon()


def make_cancel(invite: Request) -> Request:
    """RFC 3261 section 9.1: all that identifies the INVITE, its branch included."""
    cancel = Request("CANCEL", invite.uri)
    cancel.headers.set("Via", invite.headers["Via"])
    for value in invite.headers.getlist("Route"):
        cancel.headers.add("Route", value)
    for name in ("Max-Forwards", "From", "To", "Call-ID", "User-Agent"):
        cancel.headers.set(name, invite.headers[name])
    cancel.headers.set("CSeq", str(CSeq(invite.cseq.sequence, "CANCEL")))
    cancel.headers.set("Content-Length", "0")
    return cancel


def _ignore_response(_request: Request, _response: Response) -> None:
    pass


def _ignore_failure(_code: int, _reason: str) -> None:
    pass
