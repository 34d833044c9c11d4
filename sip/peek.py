"""What a datagram belongs to, seen without parsing it: strangers may send many, and most are dropped at once.

Only a hint: header lines that are folded or oddly spaced are not seen.
"""

from __future__ import annotations

import re

_BRANCH = re.compile(rb";branch=(z9hG4bK[A-Za-z0-9\-.!%*_+`'~]{1,128})")
_CALL_ID = re.compile(rb"\r\n(?:call-id|i)[ \t]*:[ \t]*([^\s]{1,256})[ \t]*\r\n", re.IGNORECASE)


def branch_of(datagram: bytes) -> str | None:
    """The branch of the topmost Via."""
    match = _BRANCH.search(datagram)
    return match[1].decode() if match else None


def call_id_of(datagram: bytes) -> str | None:
    match = _CALL_ID.search(datagram)
    return match[1].decode(errors="replace") if match else None
