"""What a SIP request asks to have said."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediaserver.call.order import SpeechOrder, parse_order
from mediaserver.refusal import RefusedError
from mediaserver.rtp.dtmf import DtmfSender
from sip.user_agent import ACCEPTED_TYPES
from tests.sip.doubles import incoming, make_request

SDP = b"v=0\r\n"
INFO_TYPES = ("text/plain",)
MULTIPART = "multipart/mixed;boundary=b1"


def order(
    accepted: tuple[str, ...] = ACCEPTED_TYPES, body: bytes = b"", method: str = "INVITE", **headers: str | None
) -> SpeechOrder:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return parse_order(incoming(make_request(method, headers=names, body=body)), accepted)


def refusal(*args: object, **kwargs: object) -> tuple[int, str]:
    with pytest.raises(RefusedError) as caught:
        order(*args, **kwargs)  # type: ignore[arg-type]
    return caught.value.fault.code, caught.value.fault.reason


def multipart(*parts: tuple[str, bytes], boundary: str = "b1") -> bytes:
    out = b""
    for head, content in parts:
        out += f"--{boundary}\r\n{head}\r\n\r\n".encode() + content + b"\r\n"
    return out + f"--{boundary}--\r\n".encode()


def test_nothing_asked() -> None:
    assert order() == SpeechOrder(text=None, voice=None, hang_up=False, clear=False, sdp=None)


def test_headers() -> None:
    asked = order(X_TTS_Text="Grüße um 7:30", X_TTS_Voice="heart", X_TTS_Hangup="Yes")
    assert asked == SpeechOrder("Grüße um 7:30", "heart", hang_up=True, clear=False, sdp=None)


def test_clear() -> None:
    assert order(INFO_TYPES, X_TTS_Action="clear", method="INFO").clear
    assert not order(X_TTS_Hangup="no").hang_up


@pytest.mark.parametrize("policy", ["none", "speech", "digit", "either"])
@pytest.mark.parametrize("method", ["INVITE", "INFO"])
def test_what_may_interrupt(policy: str, method: str) -> None:
    accepted = ACCEPTED_TYPES if method == "INVITE" else INFO_TYPES
    assert order(accepted, method=method, X_TTS_Barge_In=f" {policy.upper()} ").barge_in == policy


@pytest.mark.parametrize("value", [None, ""])
def test_nothing_said_about_interruptions_and_digits(value: str | None) -> None:
    """None is not "none": the policy of the call stays."""
    asked = order(X_TTS_Barge_In=value, X_TTS_Digits=value)
    assert (asked.barge_in, asked.digits) == (None, None)


@pytest.mark.parametrize("digits", ["1", "0123456789*#ABCD", "12w34W#", "w", "5" * 64])
def test_digits(digits: str) -> None:
    assert order(INFO_TYPES, method="INFO", X_TTS_Digits=f" {digits} ").digits == digits


@pytest.mark.parametrize("digits", ["4711x", "47 11", "a", "47,11", "٣", "4711\t1", "+49"])
def test_digits_that_are_none_are_refused_and_not_repeated(digits: str) -> None:
    """They may be a PIN with a slip in it; reasons are logged."""
    assert refusal(X_TTS_Digits=digits) == (400, "X-TTS-Digits Are Not All Of 0-9 * # A-D w W")


def test_digits_are_bounded() -> None:
    assert refusal(X_TTS_Digits="5" * 65) == (400, "X-TTS-Digits Are More Than 64")


def test_an_order_does_not_show_its_digits() -> None:
    assert "4711" not in repr(order(X_TTS_Digits="4711"))


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=80))
def test_any_digits_are_what_a_sender_takes_or_refused(value: str) -> None:
    try:
        digits = order(X_TTS_Digits=value).digits
    except RefusedError as error:
        assert error.fault.code == 400
    else:
        assert digits == (value.strip() or None)
        if digits is not None:
            DtmfSender().send(digits)  # raises for what it does not take


def test_blank_text_is_a_text() -> None:
    """Whoever sends it does not want the greeting."""
    assert order(X_TTS_Text="").text == ""


def test_sdp_alone() -> None:
    asked = order(body=SDP, Content_Type="application/sdp")
    assert (asked.sdp, asked.text) == (SDP, None)


def test_text_alone() -> None:
    asked = order(INFO_TYPES, body="Zwölf Boxkämpfer".encode(), Content_Type="text/plain;charset=UTF-8", method="INFO")
    assert (asked.text, asked.sdp) == ("Zwölf Boxkämpfer", None)


def test_other_character_sets_are_converted() -> None:
    asked = order(INFO_TYPES, body="Grüße".encode("latin-1"), Content_Type='text/plain; charset="iso-8859-1"')
    assert asked.text == "Grüße"


def test_text_beside_the_sdp() -> None:
    body = multipart(("Content-Type: application/sdp", SDP.rstrip()), ("Content-Type: text/plain", b"Hello there."))
    asked = order(body=body, Content_Type=MULTIPART)
    assert asked.text == "Hello there."
    assert asked.sdp is not None
    assert asked.sdp.startswith(b"v=0")


def test_encoded_parts_are_decoded() -> None:
    body = multipart(("Content-Type: text/plain\r\nContent-Transfer-Encoding: base64", b"SGVsbG8="))
    assert order(body=body, Content_Type='multipart/mixed; boundary="b1"').text == "Hello"


def test_optional_parts_that_we_do_not_know_are_passed_over() -> None:
    isup = "Content-Type: application/isup;version=x\r\nContent-Disposition: signal;handling=optional"
    body = multipart(("Content-Type: application/sdp", SDP), (isup, b"\x01\x10"))
    assert order(body=body, Content_Type=MULTIPART).sdp is not None
    required = isup.replace("optional", "required")
    body = multipart(("Content-Type: application/sdp", SDP), (required, b"\x01"))
    assert refusal(body=body, Content_Type=MULTIPART)[0] == 415


def test_header_and_body_are_both_said() -> None:
    assert order(INFO_TYPES, X_TTS_Text="One.", body=b"Two.", Content_Type="text/plain").text == "One. Two."


@pytest.mark.parametrize(
    ("headers", "code", "said"),
    [
        ({"X_TTS_Hangup": "maybe"}, 400, "X-TTS-Hangup Is Not One Of yes, no: maybe"),
        ({"X_TTS_Action": "explode"}, 400, "X-TTS-Action"),
        ({"X_TTS_Barge_In": "yes"}, 400, "X-TTS-Barge-In Is Not One Of none, speech, digit, either: yes"),
        ({"body": b"x", "Content_Type": "application/json"}, 415, "application/json"),
        ({"body": b"x", "Content_Type": None}, 415, "Unsupported Media Type"),
        ({"body": b"x", "Content_Type": "nonsense"}, 415, "Unsupported Media Type"),
        ({"body": b"\xff\xfe", "Content_Type": "text/plain"}, 400, "UTF-8"),
        ({"body": b"x", "Content_Type": "text/plain;charset=klingon"}, 415, "klingon"),
        ({"body": b"x", "Content_Type": "text/plain", "Content_Encoding": "gzip"}, 415, "Content-Encoding"),
        ({"body": b"x", "Content_Type": "multipart/mixed"}, 400, "Multipart"),
        (
            {
                "body": multipart(*[("Content-Type: text/plain", b"x")] * 20),
                "Content_Type": MULTIPART,
            },
            400,
            "Multipart",
        ),
        (
            {"body": multipart(("Content-Type: image/png", b"x")), "Content_Type": MULTIPART},
            415,
            "image/png",
        ),
        (
            {
                "body": multipart(*[("Content-Type: application/sdp", SDP)] * 2),
                "Content_Type": MULTIPART,
            },
            400,
            "More Than One",
        ),
    ],
)
def test_refusals_say_why(headers: dict[str, object], code: int, said: str) -> None:
    refused, reason = refusal(**headers)
    assert refused == code
    assert said in reason


def test_a_multipart_within_a_multipart_is_refused() -> None:
    inner = multipart(("Content-Type: text/plain", b"x"), boundary="b2")
    body = multipart(("Content-Type: multipart/mixed;boundary=b2", inner))
    assert refusal(body=body, Content_Type=MULTIPART) == (400, "Multipart Body Is Nested")


@pytest.mark.parametrize("kind", ["multipart/mixed;boundary=x", "message/rfc822"])
def test_deep_nesting_is_refused_before_it_costs_anything(kind: str) -> None:
    body = b"--b1\r\n" + f"Content-Type: {kind}\r\n\r\n--x\r\n".encode() * 2000
    assert refusal(body=body, Content_Type=MULTIPART)[0] == 400


def test_a_character_set_with_a_nul_is_refused() -> None:
    assert refusal(body=b"x", Content_Type="text/plain;charset*=us-ascii''a%00b")[0] == 415


def test_what_is_not_accepted_here_is_refused_with_what_is() -> None:
    with pytest.raises(RefusedError) as caught:
        order(INFO_TYPES, body=b"Signal=5", Content_Type="application/dtmf-relay", method="INFO")
    assert caught.value.fault.headers == (("Accept", "text/plain"),)


CONTENT_TYPES = (
    MULTIPART,
    'multipart/mixed; boundary=""',
    "multipart/mixed;boundary=b1;charset=x",
    "text/plain",
    "application/sdp",
    ";;;",
)


@given(st.binary(min_size=1, max_size=300), st.sampled_from(CONTENT_TYPES))
def test_any_body_is_an_order_or_a_refusal(body: bytes, content_type: str) -> None:
    for content in (body, b"--b1\r\n" + body + b"\r\n--b1--\r\n"):
        try:
            asked = order(body=content, Content_Type=content_type)
        except RefusedError as error:
            assert 400 <= error.fault.code < 500
        else:
            assert asked.text is None or isinstance(asked.text, str)
