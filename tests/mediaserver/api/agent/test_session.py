from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from structlog.testing import capture_logs

from mediaserver.api.agent.session import MAX_LOOPS, AgentSession
from mediaserver.api.urls import UrlNotAllowedError
from mediaserver.api_config import AgentConfig
from mediaserver.call.events import EventHub
from mediaserver.refusal import RefusedError
from mediaserver.speech.script import Sound, Words
from tests.mediaserver.api.agent.clock import FakeClock
from tests.mediaserver.api.fake_calls import FakeCall


class Agent:
    """An agent's side of a session, without a socket."""

    def __init__(self, *, answered: bool = True, **config: Any) -> None:
        self.call = FakeCall(EventHub(), parameters={"campaign": "spring"})
        if answered:
            self.call.answer()
        self.sent: list[dict[str, Any]] = []
        self.opened: list[str] = []
        self.handoffs: list[str | None] = []
        self.counts: Counter[str] = Counter()
        self.clock = FakeClock()
        self.session = AgentSession(
            self.call,
            AgentConfig(**config),
            self.clock,
            lambda text: self.sent.append(json.loads(text)),
            open_sound=self._open,
            voice_of=self._voice,
            counts=self.counts,
            on_end=self.handoffs.append,
        )
        self.call.on_event(self.session.event)

    def says(self, **message: Any) -> None:
        self.session.take(json.dumps(message))

    def text(self, token: str, **rest: Any) -> None:
        self.says(type="text", token=token, **rest)

    @property
    def errors(self) -> list[str]:
        return [message["description"] for message in self.sent if message["type"] == "error"]

    def _open(self, url: str) -> Sound:
        self.opened.append(url)
        if "internal" in url:
            raise UrlNotAllowedError("the URL is not among those that are permitted")
        return Sound(lambda _rate: None, url)  # type: ignore[arg-type, return-value]

    def _voice(self, lang: str) -> str | None:
        return {"en-US": None, "es-ES": "es"}[lang]


def test_setup_comes_first() -> None:
    agent = Agent()
    agent.session.begin()
    (setup,) = agent.sent
    assert setup["type"] == "setup"
    assert setup["callSid"] == agent.call.id
    assert setup["sessionId"].startswith("VX")
    assert len(setup["sessionId"]) == 34
    assert setup["customParameters"] == {"campaign": "spring"}
    assert "reconnected" not in setup


def test_text_is_spoken() -> None:
    agent = Agent()
    agent.text("Hello. I am the assistant,")
    agent.text(" and I speak.", last=True)
    assert [said.text for said in agent.call.said] == ["Hello. I am the assistant, and I speak."]
    assert agent.call.said[0].barge_in == "either"
    assert agent.session.active


@pytest.mark.parametrize(("interruptible", "policy"), [(True, "digit"), (False, "none"), ("any", "either")])
def test_interruptible(interruptible: object, policy: str) -> None:
    agent = Agent(barge_in="digit")
    agent.text("Hello.", last=True, interruptible=interruptible)
    assert agent.call.said[0].barge_in == policy


def test_preemptible() -> None:
    agent = Agent()
    agent.text("The first.", last=True, preemptible=True)
    agent.text("The second.", last=True)
    assert agent.call.done == ["clear"]
    assert [said.done for said in agent.call.said] == [True, False]


def test_an_interruption_is_told_with_what_was_heard() -> None:
    agent = Agent()
    agent.text("Life is a complex set of things.", last=True)
    agent.call.interrupt(heard="Life is a complex set of", played_ms=460)
    assert agent.sent == [
        {"type": "interrupt", "utteranceUntilInterrupt": "Life is a complex set of", "durationUntilInterruptMs": 460}
    ]


def test_digits_are_told_and_end_an_interrupted_cycle() -> None:
    agent = Agent()
    agent.text("Press one for sales, or two for")
    agent.call.interrupt("digit", "2")
    agent.call.press("2")
    agent.text("Support.", last=True)
    assert [message["type"] for message in agent.sent] == ["interrupt", "dtmf"]
    assert agent.sent[1] == {"type": "dtmf", "digit": "2"}
    assert agent.call.said[-1].text == "Support."


def test_prompts_are_told() -> None:
    agent = Agent()
    agent.session.prompt("hi can", "en-GB", last=False)
    agent.session.prompt("Hi! Can you help?")
    assert agent.sent == [
        {"type": "prompt", "voicePrompt": "hi can", "lang": "en-GB", "last": False},
        {"type": "prompt", "voicePrompt": "Hi! Can you help?", "lang": "en-US", "last": True},
    ]


def test_only_a_whole_prompt_ends_an_interrupted_cycle() -> None:
    agent = Agent()
    agent.text("This is the first sentence. And")
    agent.call.interrupt()
    agent.session.prompt("wait", last=False)
    agent.text(" this is the rest.")
    agent.session.prompt("Wait a moment.")
    agent.text("I wait.", last=True)
    assert [said.text for said in agent.call.said] == ["This is the first sentence.", "I wait."]


def test_sounds_are_played() -> None:
    agent = Agent()
    agent.says(type="play", source="https://sounds.example/cowbell.mp3", loop=2, interruptible=False)
    (said,) = agent.call.said
    assert len(said.sounds) == 2
    assert said.barge_in == "none"
    assert agent.opened == ["https://sounds.example/cowbell.mp3"]


def test_a_sound_without_end_has_one() -> None:
    agent = Agent()
    agent.says(type="play", source="https://sounds.example/hold.mp3", loop=0)
    assert len(agent.call.said[0].sounds) == MAX_LOOPS


def test_a_sound_that_may_not_be_fetched_is_refused() -> None:
    agent = Agent()
    agent.says(type="play", source="http://internal/secret")
    assert agent.call.said == []
    assert agent.errors == ["Invalid message received: play: the URL is not among those that are permitted"]


def test_digits_are_sent_after_what_is_said() -> None:
    agent = Agent()
    agent.text("I dial the extension")
    agent.says(type="sendDigits", digits="9ww42#")
    assert agent.call.digits == ["9ww42#"]
    assert agent.call.said[0].text == "I dial the extension"
    assert not agent.call.turns[0].open, "digits wait for the end of the speech"


def test_a_language_with_a_voice_is_spoken_with_it() -> None:
    agent = Agent()
    agent.says(type="language", ttsLanguage="es-ES", transcriptionLanguage="es-ES")
    agent.text("Hola.", last=True)
    agent.text("Hello.", last=True, lang="en-US")
    voices = [part.voice for said in agent.call.said for part in said.script if isinstance(part, Words)]
    assert voices == ["es", None]
    agent.session.prompt("Hola")
    assert agent.sent[-1]["lang"] == "es-ES"


def test_a_language_without_a_voice_is_told_once_and_spoken_all_the_same() -> None:
    agent = Agent()
    for token in ("Ni", "hao", "."):
        agent.text(token, lang="zh-CN", last=token == ".")
    assert len(agent.errors) == 1
    assert "zh-CN" in agent.errors[0]
    assert agent.call.said[0].text == "Nihao."


def test_end_hangs_up_when_all_is_said() -> None:
    agent = Agent()
    agent.text("Good bye")
    agent.says(type="end", handoffData='{"reason":"done"}')
    assert agent.handoffs == ['{"reason":"done"}']
    assert not agent.call.over
    assert agent.call.said[0].text == "Good bye"
    agent.call.pass_utterance()
    assert agent.call.over


def test_end_of_a_call_that_is_silent_hangs_up_at_once() -> None:
    agent = Agent()
    agent.says(type="end")
    assert agent.handoffs == [None]
    assert agent.call.over


def test_end_hangs_up_although_the_last_words_find_no_room() -> None:
    agent = Agent()
    agent.text("Something that is heard.", last=True)
    agent.text("Good bye")
    agent.call.refusal = RefusedError(413, "Speech Queue Is Full")
    agent.says(type="end")
    assert not agent.call.over
    agent.call.pass_utterance()
    assert agent.call.over


def test_a_goodbye_that_is_interrupted_ends_the_call() -> None:
    agent = Agent()
    agent.text("Good bye, and thank you for everything.", last=True)
    agent.says(type="end")
    agent.call.interrupt()
    agent.clock.advance(0)
    assert agent.call.over
    assert [message["type"] for message in agent.sent] == []


def test_after_end_nothing_is_taken_and_that_is_told() -> None:
    agent = Agent()
    agent.text("Good bye.", last=True)
    agent.says(type="end")
    agent.text("One more thing.", last=True)
    agent.says(type="sendDigits", digits="1")
    agent.says(type="end")
    assert agent.errors == [
        "Invalid message received: text after end",
        "Invalid message received: sendDigits after end",
        "Invalid message received: end after end",
    ]
    assert len(agent.call.said) == 1
    assert agent.handoffs == [None]


def test_after_end_the_agent_is_told_nothing_of_the_caller() -> None:
    agent = Agent()
    agent.text("Good bye.", last=True)
    agent.says(type="end")
    agent.call.press("1")
    agent.session.prompt("Wait!")
    assert agent.sent == []


@pytest.mark.parametrize("text", ["", "nonsense", '{"foo":"bar"}', '{"type":"dance"}', "[[[", '{"type":"text"}'])
def test_bad_messages_are_told_and_counted_and_the_call_goes_on(text: str) -> None:
    agent = Agent()
    with capture_logs() as logs:
        agent.session.take(text)
        agent.session.take(text)
    assert len(agent.errors) == 2
    assert agent.errors[0].startswith("Invalid message received: " + text)
    assert agent.counts == {"agent_messages": 2, "agent_messages_refused": 2}
    assert [(log["event"], log["why"]) for log in logs] == [("agent_message_refused", "invalid")], "once"
    assert not agent.session.active
    agent.text("Hello.", last=True)
    assert agent.call.said[0].text == "Hello."


def test_a_refusal_of_the_call_is_told() -> None:
    agent = Agent()
    agent.call.refusal = RefusedError(413, "The Queue Is Full")
    agent.text("Hello.", last=True)
    assert agent.errors == ["The Queue Is Full: not done, nor the rest of that talk cycle"]


def test_a_call_that_has_ended_refuses() -> None:
    agent = Agent()
    agent.call.end()
    agent.text("Hello.", last=True)
    agent.says(type="sendDigits", digits="1")
    assert len(agent.errors) == 2
    assert all(error.startswith("Call Has Ended") for error in agent.errors)


def test_neither_texts_nor_digits_are_logged() -> None:
    agent = Agent()
    with capture_logs() as logs:
        agent.text("My secret is hidden.", last=True)
        agent.says(type="sendDigits", digits="4321")
        agent.session.take('{"type": "text", "tok": "secret 4321"}')
        agent.call.press("4")
        agent.call.interrupt(heard="My secret")
        agent.session.prompt("secret")
    assert "secret" not in repr(logs)
    assert "4321" not in repr(logs)


def test_a_lost_connection_leaves_what_was_sent_to_be_said() -> None:
    agent = Agent()
    agent.text("I was just about to say")
    agent.session.close()
    assert agent.call.said[0].text == "I was just about to say"
    assert agent.call.turns[0].ended


def test_a_connection_that_is_lost_with_its_call_is_no_error() -> None:
    agent = Agent()
    agent.text("I was just about to say")
    agent.call.end()
    agent.session.close()
    agent.session.hang_up_when_said()
    assert agent.sent == []


def test_a_clause_of_a_slow_agent_is_spoken_after_a_moment() -> None:
    agent = Agent()
    agent.text("One moment, please.")
    agent.clock.advance(0.1)
    assert agent.call.said[0].text == "One moment, please."
