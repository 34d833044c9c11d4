"""What can be seen of a call from outside, at one moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from mediaserver.speech.view import SpeechView

CallState = Literal["ringing", "answered", "held", "ended"]
"ringing: the INVITE has no final response yet, whoever sent it."

Direction = Literal["inbound", "outbound"]


@dataclass(frozen=True, slots=True)
class CallView:
    """One call."""

    id: str
    "CA and 32 hexadecimal digits."
    sip_call_id: str
    direction: Direction
    state: CallState
    from_uri: str
    to_uri: str
    trunk: str | None
    "By which it was placed, or from whose address it came; None if it came from no configured one."
    started_at: float
    "Seconds since 1970, UTC."
    answered_at: float | None
    ended_at: float | None
    end_reason: str | None
    codec: str | None
    engine: str
    voice: str | None
    "None: the engine's default."
    held_by_us: bool
    agent_url: str | None
    speech: tuple[SpeechView, ...]
    "What is being said, then what waits."
    quality: Mapping[str, float]
    "As in the log at a call's end: loss_in, jitter_in_ms, mos_in, loss_out, jitter_out_ms, mos_out, round_trip_ms."
    counts: Mapping[str, int]
    "Packets, underruns, digits, interruptions and the like."
    first_audio_ms: float | None
    "From the ACK to the first packet of speech."
    parameters: Mapping[str, str]
    "What whoever placed the call, or its trunk, wants its agent to know."
