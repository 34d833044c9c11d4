"""Dialogs: RFC 3261 section 12."""

from __future__ import annotations

import pytest
from sipmessage import Message, Request

from sip.dialog import Dialog, contact_uri, new_branch, new_tag
from tests.sip.doubles import incoming, make_request


def dialog(**headers: str | None) -> Dialog:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return Dialog.from_invite(incoming(make_request("INVITE", cseq=5, headers=names)), "local-1")


def reparsed(request: Request) -> Request:
    message = Message.parse(bytes(request))
    assert isinstance(message, Request)
    return message


def test_state_from_an_invite() -> None:
    made = dialog()
    assert made.id == ("call-1@pbx.example", "local-1", "alice-1")
    assert made.remote_cseq == 5
    assert made.remote_target == "sip:alice@192.0.2.10:5070"
    assert made.route_set == []


def test_a_request_of_ours() -> None:
    made = dialog()
    first = reparsed(made.create_request("BYE", "198.51.100.1:5060", (("Reason", "SIP;cause=200"),)))
    assert first.method == "BYE"
    assert str(first.uri) == "sip:alice@192.0.2.10:5070"
    assert first.headers["From"] == "<sip:tts@198.51.100.1>;tag=local-1"
    assert first.headers["To"] == '"Caller, A." <sip:alice@pbx.example>;tag=alice-1'
    assert first.headers["Call-ID"] == "call-1@pbx.example"
    assert first.headers["CSeq"] == "1 BYE"
    assert first.headers["Max-Forwards"] == "70"
    assert first.headers["Reason"] == "SIP;cause=200"
    assert first.via[0].parameters["branch"] is not None
    second = made.create_request("INFO", "198.51.100.1:5060")
    assert second.headers["CSeq"] == "2 INFO"
    assert second.headers["Via"] != first.headers["Via"]


def test_loose_routes_are_kept_in_order_and_verbatim() -> None:
    """Section 12.1.1: the order of the Record-Route is the order of the route."""
    made = dialog(Record_Route="<sip:p1.example:5080;lr;did=a+b>, <sip:p2.example;lr>")
    request = made.create_request("BYE", "h:1")
    assert str(request.uri) == "sip:alice@192.0.2.10:5070"
    assert request.headers.getlist("Route") == ["<sip:p1.example:5080;lr;did=a+b>", "<sip:p2.example;lr>"]
    assert made.next_hop() == ("p1.example", 5080)


def test_a_strict_router_gets_itself_as_request_uri() -> None:
    """Section 12.2.1.1."""
    made = dialog(Record_Route="<sip:strict.example>, <sip:p2.example;lr>")
    request = made.create_request("BYE", "h:1")
    assert str(request.uri) == "sip:strict.example"
    assert request.headers.getlist("Route") == ["<sip:p2.example;lr>", "<sip:alice@192.0.2.10:5070>"]
    assert made.next_hop() == ("strict.example", 5060)


def test_without_routes_the_contact_is_the_next_hop() -> None:
    assert dialog().next_hop() == ("192.0.2.10", 5070)
    assert dialog(Contact="<sip:alice@[2001:db8::1]>").next_hop() == ("2001:db8::1", 5060)


@pytest.mark.parametrize(
    ("contact", "uri"),
    [
        ("<sip:a@192.0.2.1;ob>;expires=60", "sip:a@192.0.2.1;ob"),
        ("sip:a@192.0.2.1;expires=60", "sip:a@192.0.2.1"),
        ('"A <b>" <sip:a@192.0.2.1:99>', "sip:a@192.0.2.1:99"),
        ("<sip:a@192.0.2.1;alias=10.0.0.1~5060~1>", "sip:a@192.0.2.1;alias=10.0.0.1~5060~1"),
    ],
)
def test_contact_uri_is_verbatim(contact: str, uri: str) -> None:
    assert contact_uri(incoming(make_request("INVITE", headers={"Contact": contact}))) == uri


@pytest.mark.parametrize(
    ("contact", "said"),
    [
        (None, "Missing Contact"),
        ("*", "Contact Is Not Valid"),
        ("<mailto:a@b>", "Contact Is Not Valid"),
        ("<tel:+4930123>", "Contact Is Not Valid"),
        ("<sip:a@b>, <sip:c@d>", "More Than One Contact"),
    ],
)
def test_a_contact_that_cannot_be_used_is_told(contact: str | None, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        contact_uri(incoming(make_request("INVITE", headers={"Contact": contact})))


def test_a_record_route_that_cannot_be_used_is_told() -> None:
    with pytest.raises(ValueError, match="Record-Route Is Not Valid"):
        dialog(Record_Route="nonsense")


def test_requests_must_be_numbered_upwards() -> None:
    """Section 12.2.2."""
    made = dialog()
    assert made.check(incoming(make_request("INFO", cseq=6))) is None
    assert made.check(incoming(make_request("INFO", cseq=9))) is None  # gaps are allowed
    for cseq in (9, 8, 1):
        fault = made.check(incoming(make_request("INFO", cseq=cseq)))
        assert fault is not None
        assert fault.code == 500
    assert made.remote_cseq == 9


def test_tags_and_branches_differ() -> None:
    assert len({new_tag() for _ in range(100)}) == 100
    assert len({new_branch() for _ in range(100)}) == 100
    assert new_branch().startswith("z9hG4bK")
