from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mediaserver.api.agent.talk import QUIET_S, SETTLE_S, STALL_S, Talk
from mediaserver.call.events import CallEvent, EventHub
from mediaserver.refusal import RefusedError
from mediaserver.speech.script import Sound, Words
from tests.mediaserver.api.agent.clock import FakeClock
from tests.mediaserver.api.fake_calls import FakeCall

SENTENCE = "Good morning, this is the surgery of Dr. Miller. How can I help you?"
FULL = RefusedError(413, "The Queue Is Full")


class Talker:
    """A talk on a call that is up."""

    def __init__(self) -> None:
        self.call = FakeCall(EventHub())
        self.call.answer()
        self.clock = FakeClock()
        self.refusals: list[RefusedError] = []
        self.talk = Talk(self.call, self.clock, self.refusals.append)
        self.call.on_event(self._event)

    def _event(self, event: CallEvent) -> None:
        if event.type in ("speech.interrupted", "speech.cleared"):
            self.talk.cut()
        elif event.type == "speech.finished":
            self.talk.heard(event.data["utterance"])

    def token(self, text: str, *, last: bool = False, preemptible: bool = False, voice: str | None = None) -> None:
        self.talk.token(text, last=last, barge_in="either", preemptible=preemptible, voice=voice)

    def stream(self, text: str, *, last: bool = True) -> None:
        tokens = re.findall(r"\s*\S{1,4}", text)
        for index, token in enumerate(tokens):
            self.clock.advance(0.02)
            self.token(token, last=last and index == len(tokens) - 1)

    @property
    def texts(self) -> list[str]:
        return [utterance.text for utterance in self.call.said]


def sound() -> Sound:
    def never(_rate: int) -> None:
        raise AssertionError

    return Sound(never, "a sound")  # type: ignore[arg-type]


def test_a_talk_cycle_is_one_utterance_of_clauses() -> None:
    talker = Talker()
    talker.stream(SENTENCE)
    assert talker.texts == [SENTENCE]
    assert [part.text for part in talker.call.said[0].script if isinstance(part, Words)] == [
        "Good morning, this is the surgery of Dr. Miller.",
        "How can I help you?",
    ]
    assert talker.call.turns[0].ended
    assert talker.clock.pending == 0


def test_a_clause_is_added_with_the_token_that_completes_it() -> None:
    talker = Talker()
    talker.stream("This is one clause, and", last=False)
    assert talker.texts == ["This is one clause,"]
    assert talker.call.turns[0].open


def test_talk_cycles_are_utterances_of_their_own() -> None:
    talker = Talker()
    talker.stream("One.")
    talker.stream("Two.")
    assert talker.texts == ["One.", "Two."]


def test_a_whole_text_in_one_message() -> None:
    talker = Talker()
    talker.token(SENTENCE, last=True)
    assert talker.texts == [SENTENCE]


def test_nothing_is_said_for_nothing() -> None:
    talker = Talker()
    talker.token("", last=True)
    talker.token(" \n", last=True)
    assert talker.call.said == []


def test_an_empty_last_token_ends_the_cycle() -> None:
    talker = Talker()
    talker.token("Hello there")
    talker.token("", last=True)
    assert talker.texts == ["Hello there"]
    assert talker.call.turns[0].ended


def test_a_complete_sentence_does_not_wait_for_the_next_word() -> None:
    talker = Talker()
    talker.token("One moment.")
    assert talker.texts == []
    talker.clock.advance(SETTLE_S)
    assert talker.texts == ["One moment."]
    assert talker.call.turns[0].open, "the cycle goes on"
    talker.token(" Here it is.", last=True)
    assert talker.texts == ["One moment. Here it is."]


def test_tokens_at_a_usual_pace_are_not_cut_by_time() -> None:
    talker = Talker()
    talker.stream("This has 3.", last=False)
    talker.clock.advance(0.09)
    talker.token("5 percent of it")
    talker.clock.advance(SETTLE_S)
    assert talker.texts == []


def test_a_model_that_thinks_in_the_middle_does_not_leave_the_caller_waiting() -> None:
    talker = Talker()
    talker.token("Let me look that up for you")
    talker.clock.advance(STALL_S - 0.01)
    assert talker.texts == []
    talker.clock.advance(0.02)
    assert talker.texts == ["Let me look that up for you"]
    assert talker.clock.pending == 0


def test_what_interrupts_can_change_within_a_cycle() -> None:
    talker = Talker()
    talker.talk.token("This cannot be interrupted", last=False, barge_in="none")
    talker.talk.token(" but this can.", last=True, barge_in="either")
    assert [(said.text, said.barge_in) for said in talker.call.said] == [
        ("This cannot be interrupted", "none"),
        ("but this can.", "either"),
    ]
    assert [turn.ended for turn in talker.call.turns] == [True, True]


def test_the_voice_can_change_within_a_cycle() -> None:
    talker = Talker()
    talker.token("They say")
    talker.token(" hola", voice="es")
    talker.token(" there.", last=True)
    (said,) = talker.call.said
    assert [(part.text, part.voice) for part in said.script if isinstance(part, Words)] == [
        ("They say", None),
        ("hola", "es"),
        ("there.", None),
    ]


def test_the_rest_of_an_interrupted_cycle_is_not_said() -> None:
    talker = Talker()
    talker.stream("This is one sentence. And this", last=False)
    talker.call.interrupt()
    talker.stream(" is the rest. And more of it.")
    assert talker.texts == ["This is one sentence."]
    talker.stream("A new cycle.")
    assert talker.texts[1:] == ["A new cycle."]


def test_an_interrupted_cycle_that_had_ended_leaves_no_trace() -> None:
    talker = Talker()
    talker.stream("This is one sentence.")
    talker.call.interrupt()
    talker.token("Yes?", last=True)
    assert talker.texts[1:] == ["Yes?"]


def test_after_a_pause_tokens_are_of_a_new_cycle() -> None:
    talker = Talker()
    talker.stream("This is one sentence. And this", last=False)
    talker.call.interrupt()
    talker.clock.advance(QUIET_S + 0.1)
    talker.token("Yes, please?", last=True)
    assert talker.texts[1:] == ["Yes, please?"]


def test_after_something_to_answer_tokens_are_of_a_new_cycle() -> None:
    talker = Talker()
    talker.stream("Press one for sales. And press", last=False)
    talker.call.interrupt("digit", "1")
    talker.talk.answered()
    talker.token("Sales.", last=True)
    assert talker.texts[1:] == ["Sales."]


def test_clear_ends_a_cycle_as_an_interruption_does() -> None:
    talker = Talker()
    talker.stream("This is one sentence. And this", last=False)
    talker.call.clear()
    talker.stream(" goes on, and on, and on.")
    assert talker.texts == ["This is one sentence."]


def test_a_cycle_of_which_nothing_was_queued_yet_is_cut_as_well() -> None:
    talker = Talker()
    talker.call.say((Words("Greeting."),))
    talker.stream("This is one", last=False)
    talker.call.interrupt()
    talker.stream(" sentence of it.")
    assert talker.texts == ["Greeting."], "the agent sent it before it knew"
    assert talker.clock.pending == 0
    talker.stream("And now?")
    assert talker.texts[1:] == ["And now?"]


def test_a_cycle_is_cut_between_two_turns_of_it() -> None:
    talker = Talker()
    talker.talk.token("This must be heard. ", last=False, barge_in="none")
    talker.token("And this")
    talker.call.interrupt()
    talker.token(" is the rest of it.", last=True)
    assert talker.texts == ["This must be heard."]


def test_a_slow_agent_that_is_interrupted_in_a_pause_has_to_be_told_first() -> None:
    talker = Talker()
    talker.stream("This is one sentence.", last=False)
    talker.clock.advance(2 * QUIET_S)
    talker.call.interrupt()
    talker.clock.advance(0.1)
    talker.stream(" And the rest of it.")
    assert talker.texts == ["This is one sentence."]


def test_a_preemptible_cycle_is_cut_by_the_next() -> None:
    talker = Talker()
    talker.token("A long answer that nobody needs.", last=True, preemptible=True)
    talker.stream("The better one.")
    assert talker.call.done == ["clear"]
    assert talker.texts[1:] == ["The better one."]
    talker.stream("And another.")
    assert talker.call.done == ["clear"], "the second was not preemptible"


def test_a_preemptible_cycle_that_was_heard_leaves_others_alone() -> None:
    talker = Talker()
    talker.token("A short answer.", last=True, preemptible=True)
    talker.call.pass_utterance()
    talker.call.say((Words("Something of somebody else."),))
    talker.stream("The next one.")
    assert talker.call.done == []


def test_a_sound_is_a_cycle_of_its_own() -> None:
    talker = Talker()
    a_sound = sound()
    talker.token("Listen to this")
    talker.talk.play([a_sound, a_sound], barge_in="digit")
    talker.token("And so on.", last=True)
    assert talker.texts == ["Listen to this", "", "And so on."]
    assert talker.call.said[1].script == (a_sound, a_sound)
    assert talker.call.said[1].barge_in == "digit"
    assert talker.call.turns[0].ended


def test_a_preemptible_sound_is_cut_by_the_next_cycle() -> None:
    talker = Talker()
    talker.talk.play([sound()], barge_in="either", preemptible=True)
    talker.token("Here we are.", last=True)
    assert talker.call.done == ["clear"]


def test_what_is_refused_is_told_once_a_cycle() -> None:
    talker = Talker()
    talker.call.refusal = FULL
    with pytest.raises(RefusedError):
        talker.token("A first sentence, that")
    talker.stream(" is refused. And the rest is passed over, without a word. All of it.")
    talker.stream("A new cycle.")
    assert talker.texts == ["A new cycle."]


def test_a_refused_last_token_ends_its_cycle() -> None:
    talker = Talker()
    talker.call.refusal = FULL
    with pytest.raises(RefusedError):
        talker.token("All at once.", last=True)
    talker.token("The next.", last=True)
    assert talker.texts == ["The next."]


def test_what_is_refused_after_a_while_is_told_too() -> None:
    talker = Talker()
    talker.token("One moment.")
    talker.call.refusal = FULL
    talker.clock.advance(SETTLE_S)
    assert talker.refusals == [FULL]
    talker.clock.advance(10)
    assert talker.clock.pending == 0


def test_the_end_says_what_waits() -> None:
    talker = Talker()
    talker.token("Good bye")
    talker.talk.end_cycle()
    assert talker.texts == ["Good bye"]
    assert talker.call.turns[0].ended
    assert talker.clock.pending == 0
    talker.talk.end_cycle()
    assert talker.texts == ["Good bye"]


ACTS = st.lists(
    st.tuples(st.just("token"), st.sampled_from(["Well,", " yes.", " I think so", " 3.", "5", "\n", ""]), st.booleans())
    | st.tuples(st.sampled_from(["interrupt", "pass", "play", "wait", "answered", "refuse", "end"]))
)


@settings(max_examples=60)
@given(ACTS)
def test_at_most_one_turn_is_open_and_none_in_the_end(acts: list[tuple[object, ...]]) -> None:
    talker = Talker()
    for act in acts:
        try:
            match act:
                case ("token", str(text), bool(last)):
                    talker.token(text, last=last, preemptible=len(text) == 1)
                case ("interrupt",):
                    talker.call.interrupt()
                case ("pass",) if not talker.call.idle and not any(turn.open for turn in talker.call.turns):
                    talker.call.pass_utterance()
                case ("play",):
                    talker.talk.play([sound()], barge_in="none")
                case ("wait",):
                    talker.clock.advance(0.3)
                case ("answered",):
                    talker.talk.answered()
                case ("refuse",):
                    talker.call.refusal = FULL
                case ("end",):
                    talker.talk.end_cycle()
        except RefusedError as error:
            assert error is FULL
        assert sum(turn.open for turn in talker.call.turns) <= 1
        assert talker.clock.pending <= 1
    talker.call.refusal = None
    talker.talk.end_cycle()
    assert not any(turn.open for turn in talker.call.turns)
    assert talker.clock.pending == 0
    assert all(utterance.script for utterance in talker.call.said) or talker.refusals or ("refuse",) in acts
