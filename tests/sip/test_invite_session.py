"""Sessions: answered, acknowledged, changed and ended, in every order that the network can bring."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from sipmessage import Request, Response

from sip.invite_session import EndCause, Reply
from tests.sip.doubles import PEER, Bench, answer, make_in_dialog, make_request


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def take_request(bench: Bench) -> Request:
    """The one request that is sent once the address has been resolved."""
    for _ in range(10):
        await asyncio.sleep(0)
    (request,) = bench.transport.take()
    assert isinstance(request, Request)
    return request


def responses(bench: Bench) -> list[int]:
    return [message.code for message in bench.transport.take() if isinstance(message, Response)]


def test_accept(bench: Bench) -> None:
    response, session, _ = bench.invite_and_accept()
    assert response.code == 200
    assert response.body == b"v=0\r\n"
    assert str(response.contact[0].uri) == "sip:chatterline@198.51.100.1:5060"
    assert response.to_address.parameters["tag"] == session.dialog.local_tag
    for name in ("Allow", "Supported", "Accept", "Server"):
        assert response.headers.get(name) is not None


def test_ring_then_accept_have_one_tag(bench: Bench) -> None:
    bench.receive(make_request("INVITE"))
    session = bench.application.sessions[0]
    session.ring()
    session.accept(b"", "application/sdp")
    ringing, accepted = bench.transport.take()
    assert isinstance(ringing, Response)
    assert isinstance(accepted, Response)
    assert (ringing.code, accepted.code) == (180, 200)
    assert ringing.to_address == accepted.to_address


def test_reject(bench: Bench) -> None:
    bench.receive(make_request("INVITE"))
    session = bench.application.sessions[0]
    session.reject(486, "Busy", (("Retry-After", "5"),))
    (response,) = bench.transport.take()
    assert isinstance(response, Response)
    assert (response.code, response.phrase, response.headers["Retry-After"]) == (486, "Busy", "5")
    assert bench.application.handlers[0].causes == []
    session.accept(b"", "application/sdp")
    assert bench.transport.take() == []


def test_the_200_is_sent_again_until_the_ack_comes(bench: Bench) -> None:
    """RFC 3261 section 13.3.1.4: T1, doubling up to T2."""
    response, _, handler = bench.invite_and_accept()
    times = []
    for _ in range(1600):
        bench.clock.advance(0.01)
        times += [round(bench.clock.now - 100.0, 2) for _ in responses(bench)]
    assert times == [0.5, 1.5, 3.5, 7.5, 11.5, 15.5]
    bench.receive(make_in_dialog("ACK", response, cseq=1))
    assert len(handler.acks) == 1
    bench.clock.advance(60.0)
    assert bench.transport.take() == []
    assert bench.agent.stats.accepted_retransmissions == 6


def test_the_ack_is_told_once(bench: Bench) -> None:
    response, _, handler = bench.establish()
    bench.receive(make_in_dialog("ACK", response, cseq=1))
    assert len(handler.acks) == 1


def test_an_ack_with_the_branch_of_the_invite_counts_too(bench: Bench) -> None:
    """Some clients reuse it for the ACK of a 2xx; RFC 6026 has the transaction pass it on."""
    response, _, handler = bench.invite_and_accept()
    branch = "z9hG4bK-INVITE-1-call-1.pbx.example"
    bench.receive(make_in_dialog("ACK", response, cseq=1, branch=branch))
    assert len(handler.acks) == 1


def test_an_ack_with_another_number_does_not_count(bench: Bench) -> None:
    response, _, handler = bench.invite_and_accept()
    bench.receive(make_in_dialog("ACK", response, cseq=2))
    assert handler.acks == []


async def test_without_an_ack_the_call_is_given_up_with_a_bye(bench: Bench) -> None:
    _, _, handler = bench.invite_and_accept()
    bench.clock.advance(31.9)
    assert handler.causes == []
    bench.clock.advance(0.2)
    assert handler.causes == [EndCause.NO_ACK]
    assert set(responses(bench)) == {200}
    bye = await take_request(bench)
    assert bye.method == "BYE"
    assert bench.receive(answer(bye, 200)) == []
    bench.clock.advance(100.0)
    assert bench.transport.take() == []
    assert bench.agent.stats.acks_missing == 1


def test_a_bye_from_the_caller(bench: Bench) -> None:
    response, session, handler = bench.establish()
    assert bench.receive_one(make_in_dialog("BYE", response, cseq=2)).code == 200
    assert handler.causes == [EndCause.BYE_RECEIVED]
    assert session.ended
    assert bench.receive_one(make_in_dialog("BYE", response, cseq=2)).code == 200  # retransmitted
    assert bench.receive_one(make_in_dialog("INFO", response, cseq=3)).code == 481
    assert handler.causes == [EndCause.BYE_RECEIVED]


def test_a_bye_before_the_ack_ends_retransmission(bench: Bench) -> None:
    response, _, handler = bench.invite_and_accept()
    assert bench.receive_one(make_in_dialog("BYE", response, cseq=2)).code == 200
    bench.clock.advance(60.0)
    assert bench.transport.take() == []
    assert handler.causes == [EndCause.BYE_RECEIVED]


def test_a_bye_before_the_answer(bench: Bench) -> None:
    """RFC 3261 section 15.1.2."""
    bench.receive(make_request("INVITE"))
    session = bench.application.sessions[0]
    session.ring()
    (ringing,) = bench.transport.take()
    assert isinstance(ringing, Response)
    bench.receive(make_in_dialog("BYE", ringing, cseq=2))
    assert bench.application.handlers[0].causes == [EndCause.BYE_RECEIVED]


def test_cancel_before_the_answer(bench: Bench) -> None:
    bench.receive(make_request("INVITE", branch="z9hG4bKx"))
    session = bench.application.sessions[0]
    session.ring()
    responses(bench)
    ok, terminated = bench.receive(make_request("CANCEL", branch="z9hG4bKx"))
    assert isinstance(ok, Response)
    assert isinstance(terminated, Response)
    assert (ok.code, ok.cseq.method) == (200, "CANCEL")
    assert (terminated.code, terminated.cseq.method) == (487, "INVITE")
    assert ok.to_address == terminated.to_address  # RFC 3261 section 9.2
    assert bench.application.handlers[0].causes == [EndCause.CANCELLED]
    session.accept(b"", "application/sdp")
    assert bench.transport.take() == []
    bench.clock.advance(0.6)
    assert responses(bench) == [487]
    bench.receive(make_request("ACK", branch="z9hG4bKx"))
    bench.clock.advance(60.0)
    assert bench.transport.take() == []


def test_cancel_that_comes_after_the_200_changes_nothing(bench: Bench) -> None:
    bench.receive(make_request("INVITE", branch="z9hG4bKx"))
    bench.application.sessions[0].accept(b"", "application/sdp")
    (accepted,) = bench.transport.take()
    assert isinstance(accepted, Response)
    response = bench.receive_one(make_request("CANCEL", branch="z9hG4bKx"))
    assert (response.code, response.cseq.method) == (200, "CANCEL")
    assert bench.application.handlers[0].causes == []
    bench.receive(make_in_dialog("ACK", accepted, cseq=1))
    assert len(bench.application.handlers[0].acks) == 1


async def test_hang_up(bench: Bench) -> None:
    response, session, handler = bench.establish()
    session.hang_up((("Reason", "Q.850;cause=16"),))
    assert handler.causes == [EndCause.HUNG_UP]
    bye = await take_request(bench)
    assert (bye.method, bye.headers["Reason"]) == ("BYE", "Q.850;cause=16")
    assert bye.headers["From"].endswith(f"tag={session.dialog.local_tag}")
    assert bench.receive_one(make_in_dialog("INFO", response, cseq=2)).code == 481
    bench.receive(answer(bye, 200))
    await asyncio.wait_for(bench.agent.wait_idle(), 1)
    session.hang_up()
    assert handler.causes == [EndCause.HUNG_UP]


async def test_bye_glare(bench: Bench) -> None:
    """Both sides hang up at once: each BYE is answered, and the call ends once."""
    response, session, handler = bench.establish()
    session.hang_up()
    bye = await take_request(bench)
    assert bench.receive_one(make_in_dialog("BYE", response, cseq=2)).code == 200
    bench.receive(answer(bye, 481))
    assert handler.causes == [EndCause.HUNG_UP]
    await asyncio.wait_for(bench.agent.wait_idle(), 1)


async def test_hang_up_before_the_ack_waits_for_it(bench: Bench) -> None:
    """RFC 3261 section 15."""
    response, session, handler = bench.invite_and_accept()
    session.hang_up()
    assert handler.causes == [EndCause.HUNG_UP]
    await asyncio.sleep(0)
    assert bench.transport.take() == []
    bench.clock.advance(0.6)
    assert responses(bench) == [200]
    bench.receive(make_in_dialog("ACK", response, cseq=1))
    assert (await take_request(bench)).method == "BYE"
    assert handler.acks == []


async def test_hang_up_before_an_ack_that_never_comes(bench: Bench) -> None:
    _, session, handler = bench.invite_and_accept()
    session.hang_up()
    bench.clock.advance(33.0)
    responses(bench)
    assert handler.causes == [EndCause.HUNG_UP]
    bye = await take_request(bench)
    bench.receive(answer(bye, 481))
    await asyncio.wait_for(bench.agent.wait_idle(), 1)


def test_hang_up_before_the_answer_refuses_the_call(bench: Bench) -> None:
    bench.receive(make_request("INVITE"))
    bench.application.sessions[0].hang_up()
    assert responses(bench) == [480]
    assert bench.application.handlers[0].causes == [EndCause.HUNG_UP]


async def test_a_bye_without_an_answer_is_given_up(bench: Bench) -> None:
    _, session, _ = bench.establish()
    session.hang_up()
    await take_request(bench)
    bench.clock.advance(33.0)
    bench.transport.take()
    await asyncio.wait_for(bench.agent.wait_idle(), 1)


async def test_a_bye_follows_the_route(bench: Bench) -> None:
    bench.receive(make_request("INVITE", headers={"Record-Route": "<sip:192.0.2.77:5099;lr>"}))
    session = bench.application.sessions[0]
    session.accept(b"", "application/sdp")
    (accepted,) = bench.transport.take()
    assert isinstance(accepted, Response)
    assert accepted.headers["Record-Route"] == "<sip:192.0.2.77:5099;lr>"
    bench.receive(make_in_dialog("ACK", accepted, cseq=1))
    session.hang_up()
    for _ in range(10):
        await asyncio.sleep(0)
    ((data, destination),) = bench.transport.sent
    assert destination == ("192.0.2.77", 5099)
    assert b"Route: <sip:192.0.2.77:5099;lr>" in data


def test_info_is_the_applications(bench: Bench) -> None:
    response, _, handler = bench.establish()
    handler.reply = Reply(413, "Too Much")
    answered = bench.receive_one(make_in_dialog("INFO", response, cseq=2, body=b"hello"))
    assert (answered.code, answered.phrase) == (413, "Too Much")
    assert handler.infos == [b"hello"]


def test_the_body_of_an_answered_request_is_not_kept(bench: Bench) -> None:
    """Its transaction stays for 32 s, and there may be thousands."""
    response, _, _ = bench.establish()
    bench.receive(make_in_dialog("INFO", response, cseq=2, body=b"x" * 50_000))
    kept = [served.request.body for served in bench.agent._layer.servers.values()]
    assert kept
    assert not any(kept)


def test_an_application_that_fails_on_an_invite_leaves_nothing_behind(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(session: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(bench.application, "invited", fail)
    assert bench.receive_one(make_request("INVITE")).code == 500
    assert not bench.agent._sessions
    bench.receive(make_request("ACK", branch="z9hG4bK-INVITE-1-call-1.pbx.example"))
    bench.clock.advance(100.0)
    assert len(bench.agent._layer.servers) == 0


def test_an_application_that_fails_on_an_info_keeps_its_call(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    response, session, handler = bench.establish()

    def fail(request: object) -> Reply:
        raise ZeroDivisionError

    monkeypatch.setattr(handler, "info_received", fail)
    assert bench.receive_one(make_in_dialog("INFO", response, cseq=2)).code == 500
    assert not session.ended
    assert bench.receive_one(make_in_dialog("BYE", response, cseq=3)).code == 200


async def test_an_application_that_fails_on_the_ack_loses_its_call(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    response, session, handler = bench.invite_and_accept()

    def fail(ack: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(handler, "acknowledged", fail)
    bench.receive(make_in_dialog("ACK", response, cseq=1))
    assert handler.causes == [EndCause.HUNG_UP]
    assert session.ended
    assert (await take_request(bench)).method == "BYE"


async def test_a_bye_to_a_name_that_does_not_resolve_goes_to_where_the_call_came_from(bench: Bench) -> None:
    """Also one that is no name at all: a label has 63 characters at most."""
    name = "a" * 64 + ".invalid"
    bench.receive(make_request("INVITE", headers={"Contact": f"<sip:alice@{name}>"}))
    session = bench.application.sessions[0]
    session.accept(b"", "application/sdp")
    (accepted,) = bench.transport.take()
    assert isinstance(accepted, Response)
    bench.receive(make_in_dialog("ACK", accepted, cseq=1))
    session.hang_up()
    async with asyncio.timeout(10):
        while not bench.transport.sent:
            await asyncio.sleep(0)
    ((data, destination),) = bench.transport.sent
    assert data.startswith(b"BYE sip:alice@aaa")
    assert destination == PEER


async def test_hang_up_while_a_reinvite_awaits_its_ack_sends_one_bye(bench: Bench) -> None:
    response, session, _ = bench.establish()
    bench.receive(make_in_dialog("INVITE", response, cseq=2))
    session.hang_up()
    assert (await take_request(bench)).method == "BYE"
    bench.receive(make_in_dialog("ACK", response, cseq=2))
    for _ in range(5):
        await asyncio.sleep(0)
    assert bench.transport.take() == []


def test_options_within_a_call(bench: Bench) -> None:
    response, _, _ = bench.establish()
    assert bench.receive_one(make_in_dialog("OPTIONS", response, cseq=2)).code == 200


def test_requests_out_of_order_get_500(bench: Bench) -> None:
    response, _, handler = bench.establish()
    assert bench.receive_one(make_in_dialog("INFO", response, cseq=5)).code == 200
    assert bench.receive_one(make_in_dialog("INFO", response, cseq=4)).code == 500
    assert len(handler.infos) == 1


def test_reinvite(bench: Bench) -> None:
    response, session, handler = bench.establish()
    handler.reply = Reply(200, body=b"v=0 again", content_type="application/sdp")
    moved = {"Contact": "<sip:alice@192.0.2.11:5080>"}
    accepted = bench.receive_one(make_in_dialog("INVITE", response, cseq=2, headers=moved))
    assert (accepted.code, accepted.body) == (200, b"v=0 again")
    assert accepted.to_address.parameters["tag"] == session.dialog.local_tag
    assert session.dialog.remote_target == "sip:alice@192.0.2.11:5080"
    bench.clock.advance(0.6)
    assert responses(bench) == [200]  # until acknowledged
    bench.receive(make_in_dialog("ACK", response, cseq=2))
    bench.clock.advance(60.0)
    assert bench.transport.take() == []
    assert len(handler.acks) == 2
    assert len(bench.application.sessions) == 1


def test_a_refused_reinvite_leaves_all_as_it_was(bench: Bench) -> None:
    response, session, handler = bench.establish()
    handler.reply = Reply(488)
    moved = {"Contact": "<sip:alice@192.0.2.11:5080>"}
    assert bench.receive_one(make_in_dialog("INVITE", response, cseq=2, headers=moved)).code == 488
    assert session.dialog.remote_target == "sip:alice@192.0.2.10:5070"
    assert handler.causes == []
    assert not session.ended


def test_a_reinvite_without_contact_is_refused(bench: Bench) -> None:
    response, _, handler = bench.establish()
    assert bench.receive_one(make_in_dialog("INVITE", response, cseq=2, headers={"Contact": None})).code == 400
    assert handler.reinvites == []


def test_a_second_reinvite_before_the_ack_of_the_first(bench: Bench) -> None:
    """RFC 3261 section 14.2."""
    response, _, handler = bench.establish()
    bench.receive(make_in_dialog("INVITE", response, cseq=2))
    refused = bench.receive_one(make_in_dialog("INVITE", response, cseq=3))
    assert refused.code == 500
    assert refused.headers["Retry-After"]
    assert len(handler.reinvites) == 1


class SessionMachine(RuleBasedStateMachine):
    """Any order of what caller, application and time can do: the application hears of the end exactly once."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.bench = Bench()
        self.bench.receive(make_request("INVITE", branch="z9hG4bKi"))
        self.session = self.bench.application.sessions[0]
        self.handler = self.bench.application.handlers[0]
        self.tag = self.session.dialog.local_tag
        self.cseq = 1
        self.infos = 0
        self.results: list[int] = []
        self.in_loop(lambda: None)

    def in_loop(self, act: object) -> None:
        async def run() -> None:
            act()  # type: ignore[operator]
            for _ in range(5):
                await asyncio.sleep(0)

        self.loop.run_until_complete(run())

    def receive(self, method: str, cseq: int, **options: str) -> None:
        data = make_request(method, cseq=cseq, to_tag=self.tag, **options)  # type: ignore[arg-type]
        self.in_loop(lambda: self.bench.receive(data))

    @rule()
    def ring(self) -> None:
        self.in_loop(self.session.ring)

    @rule()
    def accept(self) -> None:
        self.in_loop(lambda: self.session.accept(b"", "application/sdp"))

    @rule()
    def hang_up(self) -> None:
        self.in_loop(self.session.hang_up)

    @rule()
    def ack(self) -> None:
        self.receive("ACK", 1)

    @rule()
    def cancel(self) -> None:
        self.in_loop(lambda: self.bench.receive(make_request("CANCEL", branch="z9hG4bKi")))

    @rule()
    def send_info(self) -> None:
        self.infos += 1
        self.in_loop(lambda: self.session.send_info(b"Signal=1\r\n", "application/dtmf-relay", self.results.append))

    @rule(method=st.sampled_from(["BYE", "INFO", "INVITE"]))
    def request(self, method: str) -> None:
        self.cseq += 1
        self.receive(method, self.cseq)

    @rule()
    def ack_latest(self) -> None:
        self.receive("ACK", self.cseq)

    @rule(seconds=st.sampled_from([0.1, 1.0, 40.0]))
    def wait(self, seconds: float) -> None:
        self.in_loop(lambda: self.bench.clock.advance(seconds))

    @invariant()
    def the_end_is_told_once(self) -> None:
        assert len(self.handler.causes) <= 1
        assert bool(self.handler.causes) == self.session.ended

    def teardown(self) -> None:
        """Hung up and left alone, nothing of the call remains."""
        self.in_loop(self.session.hang_up)
        for _ in range(4):
            self.in_loop(lambda: self.bench.clock.advance(70.0))
        self.loop.run_until_complete(asyncio.wait_for(self.bench.agent.wait_idle(), 1))
        self.bench.transport.take()
        self.in_loop(lambda: self.bench.clock.advance(100.0))
        assert self.bench.transport.take() == []
        assert len(self.results) == self.infos, "each INFO of ours has a result"
        self.loop.close()


TestSessionMachine = SessionMachine.TestCase
TestSessionMachine.settings = settings(max_examples=80, stateful_step_count=15, deadline=None)
