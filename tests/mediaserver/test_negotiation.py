"""Offer and answer: RFC 3264."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediaserver.negotiation import PTIMES_MS, Negotiator, NotAcceptableError
from sip.sdp import SdpError, SessionDescription

LOCAL = ("198.51.100.1", 20_000)


def negotiator(*codecs: str, ptime_ms: int = 20) -> Negotiator:
    return Negotiator(codecs or ("PCMU", "PCMA"), ptime_ms, LOCAL)


def offer(media: str, session: str = "c=IN IP4 192.0.2.10\r\nt=0 0\r\n") -> bytes:
    return f"v=0\r\no=- 1 1 IN IP4 192.0.2.10\r\ns=-\r\n{session}{media}".encode()


def audio(formats: str = "0 8 101", *attributes: str, port: int = 4000, protocol: str = "RTP/AVP") -> str:
    lines = [f"m=audio {port} {protocol} {formats}", *(f"a={attribute}" for attribute in attributes)]
    return "".join(f"{line}\r\n" for line in lines)


EVENTS = ("rtpmap:101 telephone-event/8000", "fmtp:101 0-15")


def test_answer() -> None:
    answer, media = negotiator().answer(offer(audio("8 0 101", *EVENTS)))
    assert media.codec.name == "PCMA"  # the caller's order
    assert media.payload_type == 8
    assert media.event_payload_type == 101
    assert media.remote == ("192.0.2.10", 4000)
    assert media.ptime_ms == 20
    assert media.sending
    described = SessionDescription.parse(answer)
    (stream,) = described.media
    assert described.host_of(stream) == "198.51.100.1"
    assert (stream.port, stream.formats) == (20_000, ["8", "101"])
    assert stream.values("rtpmap") == ["8 PCMA/8000", "101 telephone-event/8000"]
    assert stream.values("fmtp") == ["101 0-15"]
    assert stream.attribute("ptime") == "20"
    assert described.direction_of(stream) == "sendrecv"


def test_only_configured_codecs_are_taken() -> None:
    _, media = negotiator("PCMU").answer(offer(audio("8 0")))
    assert media.codec.name == "PCMU"
    with pytest.raises(NotAcceptableError):
        negotiator("PCMU").answer(offer(audio("8")))


def test_dynamic_payload_types_are_followed() -> None:
    _, media = negotiator().answer(offer(audio("96 97", "rtpmap:96 opus/48000/2", "rtpmap:97 pcma/8000")))
    assert (media.codec.name, media.payload_type) == ("PCMA", 97)


def test_a_static_payload_type_that_is_mapped_is_what_it_is_mapped_to() -> None:
    with pytest.raises(NotAcceptableError):
        negotiator().answer(offer(audio("0", "rtpmap:0 PCMU/16000")))


@pytest.mark.parametrize(
    "media",
    [
        audio("18"),
        audio("96", "rtpmap:96 PCMU/8000/2"),
        audio("0", port=0),
        audio("0", protocol="RTP/SAVP"),
        "m=video 4000 RTP/AVP 0\r\n",
        "",
    ],
)
def test_nothing_in_common(media: str) -> None:
    with pytest.raises(NotAcceptableError):
        negotiator().answer(offer(media))


def test_a_peer_of_the_other_ip_version_has_nothing_in_common() -> None:
    with pytest.raises(NotAcceptableError):
        negotiator().answer(offer(audio(), "c=IN IP6 2001:db8::1\r\n"))


def test_streams_that_are_not_taken_are_refused_in_their_places() -> None:
    """Section 6: as many m= lines as in the offer."""
    streams = "m=image 5000 udptl t38\r\n" + audio("18") + audio() + audio("0", port=4002)
    answer, media = negotiator().answer(offer(streams))
    described = SessionDescription.parse(answer).media
    assert [(stream.kind, stream.port) for stream in described] == [
        ("image", 0),
        ("audio", 0),
        ("audio", 20_000),
        ("audio", 0),
    ]
    assert media.remote == ("192.0.2.10", 4000)


@pytest.mark.parametrize(
    ("theirs", "ours", "sending"),
    [
        ("sendrecv", "sendrecv", True),
        ("sendonly", "recvonly", False),
        ("recvonly", "sendonly", True),
        ("inactive", "inactive", False),
    ],
)
def test_directions_are_mirrored(theirs: str, ours: str, sending: bool) -> None:
    """Section 6.1; sendonly is a peer that holds us."""
    answer, media = negotiator().answer(offer(audio("0", theirs)))
    described = SessionDescription.parse(answer)
    assert described.direction_of(described.media[0]) == ours
    assert media.sending is sending


def test_hold_by_an_unspecified_address() -> None:
    """Section 8.4, the old way."""
    _, media = negotiator().answer(offer(audio("0"), "c=IN IP4 0.0.0.0\r\n"))
    assert not media.sending


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ((), 30),
        (("ptime:10",), 10),
        (("ptime:60",), 60),
        (("ptime:25",), 30),
        (("ptime:x",), 30),
        (("maxptime:20",), 20),
        (("ptime:60", "maxptime:45"), 40),
        (("maxptime:5",), 10),
    ],
)
def test_ptime(attributes: tuple[str, ...], expected: int) -> None:
    answer, media = negotiator(ptime_ms=30).answer(offer(audio("0", *attributes)))
    assert media.ptime_ms == expected
    assert SessionDescription.parse(answer).media[0].attribute("ptime") == str(expected)


@given(st.integers(0, 99999), st.integers(0, 99999))
def test_any_ptime_gives_one_that_we_can_do(ptime: int, longest: int) -> None:
    _, media = negotiator().answer(offer(audio("0", f"ptime:{ptime}", f"maxptime:{longest}")))
    assert media.ptime_ms in PTIMES_MS
    assert media.ptime_ms <= max(longest, 10) or longest == 0


@pytest.mark.parametrize(
    ("media", "session", "said"),
    [
        (audio("0", "rtpmap:0"), "c=IN IP4 192.0.2.1\r\n", "rtpmap"),
        (audio("0", "rtpmap:x PCMU/8000"), "c=IN IP4 192.0.2.1\r\n", "payload type"),
        (audio("999"), "c=IN IP4 192.0.2.1\r\n", "payload type"),
        (audio(), "", "no c= line"),
    ],
)
def test_what_is_wrong_is_named(media: str, session: str, said: str) -> None:
    with pytest.raises(SdpError, match=said):
        negotiator().answer(offer(media, session))


def test_our_offer_and_its_answer() -> None:
    ours = negotiator(ptime_ms=20)
    described = SessionDescription.parse(ours.offer())
    (stream,) = described.media
    assert stream.formats == ["0", "8", "101"]
    assert described.direction_of(stream) == "sendrecv"
    media = ours.accept_answer(offer(audio("8 101", *EVENTS)))
    assert (media.codec.name, media.event_payload_type, media.remote) == ("PCMA", 101, ("192.0.2.10", 4000))


@pytest.mark.parametrize("media", ["", audio("0", port=0), audio("18")])
def test_an_answer_that_takes_nothing(media: str) -> None:
    ours = negotiator()
    ours.offer()
    with pytest.raises(NotAcceptableError):
        ours.accept_answer(offer(media))


def test_a_later_offer_of_ours_keeps_the_streams_in_their_places() -> None:
    """Section 8: as many m= lines as before, and payload types that mean what they meant."""
    ours = negotiator()
    ours.answer(offer("m=video 5000 RTP/AVP 99\r\n" + audio("0 96", "rtpmap:96 telephone-event/8000")))
    described = SessionDescription.parse(ours.offer()).media
    assert [(stream.kind, stream.port) for stream in described] == [("video", 0), ("audio", 20_000)]
    assert described[1].formats == ["0", "8", "96"]
    media = ours.accept_answer(offer("m=video 0 RTP/AVP 99\r\n" + audio("8 96", "rtpmap:96 telephone-event/8000")))
    assert (media.codec.name, media.event_payload_type) == ("PCMA", 96)


def test_a_peer_that_gives_a_name_is_sent_to_where_it_sends_from() -> None:
    _, media = negotiator().answer(offer(audio("0"), "c=IN IP4 pbx.example\r\n"))
    assert media.remote is None
    assert media.sending


def test_a_stream_that_we_refuse_may_be_as_odd_as_it_likes() -> None:
    video = "m=video 5000 RTP/AVP 99\r\nc=nonsense\r\na=rtpmap:nonsense\r\n"
    _, media = negotiator().answer(offer(video + audio("0")))
    assert media.remote == ("192.0.2.10", 4000)


def test_the_version_counts_changes_only() -> None:
    """Section 8."""
    ours = negotiator()
    versions = []
    for media in (audio("0"), audio("0"), audio("0", "sendonly"), audio("0", "sendonly"), audio("0")):
        answer, _ = ours.answer(offer(media))
        versions.append(SessionDescription.parse(answer).version)
    assert versions == [0, 0, 1, 1, 2]
