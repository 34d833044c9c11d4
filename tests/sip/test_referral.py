"""Transfers: a REFER, its subscription, and what a peer may say of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sip.invite_session import EndCause
from sip.outgoing_session import OutgoingSession
from sip.referral import LONGEST_S, sipfrag_status
from tests.sip.doubles import Bench, RecordingOutgoingHandler, answer, make_from_callee, make_in_dialog


@pytest.fixture
def bench() -> Bench:
    return Bench()


class Transfer:
    """A call of ours whose callee has been asked to call somebody else."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.progress: list[int] = []
        self.cseq = 0
        self.session: OutgoingSession
        self.handler: RecordingOutgoingHandler

    async def begin(self, code: int | None = 202) -> Transfer:
        self.session, self.handler, self.ack = await self.bench.place_answered()
        self.session.refer("sip:carol@example.com", self.progress.append, "sip:tts@example.com")
        self.refer = await self.bench.take_request()
        if code is not None:
            self.bench.receive(answer(self.refer, code))
        return self

    def notify(self, body: bytes = b"", state: str | None = "active;expires=60", event: str | None = "refer") -> int:
        """A NOTIFY; its answer's code."""
        self.cseq += 1
        headers = {"Event": event, "Subscription-State": state, "Content-Type": "message/sipfrag;version=2.0"}
        return self.bench.receive_one(
            make_from_callee("NOTIFY", self.ack, cseq=self.cseq, headers=headers, body=body)
        ).code


async def test_the_refer(bench: Bench) -> None:
    transfer = await Transfer(bench).begin(None)
    refer = transfer.refer
    assert refer.method == "REFER"
    assert refer.headers["Refer-To"] == "<sip:carol@example.com>"
    assert refer.headers["Referred-By"] == "<sip:tts@example.com>"
    assert refer.headers["Contact"] == "<sip:chatterline@198.51.100.1:5060>"
    assert refer.headers["To"].endswith("tag=bob-1")


async def test_a_transfer_that_succeeds(bench: Bench) -> None:
    transfer = await Transfer(bench).begin()
    assert transfer.progress == []
    assert transfer.notify(b"SIP/2.0 100 Trying\r\n") == 200
    assert transfer.notify(b"SIP/2.0 180 Ringing") == 200
    assert transfer.notify(b"SIP/2.0 200 OK\r\nTo: <sip:carol@x>\r\n") == 200
    assert transfer.notify(b"SIP/2.0 200 OK\r\n", "terminated;reason=noresource") == 200
    assert transfer.progress == [100, 180, 200]
    assert transfer.notify(b"SIP/2.0 200 OK\r\n") == 481
    assert not transfer.session.ended, "to hang up is the application's part"


async def test_a_transfer_that_fails(bench: Bench) -> None:
    transfer = await Transfer(bench).begin()
    assert transfer.notify(b"SIP/2.0 486 Busy Here\r\n", "terminated;reason=noresource") == 200
    assert transfer.progress == [486]
    assert transfer.handler.causes == []


async def test_a_notify_may_come_before_the_202(bench: Bench) -> None:
    transfer = await Transfer(bench).begin(None)
    assert transfer.notify(b"SIP/2.0 100 Trying\r\n") == 200
    bench.receive(answer(transfer.refer, 202))
    transfer.notify(b"SIP/2.0 200 OK\r\n", "terminated")
    assert transfer.progress == [100, 200]


@pytest.mark.parametrize("code", [302, 403, 405, 501, 603])
async def test_a_refer_that_is_refused(bench: Bench, code: int) -> None:
    transfer = await Transfer(bench).begin(code)
    assert transfer.progress == [code]
    assert transfer.notify(b"SIP/2.0 200 OK\r\n") == 481
    assert not transfer.session.ended
    transfer.session.refer("sip:dave@example.com", transfer.progress.append)
    again = await bench.take_request()
    assert again.headers["Refer-To"] == "<sip:dave@example.com>"
    assert again.headers.get("Referred-By") is None


async def test_a_refer_without_a_dialog_ends_the_session(bench: Bench) -> None:
    transfer = await Transfer(bench).begin(481)
    assert transfer.progress == [481]
    assert transfer.handler.causes == [EndCause.HUNG_UP]


async def test_a_refer_without_an_answer(bench: Bench) -> None:
    transfer = await Transfer(bench).begin(None)
    bench.clock.advance(33.0)
    assert transfer.progress == [408]
    assert not transfer.session.ended


async def test_a_subscription_that_ends_without_an_outcome(bench: Bench) -> None:
    transfer = await Transfer(bench).begin()
    transfer.notify(b"SIP/2.0 180 Ringing\r\n")
    assert transfer.notify(b"", "Terminated ; reason=timeout") == 200
    assert transfer.progress == [180, 408]


async def test_a_peer_that_says_no_more(bench: Bench) -> None:
    transfer = await Transfer(bench).begin()
    bench.clock.advance(LONGEST_S - 1)
    assert transfer.progress == []
    bench.clock.advance(2)
    assert transfer.progress == [408]


async def test_a_notify_says_how_long_it_may_take(bench: Bench) -> None:
    transfer = await Transfer(bench).begin()
    transfer.notify(b"SIP/2.0 100 Trying\r\n", "active;expires=300")
    bench.clock.advance(299)
    assert transfer.progress == [100]
    bench.clock.advance(2)
    assert transfer.progress == [100, 408]


@pytest.mark.parametrize("expires", ["0", "99999999999", "-5", "x", "²", "1" * 400])
async def test_absurd_expiries(bench: Bench, expires: str) -> None:
    transfer = await Transfer(bench).begin()
    assert transfer.notify(b"SIP/2.0 100 Trying\r\n", f"active;expires={expires}") == 200
    bench.clock.advance(700)
    assert transfer.progress == [100, 408]


@pytest.mark.parametrize("body", [b"hello", b"SIP/2.0", b"SIP/2.0 x", b"SIP/2.0 99 X", b"SIP/2.0 2000 X", b"\xff\x00"])
async def test_a_fragment_that_is_none(bench: Bench, body: bytes) -> None:
    transfer = await Transfer(bench).begin()
    assert transfer.notify(body) == 400
    assert transfer.progress == []
    assert transfer.notify(b"SIP/2.0 200 OK\r\n") == 200
    assert transfer.progress == [200]


async def test_a_last_fragment_that_is_none(bench: Bench) -> None:
    transfer = await Transfer(bench).begin()
    assert transfer.notify(b"bye", "terminated") == 400
    assert transfer.progress == [408]


async def test_an_empty_notify_says_nothing(bench: Bench) -> None:
    transfer = await Transfer(bench).begin()
    assert transfer.notify(b"", "pending") == 200
    assert transfer.notify(b"", None) == 200
    assert transfer.progress == []


@pytest.mark.parametrize("event", [None, "", "presence", "message-summary", "referral"])
async def test_other_events_are_refused(bench: Bench, event: str | None) -> None:
    transfer = await Transfer(bench).begin()
    assert transfer.notify(b"SIP/2.0 200 OK\r\n", event=event) == 489
    assert transfer.progress == []


async def test_the_event_may_have_an_id(bench: Bench) -> None:
    transfer = await Transfer(bench).begin()
    assert transfer.notify(b"SIP/2.0 200 OK\r\n", event="Refer;id=2") == 200
    assert transfer.progress == [200]


def test_a_notify_without_a_refer(bench: Bench) -> None:
    response, _, _ = bench.establish()
    headers: dict[str, str | None] = {"Event": "refer", "Subscription-State": "active"}
    assert bench.receive_one(make_in_dialog("NOTIFY", response, cseq=2, headers=headers)).code == 481


async def test_one_at_a_time(bench: Bench) -> None:
    transfer = await Transfer(bench).begin()
    second: list[int] = []
    transfer.session.refer("sip:dave@example.com", second.append)
    assert second == [491]
    transfer.notify(b"SIP/2.0 486 Busy\r\n", "terminated")
    transfer.session.refer("sip:dave@example.com", second.append)
    assert (await bench.take_request()).method == "REFER"


async def test_a_session_that_ends_before_the_outcome(bench: Bench) -> None:
    """Some peers say BYE as soon as they have accepted the REFER."""
    transfer = await Transfer(bench).begin()
    bench.receive(make_from_callee("BYE", transfer.ack, cseq=50))
    assert transfer.progress == [481]
    assert transfer.handler.causes == [EndCause.BYE_RECEIVED]
    transfer.session.refer("sip:dave@example.com", transfer.progress.append)
    assert transfer.progress == [481, 481]


async def test_before_the_answer_nobody_can_be_asked(bench: Bench) -> None:
    session, _, _ = await bench.place()
    progress: list[int] = []
    session.refer("sip:carol@example.com", progress.append)
    assert progress == [481]


@pytest.mark.parametrize("uri", ["", "carol", "sip:a@b>\r\nX: y", "sip:a b@c", "http://x"])
async def test_what_is_no_uri(bench: Bench, uri: str) -> None:
    session, _, _ = await bench.place_answered()
    progress: list[int] = []
    with pytest.raises(ValueError, match="URI"):
        session.refer(uri, progress.append)
    with pytest.raises(ValueError, match="URI"):
        session.refer("sip:carol@example.com", progress.append, uri)
    assert await bench.take_requests() == []
    session.refer("tel:+4930123456", progress.append)
    assert (await bench.take_request()).headers["Refer-To"] == "<tel:+4930123456>"


async def test_hanging_up_from_the_outcome(bench: Bench) -> None:
    """What an application does when the transfer has succeeded: the NOTIFY is answered all the same."""
    session, handler, ack = await bench.place_answered()
    session.refer("sip:carol@example.com", lambda code: session.hang_up() if code == 200 else None)
    bench.receive(answer(await bench.take_request(), 202))
    headers: dict[str, str | None] = {"Event": "refer", "Subscription-State": "terminated"}
    notify = make_from_callee("NOTIFY", ack, cseq=1, headers=headers, body=b"SIP/2.0 200 OK\r\n")
    assert bench.receive_one(notify).code == 200
    assert handler.causes == [EndCause.HUNG_UP]
    assert (await bench.take_request()).method == "BYE"


@given(st.binary(max_size=80))
def test_any_fragment(body: bytes) -> None:
    assert sipfrag_status(body) is None or body.strip().upper().startswith(b"SIP/2.0 ")


@given(st.integers(100, 699), st.text(max_size=30))
def test_status_lines(code: int, phrase: str) -> None:
    assert sipfrag_status(f"SIP/2.0 {code} {phrase}\r\nX: y".encode()) == code
