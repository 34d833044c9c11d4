"""Offer and answer: RFC 3264."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediaserver.negotiation import PTIMES_MS, Negotiator, NotAcceptableError
from mediaserver.rtcp_attributes import RtcpPolicy
from sip.sdp import SdpError, SessionDescription

LOCAL = ("198.51.100.1", 20_000)


def negotiator(
    *codecs: str, ptime_ms: int = 20, local: tuple[str, int] = LOCAL, rtcp: RtcpPolicy | None = None
) -> Negotiator:
    return Negotiator(codecs or ("PCMU", "PCMA"), ptime_ms, local, rtcp or RtcpPolicy())


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
    ("theirs", "ours", "sending", "receiving"),
    [
        ("sendrecv", "sendrecv", True, True),
        ("sendonly", "recvonly", False, True),
        ("recvonly", "sendonly", True, False),
        ("inactive", "inactive", False, False),
    ],
)
def test_directions_are_mirrored(theirs: str, ours: str, sending: bool, receiving: bool) -> None:
    """Section 6.1; sendonly is a peer that holds us."""
    answer, media = negotiator().answer(offer(audio("0", theirs)))
    described = SessionDescription.parse(answer)
    assert described.direction_of(described.media[0]) == ours
    assert media.sending is sending
    assert media.receiving is receiving
    assert media.owed is (theirs == "sendrecv")


@pytest.mark.parametrize(
    ("session", "local"),
    [("c=IN IP4 0.0.0.0\r\n", LOCAL), ("c=IN IP6 ::\r\n", ("2001:db8::1", 20_000))],
)
def test_hold_by_an_unspecified_address(session: str, local: tuple[str, int]) -> None:
    """Section 8.4, the old way: neither RTP nor RTCP has anywhere to go, and nothing is owed."""
    _, media = negotiator(local=local).answer(offer(audio("0"), session))
    assert not media.sending
    assert not media.owed
    assert media.rtcp_remote is None


def test_a_session_direction_holds_too() -> None:
    _, media = negotiator().answer(offer(audio("0"), "c=IN IP4 192.0.2.10\r\na=sendonly\r\n"))
    assert (media.sending, media.receiving, media.owed) == (False, True, False)


def test_our_offer_may_be_answered_with_a_hold() -> None:
    ours = negotiator()
    ours.offer()
    media = ours.accept_answer(offer(audio("0", "sendonly")))
    assert (media.sending, media.receiving) == (False, True)


def test_g722_only_where_it_is_configured() -> None:
    """Its RTP clock is 8 kHz, by a slip of RFC 1890 that RFC 3551 section 4.5.2 keeps."""
    wanted = audio("9 0 101", "rtpmap:9 G722/8000", *EVENTS)
    assert negotiator().answer(offer(wanted))[1].codec.name == "PCMU"
    answer, media = negotiator("PCMU", "PCMA", "G722").answer(offer(wanted))
    assert (media.codec.name, media.codec.clock_rate, media.payload_type) == ("G722", 8000, 9)
    assert SessionDescription.parse(answer).media[0].values("rtpmap")[0] == "9 G722/8000"
    assert negotiator("G722").answer(offer(audio("9")))[1].codec.name == "G722"  # static


def test_a_g722_at_16_khz_is_none_that_we_know() -> None:
    """Some phones write it: their timestamps might count either way, so G.711 is safer."""
    _, media = negotiator("G722", "PCMU").answer(offer(audio("9 0", "rtpmap:9 G722/16000")))
    assert media.codec.name == "PCMU"


@pytest.mark.parametrize(
    ("formats", "attributes", "expected"),
    [
        ("0 13", (), 13),
        ("0 13", ("rtpmap:13 CN/8000",), 13),
        ("13 0", (), 13),  # first, but no codec
        ("0 98", ("rtpmap:98 cn/8000",), 98),
        ("0 98", ("rtpmap:98 CN/16000",), None),
        ("0", ("rtpmap:13 CN/8000",), None),
        ("0", (), None),
    ],
)
def test_comfort_noise_is_answered_when_offered(
    formats: str, attributes: tuple[str, ...], expected: int | None
) -> None:
    answer, media = negotiator().answer(offer(audio(formats, *attributes)))
    assert media.codec.name == "PCMU"
    assert media.comfort_noise_payload_type == expected
    (stream,) = SessionDescription.parse(answer).media
    assert stream.formats == ["0"] + ([] if expected is None else [str(expected)])
    assert (f"{expected} CN/8000" in stream.values("rtpmap")) is (expected is not None)


def test_comfort_noise_alone_is_no_call() -> None:
    with pytest.raises(NotAcceptableError):
        negotiator().answer(offer(audio("13 101", *EVENTS)))


def test_what_a_payload_type_means_it_goes_on_meaning() -> None:
    """Section 8.3.2. A peer may map even static numbers."""
    ours = negotiator()
    mapped = ("rtpmap:8 telephone-event/8000", "rtpmap:97 PCMA/8000", "rtpmap:13 x/8000", "rtpmap:98 CN/8000")
    _, media = ours.answer(offer(audio("97 8 13 98", *mapped)))
    assert (media.payload_type, media.event_payload_type, media.comfort_noise_payload_type) == (97, 8, 98)
    (stream,) = SessionDescription.parse(ours.offer()).media
    assert stream.formats == ["0", "97", "98", "8"]
    assert "97 PCMA/8000" in stream.values("rtpmap")


@given(
    st.lists(
        st.tuples(
            st.integers(0, 127),
            st.sampled_from(["PCMU", "PCMA", "G722", "CN", "telephone-event", "opus"]),
        ),
        min_size=1,
        max_size=8,
        unique_by=lambda pair: pair[0],
    )
)
def test_our_offer_after_any_answer_is_one_that_its_peer_understands(pairs: list[tuple[int, str]]) -> None:
    ours = negotiator("PCMU", "PCMA", "G722")
    media = audio(" ".join(str(number) for number, _ in pairs), *(f"rtpmap:{n} {name}/8000" for n, name in pairs))
    try:
        _, agreed = ours.answer(offer(media))
    except NotAcceptableError:
        assert not {"PCMU", "PCMA", "G722"} & {name for _, name in pairs}
        return
    (stream,) = SessionDescription.parse(ours.offer()).media
    assert len(set(stream.formats)) == len(stream.formats)
    assert str(agreed.payload_type) in stream.formats
    meanings = dict(value.split(" ", 1) for value in stream.values("rtpmap"))
    for number, name in pairs:
        if number in agreed.payload_types.values():
            assert meanings[str(number)] == f"{name}/8000"


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ((), 30),
        (("ptime:10",), 10),
        (("ptime:60",), 60),
        (("ptime:25",), 20),
        (("ptime:22.5",), 20),
        (("ptime:5",), 10),
        (("ptime:120",), 60),
        (("ptime:0",), 30),
        (("ptime:x",), 30),
        (("ptime:-20",), 30),
        (("maxptime:0",), 30),
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
    assert stream.formats == ["0", "8", "13", "101"]
    assert stream.values("rtpmap") == ["0 PCMU/8000", "8 PCMA/8000", "13 CN/8000", "101 telephone-event/8000"]
    assert stream.values("fmtp") == ["101 0-15"]
    assert stream.attribute("ptime") == "20"
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
    assert described[1].formats == ["0", "8", "13", "96"]
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


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [("sendrecv", "sendonly"), ("recvonly", "sendonly"), ("sendonly", "inactive"), ("inactive", "inactive")],
)
def test_a_peer_that_is_on_hold_is_told_so_in_every_description(theirs: str, ours: str) -> None:
    ours_to_say = negotiator()
    ours_to_say.held = True
    answer, agreed = ours_to_say.answer(offer(audio("0", theirs)))
    assert f"a={ours}\r\n".encode() in answer
    assert agreed.sending is (theirs in ("sendrecv", "recvonly"))
    assert b"a=sendonly\r\n" in ours_to_say.offer()
    ours_to_say.held = False
    assert b"a=sendrecv\r\n" in ours_to_say.offer()


def test_our_address_is_that_which_the_peer_sees() -> None:
    moved = negotiator(local=("", 20_000))
    moved.move("198.51.100.9")
    assert moved.host == "198.51.100.9"
    assert b"c=IN IP4 198.51.100.9\r\n" in moved.offer()
    assert b"m=audio 20000 " in moved.offer()
