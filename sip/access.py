"""Who may speak to us: deny what is not configured."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

REFUSALS_PER_SECOND = 10

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class AccessList:
    """The networks that requests are taken from, and how often others are told that they are not.

    Refusals are bounded: source addresses over UDP can be forged, and we are nobody's reflector.
    """

    def __init__(self, networks: Iterable[Network]) -> None:
        self._networks = tuple(networks)
        self._second = 0
        self._refusals = 0

    def allows(self, host: str) -> bool:
        try:
            address = ipaddress.ip_address(host.partition("%")[0])
        except ValueError:
            return False
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return any(address in network for network in self._networks)

    def may_refuse(self, now: float) -> bool:
        """Whether one more refusal may be sent in this second."""
        second = int(now)
        if second != self._second:
            self._second, self._refusals = second, 0
        self._refusals += 1
        return self._refusals <= REFUSALS_PER_SECOND
