"""The server transactions, with every timer of RFC 3261 section 17.2 and RFC 6026."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from sipmessage import Message, Response

from sip.message import IncomingRequest, build_response
from sip.server_transaction import InviteServerTransaction, NonInviteServerTransaction
from sip.timers import TimerValues
from sip.transaction import State, server_key
from tests.sip.doubles import incoming, make_request

TIMERS = TimerValues()
INVITE = incoming(make_request("INVITE"))
OPTIONS = incoming(make_request("OPTIONS"))
ACK = incoming(make_request("ACK", branch=INVITE.branch))


class User:
    """A transaction's user that keeps all it is told."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.messages: list[IncomingRequest | Response] = []
        self.failures: list[int] = []

    def transmit(self, message: bytes) -> None:
        self.sent.append(message)

    def received(self, message: IncomingRequest | Response) -> None:
        self.messages.append(message)

    def failed(self, code: int, reason: str) -> None:
        self.failures.append(code)

    def codes(self) -> list[int]:
        responses = [Message.parse(data) for data in self.sent]
        return [response.code for response in responses if isinstance(response, Response)]


def response(code: int) -> Response:
    return build_response(INVITE.message, code, to_tag="t")


def invite_transaction() -> tuple[InviteServerTransaction, User]:
    user = User()
    return InviteServerTransaction(INVITE, user, TIMERS, 0.0), user


def run(transaction: InviteServerTransaction | NonInviteServerTransaction, until: float) -> list[float]:
    """Let time pass; returns when the timers fired."""
    times = []
    while (at := transaction.next_timeout()) is not None and at <= until:
        times.append(at)
        transaction.handle_timeout(at)
    return times


def test_100_is_sent_if_the_user_takes_longer_than_200_ms() -> None:
    transaction, user = invite_transaction()
    assert run(transaction, 0.19) == []
    assert run(transaction, 1.0) == [0.2]
    assert user.codes() == [100]


def test_no_100_after_a_provisional_response() -> None:
    transaction, user = invite_transaction()
    transaction.respond(response(180), 0.1)
    run(transaction, 10.0)
    assert user.codes() == [180]


def test_a_retransmitted_invite_gets_the_last_provisional_again() -> None:
    transaction, user = invite_transaction()
    transaction.receive(INVITE, 0.1)
    assert user.sent == []
    transaction.respond(response(180), 0.2)
    transaction.receive(INVITE, 0.5)
    assert user.codes() == [180, 180]
    assert user.sent[0] == user.sent[1]


def test_a_failure_is_retransmitted_until_the_ack_then_acks_are_absorbed() -> None:
    """Timers G (T1, doubling to T2) and I (T4)."""
    transaction, user = invite_transaction()
    transaction.respond(response(486), 0.0)
    assert run(transaction, 12.0) == [0.5, 1.5, 3.5, 7.5, 11.5]
    assert user.codes() == [486] * 6
    transaction.receive(ACK, 12.0)
    assert transaction.state is State.CONFIRMED
    transaction.receive(ACK, 13.0)
    transaction.receive(INVITE, 13.0)
    assert run(transaction, 100.0) == [17.0]
    assert transaction.terminated
    assert user.codes() == [486] * 6
    assert user.messages == []
    assert user.failures == []


def test_a_failure_without_ack_is_given_up() -> None:
    """Timer H: 64 x T1."""
    transaction, user = invite_transaction()
    transaction.respond(response(486), 0.0)
    assert run(transaction, 100.0)[-1] == 32.0
    assert transaction.terminated
    assert user.failures == [408]


def test_accepted_absorbs_invites_and_passes_acks_on() -> None:
    """RFC 6026: the user retransmits the 2xx, the transaction stays for timer L."""
    transaction, user = invite_transaction()
    transaction.respond(response(200), 1.0)
    transaction.receive(INVITE, 1.5)
    transaction.receive(ACK, 2.0)
    assert user.codes() == [200]
    assert user.messages == [ACK]
    transaction.respond(response(200), 3.0)
    assert user.codes() == [200, 200]
    assert run(transaction, 100.0) == [33.0]
    assert transaction.terminated
    assert user.failures == []


def test_only_one_final_response() -> None:
    transaction, user = invite_transaction()
    transaction.respond(response(486), 0.0)
    transaction.respond(response(200), 0.1)
    transaction.respond(response(180), 0.1)
    assert user.codes() == [486]
    transaction, user = invite_transaction()
    transaction.respond(response(200), 0.0)
    transaction.respond(response(486), 0.1)
    assert user.codes() == [200]


def test_transport_failure_ends_it() -> None:
    transaction, user = invite_transaction()
    transaction.transport_failed()
    transaction.transport_failed()
    assert transaction.terminated
    assert user.failures == [503]
    assert transaction.next_timeout() is None


def test_non_invite_absorbs_until_answered_then_repeats_the_answer() -> None:
    user = User()
    transaction = NonInviteServerTransaction(OPTIONS, user, TIMERS)
    transaction.receive(OPTIONS, 0.1)
    assert user.sent == []
    transaction.respond(response(100), 0.2)
    transaction.receive(OPTIONS, 0.3)
    assert user.codes() == [100, 100]
    transaction.respond(response(200), 1.0)
    transaction.receive(OPTIONS, 2.0)
    transaction.respond(response(500), 2.0)
    assert user.codes() == [100, 100, 200, 200]
    assert run(transaction, 100.0) == [33.0]  # timer J
    assert transaction.terminated


@pytest.mark.parametrize("method", ["INVITE", "ACK"])
def test_an_ack_matches_its_invite_by_branch(method: str) -> None:
    request = incoming(make_request(method, branch="z9hG4bKx"))
    assert server_key(request) == ("z9hG4bKx", "192.0.2.10:5070", "INVITE")


def test_a_cancel_finds_its_invite_and_is_a_transaction_of_its_own() -> None:
    cancel = incoming(make_request("CANCEL", branch=INVITE.branch))
    assert server_key(cancel) != server_key(INVITE)
    assert server_key(cancel, "INVITE") == server_key(INVITE)


def test_a_branch_is_unique_per_sender() -> None:
    """RFC 3261 section 17.2.3: sent-by is compared too, against clients that choose alike."""
    other = make_request("INVITE", headers={"Via": f"SIP/2.0/UDP 192.0.2.11:5070;branch={INVITE.branch}"})
    assert server_key(incoming(other)) != server_key(INVITE)


def test_clients_of_rfc_2543_are_told_apart_by_their_headers() -> None:
    via: dict[str, str | None] = {"Via": "SIP/2.0/UDP 192.0.2.10:5070;branch=1"}
    invite = incoming(make_request("INVITE", headers=via))
    again = incoming(make_request("INVITE", headers=via))
    ack = incoming(make_request("ACK", headers=via, to_tag="ours"))
    other = incoming(make_request("INVITE", headers=via, call_id="other"))
    assert server_key(invite) == server_key(again) == server_key(ack)
    assert server_key(invite) != server_key(other)


class InviteServerMachine(RuleBasedStateMachine):
    """Any order of events: one final response, retransmissions of it alone, and an end."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.user = User()
        self.transaction = InviteServerTransaction(INVITE, self.user, TIMERS, 0.0)

    @rule(code=st.sampled_from([180, 183, 200, 404, 486, 603]))
    def respond(self, code: int) -> None:
        self.transaction.respond(response(code), self.now)

    @rule()
    def receive_invite(self) -> None:
        self.transaction.receive(INVITE, self.now)

    @rule()
    def receive_ack(self) -> None:
        self.transaction.receive(ACK, self.now)

    @rule(seconds=st.floats(0.01, 40.0))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.transaction.handle_timeout(self.now)

    @precondition(lambda self: self.transaction.next_timeout() is not None)
    @rule()
    def pass_to_next_timer(self) -> None:
        self.now = max(self.now, self.transaction.next_timeout() or 0.0)
        self.transaction.handle_timeout(self.now)

    @invariant()
    def one_final_response(self) -> None:
        final = [code for code in self.user.codes() if code >= 200]
        assert len(set(final)) <= 1
        codes = self.user.codes()
        if final:  # nothing provisional after it
            assert all(code >= 200 for code in codes[codes.index(final[0]) :])

    @invariant()
    def deadlines_lie_ahead(self) -> None:
        at = self.transaction.next_timeout()
        assert at is None or at > self.now

    @invariant()
    def terminated_is_the_end(self) -> None:
        if self.transaction.terminated:
            assert self.transaction.next_timeout() is None

    def teardown(self) -> None:
        """Once it has a final response, it ends by itself."""
        if any(code >= 200 for code in self.user.codes()):
            for _ in range(100):
                at = self.transaction.next_timeout()
                if at is None:
                    break
                self.transaction.handle_timeout(at)
            assert self.transaction.terminated


TestInviteServerMachine = InviteServerMachine.TestCase
TestInviteServerMachine.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
