"""Dialogs: RFC 3261 section 12."""

from __future__ import annotations

import pytest
from sipmessage import Message, Request, Response

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


def of_ours(**headers: str) -> Dialog:
    """A dialog that we set up, from an answer with these headers."""
    response = Response(200, "OK")
    response.headers.set("To", "<sip:bob@x.example>;tag=bob-1")
    for name, value in headers.items():
        response.headers.set(name.replace("_", "-"), value)
    return Dialog.to_be('"Me" <sip:tts@example.com>', "sip:bob@x.example:5070").answered(response)


def test_before_the_answer() -> None:
    made = Dialog.to_be("<sip:tts@example.com>", "sip:bob@x.example:5070")
    invite = made.create_request("INVITE", "h:1")
    assert str(invite.uri) == made.request_uri == "sip:bob@x.example:5070"
    assert invite.headers["To"] == "<sip:bob@x.example:5070>"
    assert invite.headers["From"] == f"<sip:tts@example.com>;tag={made.local_tag}"
    assert made.next_hop() == ("x.example", 5070)
    assert made.remote_tag == ""


def test_call_ids_cannot_be_guessed() -> None:
    ids = {Dialog.to_be("<sip:a@b>", "sip:b@c").call_id for _ in range(1000)}
    assert len(ids) == 1000
    assert all(len(call_id) == 32 for call_id in ids)


def test_state_from_an_answer() -> None:
    """Section 12.1.2: the route is the Record-Route backwards."""
    made = of_ours(Contact="<sip:bob@192.0.2.7>", Record_Route="<sip:p1.example;lr>, <sip:p2.example;lr>")
    assert made.remote_tag == "bob-1"
    assert made.remote_target == "sip:bob@192.0.2.7"
    assert made.route_set == ["<sip:p2.example;lr>", "<sip:p1.example;lr>"]
    assert made.next_hop() == ("p2.example", 5060)
    bye = made.create_request("BYE", "h:1")
    assert bye.headers["To"] == "<sip:bob@x.example>;tag=bob-1"


def test_an_answer_without_contact_keeps_the_target() -> None:
    assert of_ours().remote_target == "sip:bob@x.example:5070"
    assert of_ours(Contact="tel:+49").remote_target == "sip:bob@x.example:5070"


def test_an_answer_with_a_route_that_is_none() -> None:
    with pytest.raises(ValueError, match="Record-Route"):
        of_ours(Record_Route="<sip:p1.example;lr>, nowhere at all")


def test_an_ack_has_the_number_of_its_invite() -> None:
    made = of_ours()
    made.create_request("INVITE", "h:1")
    invite = made.create_request("INVITE", "h:1")
    ack = made.create_ack(1, "h:1", (("Authorization", "Digest x"),))
    assert ack.headers["CSeq"] == "1 ACK"
    assert ack.headers["Authorization"] == "Digest x"
    assert ack.headers["Via"] != invite.headers["Via"]
    assert made.create_request("BYE", "h:1").headers["CSeq"] == "3 BYE"


def test_the_peers_numbers_begin_where_it_likes() -> None:
    made = of_ours()
    assert made.check(incoming(make_request("INFO", cseq=0))) is None
    assert made.check(incoming(make_request("INFO", cseq=0))) is not None
    assert of_ours().check(incoming(make_request("INFO", cseq=77))) is None
