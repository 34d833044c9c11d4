"""ACKs of the answers to our INVITEs."""

from __future__ import annotations

import asyncio

from sipmessage import Request

from sip.acknowledger import MAX_KEPT, Acknowledger
from sip.client_request import Draft, Outbox
from sip.dialog import Dialog
from sip.message import SocketAddress
from sip.stats import SipStats
from sip.timers import TimerValues
from sip.transaction_layer import TransactionLayer
from tests.sip.doubles import ManualClock, MemoryTransport

FALLBACK: SocketAddress = ("192.0.2.99", 5090)


class Desk:
    def __init__(self, host: str = "192.0.2.10") -> None:
        self.transport = MemoryTransport()
        layer = TransactionLayer(self.transport.send, ManualClock(), TimerValues(), SipStats())
        self.outbox = Outbox(layer, self.transport, "Test/1")
        self.acks = Acknowledger(self.outbox)
        self.dialog = Dialog.to_be("<sip:tts@example.com>", f"sip:bob@{host}:5070")
        self.dialog.remote_tag = "bob-1"

    def invite(self) -> Request:
        return self.outbox.build(self.dialog, Draft("INVITE"), FALLBACK)


def test_an_answer_is_acknowledged_once_and_again_as_often_as_it_comes() -> None:
    desk = Desk()
    invite = desk.invite()
    assert not desk.acks.repeat(invite, "bob-1")
    desk.acks.acknowledge(desk.dialog, invite, FALLBACK)
    assert desk.acks.repeat(invite, "bob-1")
    (first, second) = desk.transport.sent
    assert first == second
    assert first[1] == ("192.0.2.10", 5070)


def test_another_forks_and_another_invites_answers_are_others() -> None:
    desk = Desk()
    invite = desk.invite()
    desk.acks.acknowledge(desk.dialog, invite, FALLBACK)
    assert not desk.acks.repeat(invite, "bob-2")
    assert not desk.acks.repeat(desk.invite(), "bob-1")


async def test_while_a_name_is_resolved_a_repeated_answer_waits_for_the_first_ack() -> None:
    desk = Desk("a" * 64 + ".invalid")
    invite = desk.invite()
    desk.acks.acknowledge(desk.dialog, invite, FALLBACK)
    assert desk.acks.repeat(invite, "bob-1")
    assert desk.transport.sent == []
    async with asyncio.timeout(10):
        while not desk.transport.sent:
            await asyncio.sleep(0)
    assert desk.acks.repeat(invite, "bob-1")
    assert [destination for _, destination in desk.transport.sent] == [FALLBACK, FALLBACK]


def test_only_the_latest_are_kept() -> None:
    desk = Desk()
    invites = [desk.invite() for _ in range(MAX_KEPT + 4)]
    for invite in invites:
        desk.acks.acknowledge(desk.dialog, invite, FALLBACK)
    assert [desk.acks.repeat(invite, "bob-1") for invite in invites] == [False] * 4 + [True] * MAX_KEPT
