"""What all sections of the configuration are made of."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable

from pydantic import BaseModel, ConfigDict

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Section(BaseModel):
    """A table of the file: an unknown key is an error, and nothing changes after the start."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def require_ip(host: str) -> str:
    """The host, if it is a numeric IP address. Raises ValueError."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        raise ValueError(f"{host!r} is not an IP address") from None
    return host


def networks_like(example: str) -> Callable[[object], tuple[Network, ...]]:
    """What reads a list of networks; it raises ValueError with the example.

    Said in words: pydantic's errors about its union of network types help nobody.
    """

    def require_networks(given: object) -> tuple[Network, ...]:
        if not isinstance(given, list | tuple) or not all(isinstance(item, str | Network) for item in given):
            raise ValueError(f'must be a list of networks, such as ["{example}"]')
        return tuple(ipaddress.ip_network(item) for item in given)

    return require_networks
