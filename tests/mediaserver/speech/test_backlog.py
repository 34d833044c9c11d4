"""The order of what is to be said, and what is left of it, without clocks or audio."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mediaserver.rtp.playout import Dropped
from mediaserver.speech.backlog import Backlog
from mediaserver.speech.events import MarkReached, SpeechFinished
from mediaserver.speech.limits import MAX_PARTS, QueueFullError
from mediaserver.speech.script import Mark, Pause, Script, Words
from mediaserver.speech.segment import Segment
from mediaserver.speech.utterance import CutSpeech, Utterance


def say(backlog: Backlog, *parts: Words | Pause | Mark, mark: str | None = None, open_: bool = False) -> Utterance:
    utterance = backlog.begin(None, mark, None, open_=open_)
    backlog.append(utterance, parts, 0.0)
    return utterance


def synthesise(segment: Segment, seconds: float = 1.0) -> Segment:
    segment.chunks = 1
    segment.received_s = segment.written_s = seconds
    segment.complete = segment.ended = True
    return segment


def taken(backlog: Backlog) -> Segment:
    segment = backlog.take()
    assert segment is not None
    return synthesise(segment)


class TestTaking:
    def test_one_utterance_after_the_other(self) -> None:
        backlog = Backlog()
        say(backlog, Words("a"), Mark("m"), Words("b"))
        say(backlog, Words("c"))
        assert [taken(backlog).text for _ in range(3)] == ["a", "b", "c"]
        assert backlog.take() is None

    def test_nothing_behind_an_open_one(self) -> None:
        backlog = Backlog()
        turn = say(backlog, Words("a"), open_=True)
        say(backlog, Words("d"))
        assert taken(backlog).text == "a"
        assert backlog.take() is None
        backlog.append(turn, (Words("b"), Words("c")), 0.0)
        assert taken(backlog).text == "b"
        turn.open = False
        assert [taken(backlog).text for _ in range(2)] == ["c", "d"]

    def test_whether_others_are_heard_before(self) -> None:
        backlog = Backlog()
        turn = say(backlog, Mark("m"), open_=True)
        say(backlog, Words("z"))
        backlog.append(turn, (Words("a"), Words("b")), 0.0)
        queued = {segment.text: segment.queued for segment in backlog.segments.values()}
        assert queued == {"z": False, "a": False, "b": True}
        say(backlog, Words("c"))
        assert backlog.segments[max(backlog.segments)].queued


class TestLeaving:
    def test_marks_and_ends_come_in_order(self) -> None:
        backlog = Backlog()
        first = say(backlog, Mark("a"), Words("one"), Mark("b"), mark="c")
        second = say(backlog, mark="d")
        assert backlog.passable
        assert backlog.leave() == ([MarkReached("a", 1)], [])
        assert not backlog.passable
        backlog.heard(taken(backlog))
        events, over = backlog.leave()
        assert events == [
            MarkReached("b", 1),
            MarkReached("c", 1),
            SpeechFinished(1, 1000, "c"),
            MarkReached("d", 2),
            SpeechFinished(2, 0, "d"),
        ]
        assert over == [first, second]
        assert backlog.first is None
        assert not backlog.passable

    def test_an_open_one_stays(self) -> None:
        backlog = Backlog()
        turn = say(backlog, Mark("a"), open_=True)
        assert backlog.leave() == ([MarkReached("a", 1)], [])
        assert backlog.first is turn


class TestRoom:
    def test_words_in_synthesis_wait_no_more(self) -> None:
        backlog = Backlog()
        say(backlog, Words("12345"), Pause(20), Words("678"))
        with pytest.raises(QueueFullError):
            backlog.check_room((Words("abc"),), 10)
        backlog.take()
        backlog.check_room((Words("abc"), Words("defg")), 10)
        backlog.check_room((Words("0123456789"),), 10, behind_queue=False)
        with pytest.raises(QueueFullError):
            backlog.check_room((Words("01234567890"),), 10, behind_queue=False)

    def test_marks_take_up_room_too(self) -> None:
        backlog = Backlog()
        script: Script = (Mark("m"),) * MAX_PARTS
        say(backlog, *script)
        with pytest.raises(QueueFullError):
            backlog.check_room((Mark("m"),), 10)
        backlog.leave()
        backlog.check_room((Mark("m"),), 10)


class TestCutting:
    def test_what_was_heard_of_each(self) -> None:
        backlog = Backlog()
        say(backlog, Words("alpha"), Pause(1000), Words("bravo"), mark="m")
        turn = say(backlog, Words("gamma"), open_=True)
        backlog.heard(taken(backlog))
        backlog.leave()
        pause, bravo = taken(backlog), taken(backlog)
        cut, segments = backlog.cut({pause.tag: Dropped(pause.tag, 4000, 4000)}, 8000)
        assert cut == [CutSpeech(1, 1500, 3000, "alpha"), CutSpeech(2, 0, None, "")]
        assert [segment.text for segment in segments] == ["", "bravo", "gamma"]
        assert all(segment.cleared for segment in segments)
        assert bravo.cleared
        assert not turn.open
        assert backlog.first is None
        assert backlog.take() is None

    def test_words_that_no_one_has_heard_are_not_among_them(self) -> None:
        backlog = Backlog()
        say(backlog, Words("alpha"), Words("bravo"))
        alpha = taken(backlog)
        cut, _ = backlog.cut({alpha.tag: Dropped(alpha.tag, 8000, 0)}, 8000)
        assert cut == [CutSpeech(1, 0, None, "")]


def test_how_far_the_one_being_heard_is() -> None:
    backlog = Backlog()
    say(backlog, Words("one"), Words("two"))
    say(backlog, Words("three"))
    assert [view.played_ms for view in backlog.views(0.0)] == [0, 0]
    first, second = taken(backlog), taken(backlog)
    first.started = backlog.utterances[1].started = True
    assert backlog.playing is first
    assert [(view.state, view.played_ms) for view in backlog.views(1.4)] == [("speaking", 600), ("queued", 0)]
    assert backlog.views(2.02)[0].played_ms == 0, "the silence that fills up a frame"
    assert backlog.views(0.0)[0].played_ms == 1000
    backlog.heard(first)
    backlog.leave()
    assert backlog.views(1.0)[0].played_ms == 1000
    second.started = True
    assert backlog.views(0.25)[0].played_ms == 1750


@settings(max_examples=60, stateful_step_count=25, deadline=None)
class Life(RuleBasedStateMachine):
    """Whatever is said, taken, heard and cut: all is heard in the order of saying, and ends once."""

    def __init__(self) -> None:
        super().__init__()
        self.backlog = Backlog()
        self.turns: dict[int, Utterance] = {}
        self.expected: dict[int, list[str]] = {}
        self.heard: dict[int, list[str]] = {}
        self.spoken: list[Segment] = []
        "Taken and not heard."
        self.ends: list[int] = []
        self.order: list[int] = []

    def _append(self, utterance: Utterance, marks: list[bool]) -> None:
        parts = self.expected.setdefault(utterance.number, [])
        for is_mark in marks:
            name = f"{utterance.number}.{len(parts)}"
            parts.append(name)
            self.backlog.append(utterance, (Mark(name) if is_mark else Words(name),), 0.0)

    @rule(marks=st.lists(st.booleans(), max_size=4), open_=st.booleans())
    def say(self, marks: list[bool], open_: bool) -> None:
        utterance = say(self.backlog, open_=open_ and not self.turns)
        if utterance.open:
            self.turns[utterance.number] = utterance
        self._append(utterance, marks)

    @precondition(lambda self: self.turns)
    @rule(marks=st.lists(st.booleans(), max_size=3))
    def write(self, marks: list[bool]) -> None:
        for turn in self.turns.values():
            self._append(turn, marks)

    @precondition(lambda self: self.turns)
    @rule()
    def end(self) -> None:
        for turn in self.turns.values():
            turn.open = False
        self.turns.clear()

    @rule()
    def take(self) -> None:
        segment = self.backlog.take()
        if segment is not None:
            self.spoken.append(synthesise(segment))

    @precondition(lambda self: self.spoken)
    @rule()
    def hear(self) -> None:
        segment = self.spoken.pop(0)
        self._leave()
        self.backlog.heard(segment)
        self._note(segment.number, segment.text)
        self._leave()

    @rule()
    def clear(self) -> None:
        self._leave()
        cut, _ = self.backlog.cut({}, 8000)
        self.ends += [speech.number for speech in cut]
        self.turns.clear()
        self.spoken.clear()

    def _leave(self) -> None:
        for event in self.backlog.leave()[0]:
            if isinstance(event, MarkReached):
                self._note(event.number, event.name)
            else:
                assert isinstance(event, SpeechFinished)
                self.ends.append(event.number)
                assert self.heard.get(event.number, []) == self.expected[event.number], "to its end"

    def _note(self, number: int, name: str) -> None:
        self.heard.setdefault(number, []).append(name)
        self.order.append(number)

    @invariant()
    def all_is_in_order(self) -> None:
        assert self.order == sorted(self.order)
        assert self.ends == sorted(set(self.ends))
        for number, names in self.heard.items():
            assert names == self.expected[number][: len(names)]
        assert not set(self.ends) & set(self.backlog.utterances)
        assert set(self.expected) == set(self.ends) | set(self.backlog.utterances)


TestLife = Life.TestCase
