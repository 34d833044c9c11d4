"""The events of one call, told to the node's hub and to whoever listens to this call alone."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from mediaserver.call.events import CallEvent, EventHub, EventType, Listener

_log = structlog.get_logger("events")


class CallReporter:
    """Everything belongs to the event loop."""

    def __init__(self, hub: EventHub, call_id: str) -> None:
        self._hub = hub
        self._call_id = call_id
        self._listeners: list[Listener] = []

    def publish(self, kind: EventType, **data: object) -> None:
        """Tell everybody, in this very callback."""
        event = self._hub.publish(CallEvent(kind, self._call_id, data))
        for listener in tuple(self._listeners):
            try:
                listener(event)
            except Exception:  # noqa: BLE001 - whatever a listener does wrong, the call goes on
                _log.exception("event_listener_failed", event_type=kind)

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Have `listener` called with each event of the call, until what is returned is called."""
        self._listeners.append(listener)

        def stop() -> None:
            if listener in self._listeners:
                self._listeners.remove(listener)

        return stop

    def close(self) -> None:
        """The call is over: only the hub is told what may still come."""
        self._listeners.clear()
