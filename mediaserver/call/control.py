"""What control interfaces can do with calls: the calls of this node as mediaserver.api sees them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from mediaserver.call.events import EventHub, Listener
from mediaserver.call.view import CallView
from mediaserver.config import BargeInPolicy
from mediaserver.refusal import RefusedError
from mediaserver.speech.script import Part, Script
from mediaserver.speech.utterance import CutSpeech

Track = Literal["inbound", "outbound"]
AudioListener = Callable[[bytes, int], None]
"""Gets 20 ms of 8 kHz 16-bit mono PCM (320 bytes) and when it was due, in milliseconds of the call's own clock; on the
media thread, so it must be quick and must not block."""


class CallEndedError(RefusedError):
    """The call is over, and nothing can be done with it."""

    def __init__(self) -> None:
        super().__init__(481, "Call Has Ended")


@dataclass(frozen=True, slots=True)
class StreamOrder:
    """Fork a call's audio to a WebSocket."""

    url: str
    tracks: tuple[Track, ...] = ("inbound",)
    name: str = ""
    parameters: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PlaceOrder:
    """A call to be placed."""

    to: str
    "A SIP URI, or a user or number at the trunk's domain."
    trunk: str
    'A name from [trunks], or "self": this server calls itself, to be tried without a phone.'
    script: Script = ()
    "Said once the call is answered."
    voice: str | None = None
    from_user: str | None = None
    from_name: str | None = None
    answer_timeout_s: float | None = None
    hang_up_after: bool = False
    "When the script has been said."
    barge_in: BargeInPolicy | None = None
    agent_url: str | None = None
    "None for the trunk's, empty for none."
    streams: tuple[StreamOrder, ...] = ()
    parameters: Mapping[str, str] = field(default_factory=dict)
    headers: tuple[tuple[str, str], ...] = ()
    "Of the INVITE: X- headers only."


class SpeechTurn(Protocol):
    """One utterance that is being written while it is spoken."""

    @property
    def number(self) -> int: ...

    @property
    def open(self) -> bool:
        """Whether more may be added: not after end(), nor once it was cut, nor after the call."""

    def add(self, *parts: Part) -> None:
        """More of it, spoken as soon as what is before has been. Raises RefusedError; ignored when not open."""

    def end(self) -> None:
        """There is no more. Idempotent."""


class CallControl(Protocol):
    """One call. Everything belongs to the event loop; what cannot be done raises RefusedError."""

    @property
    def id(self) -> str:
        """CA and 32 hexadecimal digits."""

    @property
    def over(self) -> bool: ...

    @property
    def idle(self) -> bool:
        """Nothing is being said, nor waits."""

    @property
    def parameters(self) -> Mapping[str, str]: ...

    @property
    def agent_url(self) -> str | None:
        """The agent that this call is to have; None for none."""

    @property
    def streams(self) -> Sequence[StreamOrder]:
        """The forks that this call is to have from its beginning."""

    def view(self) -> CallView: ...

    def say(
        self,
        script: Script,
        *,
        voice: str | None = None,
        mark: str | None = None,
        barge_in: BargeInPolicy | None = None,
        replace: bool = False,
    ) -> int:
        """Queue an utterance; its number.

        mark: a mark at its end. barge_in: what interrupts it, None for the call's policy. replace: clear first.
        """

    def open_turn(self, *, voice: str | None = None, barge_in: BargeInPolicy | None = None) -> SpeechTurn:
        """Queue an utterance whose words are yet to come; none can be opened behind one that is open."""

    def clear(self) -> list[CutSpeech]:
        """Stop speaking, forget what is queued; what was cut."""

    def hang_up_when_said(self) -> None:
        """End the call when all that is queued has been said."""

    def send_digits(self, digits: str) -> None:
        """0-9 * # A-D, and the pauses w (0.5 s) and W (1 s): sent when what is queued has been said."""

    def hold(self) -> None:
        """Have the peer hold (a re-INVITE, sendonly): speech pauses. call.held tells that it is so."""

    def resume(self) -> None: ...

    def transfer(self, target: str) -> None:
        """Blind transfer (REFER): a SIP URI, or a user at the peer's domain. call.transferred tells of its progress;
        when it succeeds the call ends.
        """

    def hang_up(self) -> None: ...

    def on_event(self, listener: Listener) -> Callable[[], None]:
        """Have `listener` called with each event of this call, until what is returned is called."""

    def listen(self, track: Track, listener: AudioListener) -> Callable[[], None]:
        """Hear the caller, or what the caller is sent, until what is returned is called."""

    def report(
        self, kind: Literal["agent.connected", "agent.disconnected", "stream.started", "stream.stopped"], **data: object
    ) -> None:
        """Publish an event about something attached to this call."""


class CallsControl(Protocol):
    """All calls of this node."""

    @property
    def hub(self) -> EventHub: ...

    @property
    def on_call(self) -> list[Callable[[CallControl], None]]:
        """Each is called with every new call, placed or received, before it is answered."""

    def running(self) -> Sequence[CallControl]:
        """Oldest first."""

    def find(self, call_id: str) -> CallControl | None:
        """By our id, or by SIP's Call-ID: a running call, or one that ended a moment ago."""

    def ended(self) -> Sequence[CallView]:
        """The last calls that have ended, newest first; bounded."""

    def place(self, order: PlaceOrder) -> CallControl:
        """Place a call. Raises RefusedError: 404 for an unknown trunk, 503 when none can be taken."""

    def begin_drain(self) -> None:
        """Take no more calls; those that run go on."""

    def end_drain(self) -> None: ...

    @property
    def draining(self) -> bool: ...
