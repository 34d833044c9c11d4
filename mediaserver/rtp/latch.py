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
    """Where one leg's audio goes and whose packets it takes, under one SDP; a new SDP gets a new latch.

    Pure: time is an argument, in monotonic seconds.
    """

    __slots__ = ("_hosts", "destination", "last_heard", "policy", "source", "source_key")

    def __init__(self, policy: LatchPolicy, remote: Address | None = None, hosts: Iterable[str] = ()) -> None:
        """remote: the SDP's address; hosts: those allowed besides (the signalling's source).

        An unspecified address (0.0.0.0, ::) or port 0 is no destination. Raises ValueError for what is not a
        numeric IP address.
        """
        self.policy = policy
        self.source: Address | None = None
        "The latched source; None until a packet was taken."
        self.source_key: bytes | None = None
        "The same as the socket gives it, so that the next packet is known by one comparison; set by who asks accept()."
        self.last_heard = 0.0
        "When a packet of the latched source was taken."
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
            if not self.allows(source):
                return False
            if self.source is not None and now - self.last_heard < REBIND_SECONDS:
                return False
            self.source = source
            if self.policy is not LatchPolicy.OFF:
                self.destination = source
        self.last_heard = now
        return True

    def allows(self, source: Address) -> bool:
        """Whether the policy takes packets from that host at all."""
        return self.policy is LatchPolicy.ANY or source[0] in self._hosts

    def allows_report(self, source: Address) -> bool:
        """Whether to take RTCP from there; under ANY only from the host that is being heard."""
        if self.policy is LatchPolicy.ANY:
            return self.source is not None and source[0] == self.source[0]
        return self.allows(source)


def canonical_host(host: str) -> str:
    """An IP address as sockets write it. Raises ValueError if it is none."""
    return ipaddress.ip_address(host).compressed
