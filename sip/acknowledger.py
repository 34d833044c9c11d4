"""ACKs of the 2xx that our INVITEs get: each again whenever its 2xx comes again (RFC 3261 section 13.2.2.4)."""

from __future__ import annotations

import ipaddress

from sipmessage import Request

from .client_request import Outbox, next_hop_address
from .dialog import Dialog
from .message import SocketAddress

MAX_KEPT = 16
"Of the latest answers of a session: to its INVITE, by each fork, and to re-INVITEs."

_Answer = tuple[int, str]


class Acknowledger:
    """The ACKs of one session."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._acks: dict[_Answer, tuple[bytes, SocketAddress] | None] = {}
        "By CSeq of the INVITE and tag of who answered; None while a name is being resolved."

    def repeat(self, invite: Request, tag: str) -> bool:
        """Send the ACK of this answer again; False if it has had none yet."""
        key = (invite.cseq.sequence, tag)
        ack = self._acks.get(key)
        if ack is not None:
            self._outbox.transmit(*ack)
        return key in self._acks

    def acknowledge(self, dialog: Dialog, invite: Request, fallback: SocketAddress) -> None:
        """Send the first one: at once where the peer's Contact or route is an address."""
        key = (invite.cseq.sequence, dialog.remote_tag)
        self._acks[key] = None
        while len(self._acks) > MAX_KEPT:
            self._acks.pop(next(iter(self._acks)))
        host, port = dialog.next_hop()
        if _is_address(host):
            self._send(key, dialog, invite, (host, port))
            return

        async def work() -> None:
            self._send(key, dialog, invite, await next_hop_address(dialog, fallback))

        self._outbox.start(work())

    def _send(self, key: _Answer, dialog: Dialog, invite: Request, destination: SocketAddress) -> None:
        data = bytes(self._outbox.build_ack(dialog, invite, destination))
        if key in self._acks:
            self._acks[key] = data, destination
        self._outbox.transmit(data, destination)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
