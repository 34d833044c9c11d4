"""What can be wrong with a SIP message."""

from __future__ import annotations

from dataclasses import dataclass


class MalformedMessageError(ValueError):
    """A datagram that is no SIP message, or none that could be answered."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a request is refused: the final response that it gets."""

    code: int
    reason: str
    headers: tuple[tuple[str, str], ...] = ()
