"""Where responses go, and what is noted in the Via."""

from __future__ import annotations

import pytest
from sipmessage import Message, Request, Via

from sip.via import response_address, stamp_via
from tests.sip.doubles import make_request

SOURCE = ("203.0.113.7", 40_000)


def stamped(via: str) -> str:
    request = Message.parse(make_request(headers={"Via": via}))
    assert isinstance(request, Request)
    stamp_via(request, SOURCE)
    return request.headers["Via"]


@pytest.mark.parametrize(
    ("via", "expected"),
    [
        (
            "SIP/2.0/UDP 192.0.2.1;rport;branch=z9hG4bK1",
            "SIP/2.0/UDP 192.0.2.1;rport=40000;branch=z9hG4bK1;received=203.0.113.7",
        ),
        (
            "SIP/2.0/UDP 203.0.113.7;branch=z9hG4bK1;rport",
            "SIP/2.0/UDP 203.0.113.7;branch=z9hG4bK1;rport=40000;received=203.0.113.7",
        ),
        (
            "SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKrport",
            "SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKrport;received=203.0.113.7",
        ),
        ("SIP/2.0/UDP 203.0.113.7;branch=z9hG4bK1", "SIP/2.0/UDP 203.0.113.7;branch=z9hG4bK1"),
        (
            "SIP/2.0/UDP 192.0.2.1;received=8.8.8.8;branch=z9hG4bK1",
            "SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK1;received=203.0.113.7",
        ),
        (
            "SIP/2.0/UDP 192.0.2.1:5070;branch=z9hG4bK1;rport=9;x=1, SIP/2.0/UDP b;rport",
            "SIP/2.0/UDP 192.0.2.1:5070;branch=z9hG4bK1;rport=40000;x=1;received=203.0.113.7, SIP/2.0/UDP b;rport",
        ),
        ("nonsense", "nonsense"),
    ],
)
def test_stamp_via(via: str, expected: str) -> None:
    """RFC 3261 section 18.2.1, RFC 3581 section 4."""
    assert stamped(via) == expected


def test_only_the_topmost_via_is_stamped() -> None:
    data = make_request().replace(b"Max-Forwards", b"Via: SIP/2.0/UDP 10.0.0.1;rport\r\nMax-Forwards")
    request = Message.parse(data)
    assert isinstance(request, Request)
    stamp_via(request, SOURCE)
    top, below = request.headers.getlist("Via")
    assert top.endswith("received=203.0.113.7")
    assert below == "SIP/2.0/UDP 10.0.0.1;rport"


@pytest.mark.parametrize(
    ("via", "expected"),
    [
        ("SIP/2.0/UDP 192.0.2.1:5070;rport", SOURCE),
        ("SIP/2.0/UDP 192.0.2.1:5070", ("203.0.113.7", 5070)),
        ("SIP/2.0/UDP 192.0.2.1", ("203.0.113.7", 5060)),
        ("SIP/2.0/UDP 192.0.2.1:5070;maddr=8.8.8.8", ("203.0.113.7", 5070)),
    ],
)
def test_response_address(via: str, expected: tuple[str, int]) -> None:
    assert response_address(Via.parse(via), SOURCE) == expected


def test_without_a_via_the_source_is_answered() -> None:
    assert response_address(None, SOURCE) == SOURCE
