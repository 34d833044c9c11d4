"""Trunks: whose call an INVITE is, and where one of ours goes."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from urllib.parse import quote

from mediaserver.refusal import RefusedError
from mediaserver.trunk_config import TrunkConfig
from sip.address import DEFAULT_PORT, parse_uri

SELF = "self"
"The trunk that leads back to this server."
MAX_USER_CHARS = 128
MAX_NAME_CHARS = 128
_UNRESERVED = "-_.!~*'()&=+$,"
"Of a URI's user, beside letters and digits (RFC 3261 section 25.1); `;`, `?` and `/` are escaped, being misread often."
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f]")


class Trunks:
    """The configured ones, and "self"."""

    def __init__(self, trunks: Mapping[str, TrunkConfig]) -> None:
        self._trunks = trunks

    def of_source(self, host: str) -> str | None:
        """The trunk whose networks have that address; None for none. The first of several."""
        address = ipaddress.ip_address(host)
        for name, trunk in self._trunks.items():
            if any(address.version == network.version and address in network for network in trunk.networks):
                return name
        return None

    def config(self, name: str | None) -> TrunkConfig | None:
        """None for no trunk, and for "self"."""
        return self._trunks.get(name) if name is not None else None

    def to_place(self, name: str, own: tuple[str, int]) -> TrunkConfig:
        """The trunk to place a call through; own: where this server listens. Raises RefusedError."""
        if name in self._trunks:
            return self._trunks[name]
        if name == SELF:
            host, port = own
            return TrunkConfig(host=host, port=port)
        raise RefusedError(404, f"Unknown Trunk '{name[:80]}': It Is Not In [trunks]")


def domain_of(trunk: TrunkConfig) -> str:
    """Of the URIs of who is called through it, with a port where one is needed."""
    if trunk.domain:
        return bracketed(trunk.domain)
    return bracketed(trunk.host) + ("" if trunk.port == DEFAULT_PORT else f":{trunk.port}")


def target_uri(to: str, domain: str) -> str:
    """The URI to call: a SIP URI as it is, a tel URI or a user at that domain. Raises RefusedError."""
    if to.lower().startswith("sips:"):
        raise RefusedError(400, "SIPS Is Not Supported")
    if to.lower().startswith("tel:"):
        to = _checked(to).partition(":")[2].partition(";")[0]
    elif to.lower().startswith("sip:"):
        return _checked(to)
    elif "@" in to:
        return _checked(f"sip:{to}")
    return _checked(f"sip:{user_part(to)}@{domain}")


def user_part(user: str) -> str:
    """A user or number as a URI has it. Raises RefusedError."""
    if not user.strip() or len(user) > MAX_USER_CHARS or _UNPRINTABLE.search(user):
        raise RefusedError(400, f"User Is Not 1 To {MAX_USER_CHARS} Printable Characters")
    return quote(user.strip(), safe=_UNRESERVED)


def from_uri(user: str | None, trunk: TrunkConfig, own_host: str) -> str:
    """Whom the called party sees. Raises RefusedError."""
    return _checked(f"sip:{user_part(user or trunk.from_user)}@{bracketed(trunk.domain or own_host)}")


def display_name(name: str | None, trunk: TrunkConfig) -> str:
    """Raises RefusedError."""
    chosen = trunk.from_name if name is None else name
    if len(chosen) > MAX_NAME_CHARS or _UNPRINTABLE.search(chosen):
        raise RefusedError(400, f"From Name Is Not Up To {MAX_NAME_CHARS} Printable Characters")
    return chosen


def bracketed(host: str) -> str:
    """As a URI has it."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def _checked(uri: str) -> str:
    """Raises RefusedError."""
    try:
        parsed = parse_uri(uri)
        uri.encode("ascii")
    except ValueError:
        raise RefusedError(400, "Target Is Not A SIP URI, A Number Or A User") from None
    if parsed.scheme == "sip" and "?" in uri:  # headers in a URI would become ours
        raise RefusedError(400, "Target Has Headers")
    return uri
