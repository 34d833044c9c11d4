"""The user agent core: what it refuses, and how requests find their transaction, dialog and session."""

from __future__ import annotations

import asyncio

import pytest
from sipmessage import Request, Response

from sip.errors import Fault
from tests.sip.doubles import CONTACT, PEER, Bench, answer, make_from_callee, make_in_dialog, make_request

STRANGER = ("203.0.113.66", 5060)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_options_says_what_we_can_do(bench: Bench) -> None:
    response = bench.receive_one(make_request("OPTIONS"))
    assert response.code == 200
    assert response.headers["Allow"] == "INVITE, ACK, BYE, CANCEL, OPTIONS, INFO, NOTIFY"
    assert response.headers["Accept"] == (
        "application/sdp, multipart/mixed, text/plain, application/dtmf-relay, application/dtmf"
    )
    assert response.headers["Supported"] == ""
    assert response.headers["Server"] == "Test/1"
    assert response.to_address.parameters["tag"]


def test_options_says_when_no_call_would_be_taken(bench: Bench) -> None:
    bench.application.fault = Fault(503, "Full", (("Retry-After", "9"),))
    response = bench.receive_one(make_request("OPTIONS"))
    assert (response.code, response.headers["Retry-After"]) == (503, "9")


def test_responses_go_where_the_request_came_from(bench: Bench) -> None:
    assert bench.transport.receiver is not None
    bench.transport.receiver(make_request("OPTIONS"), ("192.0.2.99", 41_000))
    (data, destination) = bench.transport.sent[0]
    assert destination == ("192.0.2.99", 41_000)
    assert b"rport=41000;received=192.0.2.99" in data


def test_keepalives_are_silently_taken(bench: Bench) -> None:
    assert bench.receive(b"\r\n\r\n") == []
    assert bench.agent.stats.datagrams_malformed == 0


def test_unparsable_datagrams_are_dropped_and_counted(bench: Bench) -> None:
    for datagram in (b"\x80\x00garbage", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\xff" * 2000):
        assert bench.receive(datagram) == []
    assert bench.agent.stats.datagrams_malformed == 3


def test_faults_are_answered_with_their_reason(bench: Bench) -> None:
    response = bench.receive_one(make_request("INVITE", headers={"CSeq": None}))
    assert (response.code, response.phrase) == (400, "Missing CSeq")
    response = bench.receive_one(make_request("INVITE", headers={"Via": None}))
    assert (response.code, response.phrase) == (400, "Missing Via")
    response = bench.receive_one(make_request("INVITE", uri="http://x.example"))
    assert response.code == 416
    assert bench.application.sessions == []


def test_nothing_is_said_to_a_faulty_ack(bench: Bench) -> None:
    assert bench.receive(make_request("ACK", headers={"CSeq": None})) == []


@pytest.mark.parametrize("method", ["REGISTER", "SUBSCRIBE", "REFER", "MESSAGE", "UPDATE", "PRACK"])
def test_known_methods_that_we_do_not_do_get_405(bench: Bench, method: str) -> None:
    response = bench.receive_one(make_request(method))
    assert response.code == 405
    assert "INVITE" in response.headers["Allow"]


def test_unknown_methods_get_501(bench: Bench) -> None:
    response = bench.receive_one(make_request("FROBNICATE"))
    assert response.code == 501
    assert bench.agent.stats.requests_received["OTHER"] == 1


def test_required_extensions_get_420(bench: Bench) -> None:
    response = bench.receive_one(make_request("INVITE", headers={"Require": "100rel, timer"}))
    assert (response.code, response.headers["Unsupported"]) == (420, "100rel, timer")


@pytest.mark.parametrize("method", ["BYE", "INFO", "OPTIONS", "INVITE"])
def test_unknown_dialogs_get_481(bench: Bench, method: str) -> None:
    assert bench.receive_one(make_request(method, to_tag="gone")).code == 481


@pytest.mark.parametrize("method", ["BYE", "INFO", "NOTIFY"])
def test_requests_that_need_a_dialog_get_481_without_a_tag(bench: Bench, method: str) -> None:
    assert bench.receive_one(make_request(method)).code == 481


def test_cancel_of_nothing_gets_481(bench: Bench) -> None:
    assert bench.receive_one(make_request("CANCEL")).code == 481


def test_an_ack_for_nothing_is_counted(bench: Bench) -> None:
    assert bench.receive(make_request("ACK", to_tag="gone")) == []
    assert bench.agent.stats.datagrams_unmatched == 1


def test_a_response_to_nothing_is_counted(bench: Bench) -> None:
    data = b"SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP h;branch=z9hG4bKx\r\nCSeq: 1 BYE\r\n\r\n"
    assert bench.receive(data) == []
    assert bench.agent.stats.datagrams_unmatched == 1


def test_an_invite_needs_a_contact(bench: Bench) -> None:
    response = bench.receive_one(make_request("INVITE", headers={"Contact": None}))
    assert (response.code, response.phrase) == (400, "Missing Contact")
    assert bench.application.sessions == []


def test_strangers_are_refused_a_bounded_number_of_times(bench: Bench) -> None:
    answers = [
        message
        for number in range(50)
        for message in bench.receive(make_request("INVITE", call_id=f"c{number}"), STRANGER)
    ]
    assert [answer.code for answer in answers if isinstance(answer, Response)] == [403] * 10
    assert bench.agent.stats.datagrams_forbidden == 50
    assert bench.application.sessions == []
    bench.clock.advance(1.0)
    assert len(bench.receive(make_request("OPTIONS"), STRANGER)) == 1


def test_strangers_cannot_touch_a_call(bench: Bench) -> None:
    response, _, handler = bench.establish()
    bench.receive(make_in_dialog("BYE", response, cseq=2), STRANGER)
    assert handler.causes == []


def test_a_retransmitted_invite_is_one_call(bench: Bench) -> None:
    bench.receive(make_request("INVITE"))
    bench.receive(make_request("INVITE"))
    assert len(bench.application.sessions) == 1


def test_another_copy_of_an_invite_is_a_loop(bench: Bench) -> None:
    """RFC 3261 section 8.2.2.2."""
    bench.receive(make_request("INVITE"))
    response = bench.receive_one(make_request("INVITE", branch="z9hG4bKother"))
    assert response.code == 482
    assert len(bench.application.sessions) == 1


def test_a_refused_invite_is_answered_alike_when_retransmitted(bench: Bench) -> None:
    first = bench.receive_one(make_request("INVITE", headers={"Require": "x"}))
    second = bench.receive_one(make_request("INVITE", headers={"Require": "x"}))
    assert bytes(first) == bytes(second)


def test_the_100_of_a_slow_application(bench: Bench) -> None:
    bench.receive(make_request("INVITE"))
    bench.clock.advance(0.25)
    (response,) = bench.transport.take()
    assert isinstance(response, Response)
    assert response.code == 100


def test_beyond_the_bound_of_transactions_requests_get_503() -> None:
    bench = Bench(max_transactions=3)
    for number in range(3):
        assert bench.receive_one(make_request("OPTIONS", call_id=f"c{number}")).code == 200
    response = bench.receive_one(make_request("OPTIONS", call_id="c9"))
    assert response.code == 503
    assert response.headers["Retry-After"]
    bench.clock.advance(33.0)  # timer J has ended the others
    assert bench.receive_one(make_request("OPTIONS", call_id="c10")).code == 200


def test_close_stops_all_timers(bench: Bench) -> None:
    bench.invite_and_accept()
    bench.agent.close()
    bench.agent.close()
    bench.clock.advance(100.0)
    assert bench.transport.take() == []
    assert bench.transport.closed


def test_requests_and_responses_are_counted(bench: Bench) -> None:
    bench.establish()
    bench.receive(make_request("OPTIONS"))
    assert bench.agent.stats.requests_received == {"INVITE": 1, "ACK": 1, "OPTIONS": 1}
    assert bench.agent.stats.responses_sent == {200: 2}


def test_ipv6_peers() -> None:
    bench = Bench(allow="2001:db8::/32")
    response = bench.receive_one(make_request("OPTIONS"), ("2001:db8::5", PEER[1]))
    assert response.code == 200


# Peers of calls of ours, wherever they speak from:


async def test_a_response_is_taken_wherever_it_comes_from(bench: Bench) -> None:
    """A carrier's answer may come from another host than the one that was asked."""
    _, handler, invite = await bench.place()
    (ack,) = bench.receive(answer(invite, 200, to_tag="bob-1", headers=CONTACT), STRANGER)
    assert isinstance(ack, Request)
    assert handler.told == [("answered", b"")]
    assert bench.agent.stats.datagrams_forbidden == 0


async def test_a_strangers_response_to_nothing_is_dropped_unread(bench: Bench) -> None:
    _, handler, invite = await bench.place()
    branch = invite.headers["Via"].partition("branch=")[2].partition(";")[0]
    forged = answer(invite, 200, to_tag="bob-1", headers=CONTACT).replace(branch.encode(), b"z9hG4bKguessed")
    for _ in range(30):
        assert bench.receive(forged, STRANGER) == []
    assert handler.told == []
    assert bench.agent.stats.datagrams_forbidden == 30


async def test_requests_within_a_call_of_ours_are_taken_wherever_they_come_from(bench: Bench) -> None:
    _, handler, ack = await bench.place_answered()
    assert bench.receive_one(make_from_callee("INFO", ack, cseq=1, body=b"1"), STRANGER).code == 200
    bye = make_from_callee("BYE", ack, cseq=2)
    assert bench.receive_one(bye, STRANGER).code == 200
    assert handler.infos == [b"1"]
    assert len(handler.causes) == 1
    assert bench.receive_one(bye, STRANGER).code == 200  # its 200 was lost
    assert bench.agent.stats.datagrams_forbidden == 0
    bench.clock.advance(40.0)
    assert bench.receive_one(bye, STRANGER).code == 403


async def test_a_stranger_has_to_know_the_tags_too(bench: Bench) -> None:
    _, handler, ack = await bench.place_answered()
    wrong: dict[str, str | None] = {"From": "<sip:bob@192.0.2.10:5070>;tag=guessed"}
    assert bench.receive_one(make_from_callee("BYE", ack, cseq=1, headers=wrong), STRANGER).code == 403
    outside: dict[str, str | None] = {"Call-ID": ack.call_id}
    assert bench.receive_one(make_request("INVITE", headers=outside), STRANGER).code == 403
    assert handler.causes == []
    assert bench.application.sessions == []


async def test_who_only_knows_a_call_id_is_refused_a_bounded_number_of_times(bench: Bench) -> None:
    _, _, ack = await bench.place_answered()
    answers = [
        message
        for number in range(50)
        for message in bench.receive(make_request("INVITE", call_id=ack.call_id, branch=f"z9hG4bK{number}"), STRANGER)
    ]
    assert [message.code for message in answers if isinstance(message, Response)] == [403] * 10
    assert bench.agent.stats.datagrams_forbidden == 50


def test_what_we_send_to_ourselves_is_taken(bench: Bench) -> None:
    assert bench.receive_one(make_request("OPTIONS"), ("198.51.100.1", 5060)).code == 200
    assert bench.receive_one(make_request("OPTIONS", call_id="other"), ("198.51.100.1", 5061)).code == 403


async def test_before_the_answer_there_is_no_dialog(bench: Bench) -> None:
    session, handler, invite = await bench.place()
    bench.receive(answer(invite, 180, to_tag="bob-1"))
    headers = {"From": "<sip:bob@192.0.2.10:5070>;tag=bob-1", "To": invite.headers["From"], "Call-ID": session.call_id}
    assert bench.receive_one(make_request("BYE", headers=dict(headers))).code == 481
    assert handler.told == [("ringing", 180, b"")]


async def test_we_may_call_ourselves() -> None:
    """Both ends in one user agent: each with its own session."""
    bench = Bench(allow="198.51.100.0/24")
    us = ("198.51.100.1", 5060)
    session, handler, invite = await bench.place(target="sip:self@198.51.100.1:5060")

    async def carry(*messages: Request | Response) -> None:
        waiting = list(messages)
        while waiting:
            waiting += bench.receive(bytes(waiting.pop(0)), us)
            for _ in range(10):
                await asyncio.sleep(0)
            waiting += bench.transport.take()

    assert bench.receive(bytes(invite), us) == []
    (called,) = bench.application.sessions
    called.ring()
    called.accept(b"answer", "application/sdp")
    await carry(*bench.transport.take())
    assert handler.told == [("ringing", 180, b""), ("answered", b"answer")]
    assert called.confirmed
    assert (called.from_uri, called.to_uri) == (session.from_uri, session.to_uri)
    assert (called.local_uri, called.remote_uri) == (session.remote_uri, session.local_uri)
    session.hang_up()
    await carry(*await bench.take_requests())
    assert len(bench.application.handlers[0].causes) == 1
    await asyncio.wait_for(bench.agent.wait_idle(), 1)
