"""The callers' SDP."""

from __future__ import annotations

import pytest

from benchmarks.load import sdp
from sip.sdp import SessionDescription

ANSWER = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.2\r\nt=0 0\r\nm=audio 16400 RTP/AVP 0\r\n"


@pytest.mark.parametrize(
    ("answer", "rtp", "rtcp"),
    [
        (ANSWER, ("127.0.0.2", 16400), ("127.0.0.2", 16401)),
        (ANSWER + "c=IN IP4 127.0.0.3\r\n", ("127.0.0.3", 16400), ("127.0.0.3", 16401)),  # the media's own wins
        (ANSWER.replace("\r\n", "\n"), ("127.0.0.2", 16400), ("127.0.0.2", 16401)),
        (ANSWER + "m=video 9 RTP/AVP 31\r\nc=IN IP4 127.0.0.9\r\n", ("127.0.0.2", 16400), ("127.0.0.2", 16401)),
        (ANSWER + "a=rtcp:5000\r\n", ("127.0.0.2", 16400), ("127.0.0.2", 5000)),
        (ANSWER + "a=rtcp:5000 IN IP4 127.0.0.7\r\n", ("127.0.0.2", 16400), ("127.0.0.7", 5000)),
        (ANSWER + "m=video 9 RTP/AVP 31\r\na=rtcp:5000\r\n", ("127.0.0.2", 16400), ("127.0.0.2", 16401)),
    ],
)
def test_media(answer: str, rtp: tuple[str, int], rtcp: tuple[str, int]) -> None:
    assert sdp.media(answer) == sdp.Media(rtp, rtcp)


def test_rtcp_shares_the_port_only_if_that_was_offered() -> None:
    answer = ANSWER + "a=rtcp-mux\r\na=rtcp:16400\r\n"

    assert sdp.media(answer, rtcp_mux=True).rtcp == ("127.0.0.2", 16400)
    assert sdp.media(ANSWER + "a=rtcp-mux\r\n").rtcp == ("127.0.0.2", 16401)


@pytest.mark.parametrize("answer", ["", "c=IN IP4 127.0.0.1\r\n", "m=audio 16400 RTP/AVP 0\r\n", "m=audio x RTP/AVP 0"])
def test_answer_that_takes_no_audio(answer: str) -> None:
    with pytest.raises(ValueError, match=r"audio|invalid literal"):
        sdp.media(answer)


@pytest.mark.parametrize("mux", [False, True])
def test_offer_is_sdp_to_the_server(mux: bool) -> None:
    text = sdp.offer("127.0.0.1", 24576, rtcp_mux=mux)

    SessionDescription.parse(text.encode())
    assert sdp.media(text, rtcp_mux=mux).rtcp == ("127.0.0.1", 24576 if mux else 24577)
    assert ("a=rtcp-mux\r\n" in text) == mux
