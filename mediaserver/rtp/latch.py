"""Symmetric RTP: send where the peer's packets come from (RFC 4961; security as RFC 7362 section 4 asks)."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from enum import StrEnum

Address = tuple[str, int]
"IP address and port."

REBIND_SECONDS = 1.0
"How long a latched source must have been silent before another may take its place."


class LatchPolicy(StrEnum):
    """From whom the destination of the audio may be learnt."""

    OFF = "off"
    "From nobody: audio always goes to the SDP's address. Packets are taken from the hosts allowed."
    HOST = "host"
    "From the hosts allowed, whatever the port."
    ANY = "any"
    "From the first who sends."


class Latch:
    """Where one leg's audio goes and whose packets it takes. Pure: time is an argument, in monotonic seconds."""

    def __init__(self, policy: LatchPolicy, remote: Address | None = None, hosts: Iterable[str] = ()) -> None:
        self.policy = policy
        self.set_remote(remote, hosts)

    def set_remote(self, remote: Address | None, hosts: Iterable[str] = ()) -> None:
        """Start over with the address of a new SDP and the hosts allowed besides (the signalling's source).

        An unspecified address (0.0.0.0, ::) or port 0 is no destination. Raises ValueError for what is not a
        numeric IP address.
        """
        self.source: Address | None = None
        "The latched source; None until a packet was taken."
        self._last_heard = 0.0
        self._hosts = {canonical_host(host) for host in hosts}
        self.destination: Address | None = None
        "Where to send; None if nowhere is known yet."
        if remote is None:
            return
        host, port = canonical_host(remote[0]), remote[1]
        if ipaddress.ip_address(host).is_unspecified:
            return
        self._hosts.add(host)
        if port:
            self.destination = (host, port)

    def accept(self, source: Address, now: float) -> bool:
        """Whether to take a valid RTP packet from `source` (as the socket gave it); latches as the policy says."""
        if source != self.source:
            if not self._allowed(source):
                return False
            if self.source is not None and now - self._last_heard < REBIND_SECONDS:
                return False
            self.source = source
            if self.policy is not LatchPolicy.OFF:
                self.destination = source
        self._last_heard = now
        return True

    def _allowed(self, source: Address) -> bool:
        return self.policy is LatchPolicy.ANY or source[0] in self._hosts


def canonical_host(host: str) -> str:
    """An IP address as sockets write it. Raises ValueError if it is none."""
    return ipaddress.ip_address(host).compressed
