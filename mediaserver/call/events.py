"""What happens to calls, told to whoever asks: agents, webhooks, event streams, the operator page."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import structlog

_log = structlog.get_logger("events")

EventType = Literal[
    "call.started",
    "call.ringing",
    "call.answered",
    "call.held",
    "call.resumed",
    "call.transferred",
    "call.ended",
    "speech.queued",
    "speech.started",
    "speech.finished",
    "speech.interrupted",
    "speech.cleared",
    "speech.failed",
    "mark.reached",
    "dtmf.received",
    "dtmf.sent",
    "agent.connected",
    "agent.disconnected",
    "stream.started",
    "stream.stopped",
]
"""call.started: a call came in or is being placed. call.transferred: each step of a REFER, `status` a SIP code.
speech.interrupted: by the caller; speech.cleared: by whoever controls the call."""

EVENT_TYPES: tuple[EventType, ...] = EventType.__args__  # type: ignore[attr-defined]


def matching_types(names: Iterable[str]) -> frozenset[EventType]:
    """The types of these names, of which "speech.*" is all of a kind. Raises ValueError for one that names none."""
    found: set[EventType] = set()
    for name in names:
        matching = {
            known for known in EVENT_TYPES if known == name or (name[-2:] == ".*" and known.startswith(name[:-1]))
        }
        if not matching:
            raise ValueError(f"an event type is one of {', '.join(EVENT_TYPES)}")
        found |= matching
    return frozenset(found)


MAX_WAITING = 1000
"Events that a subscriber may be behind by; beyond them the oldest are lost to it, and counted."


@dataclass(frozen=True, slots=True)
class CallEvent:
    """One thing that has happened to a call."""

    type: EventType
    call_id: str
    data: Mapping[str, Any] = field(default_factory=dict, repr=False)
    "What JSON can hold. Its keys by type: docs/control-api.md."
    at: float = field(default_factory=time.time)
    "Seconds since 1970, UTC."
    number: int = 0
    "Counts the events of this node, from 1; 0 before it was published."


Listener = Callable[[CallEvent], None]
"Called in the event loop; must not block."


class Subscription:
    """The events of one subscriber, in order, as an asynchronous iterator; bounded."""

    def __init__(self, close: Callable[[Subscription], None], wanted: Callable[[CallEvent], bool]) -> None:
        self.lost = 0
        "Events that the subscriber was too slow for."
        self._close = close
        self._wanted = wanted
        self._waiting: deque[CallEvent] = deque()
        self._news = asyncio.Event()
        self._closed = False

    def put(self, event: CallEvent) -> None:
        if not self._wanted(event):
            return
        if len(self._waiting) >= MAX_WAITING:
            self._waiting.popleft()
            self.lost += 1
        self._waiting.append(event)
        self._news.set()

    def close(self) -> None:
        """No more events; iteration ends. Idempotent."""
        if not self._closed:
            self._closed = True
            self._close(self)
            self._news.set()

    def __aiter__(self) -> AsyncIterator[CallEvent]:
        return self

    async def __anext__(self) -> CallEvent:
        while not self._waiting:
            if self._closed:
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        return self._waiting.popleft()


def _every(_event: CallEvent) -> bool:
    return True


class Listeners:
    """Those who are told of events at once, in the order in which they came."""

    def __init__(self) -> None:
        self._listeners: list[Listener] = []

    def add(self, listener: Listener) -> Callable[[], None]:
        """Have `listener` called with each event, until what is returned is called."""
        self._listeners.append(listener)

        def stop() -> None:
            if listener in self._listeners:
                self._listeners.remove(listener)

        return stop

    def tell(self, event: CallEvent) -> None:
        for listener in tuple(self._listeners):
            try:
                listener(event)
            except Exception:  # noqa: BLE001 - whatever a listener does wrong, the call goes on
                _log.exception("event_listener_failed", event_type=event.type)

    def clear(self) -> None:
        self._listeners.clear()


class EventHub:
    """The events of all calls of this node. Everything belongs to the event loop."""

    def __init__(self, history: int = 1000) -> None:
        """history: how many events are kept for subscribers that come back."""
        self.published = 0
        self._listeners = Listeners()
        self._subscriptions: list[Subscription] = []
        self._history: deque[CallEvent] = deque(maxlen=history)

    def publish(self, event: CallEvent) -> CallEvent:
        """Tell everybody; returns the event with its number."""
        self.published += 1
        numbered = CallEvent(event.type, event.call_id, event.data, event.at, self.published)
        self._history.append(numbered)
        self._listeners.tell(numbered)
        for subscription in tuple(self._subscriptions):
            subscription.put(numbered)
        return numbered

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Have `listener` called with each event, until what is returned is called."""
        return self._listeners.add(listener)

    def subscribe(self, wanted: Callable[[CallEvent], bool] = _every, *, after: int | None = None) -> Subscription:
        """The events from now on; after: from the one behind that number, as far back as the history goes."""
        subscription = Subscription(self._subscriptions.remove, wanted)
        if after is not None:
            for event in self._history:
                if event.number > after:
                    subscription.put(event)
        self._subscriptions.append(subscription)
        return subscription

    def close(self) -> None:
        """The node stops: all subscriptions end."""
        for subscription in tuple(self._subscriptions):
            subscription.close()
