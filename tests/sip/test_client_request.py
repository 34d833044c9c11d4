"""Requests of ours: addressed, sent, cancelled, abandoned."""

from __future__ import annotations

import asyncio

import pytest
from sipmessage import Message, Request, Response

from sip.client_request import ClientRequest, Draft, Outbox, make_cancel
from sip.dialog import Dialog
from sip.digest import Credentials, DigestClient
from sip.message import SocketAddress
from sip.stats import SipStats
from sip.timers import TimerValues
from sip.transaction_layer import TransactionLayer
from tests.sip.doubles import ManualClock, MemoryTransport, answer

FALLBACK: SocketAddress = ("192.0.2.99", 5090)
INVITE = Draft("INVITE", (("X-A", "b"),), b"offer", "application/sdp")


class Desk:
    """An outbox, and what is heard of one request."""

    def __init__(self, target: str = "sip:bob@192.0.2.10:5070") -> None:
        self.clock = ManualClock()
        self.transport = MemoryTransport()
        self.layer = TransactionLayer(self.transport.send, self.clock, TimerValues(), SipStats())
        self.outbox = Outbox(self.layer, self.transport, "Test/1")
        self.dialog = Dialog.to_be("<sip:tts@example.com>", target)
        self.codes: list[int] = []
        self.failures: list[int] = []

    def make(self, draft: Draft, digest: DigestClient | None = None) -> ClientRequest:
        return ClientRequest(
            self.outbox,
            self.dialog,
            draft,
            digest,
            lambda _request, response: self.codes.append(response.code),
            lambda code, _reason: self.failures.append(code),
        )

    def sent(self) -> list[Request]:
        return [message for message in self.transport.take() if isinstance(message, Request)]

    def respond(self, request: Request, code: int, headers: dict[str, str] | None = None) -> list[Request]:
        response = Message.parse(answer(request, code, to_tag="b", headers=headers))
        assert isinstance(response, Response)
        assert self.layer.receive_response(response)
        return self.sent()


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_an_invite_carries_its_draft(desk: Desk) -> None:
    desk.make(INVITE).send_to(FALLBACK)
    (request,) = desk.sent()
    assert (request.headers["X-A"], request.body, request.headers["Content-Length"]) == ("b", b"offer", "5")
    assert request.headers["Contact"] == "<sip:chatterline@198.51.100.1:5060>"


@pytest.mark.parametrize(("method", "contact"), [("REFER", True), ("BYE", False), ("INFO", False)])
def test_a_contact_goes_where_the_target_may_be_learned(desk: Desk, method: str, contact: bool) -> None:
    desk.make(Draft(method)).send_to(FALLBACK)
    (request,) = desk.sent()
    assert (request.headers.get("Contact") is not None) == contact
    assert request.headers.get("Content-Type") is None


async def test_it_goes_to_the_next_hop(desk: Desk) -> None:
    desk.make(Draft("BYE")).send(FALLBACK)
    for _ in range(5):
        await asyncio.sleep(0)
    assert desk.transport.sent[0][1] == ("192.0.2.10", 5070)


async def test_it_goes_elsewhere_if_that_is_no_name() -> None:
    desk = Desk("sip:bob@" + "a" * 64 + ".invalid")
    desk.make(Draft("BYE")).send(FALLBACK)
    async with asyncio.timeout(10):
        while not desk.transport.sent:
            await asyncio.sleep(0)
    assert desk.transport.sent[0][1] == FALLBACK


async def test_what_waits_for_a_name_is_not_sent_after_the_close(desk: Desk) -> None:
    desk.make(Draft("BYE")).send(FALLBACK)
    desk.outbox.close()
    for _ in range(5):
        await asyncio.sleep(0)
    assert desk.sent() == []


def test_a_100_is_not_told(desk: Desk) -> None:
    desk.make(INVITE).send_to(FALLBACK)
    (request,) = desk.sent()
    for code in (100, 183, 200, 200):
        desk.respond(request, code)
    assert desk.codes == [183, 200, 200]


def test_an_answered_challenge_is_not_told(desk: Desk) -> None:
    desk.make(Draft("BYE"), DigestClient(Credentials("u", "p"))).send_to(FALLBACK)
    (request,) = desk.sent()
    (again,) = desk.respond(request, 401, {"WWW-Authenticate": 'Digest realm="r", nonce="n"'})
    assert again.cseq.sequence == request.cseq.sequence + 1
    assert again.headers["Authorization"].startswith('Digest username="u"')
    desk.respond(again, 200)
    assert desk.codes == [200]


def test_a_cancel_has_all_that_identifies_its_invite(desk: Desk) -> None:
    desk.dialog.route_set = ["<sip:192.0.2.1;lr>", "<sip:192.0.2.2;lr>"]
    desk.make(INVITE).send_to(FALLBACK)
    (invite,) = desk.sent()
    cancel = make_cancel(invite)
    for name in ("Via", "From", "To", "Call-ID", "Max-Forwards"):
        assert cancel.headers.getlist(name) == invite.headers.getlist(name)
    assert cancel.headers.getlist("Route") == desk.dialog.route_set
    assert cancel.headers["CSeq"] == "1 CANCEL"
    assert cancel.headers.get("Contact") is None


def test_a_cancel_is_sent_once(desk: Desk) -> None:
    request = desk.make(INVITE)
    request.send_to(FALLBACK)
    (invite,) = desk.sent()
    request.cancel()
    assert desk.sent() == []
    assert [sent.method for sent in desk.respond(invite, 180)] == ["CANCEL"]
    request.cancel()
    assert desk.respond(invite, 180) == []


def test_a_cancelled_request_without_a_final_response_fails(desk: Desk) -> None:
    request = desk.make(INVITE)
    request.send_to(FALLBACK)
    (invite,) = desk.sent()
    desk.respond(invite, 180)
    request.cancel()
    desk.clock.advance(33.0)
    assert desk.failures == [408]
    assert not desk.layer.clients


def test_what_was_cancelled_before_it_was_sent_is_not(desk: Desk) -> None:
    request = desk.make(INVITE)
    request.cancel()
    request.send_to(FALLBACK)
    assert desk.sent() == []
    assert desk.failures == [487]


def test_an_abandoned_request_is_forgotten(desk: Desk) -> None:
    request = desk.make(INVITE)
    request.send_to(FALLBACK)
    request.abandon()
    desk.sent()
    desk.clock.advance(100.0)
    assert desk.sent() == []
    assert (desk.codes, desk.failures) == ([], [])
    assert not desk.layer.clients


def test_awaited_branches(desk: Desk) -> None:
    desk.make(INVITE).send_to(FALLBACK)
    (invite,) = desk.sent()
    assert desk.layer.awaits(invite.via[0].parameters["branch"] or "")
    assert not desk.layer.awaits("z9hG4bKother")
