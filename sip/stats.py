"""Counters of the SIP side: plain integers, read by whoever exports them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class SipStats:
    """Totals since start; every one only grows."""

    requests_received: Counter[str] = field(default_factory=Counter)
    "By method; methods that we do not know are counted as OTHER."
    responses_sent: Counter[int] = field(default_factory=Counter)
    "By status code, without retransmissions."
    responses_received: int = 0
    requests_sent: Counter[str] = field(default_factory=Counter)
    "By method, without retransmissions."
    datagrams_malformed: int = 0
    datagrams_forbidden: int = 0
    "From addresses that are not allowed."
    datagrams_unmatched: int = 0
    "Responses and ACKs that belong to nothing here."
    accepted_retransmissions: int = 0
    "200s sent again because their ACK had not come."
    acks_missing: int = 0
    "Calls given up because their ACK never came."
    send_errors: int = 0
