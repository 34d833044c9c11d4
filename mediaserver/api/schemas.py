"""What requests look like: models of the OpenAPI document, and the bounds of what may come in."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from mediaserver.call.control import Track
from mediaserver.config import BargeInPolicy

MAX_PARAMETERS = 32
MAX_PARAMETER_CHARS = 256
MAX_HEADERS = 32
MAX_STREAMS = 4
MAX_MEMBERS = 64
"Of any object or list that comes in: more than any may have."

Name = Annotated[str, Field(min_length=1, max_length=256)]
MarkName = Annotated[str, Field(min_length=1, max_length=256)]
Text = Annotated[str, Field(min_length=1)]
SipTarget = Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[\x21-\x7e]+$")]
Url = Annotated[str, Field(max_length=2048)]
Parameters = Annotated[
    dict[
        Annotated[str, Field(min_length=1, max_length=MAX_PARAMETER_CHARS)],
        Annotated[str, Field(max_length=MAX_PARAMETER_CHARS)],
    ],
    Field(max_length=MAX_PARAMETERS),
]
_HEADER_NAME = re.compile(r"[Xx]-[A-Za-z0-9.!%*_+`'~-]{1,62}")


class Request(BaseModel):
    """What comes in: unknown keys are errors, as they are misspelt ones."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _is_narrow(cls, given: object) -> object:
        """Before its members are looked at: each that is wrong is an error of its own, and 100,000 take seconds."""
        if isinstance(given, dict) and any(
            len(each) > MAX_MEMBERS for each in (given, *given.values()) if isinstance(each, dict | list)
        ):
            raise ValueError(f"an object or list has more than {MAX_MEMBERS} members")
        return given


class Spoken(Request):
    """Text or SSML."""

    text: Annotated[Text | None, Field(description="What is to be said, as plain text.")] = None
    ssml: Annotated[Text | None, Field(description="What is to be said, as SSML; see docs/ssml.md.")] = None

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if self.text is not None and self.ssml is not None:
            raise ValueError("text and ssml exclude each other")
        return self


class SayRequest(Spoken):
    """POST /v1/calls/{call_id}/say."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"text": "Your table is booked for seven.", "mark": "booked"},
                {"ssml": "<speak>It is <say-as interpret-as='time'>19:30</say-as>.</speak>", "mode": "replace"},
            ]
        }
    )

    voice: Annotated[Name | None, Field(description="One of GET /v1/voices; by default the call's.")] = None
    mark: Annotated[MarkName | None, Field(description="Reached (mark.reached) when all of it has been heard.")] = None
    interruptible: Annotated[
        bool | BargeInPolicy | None,
        Field(
            description="Whether the caller can interrupt it, and how: none, speech, digit or either; true is either, "
            "false is none. By default the call's policy."
        ),
    ] = None
    mode: Annotated[
        Literal["queue", "replace"], Field(description="After what is queued, or instead of it, at once.")
    ] = "queue"

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.text is None and self.ssml is None:
            raise ValueError("text or ssml is needed")
        return self

    @property
    def barge_in(self) -> BargeInPolicy | None:
        if isinstance(self.interruptible, bool):
            return "either" if self.interruptible else "none"
        return self.interruptible


class StreamRequest(Request):
    """A fork of a call's audio to a WebSocket."""

    url: Annotated[Url, Field(description="ws:// or wss://; see [api] allow_urls.", pattern="^wss?://")]
    tracks: Annotated[list[Track], Field(min_length=1, max_length=2)] = ["inbound"]
    name: Annotated[str, Field(max_length=256)] = ""
    parameters: Parameters = {}


class PlaceRequest(Spoken):
    """POST /v1/calls."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "to": "+15550100",
                    "trunk": "pbx",
                    "text": "Your appointment is tomorrow at ten.",
                    "hang_up_after": True,
                },
                {"to": "sip:alice@pbx.example", "trunk": "pbx", "agent_url": "wss://agent.example.com/voice"},
            ]
        }
    )

    to: Annotated[SipTarget, Field(description="A SIP URI, or a user or number at the trunk's domain.")]
    trunk: Annotated[
        Name, Field(description='A name from [trunks]; "self": this server calls itself, to be tried without a phone.')
    ]
    voice: Annotated[Name | None, Field(description="One of GET /v1/voices.")] = None
    agent_url: Annotated[
        Url | None,
        Field(description="WebSocket of an agent; by default the trunk's, empty for none.", pattern="^(wss?://.*)?$"),
    ] = None
    stream: Annotated[StreamRequest | list[StreamRequest] | None, Field(description=f"At most {MAX_STREAMS}.")] = None
    answer_timeout_s: Annotated[float | None, Field(ge=1, le=600)] = None
    hang_up_after: Annotated[bool, Field(description="When text or ssml has been said.")] = False
    barge_in: Annotated[BargeInPolicy | None, Field(description="What interrupts speech in this call.")] = None
    from_user: Annotated[SipTarget | None, Field(description="User of our own URI; by default the trunk's.")] = None
    from_name: Annotated[str | None, Field(max_length=128, pattern=r"^[^\x00-\x1f\x7f]*$")] = None
    parameters: Annotated[Parameters, Field(description="For the agent's setup and the stream's start.")] = {}
    headers: Annotated[
        dict[str, Annotated[str, Field(max_length=512, pattern=r"^[^\x00-\x1f\x7f]*$")]],
        Field(max_length=MAX_HEADERS, description="Of the INVITE: X- headers only."),
    ] = {}

    @field_validator("headers")
    @classmethod
    def _only_extensions(cls, headers: dict[str, str]) -> dict[str, str]:
        if not all(_HEADER_NAME.fullmatch(name) for name in headers):
            raise ValueError("only headers that begin with X-")
        return headers

    @model_validator(mode="after")
    def _is_of_use(self) -> Self:
        if self.hang_up_after and self.text is None and self.ssml is None:
            raise ValueError("hang_up_after needs text or ssml")
        if len(self.stream_list) > MAX_STREAMS:
            raise ValueError(f"at most {MAX_STREAMS} streams")
        return self

    @property
    def stream_list(self) -> list[StreamRequest]:
        if self.stream is None:
            return []
        return [self.stream] if isinstance(self.stream, StreamRequest) else self.stream


class DtmfRequest(Request):
    """POST /v1/calls/{call_id}/dtmf."""

    digits: Annotated[
        str,
        Field(
            pattern="^[0-9*#A-DwW]{1,64}$",
            description="0-9 * # A-D, and the pauses w (0.5 s) and W (1 s).",
            examples=["12#w34"],
        ),
    ]


class TransferRequest(Request):
    """POST /v1/calls/{call_id}/transfer."""

    to: Annotated[
        SipTarget, Field(description="A SIP URI, or a user at the peer's domain.", examples=["sip:desk@pbx.example"])
    ]
