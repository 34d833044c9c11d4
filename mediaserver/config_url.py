"""URLs in the configuration: what is wrong with one is told when the server starts, not when it is needed."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

_NOT_IN_URL = re.compile(r"[^\x21-\x7e]|[\\<>\"^`{|}]")
"What has to be percent-encoded (RFC 3986): clients do that each in its own way."


def require_url(url: str, *schemes: str) -> str:
    """The URL, if it is whole and has one of these schemes, or "". Raises ValueError."""
    if not url:
        return url
    if not url.startswith(tuple(f"{scheme}://" for scheme in schemes)):
        raise ValueError(f"{url!r} does not begin with {' or '.join(f'{scheme}://' for scheme in schemes)}")
    if _NOT_IN_URL.search(url):
        raise ValueError(f"{url!r} contains a character that has to be percent-encoded")
    try:
        parts = urlsplit(url)
        whole = bool(parts.hostname) and parts.port != 0
    except ValueError:
        whole = False
    if not whole or "#" in url or re.search(r"/\.\.?(/|$)", parts.path):
        raise ValueError(f"{url!r} has no valid host or port, or has a fragment or dot segments")
    return url


def require_websocket_url(url: str) -> str:
    """The URL, if it is one of a WebSocket, or "". Raises ValueError."""
    return require_url(url, "ws", "wss")
