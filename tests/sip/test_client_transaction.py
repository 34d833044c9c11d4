"""The client transactions, with every timer of RFC 3261 section 17.1 and RFC 6026."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from sipmessage import Message, Request, Response

from sip.client_transaction import InviteClientTransaction, NonInviteClientTransaction
from sip.timers import TimerValues
from sip.transaction import State, client_key
from tests.sip.doubles import answer, make_request
from tests.sip.test_server_transaction import User

TIMERS = TimerValues()


def request(method: str) -> Request:
    message = Message.parse(make_request(method, headers={"Route": "<sip:proxy.example;lr>"}))
    assert isinstance(message, Request)
    return message


def response(method: str, code: int, to_tag: str | None = None) -> Response:
    message = Message.parse(answer(request(method), code, to_tag=to_tag))
    assert isinstance(message, Response)
    return message


def invite() -> tuple[InviteClientTransaction, User]:
    user = User()
    transaction = InviteClientTransaction(request("INVITE"), user, TIMERS)
    transaction.start(0.0)
    return transaction, user


def bye() -> tuple[NonInviteClientTransaction, User]:
    user = User()
    transaction = NonInviteClientTransaction(request("BYE"), user, TIMERS)
    transaction.start(0.0)
    return transaction, user


def run(transaction: InviteClientTransaction | NonInviteClientTransaction, until: float) -> list[float]:
    times = []
    while (at := transaction.next_timeout()) is not None and at <= until:
        times.append(at)
        transaction.handle_timeout(at)
    return times


def test_invite_is_retransmitted_doubling_and_given_up() -> None:
    """Timers A and B."""
    transaction, user = invite()
    assert run(transaction, 100.0) == [0.5, 1.5, 3.5, 7.5, 15.5, 31.5, 32.0]
    assert user.sent == [bytes(request("INVITE"))] * 7
    assert user.failures == [408]
    assert transaction.terminated


def test_a_provisional_response_ends_retransmission() -> None:
    transaction, user = invite()
    transaction.receive(response("INVITE", 180), 0.1)
    assert run(transaction, 1000.0) == []
    assert transaction.state is State.PROCEEDING
    transaction.receive(response("INVITE", 183), 1.0)
    assert len(user.messages) == 2


def test_a_failure_is_acknowledged_each_time_within_the_transaction() -> None:
    """Section 17.1.1.3 and timer D."""
    transaction, user = invite()
    transaction.receive(response("INVITE", 486, to_tag="busy"), 1.0)
    transaction.receive(response("INVITE", 486, to_tag="busy"), 2.0)
    assert len(user.messages) == 1
    first, second = user.sent[1:]
    assert first == second
    ack = Message.parse(first)
    assert isinstance(ack, Request)
    sent = request("INVITE")
    assert ack.method == "ACK"
    assert ack.headers["Via"] == sent.headers["Via"]
    assert ack.headers["Route"] == sent.headers["Route"]
    assert ack.headers["From"] == sent.headers["From"]
    assert ack.headers["To"].endswith(";tag=busy")
    assert ack.headers["CSeq"] == "1 ACK"
    assert run(transaction, 100.0) == [33.0]
    assert transaction.terminated


def test_a_2xx_is_passed_on_every_time_and_never_acknowledged_here() -> None:
    """RFC 6026: timer M."""
    transaction, user = invite()
    transaction.receive(response("INVITE", 200, to_tag="a"), 1.0)
    transaction.receive(response("INVITE", 200, to_tag="b"), 2.0)
    transaction.receive(response("INVITE", 486), 2.5)
    assert len(user.messages) == 2
    assert len(user.sent) == 1
    assert run(transaction, 100.0) == [33.0]
    assert transaction.terminated


def test_non_invite_is_retransmitted_up_to_t2_and_given_up() -> None:
    """Timers E and F."""
    transaction, user = bye()
    assert run(transaction, 100.0) == [0.5, 1.5, 3.5, 7.5, 11.5, 15.5, 19.5, 23.5, 27.5, 31.5, 32.0]
    assert user.failures == [408]


def test_non_invite_slows_down_once_there_is_a_provisional_response() -> None:
    transaction, _ = bye()
    transaction.receive(response("BYE", 100), 0.1)
    assert run(transaction, 10.0) == [0.5, 4.5, 8.5]


def test_non_invite_absorbs_what_follows_its_answer() -> None:
    """Timer K."""
    transaction, user = bye()
    transaction.receive(response("BYE", 200), 1.0)
    transaction.receive(response("BYE", 200), 2.0)
    assert len(user.messages) == 1
    assert run(transaction, 100.0) == [6.0]
    assert transaction.terminated


def test_client_key_is_branch_and_method() -> None:
    sent = request("BYE")
    assert client_key(sent) == client_key(response("BYE", 200))
    assert client_key(sent) != client_key(request("INVITE"))


def test_a_response_matches_whatever_the_peer_added_to_our_via() -> None:
    sent = request("BYE")
    data = answer(sent, 200).replace(b";rport", b";received=2001:db8::1;rport=5060, SIP/2.0/UDP x;branch=y")
    assert client_key(Message.parse(data)) == client_key(sent)


def test_a_response_without_branch_or_cseq_matches_nothing() -> None:
    for data in (b"SIP/2.0 200 OK\r\n\r\n", b"SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP a\r\nCSeq: x\r\n\r\n"):
        assert client_key(Message.parse(data)) is None


class ClientMachine(RuleBasedStateMachine):
    """Any order of responses and time: exactly one outcome reaches the user of a non-INVITE, and it ends."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.transaction, self.user = bye()

    @rule(code=st.sampled_from([100, 200, 404, 481, 503]))
    def receive(self, code: int) -> None:
        self.transaction.receive(response("BYE", code), self.now)

    @rule(seconds=st.floats(0.01, 20.0))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.transaction.handle_timeout(self.now)

    @invariant()
    def one_outcome(self) -> None:
        final = [message for message in self.user.messages if isinstance(message, Response) and message.code >= 200]
        outcomes = len(final) + len(self.user.failures)
        assert outcomes <= 1
        assert outcomes == (1 if self.transaction.state in (State.COMPLETED, State.TERMINATED) else 0)

    @invariant()
    def only_the_request_is_sent(self) -> None:
        assert set(self.user.sent) == {bytes(request("BYE"))}

    def teardown(self) -> None:
        run(self.transaction, 1e6)
        assert self.transaction.terminated


TestClientMachine = ClientMachine.TestCase
TestClientMachine.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)
