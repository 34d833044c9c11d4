"""Parsing and checking of messages, and making of responses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sipmessage import Address, Message, Request, Response

from sip.errors import Fault, MalformedMessageError
from sip.message import (
    IncomingRequest,
    VerbatimURI,
    build_response,
    check_request,
    clean_reason,
    is_keepalive,
    parse_datagram,
    with_tag,
)
from tests.sip.doubles import PEER, incoming, make_request


def parse_request(data: bytes) -> tuple[Request, Fault | None]:
    message, fault = parse_datagram(data)
    assert isinstance(message, Request)
    return message, fault


@pytest.mark.parametrize("data", [b"", b"\r\n\r\n", b"\r\n", b"\0", b"\0\0\0\0"])
def test_keepalives_are_recognised(data: bytes) -> None:
    assert is_keepalive(data)


def test_a_message_is_no_keepalive() -> None:
    assert not is_keepalive(make_request())


def test_parse_request() -> None:
    message, fault = parse_request(make_request("INVITE", body=b"v=0"))
    assert fault is None
    assert message.method == "INVITE"
    assert message.body == b"v=0"


def test_parse_response() -> None:
    data = b"SIP/2.0 200 OK\r\nCSeq: 1 BYE\r\nContent-Length: 0\r\n\r\n"
    message, fault = parse_datagram(data)
    assert isinstance(message, Response)
    assert (message.code, fault) == (200, None)


def test_leading_line_ends_are_passed_over() -> None:
    """RFC 3261 section 7.5."""
    message, _ = parse_request(b"\r\n\r\n" + make_request())
    assert message.method == "OPTIONS"


def test_folded_headers_are_joined() -> None:
    """RFC 3261 section 7.3.1."""
    message, fault = parse_request(make_request(headers={"Subject": "one\r\n  two\r\n\tthree"}))
    assert fault is None
    assert message.headers["Subject"] == "one two three"


def test_a_space_before_the_colon_is_allowed() -> None:
    """RFC 3261 section 7.3.1, HCOLON."""
    message, _ = parse_request(make_request().replace(b"Call-ID:", b"Call-ID \t:"))
    assert message.headers["Call-ID"] == "call-1@pbx.example"


def test_compact_forms() -> None:
    data = (
        b"OPTIONS sip:a@b.example SIP/2.0\r\nv: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK1\r\nf: <sip:x@b.example>;tag=1\r\n"
        b"t: <sip:y@b.example>\r\ni: abc\r\nCSeq: 1 OPTIONS\r\nMax-Forwards: 70\r\nl: 0\r\n\r\n"
    )
    message, _ = parse_request(data)
    request = check_request(message, PEER)
    assert isinstance(request, IncomingRequest)
    assert request.call_id == "abc"


def test_body_ends_at_content_length() -> None:
    """RFC 3261 section 18.3."""
    message, fault = parse_request(make_request(body=b"v=0", headers={"Content-Length": "2"}))
    assert (message.body, fault) == (b"v=", None)


@pytest.mark.parametrize("length", ["9", "-1", "x", "1" * 12, "²"])
def test_content_length_that_does_not_fit_is_told(length: str) -> None:
    _, fault = parse_request(make_request(body=b"v=0", headers={"Content-Length": length}))
    assert fault is not None
    assert fault.code == 400


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"hello", "empty line"),
        (b"hello\r\n\r\n", "neither a request line"),
        (b"INVITE sip:a@b.example\r\n\r\n", "neither a request line"),
        (b"INVITE  sip:a@b.example SIP/2.0\r\n\r\n", "neither a request line"),
        (b"SIP/2.0 abc OK\r\n\r\n", "not a SIP message"),
        (b"OPTIONS sip:a@b.example SIP/2.0\r\nno colon\r\n\r\n", "not a SIP message"),
        (b"OPTIONS sip:a@b.example SIP/2.0\r\nFrom: a\nTo: b\r\n\r\n", "control character"),
        (b"OPTIONS sip:a@b.example SIP/2.0\r\nFrom: \0\r\n\r\n", "control character"),
        (b"OPTIONS sip:a@b.example SIP/2.0\r\n" + b"a:\r\n" * 300 + b"\r\n", "too many headers"),
        (b"OPTIONS sip:a@b.example SIP/2.0\r\nA: " + b"a" * 40_000 + b"\r\n\r\n", "too many headers"),
    ],
)
def test_what_is_no_sip_is_malformed(data: bytes, said: str) -> None:
    with pytest.raises(MalformedMessageError, match=said):
        parse_datagram(data)


@pytest.mark.parametrize(
    ("uri", "code"),
    [("sip:a b@c", None), ("sip:a@b/c", 400), ("sip:", 400), ("http://a.example", 416), ("urn:service:sos", 416)],
)
def test_request_uri_that_cannot_be_used(uri: str, code: int | None) -> None:
    data = make_request(uri=uri)
    if code is None:
        with pytest.raises(MalformedMessageError):
            parse_datagram(data)
        return
    message, fault = parse_request(data)
    assert fault is not None
    assert fault.code == code
    assert message.method == "OPTIONS"


def test_other_versions_are_told() -> None:
    _, fault = parse_request(make_request().replace(b" SIP/2.0\r\nVia", b" SIP/7.0\r\nVia"))
    assert fault is not None
    assert fault.code == 505


def test_headers_that_are_not_utf8_are_told() -> None:
    message, fault = parse_request(
        make_request(headers={"X-TTS-Text": "@"}).replace(b"@\r\nX", b"@").replace(b": @", b": \xff\xfe")
    )
    assert fault == Fault(400, "Headers Are Not UTF-8")
    assert message.headers["Call-ID"]


def test_utf8_headers_pass() -> None:
    message, fault = parse_request(make_request(headers={"X-TTS-Text": "Grüße, 你好"}))
    assert fault is None
    assert message.headers["X-TTS-Text"] == "Grüße, 你好"


def check(**headers: str | None) -> IncomingRequest | Fault:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    message, fault = parse_request(make_request(headers=names))
    assert fault is None
    return check_request(message, PEER)


def test_a_good_request_is_parsed_once() -> None:
    request = incoming(make_request("INVITE", cseq=7, to_tag="t9"))
    assert request.from_tag == "alice-1"
    assert request.to_tag == "t9"
    assert request.cseq == 7
    assert request.branch.startswith("z9hG4bK")
    assert request.source == PEER


@pytest.mark.parametrize("name", ["Via", "From", "To", "Call-ID", "CSeq", "Max-Forwards"])
def test_missing_mandatory_headers_are_named(name: str) -> None:
    assert check(**{name: None}) == Fault(400, f"Missing {name}")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Via", "nonsense"),
        ("Via", "SIP/2.0/UDP host:70000"),
        ("From", "<sip:a@b.example;tag=1"),
        ("From", "<>;tag=1"),
        ("To", "<sip:a@b.example> nonsense"),
        ("CSeq", "one OPTIONS"),
        ("CSeq", "1"),
        ("CSeq", "2147483648 OPTIONS"),
        ("Max-Forwards", "many"),
        ("Max-Forwards", "-1"),
    ],
)
def test_garbled_mandatory_headers_are_named(name: str, value: str) -> None:
    assert check(**{name: value}) == Fault(400, f"{name} Is Not Valid")


def test_from_needs_a_tag() -> None:
    assert check(From="<sip:a@b.example>") == Fault(400, "From Has No Tag")


def test_cseq_has_the_method_of_the_request() -> None:
    assert check(CSeq="1 INVITE") == Fault(400, "CSeq Does Not Match The Method")


def test_headers_that_stand_alone_may_not_be_repeated() -> None:
    data = make_request().replace(b"Call-ID:", b"Call-ID: other\r\nCall-ID:")
    message, _ = parse_request(data)
    assert check_request(message, PEER) == Fault(400, "More Than One Call-ID")


def test_an_ack_without_max_forwards_is_taken() -> None:
    message, _ = parse_request(make_request("ACK", headers={"Max-Forwards": None}))
    assert isinstance(check_request(message, PEER), IncomingRequest)


@given(st.binary(max_size=400))
def test_any_datagram_is_parsed_or_malformed(data: bytes) -> None:
    try:
        message, _ = parse_datagram(data)
    except MalformedMessageError:
        return
    if isinstance(message, Request):
        assert isinstance(check_request(message, PEER), IncomingRequest | Fault)


@given(st.data())
def test_any_damage_to_a_request_gives_a_request_or_a_fault(data: st.DataObject) -> None:
    """Cut, overwrite and insert: nothing but MalformedMessageError may come out."""
    whole = bytearray(make_request("INVITE", body=b"v=0\r\n"))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(whole) - 1))
        piece = data.draw(
            st.sampled_from([b"", b";", b"=", b'"', b"<", b",", b"self=1;", b"\xff", b"\r\n", b" ", b"%zz"])
        )
        whole[at : at + data.draw(st.integers(0, 3))] = piece
    try:
        message, _ = parse_datagram(bytes(whole))
    except MalformedMessageError:
        return
    if isinstance(message, Request):
        checked = check_request(message, PEER)
        assert isinstance(checked, IncomingRequest | Fault)
        response = build_response(message, 400, to_tag="t")
        assert Message.parse(bytes(response)).body == b""


def test_build_response_copies_what_identifies() -> None:
    """RFC 3261 section 8.2.6.2."""
    request, _ = parse_request(
        make_request("INVITE", headers={"Via": "SIP/2.0/UDP a.example;branch=z9hG4bK+1, SIP/2.0/UDP b.example"})
    )
    response = build_response(request, 200, to_tag="mine", body=b"v=0", content_type="application/sdp")
    for name in ("Via", "From", "Call-ID", "CSeq"):
        assert response.headers.getlist(name) == request.headers.getlist(name)
    assert response.headers["To"] == "<sip:tts@198.51.100.1>;tag=mine"
    assert response.headers["Content-Length"] == "3"
    assert response.headers["Content-Type"] == "application/sdp"


def test_record_route_is_copied_where_a_dialog_begins() -> None:
    request, _ = parse_request(make_request("INVITE", headers={"Record-Route": "<sip:p1;lr>, <sip:p2;lr>"}))
    assert build_response(request, 200).headers.getlist("Record-Route") == ["<sip:p1;lr>, <sip:p2;lr>"]
    assert build_response(request, 100).headers.getlist("Record-Route") == []
    assert build_response(request, 486).headers.getlist("Record-Route") == []


def test_a_response_to_a_request_without_headers_can_be_made() -> None:
    request, _ = parse_request(b"OPTIONS sip:a@b.example SIP/2.0\r\n\r\n")
    assert bytes(build_response(request, 400, "Missing Via")).startswith(b"SIP/2.0 400 Missing Via\r\n")


@pytest.mark.parametrize(
    ("to", "expected"),
    [
        ("<sip:a@b.example>", "<sip:a@b.example>;tag=x"),
        ("sip:a@b.example", "<sip:a@b.example>;tag=x"),
        ("sip:a@b.example;p=1", "<sip:a@b.example>;p=1;tag=x"),
        ("<sip:a@b.example>;tag=y", "<sip:a@b.example>;tag=y"),
        ("garbage<", "garbage<"),
    ],
)
def test_with_tag(to: str, expected: str) -> None:
    assert with_tag(to, "x") == expected
    if "tag" in expected:
        assert Address.parse(expected).parameters["tag"]


@given(st.text())
def test_a_reason_phrase_is_one_bounded_line(reason: str) -> None:
    cleaned = clean_reason(reason)
    assert len(cleaned) <= 200
    assert not set(cleaned) & set("\r\n\0")


def test_a_verbatim_uri_is_written_as_read() -> None:
    text = "sip:a@192.0.2.1:5070;alias=[::1]:9;x=a/b"
    uri = VerbatimURI.of(text)
    assert (str(uri), uri.host, uri.port) == (text, "192.0.2.1", 5070)
    with pytest.raises(ValueError, match="URI"):
        VerbatimURI.of("nonsense")
