"""The messages between a call and its agent.

https://www.twilio.com/docs/voice/conversationrelay/websocket-messages; Telnyx speaks the same. All are JSON objects in
text frames, told apart by `type`. Members that we do not know are passed over, as both may add some.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator

from mediaserver.api.sockets import ACCOUNT
from mediaserver.call.view import CallView
from mediaserver.config import BargeInPolicy

MAX_EXCERPT = 200
"Characters of a message that an error about it repeats."

Interruption = Literal["none", "dtmf", "speech", "any"]
"What may interrupt speech: the words of ConversationRelay's `interruptible` attribute. true: any; false: none."

_POLICIES: Mapping[Interruption, BargeInPolicy] = {
    "none": "none",
    "dtmf": "digit",
    "speech": "speech",
    "any": "either",
}


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)


class _Spoken(_Message):
    interruptible: bool | Interruption = True
    preemptible: bool = False
    "What comes after this talk cycle need not wait for its end."

    def barge_in(self, usual: BargeInPolicy) -> BargeInPolicy:
        """What interrupts it. usual: what `true` stands for."""
        if isinstance(self.interruptible, bool):
            return usual if self.interruptible else "none"
        return _POLICIES[self.interruptible]


class TextMessage(_Spoken):
    """A piece of what is to be said; a talk cycle is all of them up to one that is the last."""

    type: Literal["text"] = "text"
    token: str = Field(repr=False)
    last: bool = False
    lang: Annotated[str, Field(max_length=35)] | None = None


class PlayMessage(_Spoken):
    """A recorded sound to be played."""

    type: Literal["play"] = "play"
    source: Annotated[str, Field(min_length=1, max_length=2048)]
    loop: Annotated[int, Field(ge=0, le=1000)] = 1
    "How many times; 0 for as often as may be."


class SendDigitsMessage(_Message):
    type: Literal["sendDigits"] = "sendDigits"
    digits: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[0-9A-Da-d*#wW]+$", repr=False)]

    @field_validator("digits")
    @classmethod
    def _no_small_letters(cls, digits: str) -> str:
        return "".join(digit if digit == "w" else digit.upper() for digit in digits)


class LanguageMessage(_Message):
    type: Literal["language"] = "language"
    ttsLanguage: Annotated[str, Field(max_length=35)] | None = None  # noqa: N815 - as on the wire
    transcriptionLanguage: Annotated[str, Field(max_length=35)] | None = None  # noqa: N815


class EndMessage(_Message):
    """The agent is done with the call."""

    type: Literal["end"] = "end"
    handoffData: str | None = Field(default=None, max_length=16_384, repr=False)  # noqa: N815

    @field_validator("handoffData", mode="before")
    @classmethod
    def _as_text(cls, given: object) -> object:
        """It is a string, mostly of JSON; the JSON itself is taken too."""
        return json.dumps(given) if isinstance(given, dict | list) else given


AgentMessage = TextMessage | PlayMessage | SendDigitsMessage | LanguageMessage | EndMessage

_MESSAGES: TypeAdapter[AgentMessage] = TypeAdapter(Annotated[AgentMessage, Field(discriminator="type")])


class InvalidMessageError(ValueError):
    """A message of the agent's cannot be taken; str() is for the agent alone."""

    def __init__(self, message: str, reason: str) -> None:
        excerpt = message if len(message) <= MAX_EXCERPT else message[:MAX_EXCERPT] + "…"
        super().__init__(f"Invalid message received: {excerpt} ({reason})")
        self.reason = reason


def parse_message(text: str) -> AgentMessage:
    """What an agent sent. Raises InvalidMessageError."""
    try:
        return _MESSAGES.validate_json(text)
    except ValidationError as error:
        raise InvalidMessageError(text, _reason(error)) from None


def _reason(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(str(step) for step in first["loc"][1:])
    return f"{where}: {first['msg']}" if where else first["msg"]


def setup_message(view: CallView, session_id: str, *, reconnected: bool = False) -> str:
    """The first message of a connection.

    from and to are phone numbers where the SIP URIs hold such, else the URIs. reconnected, which Twilio does not have,
    tells an agent that cares that the call goes on with another connection than before.
    """
    message: dict[str, Any] = {
        "type": "setup",
        "sessionId": session_id,
        "accountSid": ACCOUNT,
        "parentCallSid": "",
        "callSid": view.id,
        "from": number_of(view.from_uri),
        "to": number_of(view.to_uri),
        "forwardedFrom": "",
        "callType": "SIP",
        "callerName": "",
        "direction": view.direction,
        "callStatus": "RINGING" if view.state == "ringing" else "IN-PROGRESS",
        "customParameters": dict(view.parameters),
    }
    if reconnected:
        message["reconnected"] = True
    return _written(message)


def number_of(uri: str) -> str:
    """The E.164 number that a SIP or tel URI names, as "+14155550100"; the URI itself if it names none."""
    scheme, _, rest = uri.partition(":")
    user = rest.partition("@")[0].partition(";")[0]
    digits = user.removeprefix("+")
    is_number = user.startswith("+") and digits.isascii() and digits.isdigit() and len(digits) <= 15
    return user if is_number and scheme.lower() in ("sip", "sips", "tel") else uri


def prompt_message(text: str, lang: str, *, last: bool) -> str:
    """What the caller said."""
    return _written({"type": "prompt", "voicePrompt": text, "lang": lang, "last": last})


def dtmf_message(digit: str) -> str:
    return _written({"type": "dtmf", "digit": digit})


def interrupt_message(heard: str, milliseconds: int) -> str:
    """The caller interrupted: what was heard of the utterance, and for how long."""
    return _written({"type": "interrupt", "utteranceUntilInterrupt": heard, "durationUntilInterruptMs": milliseconds})


def error_message(description: str) -> str:
    return _written({"type": "error", "description": description})


def _written(message: Mapping[str, Any]) -> str:
    return json.dumps(message, ensure_ascii=False, separators=(",", ":"))
