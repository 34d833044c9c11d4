"""Where a response goes, and what the server notes in the Via on receipt (RFC 3261 section 18.2, RFC 3581)."""

from __future__ import annotations

import re

from sipmessage import Request

from .address import DEFAULT_PORT, Via, parse_via, split_values
from .message import SocketAddress

_RPORT = re.compile(r";\s*rport(?:\s*=\s*\d*)?(?=\s*(?:;|$))", re.IGNORECASE)
_RECEIVED = re.compile(r";\s*received\s*=\s*[^;\s]*", re.IGNORECASE)


def top_via(request: Request) -> Via | None:
    """The topmost Via; None if there is none that can be read."""
    lines = request.headers.getlist("Via")
    values = split_values(lines[0]) if lines else []
    try:
        return parse_via(values[0]) if values else None
    except ValueError:
        return None


def stamp_via(request: Request, source: SocketAddress) -> None:
    """Note in the topmost Via whence the request really came; a claim already there is replaced.

    `rport` is filled in where the client asked for it, and then `received` is always given (RFC 3581 section 4).
    """
    via = top_via(request)
    if via is None:
        return
    lines = request.headers.getlist("Via")
    top, *rest = split_values(lines[0])
    host, port = source
    stamped = _RECEIVED.sub("", top)
    asked_rport = "rport" in via.parameters
    if asked_rport:
        stamped = _RPORT.sub(f";rport={port}", stamped, count=1)
    if asked_rport or via.host.strip("[]") != host:
        stamped += f";received={host}"
    request.headers.setlist("Via", [", ".join([stamped, *rest]), *lines[1:]])


def response_address(via: Via | None, source: SocketAddress) -> SocketAddress:
    """RFC 3581 section 4 with rport, else RFC 3261 section 18.2.2.

    The address is always the packet's own source, never what the Via claims (nor its maddr): a forged Via must not
    aim our responses at a third party.
    """
    if via is None or "rport" in via.parameters:
        return source
    return source[0], via.port or DEFAULT_PORT
