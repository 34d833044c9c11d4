"""An INVITE that is to be sent: what the application gives, checked."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .address import parse_uri
from .digest import Credentials
from .message import SocketAddress

MAX_HEADER_CHARS = 2048
MAX_HEADERS = 64

_TOKEN = re.compile(r"[A-Za-z0-9\-.!%*_+`'~]{1,64}")
_OURS = frozenset(
    [
        *("via", "from", "to", "call-id", "cseq", "contact", "route", "record-route", "max-forwards"),
        *("content-type", "content-length", "authorization", "proxy-authorization", "require", "proxy-require"),
        *("supported", "allow", "user-agent", "v", "f", "t", "i", "m", "l", "c", "k"),
    ]
)
"Headers that the session writes itself, and their compact forms."


@dataclass(frozen=True, slots=True)
class OutgoingInvite:
    """A call to be placed. Making one raises ValueError, with what is wrong, for what cannot be sent."""

    target: str
    "The SIP URI of who is called: Request-URI and To."
    from_uri: str
    from_name: str = ""
    "Display name of the From; empty for none."
    next_hop: SocketAddress | None = None
    "Host (a name or an address) and port that it is sent to; None for those of the target."
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    content_type: str = "application/sdp"
    credentials: Credentials | None = None
    timeout_s: float = 60.0
    "For the answer; then the INVITE is cancelled."

    def __post_init__(self) -> None:
        for uri in (self.target, self.from_uri):
            parsed = parse_uri(uri)
            if parsed.scheme != "sip":
                raise ValueError(f"{parsed.scheme} URIs cannot be called: only sip")
            if parsed.parameters.get("transport", "udp").lower() != "udp" or "?" in uri:
                raise ValueError("a SIP URI with headers, or with another transport than UDP, cannot be called")
        if len(self.headers) > MAX_HEADERS:
            raise ValueError(f"more than {MAX_HEADERS} headers")
        for name, value in self.headers:
            _check_header(name, value)
        if not self.from_name.isprintable() or len(self.from_name) > MAX_HEADER_CHARS:
            raise ValueError("display name is not valid")

    def from_address(self) -> str:
        """The From without its tag."""
        if not self.from_name:
            return f"<{self.from_uri}>"
        name = self.from_name.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{name}" <{self.from_uri}>'


def _check_header(name: str, value: str) -> None:
    if not _TOKEN.fullmatch(name):
        raise ValueError("header name is not valid")
    if name.lower() in _OURS:
        raise ValueError(f"header {name} is not for the application to set")
    if not value.isprintable() or len(value) > MAX_HEADER_CHARS:
        raise ValueError(f"value of header {name} is not valid")
