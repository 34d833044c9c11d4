"""INFO requests of ours: one at a time, in order, each with its result."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sipmessage import Request

from sip.info_queue import MAX_QUEUED, SESSION_OVER, Info, InfoQueue, InfoQueueFullError, OnResult
from sip.invite_session import EndCause, InviteSession
from tests.sip.doubles import PEER, Bench, answer, make_in_dialog, make_request

TYPE = "application/dtmf-relay"


class Line:
    """Takes what a queue sends, and answers when told."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.results: list[tuple[bytes, int]] = []
        self._done: OnResult | None = None
        self.queue = InfoQueue(self._send)

    def _send(self, info: Info, done: OnResult) -> None:
        assert self._done is None, "one at a time"
        self.sent.append(info.body)
        self._done = done

    def push(self, body: bytes) -> None:
        self.queue.push(Info(body, TYPE, lambda code: self.results.append((body, code))))

    def answer(self, code: int) -> None:
        done, self._done = self._done, None
        if done is not None:
            done(code)


def test_nothing_is_sent_before_the_session_is_confirmed() -> None:
    line = Line()
    line.push(b"1")
    assert line.sent == []
    line.queue.open()
    assert line.sent == [b"1"]


def test_one_at_a_time() -> None:
    line = Line()
    line.queue.open()
    for body in (b"1", b"2"):
        line.push(body)
    assert line.sent == [b"1"]
    line.answer(200)
    assert line.sent == [b"1", b"2"]
    line.answer(408)
    assert line.results == [(b"1", 200), (b"2", 408)]


def test_bounded() -> None:
    line = Line()
    for _ in range(MAX_QUEUED):
        line.push(b"1")
    with pytest.raises(InfoQueueFullError):
        line.push(b"2")


def test_nobody_need_listen() -> None:
    line = Line()
    line.queue.open()
    line.queue.push(Info(b"1", TYPE, None))
    line.queue.push(Info(b"2", TYPE, None))
    line.answer(200)
    line.queue.close()
    line.answer(200)
    assert line.sent == [b"1", b"2"]


@given(st.lists(st.sampled_from(("push", "answer", "open", "close")), max_size=40))
def test_each_has_one_result_and_the_order_is_kept(steps: list[str]) -> None:
    line = Line()
    pushed = []
    for number, step in enumerate(steps):
        body = str(number).encode()
        if step == "push":
            line.push(body)
            pushed.append(body)
        elif step == "answer":
            line.answer(200)
        elif step == "open":
            line.queue.open()
        else:
            line.queue.close()
    assert line.sent == pushed[: len(line.sent)]
    line.queue.close()
    line.answer(200)
    assert sorted(body for body, _ in line.results) == sorted(pushed)
    assert all((code == 200) is (body in line.sent) for body, code in line.results)
    assert {code for _, code in line.results} <= {200, SESSION_OVER}


class TestInSession:
    """The same through a user agent: what is on the wire."""

    @pytest.fixture
    def bench(self) -> Bench:
        return Bench()

    @staticmethod
    async def take(bench: Bench) -> list[Request]:
        """The requests sent, once addresses have been resolved."""
        for _ in range(10):
            await asyncio.sleep(0)
        return [message for message in bench.transport.take() if isinstance(message, Request)]

    async def test_an_info_within_the_dialog(self, bench: Bench) -> None:
        response, session, _ = bench.establish()
        results: list[int] = []
        session.send_info(b"Signal=5\r\nDuration=100\r\n", TYPE, results.append)
        (info,) = await self.take(bench)
        assert info.method == "INFO"
        assert str(info.uri) == "sip:alice@192.0.2.10:5070"
        assert info.headers["Content-Type"] == TYPE
        assert info.headers["Content-Length"] == "24"
        assert info.body == b"Signal=5\r\nDuration=100\r\n"
        assert info.call_id == response.call_id
        assert info.from_address.parameters["tag"] == session.dialog.local_tag
        assert info.to_address.parameters["tag"] == "alice-1"
        assert bench.receive(answer(info, 100)) == []
        assert results == []
        bench.receive(answer(info, 200))
        bench.receive(answer(info, 200))
        assert results == [200]
        assert not session.ended

    async def test_numbers_rise_and_the_second_waits(self, bench: Bench) -> None:
        _, session, _ = bench.establish()
        results: list[int] = []
        for body in (b"1", b"2"):
            session.send_info(body, TYPE, results.append)
        (first,) = await self.take(bench)
        assert await self.take(bench) == []
        bench.receive(answer(first, 415))
        (second,) = await self.take(bench)
        assert (first.body, second.body) == (b"1", b"2")
        assert second.cseq.sequence == first.cseq.sequence + 1
        assert results == [415]
        assert not session.ended, "a peer that does not know INFO keeps its call"

    async def test_before_the_ack_it_waits(self, bench: Bench) -> None:
        response, session, _ = bench.invite_and_accept()
        session.send_info(b"1", TYPE)
        assert await self.take(bench) == []
        bench.receive(make_in_dialog("ACK", response, cseq=1))
        assert [request.body for request in await self.take(bench)] == [b"1"]

    async def test_no_answer(self, bench: Bench) -> None:
        _, session, handler = bench.establish()
        results: list[int] = []
        for body in (b"1", b"2"):
            session.send_info(body, TYPE, results.append)
        assert len(await self.take(bench)) == 1
        bench.clock.advance(33.0)
        sent = await self.take(bench)
        assert results == [408]
        assert sent[-1].body == b"2"
        assert handler.causes == [], "whether a silent peer is dead is for the media to tell"

    async def test_a_peer_that_knows_no_such_call(self, bench: Bench) -> None:
        """RFC 3261 section 12.2.1.2."""
        _, session, handler = bench.establish()
        results: list[int] = []
        for body in (b"1", b"2", b"3"):
            session.send_info(body, TYPE, results.append)
        (info,) = await self.take(bench)
        bench.receive(answer(info, 481))
        assert results == [481] * 3
        assert handler.causes == [EndCause.HUNG_UP]
        assert [request.method for request in await self.take(bench)] == ["BYE"]

    @pytest.mark.parametrize("by_peer", [True, False])
    async def test_the_sessions_end_overtakes_what_waits(self, bench: Bench, by_peer: bool) -> None:
        response, session, _ = bench.establish()
        results: list[int] = []
        for body in (b"1", b"2"):
            session.send_info(body, TYPE, results.append)
        (info,) = await self.take(bench)
        if by_peer:
            bench.receive(make_in_dialog("BYE", response, cseq=2))
        else:
            session.hang_up()
        assert results == [SESSION_OVER]
        bench.receive(answer(info, 200))
        assert results == [SESSION_OVER, 200]
        session.send_info(b"3", TYPE, results.append)
        assert results == [SESSION_OVER, 200, SESSION_OVER]
        assert all(request.method == "BYE" for request in await self.take(bench))

    async def test_a_call_that_is_never_answered(self, bench: Bench) -> None:
        bench.receive(make_request("INVITE"))
        session: InviteSession = bench.application.sessions[0]
        results: list[int] = []
        session.send_info(b"1", TYPE, results.append)
        session.reject(486)
        assert results == [SESSION_OVER]

    async def test_closing_says_nothing(self, bench: Bench) -> None:
        _, session, _ = bench.establish()
        results: list[int] = []
        for body in (b"1", b"2"):
            session.send_info(body, TYPE, results.append)
        await self.take(bench)
        bench.agent.close()
        assert results == []
        assert bench.transport.sent == []

    async def test_it_goes_where_the_dialog_goes(self, bench: Bench) -> None:
        """The route set, and the peer's newest Contact."""
        route = {"Record-Route": "<sip:192.0.2.77:5080;lr>"}
        bench.receive(make_request("INVITE", headers=dict(route)))
        session = bench.application.sessions[0]
        session.accept(b"v=0\r\n", "application/sdp")
        (response,) = bench.transport.take()
        bench.receive(make_in_dialog("ACK", response, cseq=1))  # type: ignore[arg-type]
        session.send_info(b"1", TYPE)
        for _ in range(10):
            await asyncio.sleep(0)
        ((data, destination),) = bench.transport.sent
        assert destination == ("192.0.2.77", 5080) != PEER
        assert b"Route: <sip:192.0.2.77:5080;lr>" in data
