"""Responses to requests from outside: what every one of ours carries, and what a request is refused for."""

from __future__ import annotations

import structlog
from sipmessage import Request, Response

from .client_request import Outbox
from .dialog import new_tag
from .errors import Fault
from .message import IncomingRequest, SocketAddress, build_response
from .session_handler import Reply
from .stats import SipStats
from .transaction_layer import ServedRequest
from .transport import Transport

_log = structlog.get_logger("sip.user_agent")

ALLOWED_METHODS = ("INVITE", "ACK", "BYE", "CANCEL", "OPTIONS", "INFO", "NOTIFY")
OTHER_METHODS = ("REGISTER", "SUBSCRIBE", "PUBLISH", "MESSAGE", "REFER", "UPDATE", "PRACK")
ACCEPTED_TYPES = (
    "application/sdp",
    "multipart/mixed",
    "text/plain",
    "application/dtmf-relay",
    "application/dtmf",
)
"Of bodies: of an INVITE, or of an INFO."
ALLOW = ("Allow", ", ".join(ALLOWED_METHODS))

_IN_DIALOG = ("BYE", "INFO", "NOTIFY")


def refusal(request: IncomingRequest, *, in_session: bool) -> Fault | None:
    """Sections 8.2.1 to 8.2.3 and 12.2.2: what is wrong with a request, whatever the application may think of it."""
    method = request.method
    if method in OTHER_METHODS:
        return Fault(405, "Method Not Allowed", (ALLOW,))
    if method not in ALLOWED_METHODS:
        return Fault(501, "Not Implemented", (ALLOW,))
    if method == "CANCEL":
        return None
    required = request.values("Require")
    if required:
        return Fault(420, "Bad Extension", (("Unsupported", ", ".join(required)),))
    if not in_session and (request.to_tag is not None or method in _IN_DIALOG):
        return Fault(481, "Call/Transaction Does Not Exist")
    return None


class Responder:
    """Makes and sends them."""

    def __init__(self, outbox: Outbox, transport: Transport, stats: SipStats, server_name: str) -> None:
        self._outbox = outbox
        self._transport = transport
        self._stats = stats
        self._server_name = server_name

    def respond(self, served: ServedRequest, reply: Reply, to_tag: str | None = None) -> Response:
        """Send a reply, with the headers that every reply of ours has."""
        response = self._build(served.request.message, reply, to_tag or new_tag())
        if served.request.method == "INVITE" and 101 <= reply.code <= 299:
            response.headers.set("Contact", self._outbox.contact(served.request.source))
        served.respond(response)
        return response

    def refuse(self, served: ServedRequest, fault: Fault) -> None:
        """Answer with a failure, and log it."""
        request = served.request
        _log.info(
            "request_refused",
            call_id=request.call_id,
            source=request.source[0],
            method=request.method,
            code=fault.code,
            reason=fault.reason,
        )
        self.respond(served, Reply.of(fault))

    def refuse_statelessly(self, message: Request, destination: SocketAddress, fault: Fault) -> None:
        """Section 8.2.7: without the headers that identify it, a request cannot have a transaction."""
        _log.info("request_refused", source=destination[0], method=message.method, code=fault.code, reason=fault.reason)
        self._stats.responses_sent[fault.code] += 1
        response = self._build(message, Reply.of(fault), new_tag())
        self._transport.send(bytes(response), destination)

    def _build(self, request: Request, reply: Reply, to_tag: str) -> Response:
        response = build_response(
            request,
            reply.code,
            reply.reason,
            to_tag=to_tag,
            headers=reply.headers,
            body=reply.body,
            content_type=reply.content_type,
        )
        headers = response.headers
        headers.set("Server", self._server_name)
        if request.method in ("INVITE", "OPTIONS") and 200 <= reply.code <= 299:
            headers.set(*ALLOW)
            headers.set("Supported", "")  # no extension of RFC 3261 by option tag
            headers.set("Accept", ", ".join(ACCEPTED_TYPES))
        return response
