"""Session descriptions: RFC 8866."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sip.sdp import SdpError, SessionDescription

OFFER = b"""v=0
o=alice 2890844526 2890844527 IN IP4 192.0.2.10
s=A call
i=about
c=IN IP4 192.0.2.10
b=AS:64
t=0 0
a=sendonly
m=audio 49170/2 RTP/AVP 0 8 101
a=rtpmap:0 PCMU/8000
a=rtpmap:101 telephone-event/8000
a=ptime:30
m=video 51372 RTP/AVP 99
c=IN IP6 2001:db8::1
a=recvonly
"""


def test_parse() -> None:
    description = SessionDescription.parse(OFFER)
    audio, video = description.media
    assert (description.session_id, description.version, description.origin_host) == (
        2890844526,
        2890844527,
        "192.0.2.10",
    )
    assert (audio.kind, audio.port, audio.protocol, audio.formats) == ("audio", 49170, "RTP/AVP", ["0", "8", "101"])
    assert audio.values("rtpmap") == ["0 PCMU/8000", "101 telephone-event/8000"]
    assert audio.attribute("ptime") == "30"
    assert audio.attribute("maxptime") is None
    assert description.host_of(audio) == "192.0.2.10"
    assert description.host_of(video) == "2001:db8::1"
    assert description.direction_of(audio) == "sendonly"  # the session's
    assert description.direction_of(video) == "recvonly"  # its own


def test_both_line_ends_are_taken() -> None:
    assert SessionDescription.parse(OFFER.replace(b"\n", b"\r\n")) == SessionDescription.parse(OFFER)


def test_direction_is_sendrecv_by_default() -> None:
    description = SessionDescription.parse(OFFER.replace(b"a=sendonly\n", b""))
    assert description.direction_of(description.media[0]) == "sendrecv"


def test_written_and_read_again() -> None:
    description = SessionDescription.parse(OFFER)
    assert SessionDescription.parse(bytes(description)) == description


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (b"v=0\n", b"", "v=0"),
        (b"49170/2", b"x", "port"),
        (b"49170/2", b"70000", "port"),
        (b"m=audio 49170/2 RTP/AVP 0 8 101", b"m=audio 1 RTP/AVP", "m= is not valid"),
        (b"a=ptime:30", b"nonsense", "line is not"),
        (b"s=A call", b"s=\xff", "UTF-8"),
    ],
)
def test_what_is_wrong_is_named(old: bytes, new: bytes, said: str) -> None:
    assert old in OFFER
    with pytest.raises(SdpError, match=said):
        SessionDescription.parse(OFFER.replace(old, new, 1))


@pytest.mark.parametrize(
    ("connection", "said"), [(b"IN IP4 224.0.0.1", "multicast"), (b"ATM x", "c= is not valid"), (None, "no c= line")]
)
def test_a_connection_that_cannot_be_used_is_told_to_who_asks(connection: bytes | None, said: str) -> None:
    line = b"c=IN IP4 192.0.2.10\n"
    data = OFFER.replace(line, b"" if connection is None else b"c=" + connection + b"\n")
    description = SessionDescription.parse(data)
    with pytest.raises(SdpError, match=said):
        description.host_of(description.media[0])
    assert description.host_of(description.media[1]) == "2001:db8::1"  # has its own


def test_a_host_name_is_no_address() -> None:
    description = SessionDescription.parse(OFFER.replace(b"IP4 192.0.2.10\nb", b"IP4 pbx.example\nb"))
    assert description.host_of(description.media[0]) is None


def test_an_origin_that_is_not_valid_is_passed_over() -> None:
    description = SessionDescription.parse(OFFER.replace(b"o=alice", b"o=Alice of Example"))
    assert len(description.media) == 2


def test_size_is_bounded() -> None:
    with pytest.raises(SdpError, match="bytes"):
        SessionDescription.parse(OFFER + b"a=x\n" * 5000)
    with pytest.raises(SdpError, match="too many m="):
        SessionDescription.parse(OFFER + b"m=audio 1 RTP/AVP 0\n" * 20)


def parse_or_refuse(data: bytes) -> None:
    """Whatever is taken is within its bounds, and can be written and read again."""
    with contextlib.suppress(SdpError):
        description = SessionDescription.parse(data)
        assert all(0 <= media.port <= 65535 for media in description.media)
        again = SessionDescription.parse(bytes(description))
        assert [media.formats for media in again.media] == [media.formats for media in description.media]


@given(st.binary(max_size=300))
def test_any_bytes_are_parsed_or_refused(data: bytes) -> None:
    parse_or_refuse(b"v=0\n" + data)


@given(st.data())
def test_damage_is_parsed_or_refused(data: st.DataObject) -> None:
    whole = bytearray(OFFER)
    for _ in range(3):
        at = data.draw(st.integers(0, len(whole) - 1))
        piece = data.draw(st.sampled_from([b"", b"=", b":", b"/", b"9", b"\n"]))
        whole[at : at + data.draw(st.integers(0, 5))] = piece
    parse_or_refuse(bytes(whole))
