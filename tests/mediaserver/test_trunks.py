"""Trunks: whose an INVITE is, and the URIs of ours."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediaserver.refusal import RefusedError
from mediaserver.trunk_config import TrunkConfig
from mediaserver.trunks import MAX_NAME_CHARS, Trunks, display_name, domain_of, from_uri, target_uri
from sip.address import parse_uri
from sip.outgoing_invite import OutgoingInvite

PBX = TrunkConfig(host="192.0.2.10", networks=["192.0.2.0/24"], from_name="The Desk")  # type: ignore[arg-type]
CARRIER = TrunkConfig(host="sip.carrier.example", domain="carrier.example", networks=["2001:db8::/32"])  # type: ignore[arg-type]
TRUNKS = Trunks({"pbx": PBX, "carrier": CARRIER})
OWN = ("127.0.0.1", 5080)


def test_an_invite_is_of_the_trunk_whose_network_it_comes_from() -> None:
    assert TRUNKS.of_source("192.0.2.77") == "pbx"
    assert TRUNKS.of_source("2001:db8::1") == "carrier"
    assert TRUNKS.of_source("198.51.100.1") is None
    assert TRUNKS.of_source("::1") is None


def test_a_trunk_is_placed_through_by_its_name() -> None:
    assert TRUNKS.to_place("pbx", OWN) is PBX
    own = TRUNKS.to_place("self", OWN)
    assert (own.host, own.port) == OWN
    with pytest.raises(RefusedError) as refused:
        TRUNKS.to_place("nobody", OWN)
    assert refused.value.fault.code == 404


def test_a_trunk_named_self_is_the_configured_one() -> None:
    assert Trunks({"self": PBX}).to_place("self", OWN) is PBX


@pytest.mark.parametrize(
    ("to", "uri"),
    [
        ("bob", "sip:bob@pbx:5070"),
        ("+49301234", "sip:+49301234@pbx:5070"),
        ("tel:+49-30-1234;ext=5", "sip:+49-30-1234@pbx:5070"),
        ("sip:bob@elsewhere.example", "sip:bob@elsewhere.example"),
        ("SIP:bob@elsewhere.example;user=phone", "SIP:bob@elsewhere.example;user=phone"),
        ("bob@elsewhere.example", "sip:bob@elsewhere.example"),
        ("a b;c?d/e#", "sip:a%20b%3Bc%3Fd%2Fe%23@pbx:5070"),
        ("müller", "sip:m%C3%BCller@pbx:5070"),
    ],
)
def test_who_is_called(to: str, uri: str) -> None:
    assert target_uri(to, "pbx:5070") == uri


@pytest.mark.parametrize(
    "to",
    [
        "",
        "   ",
        "x" * 200,
        "bob\r\nRoute: <sip:x>",
        "sip:",
        "sip:bob@",
        "sip:bob@ho st",
        "sip:bob@host?Route=x",
        "bob@host>",
        "sip:b\u00fcb@host",
        "sips:bob@host",
        "tel:xyz",
    ],
)
def test_who_cannot_be_called(to: str) -> None:
    with pytest.raises(RefusedError):
        target_uri(to, "pbx")


@given(st.text(max_size=140))
def test_whatever_is_called_can_be_sent_or_is_refused(to: str) -> None:
    try:
        uri = target_uri(to, "pbx.example")
    except RefusedError:
        return
    assert parse_uri(uri).scheme == "sip"
    assert uri.isascii()
    assert uri.isprintable()
    if "transport=" not in uri:
        OutgoingInvite(target=uri, from_uri="sip:desk@host")


def test_domains() -> None:
    assert domain_of(PBX) == "192.0.2.10"
    assert domain_of(CARRIER) == "carrier.example"
    assert domain_of(TrunkConfig(host="pbx", port=5070)) == "pbx:5070"
    assert domain_of(TrunkConfig(host="2001:db8::1", port=5070)) == "[2001:db8::1]:5070"


def test_whom_the_called_party_sees() -> None:
    assert from_uri(None, PBX, "198.51.100.1") == "sip:chatterline@198.51.100.1"
    assert from_uri("+4930", CARRIER, "198.51.100.1") == "sip:+4930@carrier.example"
    assert from_uri(None, PBX, "2001:db8::5") == "sip:chatterline@[2001:db8::5]"
    with pytest.raises(RefusedError):
        from_uri("a\nb", PBX, "198.51.100.1")
    assert display_name(None, PBX) == "The Desk"
    assert display_name("", PBX) == ""
    for name in ("a\r\nb", "x" * (MAX_NAME_CHARS + 1)):
        with pytest.raises(RefusedError):
            display_name(name, PBX)
