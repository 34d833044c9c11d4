"""What responses look like: calls, what was done with them, and events, as JSON."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from mediaserver.call.events import CallEvent, EventType
from mediaserver.call.view import CallState, CallView, Direction
from mediaserver.speech.utterance import CutSpeech
from mediaserver.speech.view import SpeechView

Time = Annotated[float, Field(description="Seconds since 1970, UTC.")]


class Speech(BaseModel):
    """An utterance that is being said, or waits."""

    utterance: int
    state: Literal["queued", "speaking"]
    text: str
    mark: str | None
    played_ms: int

    @classmethod
    def of(cls, view: SpeechView) -> Self:
        return cls(utterance=view.number, state=view.state, text=view.text, mark=view.mark, played_ms=view.played_ms)


class Call(BaseModel):
    """A call, as it is now."""

    id: Annotated[str, Field(pattern="^CA[0-9a-f]{32}$")]
    sip_call_id: str
    direction: Direction
    state: CallState
    from_uri: Annotated[str, Field(serialization_alias="from")]
    to_uri: Annotated[str, Field(serialization_alias="to")]
    trunk: str | None
    started_at: Time
    answered_at: Time | None
    ended_at: Time | None
    end_reason: str | None
    codec: str | None
    engine: str
    voice: Annotated[str | None, Field(description="null: the engine's default.")]
    held_by_us: bool
    agent_url: str | None
    speech: Annotated[list[Speech], Field(description="What is being said, then what waits.")]
    quality: Annotated[
        dict[str, float | None],
        Field(description="loss_in, jitter_in_ms, mos_in, loss_out, jitter_out_ms, mos_out, round_trip_ms."),
    ]
    counts: dict[str, int]
    first_audio_ms: Annotated[float | None, Field(description="From the ACK to the first packet of speech.")]
    parameters: dict[str, str]

    @classmethod
    def of(cls, view: CallView) -> Self:
        return cls(
            id=view.id,
            sip_call_id=view.sip_call_id,
            direction=view.direction,
            state=view.state,
            from_uri=view.from_uri,
            to_uri=view.to_uri,
            trunk=view.trunk,
            started_at=view.started_at,
            answered_at=view.answered_at,
            ended_at=view.ended_at,
            end_reason=view.end_reason,
            codec=view.codec,
            engine=view.engine,
            voice=view.voice,
            held_by_us=view.held_by_us,
            agent_url=view.agent_url,
            speech=[Speech.of(speech) for speech in view.speech],
            quality=dict(view.quality),
            counts=dict(view.counts),
            first_audio_ms=view.first_audio_ms,
            parameters=dict(view.parameters),
        )


class CallList(BaseModel):
    """GET /v1/calls."""

    calls: list[Call]
    total: Annotated[int, Field(description="Of that state, more than are shown if `limit` cut the list.")]


class Placed(Call):
    """The call that is being placed, and what of the SSML its engine cannot do."""

    unsupported: list[str] = []


class Said(BaseModel):
    """An utterance was queued."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"utterance": 3, "unsupported": []}]})

    utterance: Annotated[int, Field(description="Its number in this call; events name it.")]
    unsupported: Annotated[
        list[str], Field(description="Elements and attributes of the SSML that this call's engine cannot do.")
    ]


class Cut(BaseModel):
    """An utterance that was cleared before its end."""

    utterance: int
    played_ms: int
    total_ms: Annotated[int | None, Field(description="null if it had not been synthesised to its end.")]
    heard_text: Annotated[str, Field(description="An estimate: whole words.")]

    @classmethod
    def of(cls, cut: CutSpeech) -> Self:
        return cls(utterance=cut.number, played_ms=cut.played_ms, total_ms=cut.total_ms, heard_text=cut.heard_text)


class Cleared(BaseModel):
    """POST /v1/calls/{call_id}/clear."""

    cut: list[Cut]


class Event(BaseModel):
    """One thing that has happened to a call; docs/control-api.md has the keys of `data` by type."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": "dtmf.received",
                    "call_id": "CA5f0c6a0e1d9b4c7f8a2e3b4c5d6e7f80",
                    "at": 1772366405.12,
                    "number": 17,
                    "data": {"digit": "5", "source": "rfc4733"},
                }
            ]
        }
    )

    type: EventType
    call_id: str
    at: Time
    number: Annotated[int, Field(description="Counts the events of this server since its start.")]
    data: dict[str, Any]

    @classmethod
    def of(cls, event: CallEvent) -> Self:
        return cls(type=event.type, call_id=event.call_id, at=event.at, number=event.number, data=dict(event.data))
