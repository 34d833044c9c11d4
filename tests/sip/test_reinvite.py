"""Re-INVITEs of ours, in sessions of both kinds: answered, refused, in glare, lost."""

from __future__ import annotations

import asyncio

import pytest
from sipmessage import Request, Response

from sip.digest import Credentials
from sip.invite_session import EndCause, Reply
from sip.reinvite import MAX_GLARES, MAX_WAITING
from tests.sip.doubles import CONTACT, Bench, answer, make_from_callee, make_in_dialog

SDP = "application/sdp"
Results = list[tuple[int, bytes]]


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.fixture
def results() -> Results:
    return []


def only_request(messages: list[Request | Response]) -> Request:
    (request,) = messages
    assert isinstance(request, Request)
    return request


async def test_hold_in_a_call_that_came_in(bench: Bench, results: Results) -> None:
    _, session, handler = bench.establish()
    session.reinvite(lambda: b"sendonly", SDP, lambda *result: results.append(result))
    invite = await bench.take_request()
    assert invite.method == "INVITE"
    assert str(invite.uri) == "sip:alice@192.0.2.10:5070"
    assert (invite.body, invite.headers["Content-Type"]) == (b"sendonly", SDP)
    assert invite.headers["Contact"] == "<sip:chatterline@198.51.100.1:5060>"
    assert invite.headers["From"].endswith(f"tag={session.dialog.local_tag}")
    assert bench.receive(answer(invite, 100)) == []
    moved = {"Contact": "<sip:alice@192.0.2.11:5080>"}
    ok = answer(invite, 200, headers=moved, body=b"recvonly")
    ack = only_request(bench.receive(ok))
    assert (ack.method, str(ack.uri)) == ("ACK", "sip:alice@192.0.2.11:5080")
    assert ack.headers["CSeq"] == invite.headers["CSeq"].replace("INVITE", "ACK")
    assert results == [(200, b"recvonly")]
    assert bytes(only_request(bench.receive(ok))) == bytes(ack)
    assert results == [(200, b"recvonly")]
    assert handler.causes == []
    assert handler.reinvites == []


async def test_hold_and_resume_at_once_go_one_after_the_other(bench: Bench, results: Results) -> None:
    session, _, _ = await bench.place_answered()
    session.reinvite(lambda: b"sendonly", SDP, lambda *result: results.append(result))
    session.reinvite(lambda: b"sendrecv", SDP, lambda *result: results.append(result))
    hold = await bench.take_request()
    assert hold.body == b"sendonly"
    bench.receive(answer(hold, 200, headers=CONTACT, body=b"1"))
    resume = await bench.take_request()
    assert resume.body == b"sendrecv"
    bench.receive(answer(resume, 200, headers=CONTACT, body=b"2"))
    assert results == [(200, b"1"), (200, b"2")]


async def test_before_the_ack_it_waits(bench: Bench, results: Results) -> None:
    response, session, _ = bench.invite_and_accept()
    session.reinvite(lambda: b"o", SDP, lambda *result: results.append(result))
    assert await bench.take_requests() == []
    bench.receive(make_in_dialog("ACK", response, cseq=1))
    assert (await bench.take_request()).method == "INVITE"


@pytest.mark.parametrize("code", [403, 488, 500, 603])
async def test_a_refusal_leaves_all_as_it_was(bench: Bench, results: Results, code: int) -> None:
    session, handler, _ = await bench.place_answered()
    session.reinvite(lambda: b"o", SDP, lambda *result: results.append(result))
    invite = await bench.take_request()
    assert only_request(bench.receive(answer(invite, code, body=b"why"))).method == "ACK"
    assert results == [(code, b"")]
    assert session.confirmed
    assert handler.causes == []


async def test_481_ends_the_session(bench: Bench, results: Results) -> None:
    session, handler, _ = await bench.place_answered()
    session.reinvite(lambda: b"o", SDP, lambda *result: results.append(result))
    invite = await bench.take_request()
    bench.receive(answer(invite, 481))
    assert results == [(481, b"")]
    assert handler.causes == [EndCause.HUNG_UP]
    assert (await bench.take_request()).method == "BYE"


@pytest.mark.parametrize("late", [0, 200, 487])
async def test_one_that_got_100_does_not_outlive_its_session(bench: Bench, results: Results, late: int) -> None:
    """Nothing else would end its transaction; an answer that comes all the same is acknowledged."""
    session, _, _ = await bench.place_answered()
    session.reinvite(lambda: b"o", SDP, lambda *result: results.append(result))
    invite = await bench.take_request()
    bench.receive(answer(invite, 100))
    session.hang_up()
    assert results == [(481, b"")]
    bye = await bench.take_request()
    if late:
        assert only_request(bench.receive(answer(invite, late, headers=CONTACT))).method == "ACK"
    bench.receive(answer(bye, 200))
    for _ in range(3):
        bench.clock.advance(33.0)
    assert bench.transport.take() == []
    assert not bench.agent._layer.clients
    assert results == [(481, b"")]


@pytest.mark.parametrize("trying", [False, True])
async def test_no_answer_ends_the_session(bench: Bench, results: Results, trying: bool) -> None:
    """Also of a peer that says 100 and nothing more."""
    session, handler, _ = await bench.place_answered()
    session.reinvite(lambda: b"o", SDP, lambda *result: results.append(result))
    invite = await bench.take_request()
    if trying:
        bench.receive(answer(invite, 100))
    bench.clock.advance(65.0)
    assert results == [(408, b"")]
    assert handler.causes == [EndCause.HUNG_UP]
    assert [request.method for request in await bench.take_requests()][-1] == "BYE"


async def test_glare_is_tried_again(bench: Bench, results: Results) -> None:
    """RFC 3261 section 14.1: 2.1 to 4 s where the Call-ID is ours, with an offer made anew."""
    session, _, _ = await bench.place_answered()
    versions = iter((b"1", b"2"))
    session.reinvite(lambda: next(versions), SDP, lambda *result: results.append(result))
    first = await bench.take_request()
    assert first.body == b"1"
    assert only_request(bench.receive(answer(first, 491))).method == "ACK"
    bench.clock.advance(2.0)
    assert await bench.take_requests() == []
    bench.clock.advance(2.1)
    second = await bench.take_request()
    assert (second.method, second.body) == ("INVITE", b"2")
    assert second.cseq.sequence == first.cseq.sequence + 1
    bench.receive(answer(second, 200, headers=CONTACT))
    assert results == [(200, b"")]


async def test_who_does_not_own_the_call_id_tries_again_sooner(bench: Bench, results: Results) -> None:
    _, session, _ = bench.establish()
    session.reinvite(lambda: b"o", SDP, lambda *result: results.append(result))
    bench.receive(answer(await bench.take_request(), 491))
    bench.clock.advance(2.05)
    assert (await bench.take_request()).method == "INVITE"


async def test_glare_for_ever_is_given_up(bench: Bench, results: Results) -> None:
    session, _, _ = await bench.place_answered()
    session.reinvite(lambda: b"o", SDP, lambda *result: results.append(result))
    for _ in range(MAX_GLARES + 1):
        assert results == []
        bench.receive(answer(await bench.take_request(), 491))
        bench.clock.advance(4.1)
    assert results == [(491, b"")]
    assert session.confirmed


async def test_the_peers_gets_491_while_ours_is_under_way(bench: Bench, results: Results) -> None:
    session, handler, ack = await bench.place_answered()
    session.reinvite(lambda: b"o", SDP, lambda *result: results.append(result))
    ours = await bench.take_request()
    assert bench.receive_one(make_from_callee("INVITE", ack, cseq=1)).code == 491
    assert handler.reinvites == []
    bench.receive(answer(ours, 491))
    theirs = bench.receive_one(make_from_callee("INVITE", ack, cseq=2))  # while ours waits for its next turn
    assert theirs.code == 200
    bench.clock.advance(4.1)
    assert not any(isinstance(message, Request) for message in bench.transport.take()), "ours waits for their ACK"
    bench.receive(make_from_callee("ACK", ack, cseq=2))
    again = await bench.take_request()
    bench.receive(answer(again, 200, headers=CONTACT))
    assert results == [(200, b"")]


async def test_the_end_of_the_session_is_a_result(bench: Bench, results: Results) -> None:
    session, _, ack = await bench.place_answered()
    for _ in range(3):
        session.reinvite(lambda: b"o", SDP, lambda *result: results.append(result))
    ours = await bench.take_request()
    bench.receive(make_from_callee("BYE", ack, cseq=1))
    assert results == [(481, b"")] * 3
    session.reinvite(lambda: b"o", SDP, lambda *result: results.append(result))
    assert results == [(481, b"")] * 4
    # The answer crossed the BYE: it gets its ACK, and that is all.
    assert only_request(bench.receive(answer(ours, 200, headers=CONTACT))).method == "ACK"
    assert results == [(481, b"")] * 4
    assert await bench.take_requests() == []


async def test_before_the_answer_the_end_is_a_result_too(bench: Bench, results: Results) -> None:
    session, _, invite = await bench.place()
    session.reinvite(lambda: b"o", SDP, lambda *result: results.append(result))
    bench.receive(answer(invite, 486, to_tag="b"))
    assert results == [(481, b"")]


async def test_they_are_bounded(bench: Bench, results: Results) -> None:
    session, _, _ = await bench.place_answered()
    for _ in range(MAX_WAITING + 3):
        session.reinvite(lambda: b"o", SDP, lambda *result: results.append(result))
    assert results == [(491, b"")] * 2


async def test_hanging_up_from_the_result(bench: Bench, results: Results) -> None:
    session, handler, _ = await bench.place_answered()
    session.reinvite(lambda: b"1", SDP, lambda _code, _body: session.hang_up())
    session.reinvite(lambda: b"2", SDP, lambda *result: results.append(result))
    bench.receive(answer(await bench.take_request(), 488))
    assert results == [(481, b"")]
    assert handler.causes == [EndCause.HUNG_UP]
    assert (await bench.take_request()).method == "BYE"


async def test_a_challenge_is_answered(bench: Bench, results: Results) -> None:
    """Also in a call that came in, if we have been told credentials."""
    _, session, _ = bench.establish()
    session.authenticate(Credentials("tts", "secret"))
    session.reinvite(lambda: b"o", SDP, lambda *result: results.append(result))
    invite = await bench.take_request()
    challenge = {"Proxy-Authenticate": 'Digest realm="r", nonce="n", qop="auth"'}
    _, second = bench.receive(answer(invite, 407, headers=challenge))
    assert isinstance(second, Request)
    ack = only_request(bench.receive(answer(second, 200, headers=CONTACT)))
    assert ack.headers["Proxy-Authorization"] == second.headers["Proxy-Authorization"]
    assert results == [(200, b"")]


async def test_an_application_that_fails_on_a_result_keeps_its_call(bench: Bench, results: Results) -> None:
    session, handler, ack = await bench.place_answered()

    def fail(_code: int, _body: bytes) -> None:
        raise ZeroDivisionError

    session.reinvite(lambda: b"1", SDP, fail)
    session.reinvite(lambda: b"2", SDP, lambda *result: results.append(result))
    assert only_request(bench.receive(answer(await bench.take_request(), 200, headers=CONTACT))).method == "ACK"
    bench.receive(answer(await bench.take_request(), 200, headers=CONTACT))
    assert results == [(200, b"")]
    assert bench.receive_one(make_from_callee("INFO", ack, cseq=1)).code == 200
    assert handler.causes == []


async def test_closing_says_nothing(bench: Bench, results: Results) -> None:
    session, _, _ = await bench.place_answered()
    session.reinvite(lambda: b"o", SDP, lambda *result: results.append(result))
    bench.receive(answer(await bench.take_request(), 491))
    bench.agent.close()
    bench.clock.advance(200.0)
    await asyncio.sleep(0)
    assert results == []
    assert bench.transport.take() == []


async def test_a_refused_reinvite_of_the_peer_does_not_hold_ours_back(bench: Bench, results: Results) -> None:
    session, handler, ack = await bench.place_answered()
    handler.reply = Reply(488)
    assert bench.receive_one(make_from_callee("INVITE", ack, cseq=1)).code == 488
    session.reinvite(lambda: b"o", SDP, lambda *result: results.append(result))
    assert (await bench.take_request()).method == "INVITE"
