"""Sessions that we set up: ringing, answered, refused, cancelled, forked, in every order that the network can bring."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from sipmessage import Request, Response

from sip.digest import Credentials
from sip.outgoing_invite import OutgoingInvite
from sip.session_handler import EndCause, Reply
from tests.sip.doubles import (
    CONTACT,
    PEER,
    Bench,
    RecordingOutgoingHandler,
    answer,
    make_from_callee,
)

CHALLENGE = {"WWW-Authenticate": 'Digest realm="pbx", nonce="n1", qop="auth", algorithm=MD5'}
USER = Credentials("tts", "secret")


@pytest.fixture
def bench() -> Bench:
    return Bench()


def only_request(messages: list[Request | Response]) -> Request:
    (request,) = messages
    assert isinstance(request, Request)
    return request


def methods(messages: list[Request | Response]) -> list[str]:
    return [message.method for message in messages if isinstance(message, Request)]


async def test_the_invite(bench: Bench) -> None:
    session, handler, invite = await bench.place(from_name="Chatter", headers=(("X-Order", "17"),))
    assert str(invite.uri) == "sip:bob@192.0.2.10:5070"
    assert invite.headers["From"].startswith('"Chatter" <sip:tts@example.com>;tag=')
    assert invite.headers["To"] == "<sip:bob@192.0.2.10:5070>"
    assert invite.headers["CSeq"] == "1 INVITE"
    assert invite.headers["Contact"] == "<sip:chatterline@198.51.100.1:5060>"
    assert invite.headers["Via"].startswith("SIP/2.0/UDP 198.51.100.1:5060;branch=z9hG4bK")
    assert invite.headers["Max-Forwards"] == "70"
    assert invite.headers["X-Order"] == "17"
    assert invite.headers["User-Agent"] == "Test/1"
    assert invite.headers["Allow"] == "INVITE, ACK, BYE, CANCEL, OPTIONS, INFO, NOTIFY"
    assert invite.headers["Content-Type"] == "application/sdp"
    assert (invite.headers["Content-Length"], invite.body) == ("5", b"offer")
    assert invite.headers.get("Require") is None
    assert session.call_id == invite.call_id
    assert (session.from_uri, session.to_uri) == ("sip:tts@example.com", "sip:bob@192.0.2.10:5070")
    assert (session.local_uri, session.remote_uri) == (session.from_uri, session.to_uri)
    assert session.peer_host == "192.0.2.10"
    assert handler.told == []


async def test_the_next_hop_is_where_it_goes(bench: Bench) -> None:
    invite = OutgoingInvite("sip:bob@far.example", "sip:tts@example.com", next_hop=("192.0.2.99", 5080))
    session = bench.agent.invite(invite, RecordingOutgoingHandler())
    assert bench.transport.sent == []
    await asyncio.sleep(0.0)
    for _ in range(5):
        await asyncio.sleep(0)
    ((data, destination),) = bench.transport.sent
    assert destination == ("192.0.2.99", 5080)
    assert data.startswith(b"INVITE sip:bob@far.example SIP/2.0\r\n")
    assert session.peer_host == "192.0.2.99"


async def test_answered(bench: Bench) -> None:
    session, handler, invite = await bench.place()
    assert bench.receive(answer(invite, 100)) == []
    assert bench.receive(answer(invite, 180, to_tag="bob-1")) == []
    assert bench.receive(answer(invite, 183, to_tag="bob-1", body=b"early")) == []
    contact = {"Contact": "<sip:bob@192.0.2.77:5099>"}
    bench.receive(answer(invite, 200, to_tag="bob-1", headers=contact, body=b"answer"))
    assert handler.told == [("ringing", 180, b""), ("ringing", 183, b"early"), ("answered", b"answer")]
    assert session.confirmed
    assert session.dialog.remote_tag == "bob-1"


async def test_the_ack(bench: Bench) -> None:
    """RFC 3261 section 13.2.2.4: to the Contact, along the route, of the INVITE's number and a new branch."""
    _, _, invite = await bench.place()
    headers = {
        "Contact": "<sip:bob@192.0.2.77:5099>",
        "Record-Route": "<sip:192.0.2.1:5060;lr>, <sip:192.0.2.2:5061;lr>",
    }
    assert bench.transport.receiver is not None
    bench.transport.receiver(answer(invite, 200, to_tag="bob-1", headers=headers), PEER)
    ((_, destination),) = bench.transport.sent
    ack = only_request(bench.transport.take())
    assert destination == ("192.0.2.2", 5061)
    assert ack.headers.getlist("Route") == ["<sip:192.0.2.2:5061;lr>", "<sip:192.0.2.1:5060;lr>"]
    assert str(ack.uri) == "sip:bob@192.0.2.77:5099"
    assert ack.headers["CSeq"] == "1 ACK"
    assert ack.headers["To"] == "<sip:bob@192.0.2.10:5070>;tag=bob-1"
    assert ack.headers["From"] == invite.headers["From"]
    assert ack.headers["Via"] != invite.headers["Via"]


async def test_the_ack_is_sent_again_for_each_200(bench: Bench) -> None:
    _, handler, invite = await bench.place()
    ok = answer(invite, 200, to_tag="bob-1", headers=CONTACT)
    first = only_request(bench.receive(ok))
    for _ in range(3):
        assert bytes(only_request(bench.receive(ok))) == bytes(first)
    assert handler.told == [("answered", b"")]
    bench.clock.advance(31.0)
    assert bench.transport.take() == []
    assert methods(bench.receive(ok)) == ["ACK"]


async def test_the_ack_to_a_name_goes_once_it_is_resolved(bench: Bench) -> None:
    """Here it is not: then to where the INVITE went."""
    _, handler, invite = await bench.place()
    ok = answer(invite, 200, to_tag="bob-1", headers={"Contact": "<sip:bob@" + "a" * 64 + ".invalid>"})
    assert bench.receive(ok) == []
    assert handler.told == [("answered", b"")]
    async with asyncio.timeout(10):
        while not bench.transport.sent:
            await asyncio.sleep(0)
    assert bench.transport.sent[0][1] == PEER
    assert (await bench.take_request()).method == "ACK"


@pytest.mark.parametrize("code", [302, 404, 486, 503, 603])
async def test_refused(bench: Bench, code: int) -> None:
    session, handler, invite = await bench.place()
    bench.receive(answer(invite, 180, to_tag="bob-1"))
    assert methods(bench.receive(answer(invite, code, to_tag="bob-1"))) == ["ACK"]
    assert handler.told[1:] == [("failed", code)]
    assert session.ended
    await asyncio.wait_for(bench.agent.wait_idle(), 1)
    bench.clock.advance(100.0)
    assert bench.transport.take() == []
    assert handler.causes == []


async def test_nobody_there(bench: Bench) -> None:
    """Timer B: the INVITE is sent seven times, and then it is over."""
    _, handler, _ = await bench.place()
    bench.clock.advance(31.9)
    assert methods(bench.transport.take()) == ["INVITE"] * 6
    assert handler.told == []
    bench.clock.advance(0.2)
    assert handler.told == [("failed", 408)]
    await asyncio.wait_for(bench.agent.wait_idle(), 1)


async def test_nobody_answers_in_time(bench: Bench) -> None:
    _, handler, invite = await bench.place(timeout_s=20.0)
    bench.receive(answer(invite, 180, to_tag="bob-1"))
    bench.clock.advance(19.9)
    assert bench.transport.take() == []
    bench.clock.advance(0.2)
    assert handler.told[1:] == [("failed", 408)]
    cancel = only_request(bench.transport.take())
    assert cancel.method == "CANCEL"
    bench.receive(answer(cancel, 200))
    assert methods(bench.receive(answer(invite, 487, to_tag="bob-1"))) == ["ACK"]
    await asyncio.wait_for(bench.agent.wait_idle(), 1)


async def test_a_host_that_does_not_resolve(bench: Bench) -> None:
    handler = RecordingOutgoingHandler()
    invite = OutgoingInvite("sip:bob@" + "a" * 64 + ".invalid", "sip:tts@example.com")
    session = bench.agent.invite(invite, handler)
    async with asyncio.timeout(10):
        while not handler.told:
            await asyncio.sleep(0)
    assert handler.told == [("failed", 503)]
    assert session.ended
    assert bench.transport.take() == []
    await asyncio.wait_for(bench.agent.wait_idle(), 1)


async def test_cancel_while_ringing(bench: Bench) -> None:
    session, handler, invite = await bench.place()
    bench.receive(answer(invite, 180, to_tag="bob-1"))
    session.hang_up()
    assert handler.told[1:] == [("failed", 487)]
    assert session.ended
    cancel = only_request(bench.transport.take())
    assert cancel.method == "CANCEL"
    for name in ("Via", "From", "To", "Call-ID"):
        assert cancel.headers[name] == invite.headers[name]
    assert cancel.headers["CSeq"] == "1 CANCEL"
    assert str(cancel.uri) == str(invite.uri)
    bench.receive(answer(cancel, 200))
    assert methods(bench.receive(answer(invite, 487, to_tag="bob-1"))) == ["ACK"]
    session.hang_up()
    assert handler.told[1:] == [("failed", 487)]
    await asyncio.wait_for(bench.agent.wait_idle(), 1)


async def test_cancel_waits_for_a_provisional_response(bench: Bench) -> None:
    """RFC 3261 section 9.1."""
    session, handler, invite = await bench.place()
    session.hang_up()
    assert handler.told == [("failed", 487)]
    assert bench.transport.take() == []
    assert methods(bench.receive(answer(invite, 100))) == ["CANCEL"]
    assert bench.receive(answer(invite, 180, to_tag="bob-1")) == []
    assert handler.told == [("failed", 487)]


async def test_cancel_before_the_invite_is_sent(bench: Bench) -> None:
    handler = RecordingOutgoingHandler()
    session = bench.agent.invite(OutgoingInvite("sip:bob@192.0.2.10", "sip:tts@example.com"), handler)
    session.hang_up()
    assert await bench.take_requests() == []
    assert handler.told == [("failed", 487)]
    await asyncio.wait_for(bench.agent.wait_idle(), 1)


async def test_a_cancelled_invite_without_a_final_response_is_forgotten(bench: Bench) -> None:
    session, _, invite = await bench.place()
    bench.receive(answer(invite, 180, to_tag="bob-1"))
    session.hang_up()
    bench.clock.advance(33.0)
    bench.transport.take()
    await asyncio.wait_for(bench.agent.wait_idle(), 1)
    bench.clock.advance(100.0)
    assert bench.transport.take() == []
    assert not bench.agent._layer.clients


async def test_an_answer_that_crosses_the_cancel(bench: Bench) -> None:
    session, handler, invite = await bench.place()
    bench.receive(answer(invite, 180, to_tag="bob-1"))
    session.hang_up()
    cancel = only_request(bench.transport.take())
    ok = answer(invite, 200, to_tag="bob-1", headers=CONTACT)
    assert methods(bench.receive(ok)) == ["ACK"]
    bench.receive(answer(cancel, 481))
    bye = await bench.take_request()
    assert (bye.method, bye.headers["To"]) == ("BYE", "<sip:bob@192.0.2.10:5070>;tag=bob-1")
    assert methods(bench.receive(ok)) == ["ACK"]
    bench.receive(answer(bye, 200))
    assert handler.told[1:] == [("failed", 487)]
    assert handler.causes == []
    await asyncio.wait_for(bench.agent.wait_idle(), 1)


async def test_another_fork_is_ended(bench: Bench) -> None:
    """RFC 3261 section 13.2.2.4: two phones were picked up at once."""
    session, handler, invite = await bench.place()
    bench.receive(answer(invite, 180, to_tag="bob-1"))
    bench.receive(answer(invite, 180, to_tag="bob-2"))
    bench.receive(answer(invite, 200, to_tag="bob-2", headers=CONTACT, body=b"two"))
    other = answer(invite, 200, to_tag="bob-1", headers={"Contact": "<sip:bob@192.0.2.11:5070>"}, body=b"one")
    ack = only_request(bench.receive(other))
    assert ack.headers["To"].endswith("tag=bob-1")
    bye = await bench.take_request()
    assert (bye.method, str(bye.uri)) == ("BYE", "sip:bob@192.0.2.11:5070")
    assert bye.headers["To"].endswith("tag=bob-1")
    assert bench.receive(answer(bye, 200)) == []
    assert methods(bench.receive(other)) == ["ACK"]
    assert await bench.take_requests() == []
    assert [told for told in handler.told if told[0] == "answered"] == [("answered", b"two")]
    assert session.confirmed
    assert session.dialog.remote_tag == "bob-2"


async def test_forks_are_bounded(bench: Bench) -> None:
    _, _, invite = await bench.place()
    for number in range(50):
        bench.receive(answer(invite, 200, to_tag=f"t{number}", headers=CONTACT))
    assert len(await bench.take_requests()) <= 8


@pytest.mark.parametrize("contact", ["", "garbage", "<tel:123>", "<sip:bob@192.0.2.10:5070>, <sip:x@192.0.2.11>"])
async def test_answers_with_a_contact_of_no_use(bench: Bench, contact: str) -> None:
    """The target stays who was called, or is the first."""
    session, handler, invite = await bench.place()
    headers = {"Contact": contact} if contact else {}
    ack = only_request(bench.receive(answer(invite, 200, to_tag="bob-1", headers=headers)))
    assert str(ack.uri) == "sip:bob@192.0.2.10:5070"
    assert handler.told == [("answered", b"")]
    assert session.confirmed


async def test_an_answer_with_a_route_of_no_use(bench: Bench) -> None:
    session, handler, invite = await bench.place()
    headers = {**CONTACT, "Record-Route": "nowhere"}
    assert methods(bench.receive(answer(invite, 200, to_tag="bob-1", headers=headers))) == ["ACK"]
    assert handler.told == [("failed", 502)]
    assert (await bench.take_request()).method == "BYE"
    assert session.ended


@pytest.mark.parametrize("to", ["", "garbage <", "<sip:bob@192.0.2.10:5070>"])
async def test_an_answer_without_a_tag(bench: Bench, to: str) -> None:
    """RFC 2543: taken as one without."""
    session, handler, invite = await bench.place()
    assert methods(bench.receive(answer(invite, 200, headers={**CONTACT, "To": to}))) == ["ACK"]
    assert handler.told == [("answered", b"")]
    session.hang_up()
    assert (await bench.take_request()).method == "BYE"


@pytest.mark.parametrize("cseq", ["2 INVITE", "1 BYE", "INVITE", "x INVITE", "", "-1 INVITE"])
async def test_answers_with_a_lying_cseq(bench: Bench, cseq: str) -> None:
    """Matched by branch and method (section 17.1.3), so a number is passed over and the rest is none of ours."""
    _, handler, invite = await bench.place()
    bench.receive(answer(invite, 200, to_tag="bob-1", headers={**CONTACT, "CSeq": cseq}))
    taken = [("answered", b"")] if cseq == "2 INVITE" else []
    assert handler.told == taken
    assert (bench.agent.stats.datagrams_unmatched == 0) == bool(taken)


@pytest.mark.parametrize("code", [-1, 0, 99, 700, 99999])
async def test_codes_that_are_none(bench: Bench, code: int) -> None:
    _, handler, invite = await bench.place()
    data = answer(invite, 200, to_tag="b").replace(b"SIP/2.0 200", b"SIP/2.0 %d" % code)
    assert bench.receive(data) == []
    assert handler.told == []
    assert bench.agent.stats.datagrams_malformed == 1


async def test_an_application_that_fails_on_the_answer_leaves_nobody_on_the_line(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, handler, invite = await bench.place()

    def fail(*_arguments: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(handler, "answered", fail)
    assert methods(bench.receive(answer(invite, 200, to_tag="bob-1", headers=CONTACT))) == ["ACK"]
    assert (await bench.take_request()).method == "BYE"
    assert handler.causes == [EndCause.HUNG_UP]
    assert session.ended


async def test_an_application_that_fails_on_the_ringing_hears_of_the_answer(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, handler, invite = await bench.place()

    def fail(*_arguments: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(handler, "ringing", fail)
    bench.receive(answer(invite, 180, to_tag="bob-1"))
    bench.receive(answer(invite, 200, to_tag="bob-1", headers=CONTACT))
    assert handler.told == [("answered", b"")]


async def test_an_application_that_fails_on_the_failure_leaves_nothing_behind(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, handler, invite = await bench.place()
    results: list[int] = []
    session.send_info(b"1", "application/dtmf-relay", results.append)

    def fail(*_arguments: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(handler, "failed", fail)
    assert methods(bench.receive(answer(invite, 486, to_tag="bob-1"))) == ["ACK"]
    await asyncio.wait_for(bench.agent.wait_idle(), 1)
    assert results == [481]


async def test_hanging_up_while_being_told_of_the_ringing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    session, handler, invite = await bench.place()
    monkeypatch.setattr(handler, "ringing", lambda _code, _body: session.hang_up())
    assert methods(bench.receive(answer(invite, 180, to_tag="bob-1"))) == ["CANCEL"]
    assert handler.told == [("failed", 487)]


async def test_hanging_up_while_being_told_of_the_answer(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when the answer has no SDP that can be used."""
    session, handler, invite = await bench.place()
    session.send_info(b"1", "application/dtmf-relay")
    monkeypatch.setattr(handler, "answered", lambda _body, _headers: session.hang_up())
    assert methods(bench.receive(answer(invite, 200, to_tag="bob-1", headers=CONTACT))) == ["ACK"]
    assert [request.method for request in await bench.take_requests()] == ["BYE"]
    assert handler.causes == [EndCause.HUNG_UP]


async def test_the_peers_reason_is_bounded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    _, handler, invite = await bench.place()
    reasons: list[str] = []
    monkeypatch.setattr(handler, "failed", lambda _code, reason: reasons.append(reason))
    bench.receive(answer(invite, 486, "Busy " * 1000, to_tag="bob-1"))
    assert len(reasons[0]) == 200


async def test_ipv6(bench: Bench) -> None:
    session, _, invite = await bench.place(target="sip:bob@[2001:db8::5]:5070")
    assert session.peer_host == "2001:db8::5"
    assert str(invite.uri) == "sip:bob@[2001:db8::5]:5070"
    session, _, _ = await bench.place(next_hop=("[2001:db8::6]", 5060))
    assert session.peer_host == "2001:db8::6"


async def test_headers_beyond_ascii(bench: Bench) -> None:
    session, _, _ = await bench.place(from_name="Zoë", headers=(("X-Name", "Žofie"),))
    bench.clock.advance(0.6)
    ((data, _),) = bench.transport.sent
    assert "X-Name: Žofie\r\n".encode() in data
    assert '"Zoë" <sip:tts@example.com>'.encode() in data
    assert session.from_uri == "sip:tts@example.com"


# Challenges:


async def test_a_challenge_is_answered(bench: Bench) -> None:
    session, handler, invite = await bench.place(credentials=USER)
    assert invite.headers.get("Authorization") is None
    ack, second = bench.receive(answer(invite, 401, to_tag="x", headers=CHALLENGE))
    assert isinstance(ack, Request)
    assert isinstance(second, Request)
    assert (ack.method, second.method) == ("ACK", "INVITE")
    assert (second.call_id, second.headers["CSeq"]) == (invite.call_id, "2 INVITE")
    assert second.headers["From"] == invite.headers["From"]
    assert second.headers["To"] == invite.headers["To"]
    assert second.headers["Via"] != invite.headers["Via"]
    assert second.body == b"offer"
    assert 'username="tts"' in second.headers["Authorization"]
    assert 'uri="sip:bob@192.0.2.10:5070"' in second.headers["Authorization"]
    accepted = only_request(bench.receive(answer(second, 200, to_tag="bob-1", headers=CONTACT)))
    assert accepted.headers["Authorization"] == second.headers["Authorization"]
    assert accepted.headers["CSeq"] == "2 ACK"
    assert handler.told == [("answered", b"")]
    session.hang_up()
    bye = await bench.take_request()
    assert bye.headers["CSeq"] == "3 BYE"
    (again,) = bench.receive(answer(bye, 407, headers={"Proxy-Authenticate": CHALLENGE["WWW-Authenticate"]}))
    assert isinstance(again, Request)
    assert "nc=00000002" in again.headers["Proxy-Authorization"]
    bench.receive(answer(again, 200))
    await asyncio.wait_for(bench.agent.wait_idle(), 1)


async def test_refused_credentials(bench: Bench) -> None:
    _, handler, invite = await bench.place(credentials=USER)
    _, second = bench.receive(answer(invite, 401, to_tag="x", headers=CHALLENGE))
    assert isinstance(second, Request)
    assert methods(bench.receive(answer(second, 401, to_tag="x", headers=CHALLENGE))) == ["ACK"]
    assert handler.told == [("failed", 401)]


async def test_a_challenge_without_credentials(bench: Bench) -> None:
    _, handler, invite = await bench.place()
    assert methods(bench.receive(answer(invite, 407, to_tag="x", headers=CHALLENGE))) == ["ACK"]
    assert handler.told == [("failed", 407)]


async def test_a_challenge_after_the_cancel_is_the_end(bench: Bench) -> None:
    session, handler, invite = await bench.place(credentials=USER)
    bench.receive(answer(invite, 100))
    session.hang_up()
    bench.transport.take()
    assert methods(bench.receive(answer(invite, 401, to_tag="x", headers=CHALLENGE))) == ["ACK"]
    assert handler.told == [("failed", 487)]
    await asyncio.wait_for(bench.agent.wait_idle(), 1)


# Once it is up:


async def test_the_callee_hangs_up(bench: Bench) -> None:
    session, handler, ack = await bench.place_answered()
    assert bench.receive_one(make_from_callee("BYE", ack, cseq=0)).code == 200  # a peer may begin with 0
    assert handler.causes == [EndCause.BYE_RECEIVED]
    assert handler.told == [("answered", b"answer")]
    assert session.ended
    await asyncio.wait_for(bench.agent.wait_idle(), 1)


async def test_we_hang_up(bench: Bench) -> None:
    session, handler, _ = await bench.place_answered()
    session.hang_up((("Reason", "Q.850;cause=16"),))
    assert handler.causes == [EndCause.HUNG_UP]
    bye = await bench.take_request()
    assert (bye.method, bye.headers["CSeq"], bye.headers["Reason"]) == ("BYE", "2 BYE", "Q.850;cause=16")
    bench.receive(answer(bye, 200))
    await asyncio.wait_for(bench.agent.wait_idle(), 1)


async def test_the_callee_may_ask_things(bench: Bench) -> None:
    _, handler, ack = await bench.place_answered()
    assert bench.receive_one(make_from_callee("INFO", ack, cseq=1, body=b"hi")).code == 200
    assert handler.infos == [b"hi"]
    assert bench.receive_one(make_from_callee("OPTIONS", ack, cseq=2)).code == 200
    assert bench.receive_one(make_from_callee("REFER", ack, cseq=3)).code == 405
    handler.reply = Reply(200, body=b"again", content_type="application/sdp")
    accepted = bench.receive_one(make_from_callee("INVITE", ack, cseq=4, body=b"hold"))
    assert (accepted.code, accepted.body) == (200, b"again")
    bench.clock.advance(0.6)
    assert len(bench.transport.take()) == 1
    bench.receive(make_from_callee("ACK", ack, cseq=4))
    assert len(handler.acks) == 1
    bench.clock.advance(60.0)
    assert bench.transport.take() == []


async def test_info_of_ours(bench: Bench) -> None:
    session, _, _ = await bench.place_answered()
    results: list[int] = []
    session.send_info(b"Signal=1\r\n", "application/dtmf-relay", results.append)
    info = await bench.take_request()
    assert (info.method, info.headers["Content-Type"]) == ("INFO", "application/dtmf-relay")
    bench.receive(answer(info, 200))
    assert results == [200]


async def test_info_before_the_answer_waits_for_it(bench: Bench) -> None:
    session, _, invite = await bench.place()
    results: list[int] = []
    session.send_info(b"1", "application/dtmf-relay", results.append)
    assert await bench.take_requests() == []
    bench.receive(answer(invite, 200, to_tag="bob-1", headers=CONTACT))
    assert (await bench.take_request()).method == "INFO"
    session.send_info(b"2", "application/dtmf-relay", results.append)
    session.hang_up()
    assert results == [481]


async def test_closing_stops_everything(bench: Bench) -> None:
    _, handler, _ = await bench.place()
    bench.agent.close()
    bench.clock.advance(200.0)
    assert bench.transport.take() == []
    assert handler.told == []


class OutgoingMachine(RuleBasedStateMachine):
    """Any order of answers, of what the application does and of time: one outcome, and in the end nothing is left."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.bench = Bench()
        self.results: list[int] = []
        self.asked = 0
        self.seen: list[Request] = []
        self.cseq = 0
        self.session, self.handler, invite = self.loop.run_until_complete(
            self.bench.place(timeout_s=20.0, credentials=USER)
        )
        self.seen.append(invite)

    def do(self, act: Any) -> None:
        async def run() -> None:
            act()
            self.seen += [message for message in await self.sent() if isinstance(message, Request)]

        self.loop.run_until_complete(run())

    async def sent(self) -> list[Request | Response]:
        for _ in range(6):
            await asyncio.sleep(0)
        return self.bench.transport.take()

    def deliver(self, data: bytes) -> None:
        assert self.bench.transport.receiver is not None
        self.bench.transport.receiver(data, PEER)

    @rule(
        code=st.sampled_from([100, 180, 183, 200, 200, 200, 301, 401, 407, 408, 481, 486, 487, 491]),
        tag=st.sampled_from(["", "a", "a", "b"]),
        which=st.integers(0, 20),
        contact=st.sampled_from(["<sip:bob@192.0.2.10:5070>", "<sip:bob@192.0.2.10:5070>", "x", ""]),
        nonce=st.sampled_from(["n1", "n2"]),
        stale=st.booleans(),
    )
    def respond(self, code: int, tag: str, which: int, contact: str, nonce: str, stale: bool) -> None:
        """To any request of ours, be it the latest or one long answered."""
        asked = [request for request in self.seen if request.method != "ACK"]
        request = asked[-1 - which % len(asked)]
        headers = {"Contact": contact} if contact else {}
        for name in ("WWW-Authenticate", "Proxy-Authenticate"):
            headers[name] = f'Digest realm="r", nonce="{nonce}"' + (", stale=true" if stale else "")
        has_tag = "tag=" in request.headers["To"]
        self.do(lambda: self.deliver(answer(request, code, to_tag=None if has_tag else tag, headers=headers)))

    @rule(method=st.sampled_from(["BYE", "INFO", "INVITE", "NOTIFY", "ACK"]))
    def request(self, method: str) -> None:
        acks = [request for request in self.seen if request.method == "ACK" and "tag=" in request.headers["To"]]
        if not acks:
            return
        self.cseq += method != "ACK"
        headers = {"Event": "refer", "Subscription-State": "terminated"} if method == "NOTIFY" else {}
        self.do(lambda: self.deliver(make_from_callee(method, acks[-1], cseq=self.cseq, headers=headers)))

    @rule()
    def hang_up(self) -> None:
        self.do(self.session.hang_up)

    @rule()
    def reinvite(self) -> None:
        self.asked += 1
        self.do(
            lambda: self.session.reinvite(
                lambda: b"o", "application/sdp", lambda code, _body: self.results.append(code)
            )
        )

    @rule()
    def send_info(self) -> None:
        self.asked += 1
        self.do(lambda: self.session.send_info(b"1", "application/dtmf-relay", self.results.append))

    @rule()
    def refer(self) -> None:
        self.asked += 1
        final = self.results.append
        self.do(lambda: self.session.refer("sip:carol@x", lambda code: final(code) if code >= 200 else None))

    @rule(seconds=st.sampled_from([0.1, 1.0, 10.0, 40.0]))
    def wait(self, seconds: float) -> None:
        self.do(lambda: self.bench.clock.advance(seconds))

    @invariant()
    def there_is_one_outcome(self) -> None:
        outcomes = [told for told in self.handler.told if told[0] != "ringing"]
        assert len(outcomes) <= 1
        answered = outcomes[:1] == [("answered", b"")]
        assert len(self.handler.causes) <= answered
        over = bool(self.handler.causes) if answered else bool(outcomes)
        assert over == self.session.ended

    def teardown(self) -> None:
        """Hung up and left alone, nothing of the call remains."""
        self.do(self.session.hang_up)
        for _ in range(6):
            self.do(lambda: self.bench.clock.advance(70.0))
        self.loop.run_until_complete(asyncio.wait_for(self.bench.agent.wait_idle(), 1))
        self.do(lambda: self.bench.clock.advance(700.0))
        self.seen.clear()
        self.do(lambda: self.bench.clock.advance(700.0))
        assert self.seen == []
        assert not self.bench.agent._layer.clients
        assert not self.bench.agent._call_ids
        assert len(self.results) == self.asked, "each request of ours has one result"
        self.loop.close()


TestOutgoingMachine = OutgoingMachine.TestCase
TestOutgoingMachine.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)
