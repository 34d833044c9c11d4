"""The events of one call, told to the node's hub and to whoever listens to this call alone."""

from __future__ import annotations

from collections.abc import Callable

from mediaserver.call.events import CallEvent, EventHub, EventType, Listener, Listeners


class CallReporter:
    """Everything belongs to the event loop."""

    def __init__(self, hub: EventHub, call_id: str) -> None:
        self._hub = hub
        self._call_id = call_id
        self._listeners = Listeners()

    def publish(self, kind: EventType, **data: object) -> None:
        """Tell everybody, in this very callback."""
        self._listeners.tell(self._hub.publish(CallEvent(kind, self._call_id, data)))

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Have `listener` called with each event of the call, until what is returned is called."""
        return self._listeners.add(listener)

    def close(self) -> None:
        """The call is over: only the hub is told what may still come."""
        self._listeners.clear()
