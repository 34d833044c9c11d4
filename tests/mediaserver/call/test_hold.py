"""Hold as a pure machine."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mediaserver.call.hold import CallHold


class Peer:
    """Answers when it is told to."""

    def __init__(self) -> None:
        self.asked: list[bool] = []
        self.hold = CallHold(self.asked.append)


def test_hold_and_resume() -> None:
    peer = Peer()
    peer.hold.want(True)
    assert peer.asked == [True]
    assert (peer.hold.held, peer.hold.silent) == (False, True)
    assert peer.hold.answered(True)
    assert peer.hold.held
    peer.hold.want(False)
    assert peer.asked == [True, False]
    assert peer.hold.silent, "until the peer has agreed to listen"
    assert peer.hold.answered(True)
    assert not peer.hold.silent


def test_what_is_so_already_is_not_asked() -> None:
    peer = Peer()
    peer.hold.want(False)
    peer.hold.want(True)
    peer.hold.want(True)
    assert peer.asked == [True]
    peer.hold.answered(True)
    peer.hold.want(True)
    assert peer.asked == [True]


def test_a_refusal_leaves_all_as_it_was() -> None:
    peer = Peer()
    peer.hold.want(True)
    assert not peer.hold.answered(False)
    assert not peer.hold.silent
    peer.hold.want(True)
    peer.hold.answered(True)
    peer.hold.want(False)
    assert not peer.hold.answered(False)
    assert (peer.hold.held, peer.hold.silent) == (True, True)


def test_an_answer_to_nothing_is_nothing() -> None:
    peer = Peer()
    assert not peer.hold.answered(True)
    assert not peer.hold.held


def test_after_the_end_nothing_is_asked() -> None:
    peer = Peer()
    peer.hold.want(True)
    peer.hold.close()
    assert not peer.hold.answered(True)
    peer.hold.want(False)
    assert peer.asked == [True]


@given(st.lists(st.sampled_from(["hold", "resume", "yes", "no"]), max_size=40))
def test_one_at_a_time_and_at_last_as_wished(steps: list[str]) -> None:
    """Whatever order wishes and answers come in; a peer that agrees from some moment on gets the last wish."""
    peer = Peer()
    hold = peer.hold
    answers = 0
    for step in steps:
        if step in ("hold", "resume"):
            hold.want(step == "hold")
        elif len(peer.asked) > answers:
            answers += 1
            hold.answered(step == "yes")
        assert len(peer.asked) - answers in (0, 1)
        assert hold.silent or not hold.held
    wish = steps[-1] if steps and steps[-1] in ("hold", "resume") else None
    while len(peer.asked) > answers:
        answers += 1
        hold.answered(True)
    if wish is not None:
        assert hold.held is (wish == "hold")
    assert hold.silent is hold.held
