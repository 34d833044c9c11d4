from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mediaserver.api.agent import protocol
from mediaserver.api.agent.protocol import (
    AgentMessage,
    EndMessage,
    InvalidMessageError,
    LanguageMessage,
    PlayMessage,
    SendDigitsMessage,
    TextMessage,
    number_of,
    parse_message,
)
from mediaserver.call.events import EventHub
from tests.mediaserver.api.fake_calls import FakeCall

# As Twilio's page has them.
PUBLISHED: list[tuple[str, AgentMessage]] = [
    (
        '{"type": "text", "token": "Hello", "last": false, "interruptible": false, "preemptible": false}',
        TextMessage(token="Hello", interruptible=False),
    ),
    ('{"type": "text", "token": " World!", "last": true}', TextMessage(token=" World!", last=True)),
    ('{"type": "text", "token": "Hola", "lang": "es-ES"}', TextMessage(token="Hola", lang="es-ES")),
    (
        '{"type": "play", "source": "https://api.twilio.com/cowbell.mp3", "loop": 1, "preemptible": false}',
        PlayMessage(source="https://api.twilio.com/cowbell.mp3"),
    ),
    ('{"type": "sendDigits", "digits": "9www4085551212"}', SendDigitsMessage(digits="9www4085551212")),
    (
        '{"type": "language", "ttsLanguage": "sv-SE", "transcriptionLanguage": "en-US"}',
        LanguageMessage(ttsLanguage="sv-SE", transcriptionLanguage="en-US"),
    ),
    (
        r'{"type": "end", "handoffData": "{\"reasonCode\":\"live-agent-handoff\"}"}',
        EndMessage(handoffData='{"reasonCode":"live-agent-handoff"}'),
    ),
    ('{"type": "end"}', EndMessage()),
]


@pytest.mark.parametrize(("text", "message"), PUBLISHED)
def test_published_messages_are_understood(text: str, message: AgentMessage) -> None:
    assert parse_message(text) == message


def test_members_that_are_not_known_are_passed_over() -> None:
    assert parse_message('{"type": "end", "later": {"addition": 1}}') == EndMessage()


def test_handoff_data_may_be_an_object() -> None:
    message = parse_message('{"type": "end", "handoffData": {"to": "sales"}}')
    assert isinstance(message, EndMessage)
    assert json.loads(message.handoffData or "") == {"to": "sales"}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "EOF"),
        ("hello", "expected"),
        ("[]", "object"),
        ('{"foo": "bar"}', "type"),
        ('{"type": "talk"}', "talk"),
        ('{"type": "text"}', "token: Field required"),
        ('{"type": "text", "token": 3}', "token: "),
        ('{"type": "text", "token": null, "last": true}', "token: "),
        ('{"type": "text", "token": "a", "last": "perhaps"}', "last: "),
        ('{"type": "text", "token": "a", "interruptible": "sometimes"}', "interruptible"),
        ('{"type": "text", "token": "\\ud800"}', "Invalid JSON"),
        ('{"type": "play", "source": ""}', "source: "),
        ('{"type": "play", "source": "https://a/b", "loop": -1}', "loop: "),
        ('{"type": "sendDigits", "digits": "12E"}', "digits: "),
        ('{"type": "sendDigits", "digits": "1\\n"}', "digits: "),
        ('{"type": "sendDigits"}', "digits: Field required"),
        ('{"type": "end", "handoffData": 3}', "handoffData: "),
        ("[" * 100_000, "recursion"),
        ('{"type": "text", "token": "cut', "EOF"),
    ],
)
def test_an_error_repeats_the_message_and_says_what_is_wrong(text: str, reason: str) -> None:
    with pytest.raises(InvalidMessageError) as error:
        parse_message(text)
    description = str(error.value)
    assert description.startswith("Invalid message received: " + text[: protocol.MAX_EXCERPT])
    assert reason in error.value.reason
    assert len(description) < protocol.MAX_EXCERPT + 300


@settings(max_examples=50)
@given(st.text() | st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists).map(json.dumps))
def test_whatever_comes_is_taken_or_refused(text: str) -> None:
    with pytest.raises(InvalidMessageError):
        parse_message(text)


@settings(max_examples=50)
@given(
    st.fixed_dictionaries(
        {"type": st.sampled_from(["text", "play", "sendDigits", "language", "end"])},
        optional={
            name: st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.text())
            for name in (
                "token",
                "last",
                "lang",
                "interruptible",
                "preemptible",
                "source",
                "loop",
                "digits",
                "handoffData",
            )
        },
    )
)
def test_objects_of_the_right_type_are_taken_or_refused(members: dict[str, Any]) -> None:
    try:
        message = parse_message(json.dumps(members))
    except InvalidMessageError as error:
        assert error.reason
    else:
        assert message.type == members["type"]


@pytest.mark.parametrize(
    ("interruptible", "policy"),
    [
        ("true", "speech"),
        ("false", "none"),
        ('"none"', "none"),
        ('"dtmf"', "digit"),
        ('"speech"', "speech"),
        ('"any"', "either"),
    ],
)
def test_interruptible_is_a_policy(interruptible: str, policy: str) -> None:
    message = parse_message(f'{{"type": "text", "token": "a", "interruptible": {interruptible}}}')
    assert isinstance(message, TextMessage)
    assert message.barge_in("speech") == policy


def test_digits_are_capitals_but_pauses_stay_as_they_are() -> None:
    assert parse_message('{"type": "sendDigits", "digits": "aBwW*#"}') == SendDigitsMessage(digits="ABwW*#")


def test_neither_text_nor_digits_are_in_a_representation() -> None:
    text = "secret 1234"
    assert text not in repr(TextMessage(token=text))
    assert "1234" not in repr(SendDigitsMessage(digits="1234"))
    assert text not in repr(EndMessage(handoffData=text))


def test_setup_has_the_members_that_twilio_publishes() -> None:
    call = FakeCall(EventHub(), parameters={"foo": "bar"})
    setup = json.loads(protocol.setup_message(call.view(), "VX1"))
    assert setup == {
        "type": "setup",
        "sessionId": "VX1",
        "accountSid": "AC00000000000000000000000000000000",
        "parentCallSid": "",
        "callSid": call.id,
        "from": "sip:alice@pbx.example",
        "to": "sip:tts@chatterline.example",
        "forwardedFrom": "",
        "callType": "SIP",
        "callerName": "",
        "direction": "inbound",
        "callStatus": "RINGING",
        "customParameters": {"foo": "bar"},
    }
    call.answer()
    again = json.loads(protocol.setup_message(call.view(), "VX2", reconnected=True))
    assert (again["callStatus"], again["reconnected"]) == ("IN-PROGRESS", True)


@pytest.mark.parametrize(
    ("uri", "number"),
    [
        ("sip:+14155550100@pbx.example", "+14155550100"),
        ("sips:+14155550100;phone-context=x@pbx.example:5061;transport=tls", "+14155550100"),
        ("tel:+44-1", "tel:+44-1"),
        ("tel:+4420", "+4420"),
        ("sip:100@pbx.example", "sip:100@pbx.example"),
        ("sip:+1415555010012345@pbx.example", "sip:+1415555010012345@pbx.example"),
        ("sip:+@x", "sip:+@x"),
        ("sip:pbx.example", "sip:pbx.example"),
        ("sip:+٣@x", "sip:+٣@x"),
    ],
)
def test_numbers_are_given_as_numbers(uri: str, number: str) -> None:
    assert number_of(uri) == number


def test_messages_to_an_agent() -> None:
    assert json.loads(protocol.prompt_message("Is it ü?", "de-DE", last=False)) == {
        "type": "prompt",
        "voicePrompt": "Is it ü?",
        "lang": "de-DE",
        "last": False,
    }
    assert json.loads(protocol.dtmf_message("#")) == {"type": "dtmf", "digit": "#"}
    assert json.loads(protocol.interrupt_message("Life is a complex", 460)) == {
        "type": "interrupt",
        "utteranceUntilInterrupt": "Life is a complex",
        "durationUntilInterruptMs": 460,
    }
    assert json.loads(protocol.error_message("no")) == {"type": "error", "description": "no"}
