"""Calls without a phone: what interfaces do with them is recorded, what happens to them is the test's to say."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mediaserver.call.control import (
    AudioListener,
    CallControl,
    CallEndedError,
    PlaceOrder,
    StreamOrder,
    Track,
)
from mediaserver.call.events import CallEvent, EventHub, EventType, Listener
from mediaserver.call.view import CallState, CallView, Direction
from mediaserver.config import BargeInPolicy
from mediaserver.refusal import RefusedError
from mediaserver.speech.script import Mark, Part, Pause, Script, Sound, plain_text
from mediaserver.speech.utterance import CutSpeech
from mediaserver.speech.view import SpeechView


@dataclass
class FakeUtterance:
    """What was asked to be said."""

    number: int
    script: Script
    voice: str | None
    mark: str | None = None
    barge_in: BargeInPolicy | None = None
    open: bool = False
    "Whether more may be added."
    done: bool = False
    "Said, or cut."

    @property
    def text(self) -> str:
        return plain_text(self.script)

    @property
    def marks(self) -> list[str]:
        inner = [part.name for part in self.script if isinstance(part, Mark)]
        return inner + ([self.mark] if self.mark else [])

    @property
    def pauses(self) -> list[int]:
        return [part.milliseconds for part in self.script if isinstance(part, Pause)]

    @property
    def sounds(self) -> list[Sound]:
        return [part for part in self.script if isinstance(part, Sound)]


class FakeTurn:
    """A SpeechTurn: its parts go to its utterance."""

    def __init__(self, call: FakeCall, utterance: FakeUtterance) -> None:
        self._call = call
        self.utterance = utterance
        self.ended = False

    @property
    def number(self) -> int:
        return self.utterance.number

    @property
    def open(self) -> bool:
        return self.utterance.open and not self._call.over

    def add(self, *parts: Part) -> None:
        if not self.open:
            return
        self._call.refuse_if_told()
        self.utterance.script += parts

    def end(self) -> None:
        self.ended = True
        self.utterance.open = False


class FakeCall:
    """A CallControl. `said`, `turns`, `digits`, `done` tell what was asked; press, interrupt, end and so on happen."""

    def __init__(
        self,
        hub: EventHub,
        *,
        call_id: str | None = None,
        direction: Direction = "inbound",
        agent_url: str | None = None,
        parameters: Mapping[str, str] | None = None,
        streams: Sequence[StreamOrder] = (),
        order: PlaceOrder | None = None,
    ) -> None:
        self.id = call_id or "CA" + uuid.uuid4().hex
        self.hub = hub
        self.direction = direction
        self.agent_url = agent_url
        self.parameters: Mapping[str, str] = parameters or {}
        self.streams = tuple(streams)
        self.order = order
        self.state: CallState = "ringing"
        self.said: list[FakeUtterance] = []
        self.turns: list[FakeTurn] = []
        self.digits: list[str] = []
        self.done: list[str] = []
        'Methods called, such as "clear", "hold", "transfer sip:a@b".'
        self.refusal: RefusedError | None = None
        "What the next thing that is asked is refused with; None to do it."
        self.end_reason: str | None = None
        self.audio: dict[Track, list[AudioListener]] = {"inbound": [], "outbound": []}
        self.hangs_up_when_said = False
        self._listeners: list[Listener] = []

    # What CallControl asks for

    @property
    def over(self) -> bool:
        return self.state == "ended"

    @property
    def idle(self) -> bool:
        return all(utterance.done for utterance in self.said)

    def view(self) -> CallView:
        answered = self.state in ("answered", "held") or self.end_reason is not None
        waiting = [utterance for utterance in self.said if not utterance.done]
        return CallView(
            id=self.id,
            sip_call_id=self.id.lower() + "@pbx.example",
            direction=self.direction,
            state=self.state,
            from_uri="sip:alice@pbx.example",
            to_uri=self.order.to if self.order is not None else "sip:tts@chatterline.example",
            trunk=self.order.trunk if self.order is not None else None,
            started_at=1_700_000_000.0,
            answered_at=1_700_000_001.5 if answered else None,
            ended_at=1_700_000_060.0 if self.over else None,
            end_reason=self.end_reason,
            codec="PCMU" if answered else None,
            engine="fake",
            voice=None,
            held_by_us=self.state == "held",
            agent_url=self.agent_url,
            speech=tuple(
                SpeechView(
                    utterance.number,
                    "queued" if index else "speaking",
                    utterance.text,
                    utterance.mark,
                    0 if index else 240,
                )
                for index, utterance in enumerate(waiting)
            ),
            quality={"mos_in": 4.4, "loss_in": 0.0, "jitter_in_ms": 1.2},
            counts={"rtp_packets_sent": 50},
            first_audio_ms=80.0 if answered else None,
            parameters=self.parameters,
        )

    def say(
        self,
        script: Script,
        *,
        voice: str | None = None,
        mark: str | None = None,
        barge_in: BargeInPolicy | None = None,
        replace: bool = False,
    ) -> int:
        self.refuse_if_told()
        if replace:
            self.clear()
        return self._queue(FakeUtterance(len(self.said) + 1, script, voice, mark, barge_in)).number

    def open_turn(self, *, voice: str | None = None, barge_in: BargeInPolicy | None = None) -> FakeTurn:
        self.refuse_if_told()
        turn = FakeTurn(self, self._queue(FakeUtterance(len(self.said) + 1, (), voice, None, barge_in, open=True)))
        self.turns.append(turn)
        return turn

    def clear(self) -> list[CutSpeech]:
        self._did("clear")
        cut = self._cut()
        if cut:
            data = {
                "utterance": cut[0].number,
                "played_ms": cut[0].played_ms,
                "utterances": len(cut),
            }
            self.publish("speech.cleared", **data)
        return cut

    def hang_up_when_said(self) -> None:
        self._did("hang_up_when_said")
        self.hangs_up_when_said = True
        self._hang_up_if_said()

    def send_digits(self, digits: str) -> None:
        self._did("send_digits")
        self.digits.append(digits)
        self.publish("dtmf.sent", count=len(digits))

    def hold(self) -> None:
        self._did("hold")
        self.state = "held"
        self.publish("call.held")

    def resume(self) -> None:
        self._did("resume")
        self.state = "answered"
        self.publish("call.resumed")

    def transfer(self, target: str) -> None:
        self._did(f"transfer {target}")

    def hang_up(self) -> None:
        self._did("hang_up")
        self.end("api")

    def on_event(self, listener: Listener) -> Callable[[], None]:
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener) if listener in self._listeners else None

    def listen(self, track: Track, listener: AudioListener) -> Callable[[], None]:
        if self.over:
            raise CallEndedError
        listeners = self.audio[track]
        listeners.append(listener)
        return lambda: listeners.remove(listener) if listener in listeners else None

    def report(self, kind: EventType, **data: object) -> None:
        self.publish(kind, **data)

    # What happens to it

    def publish(self, event_type: EventType, **data: Any) -> CallEvent:
        event = self.hub.publish(CallEvent(event_type, self.id, data))
        for listener in tuple(self._listeners):
            listener(event)
        return event

    def answer(self) -> None:
        self.state = "answered"
        self.publish("call.answered", codec="PCMU")

    def pass_utterance(self) -> FakeUtterance:
        """The utterance that is being said has been heard to its end."""
        utterance = next(one for one in self.said if not one.done)
        self.publish("speech.started", utterance=utterance.number)
        utterance.done = True
        for mark in utterance.marks:
            self.publish("mark.reached", name=mark, utterance=utterance.number)
        self.publish("speech.finished", utterance=utterance.number, played_ms=1000, mark=utterance.mark)
        self._hang_up_if_said()
        return utterance

    def interrupt(self, cause: str = "speech", digit: str | None = None, heard: str = "", played_ms: int = 460) -> None:
        """The caller barges in."""
        cut = self._cut()
        data: dict[str, Any] = {"cause": cause, "played_ms": played_ms, "total_ms": None, "heard_text": heard}
        if digit is not None:
            data["digit"] = digit
        number = cut[0].number if cut else 0
        self.publish("speech.interrupted", utterance=number, utterances=len(cut), **data)
        self.hangs_up_when_said = False

    def press(self, digit: str) -> None:
        self.publish("dtmf.received", digit=digit, source="rfc4733")

    def hear(self, pcm: bytes, at_ms: int, track: Track = "inbound") -> None:
        """20 ms of audio have passed."""
        for listener in tuple(self.audio[track]):
            listener(pcm, at_ms)

    def end(self, reason: str = "caller") -> None:
        if self.over:
            return
        self.state, self.end_reason = "ended", reason
        for turn in self.turns:
            turn.utterance.open = False
        self.publish("call.ended", reason=reason, status=None, seconds=12.5, quality={}, counts={}, first_audio_ms=80.0)

    def refuse_if_told(self) -> None:
        if self.over:
            raise CallEndedError
        if self.refusal is not None:
            refusal, self.refusal = self.refusal, None
            raise refusal

    def _did(self, what: str) -> None:
        self.refuse_if_told()
        self.done.append(what)

    def _queue(self, utterance: FakeUtterance) -> FakeUtterance:
        self.said.append(utterance)
        self.publish("speech.queued", utterance=utterance.number, mark=utterance.mark)
        return utterance

    def _cut(self) -> list[CutSpeech]:
        cut = []
        for utterance in self.said:
            if not utterance.done:
                utterance.done, utterance.open = True, False
                cut.append(CutSpeech(utterance.number, 0 if cut else 460, None, "" if cut else utterance.text))
        return cut

    def _hang_up_if_said(self) -> None:
        if self.hangs_up_when_said and self.idle:
            self.end("said")


@dataclass
class FakeCalls:
    """A CallsControl."""

    hub: EventHub = field(default_factory=EventHub)
    on_call: list[Callable[[CallControl], None]] = field(default_factory=list)
    calls: list[FakeCall] = field(default_factory=list)
    trunks: tuple[str, ...] = ("pbx", "self")
    draining: bool = False
    refusal: RefusedError | None = None
    "What place() refuses with."
    orders: list[PlaceOrder] = field(default_factory=list)

    def arrive(self, *, answered: bool = True, **arguments: Any) -> FakeCall:
        """A call comes in; arguments as of FakeCall."""
        return self._begin(FakeCall(self.hub, **arguments), answered=answered)

    def running(self) -> Sequence[FakeCall]:
        return [call for call in self.calls if not call.over]

    def find(self, call_id: str) -> FakeCall | None:
        for call in self.calls:
            if call_id in (call.id, call.view().sip_call_id):
                return call
        return None

    def ended(self) -> Sequence[CallView]:
        return [call.view() for call in reversed(self.calls) if call.over]

    def place(self, order: PlaceOrder) -> FakeCall:
        if self.refusal is not None:
            raise self.refusal
        if order.trunk not in self.trunks:
            raise RefusedError(404, f"There Is No Trunk {order.trunk}")
        if self.draining:
            raise RefusedError(503, "Server Is Draining", (("Retry-After", "10"),))
        self.orders.append(order)
        call = FakeCall(
            self.hub,
            direction="outbound",
            agent_url=order.agent_url,
            parameters=order.parameters,
            streams=order.streams,
            order=replace(order),
        )
        self._begin(call, answered=False)
        if order.script:
            call.say(order.script, voice=order.voice, barge_in=order.barge_in)
        if order.hang_up_after:
            call.hang_up_when_said()
        return call

    def begin_drain(self) -> None:
        self.draining = True

    def end_drain(self) -> None:
        self.draining = False

    def _begin(self, call: FakeCall, *, answered: bool) -> FakeCall:
        self.calls.append(call)
        data = {"direction": call.direction, "from": "sip:alice@pbx.example", "to": "sip:tts@chatterline.example"}
        call.publish("call.started", **data, trunk=None, sip_call_id=call.view().sip_call_id)
        for told in tuple(self.on_call):
            told(call)
        if answered:
            call.answer()
        return call
