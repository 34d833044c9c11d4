"""RTCP in offers and answers: a=rtcp-mux, a=rtcp, a=rtcp-xr."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediaserver.negotiation import DO_RTCP, MediaFormat, Negotiator
from mediaserver.rtcp_attributes import RtcpPolicy
from sip.sdp import MediaDescription, SessionDescription

NO_MUX = RtcpPolicy(mux=False)
OFF = RtcpPolicy(enabled=False)


def describe(
    *attributes: str, formats: str = "0", host: str = "192.0.2.10", port: int = 4000, session: str = ""
) -> bytes:
    lines = [
        "v=0",
        "o=- 1 1 IN IP4 192.0.2.10",
        "s=-",
        f"c=IN {'IP6' if ':' in host else 'IP4'} {host}",
        "t=0 0",
        *([session] if session else []),
        f"m=audio {port} RTP/AVP {formats}",
        *(f"a={attribute}" for attribute in attributes),
    ]
    return "".join(f"{line}\r\n" for line in lines).encode()


def negotiator(policy: RtcpPolicy = DO_RTCP, local: str = "198.51.100.1") -> Negotiator:
    return Negotiator(("PCMU",), 20, (local, 20_000), policy)


def answer(
    offer: bytes, policy: RtcpPolicy = DO_RTCP, local: str = "198.51.100.1"
) -> tuple[MediaDescription, MediaFormat]:
    sdp, media = negotiator(policy, local).answer(offer)
    return SessionDescription.parse(sdp).media[0], media


def offered(policy: RtcpPolicy) -> MediaDescription:
    return SessionDescription.parse(negotiator(policy).offer()).media[0]


def test_without_a_word_rtcp_goes_to_the_port_above() -> None:
    """RFC 3550 section 11."""
    stream, media = answer(describe())
    assert media.rtcp_remote == ("192.0.2.10", 4001)
    assert not media.rtcp_mux
    assert stream.attribute("rtcp") is None  # so does ours


def test_mux_is_answered_only_when_offered() -> None:
    """RFC 5761 section 5.1.1."""
    stream, media = answer(describe("rtcp-mux"))
    assert stream.attribute("rtcp-mux") == ""
    assert media.rtcp_mux
    assert media.rtcp_remote == media.remote
    stream, media = answer(describe())
    assert stream.attribute("rtcp-mux") is None
    assert not media.rtcp_mux


def test_mux_is_not_answered_when_it_is_not_wanted() -> None:
    stream, media = answer(describe("rtcp-mux"), NO_MUX)
    assert stream.attribute("rtcp-mux") is None
    assert not media.rtcp_mux
    assert media.rtcp_remote == ("192.0.2.10", 4001)


def test_with_mux_the_port_of_a_rtcp_is_for_those_without() -> None:
    """RFC 5761 section 5.1.3."""
    _, media = answer(describe("rtcp:5000", "rtcp-mux"))
    assert media.rtcp_remote == ("192.0.2.10", 4000)
    _, media = answer(describe("rtcp:5000", "rtcp-mux"), NO_MUX)
    assert media.rtcp_remote == ("192.0.2.10", 5000)


@pytest.mark.parametrize(("number", "shares"), [(63, True), (64, False), (95, False), (96, True)])
def test_payload_types_that_look_like_rtcp_share_no_port(number: int, shares: bool) -> None:
    """RFC 5761 section 4: 64 with the marker bit is 192, 95 is 223."""
    ours = negotiator()
    _, media = ours.answer(describe("rtcp-mux", f"rtpmap:{number} telephone-event/8000", formats=f"0 {number}"))
    assert media.rtcp_mux is shares
    offer = SessionDescription.parse(ours.offer()).media[0]
    assert (offer.attribute("rtcp-mux") is not None) is shares


@pytest.mark.parametrize(
    ("policy", "mux", "metrics"), [(RtcpPolicy(), True, True), (NO_MUX, False, True), (OFF, False, False)]
)
def test_our_offer(policy: RtcpPolicy, mux: bool, metrics: bool) -> None:
    stream = offered(policy)
    assert (stream.attribute("rtcp-mux") is not None) is mux
    assert stream.attribute("rtcp-xr") == ("voip-metrics" if metrics else None)


@pytest.mark.parametrize(
    ("policy", "attributes", "mux"),
    [(RtcpPolicy(), ("rtcp-mux",), True), (RtcpPolicy(), (), False), (NO_MUX, ("rtcp-mux",), False)],
)
def test_the_answer_to_our_offer(policy: RtcpPolicy, attributes: tuple[str, ...], mux: bool) -> None:
    """An answer that takes what was not offered has no say."""
    ours = negotiator(policy)
    ours.offer()
    media = ours.accept_answer(describe(*attributes))
    assert media.rtcp_mux is mux
    assert media.rtcp_remote == ("192.0.2.10", 4000 if mux else 4001)


def test_where_rtcp_is_off_none_is_agreed() -> None:
    stream, media = answer(describe("rtcp-mux", "rtcp:5000", "rtcp-xr:voip-metrics"), OFF)
    assert (media.rtcp, media.rtcp_mux, media.rtcp_remote, media.rtcp_xr) == (None, False, None, False)
    assert not any(name.startswith("rtcp") for name, _ in stream.attributes)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("5000", ("192.0.2.10", 5000)),
        ("5000 IN IP4 192.0.2.77", ("192.0.2.77", 5000)),
        ("5000 IN IP6 2001:db8::1", None),  # our socket is of the other version
        ("5000 IN IP4 pbx.example", None),  # to where its RTCP comes from
        ("5000 IN IP4 0.0.0.0", None),
        ("5000 IN IP4 224.0.0.1", None),
        # Not valid, so as if it were not there:
        ("", ("192.0.2.10", 4001)),
        ("0", ("192.0.2.10", 4001)),
        ("65536", ("192.0.2.10", 4001)),
        ("x", ("192.0.2.10", 4001)),
        ("٣٣", ("192.0.2.10", 4001)),
        ("5000 IN IP4", ("192.0.2.10", 4001)),
        ("5000 IN IP4 192.0.2.77 x", ("192.0.2.10", 4001)),
    ],
)
def test_a_rtcp_port(value: str, expected: tuple[str, int] | None) -> None:
    """RFC 3605 section 2.1."""
    _, media = answer(describe(f"rtcp:{value}"))
    assert media.rtcp_remote == expected
    assert media.remote == ("192.0.2.10", 4000)


def test_rtcp_over_ipv6() -> None:
    _, media = answer(describe("rtcp:5000 IN IP6 2001:db8::2", host="2001:db8::1"), local="2001:db8::9")
    assert media.rtcp_remote == ("2001:db8::2", 5000)


def test_a_peer_whose_address_is_a_name_is_reported_to_where_it_reports_from() -> None:
    _, media = answer(describe("rtcp:5000", host="pbx.example"))
    assert (media.remote, media.rtcp_remote) == (None, None)


def test_above_the_last_port_there_is_none() -> None:
    _, media = answer(describe(port=65535))
    assert media.rtcp_remote is None


@pytest.mark.parametrize(
    ("attributes", "session", "expected"),
    [
        (("rtcp-xr:voip-metrics",), "", True),
        (("rtcp-xr:pkt-loss-rle=400 rcvr-rtt=all:600 voip-metrics",), "", True),
        (("rtcp-xr:rcvr-rtt=all", "rtcp-xr:voip-metrics"), "", True),
        ((), "a=rtcp-xr:voip-metrics", True),
        (("rtcp-xr:rcvr-rtt=all",), "a=rtcp-xr:voip-metrics", False),  # the stream's own word counts
        (("rtcp-xr:",), "a=rtcp-xr:voip-metrics", False),
        (("rtcp-xr:xvoip-metrics",), "", False),
        ((), "", False),
    ],
)
def test_voip_metrics_go_to_who_asks(attributes: tuple[str, ...], session: str, expected: bool) -> None:
    """RFC 3611 section 5.1. We ask whatever the peer does."""
    stream, media = answer(describe(*attributes, session=session))
    assert media.rtcp_xr is expected
    assert stream.attribute("rtcp-xr") == "voip-metrics"


@given(st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=40), st.integers(1, 65535))
def test_any_attribute_gives_an_address_that_can_be_sent_to_or_none(value: str, port: int) -> None:
    for attributes in ((f"rtcp:{value}",), (f"rtcp:{value}", f"rtcp-xr:{value}", f"rtcp-mux:{value}")):
        _, media = answer(describe(*attributes, port=port))
        if media.rtcp_remote is not None:
            assert 0 < media.rtcp_remote[1] < 65536
            assert ":" not in media.rtcp_remote[0]


@given(
    st.builds(RtcpPolicy, st.booleans(), st.booleans()),
    st.builds(RtcpPolicy, st.booleans(), st.booleans()),
    st.permutations(["PCMU", "PCMA", "G722"]),
    st.sampled_from([10, 20, 30, 40, 60]),
)
def test_both_sides_agree_on_the_same(ours: RtcpPolicy, theirs: RtcpPolicy, codecs: list[str], ptime_ms: int) -> None:
    """One of us calls another."""
    caller = Negotiator(codecs, ptime_ms, ("192.0.2.1", 4000), ours)
    callee = Negotiator(("G722", "PCMA", "PCMU"), 20, ("192.0.2.2", 6000), theirs)
    sdp, there = callee.answer(caller.offer())
    here = caller.accept_answer(sdp)
    assert here.payload_types == there.payload_types
    assert (here.codec.name, here.ptime_ms) == (there.codec.name, there.ptime_ms) == (codecs[0], ptime_ms)
    assert here.owed
    assert there.owed
    assert here.rtcp_mux is there.rtcp_mux is (ours.mux and theirs.mux and ours.enabled and theirs.enabled)
    if here.rtcp is not None and there.rtcp is not None:
        above = 0 if here.rtcp_mux else 1
        assert (here.rtcp_remote, there.rtcp_remote) == (("192.0.2.2", 6000 + above), ("192.0.2.1", 4000 + above))
        assert here.rtcp_xr
        assert there.rtcp_xr
