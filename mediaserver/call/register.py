"""The calls of this node as others find them: those that run, and for a while those that have ended."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from mediaserver.call.handle import CallHandle
from mediaserver.call.leg import CallLeg
from mediaserver.call.view import CallView

KEPT_S = 300.0
KEPT = 1000
"Ended calls."


class CallRegister:
    """Belongs to the event loop; `legs` may be read by any thread."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """clock: in seconds, never jumping."""
        self._clock = clock
        self._legs: dict[str, CallLeg] = {}
        self._handles: dict[str, CallHandle] = {}
        self._ended: OrderedDict[str, tuple[float, CallHandle]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._legs)

    @property
    def legs(self) -> tuple[CallLeg, ...]:
        """Oldest first."""
        return tuple(self._legs.values())

    @property
    def running(self) -> tuple[CallHandle, ...]:
        """Oldest first."""
        return tuple(self._handles.values())

    def add(self, leg: CallLeg) -> CallHandle:
        """A call begins."""
        self._legs[leg.id] = leg
        handle = self._handles[leg.id] = CallHandle(leg)
        return handle

    def end(self, leg: CallLeg) -> bool:
        """A call has ended; False if it is none of these."""
        if self._legs.pop(leg.id, None) is None:
            return False
        handle = self._handles.pop(leg.id)
        handle.let_go()
        self._ended[leg.id] = (self._clock(), handle)
        self._prune()
        return True

    def find(self, call_id: str) -> CallHandle | None:
        """By our id, or by SIP's Call-ID; one that runs before one that has ended."""
        self._prune()
        if call_id in self._handles:
            return self._handles[call_id]
        if call_id in self._ended:
            return self._ended[call_id][1]
        for leg in self._legs.values():
            if leg.profile.sip_call_id == call_id:
                return self._handles[leg.id]
        for _, handle in reversed(self._ended.values()):
            if handle.view().sip_call_id == call_id:
                return handle
        return None

    def ended(self) -> list[CallView]:
        """Newest first."""
        self._prune()
        return [handle.view() for _, handle in reversed(self._ended.values())]

    def _prune(self) -> None:
        oldest = self._clock() - KEPT_S
        while self._ended and (len(self._ended) > KEPT or next(iter(self._ended.values()))[0] < oldest):
            self._ended.popitem(last=False)
