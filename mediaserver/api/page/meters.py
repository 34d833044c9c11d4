"""How loud calls are, both ways, while somebody looks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from mediaserver.call.control import CallsControl
from mediaserver.refusal import RefusedError
from mediaserver.rtp.codec import audioop

MAX_METERED = 50
"Calls at once, of all who look together: each costs the media thread the decoding of what its caller says."

FLOOR_DB = -90
"What silence is shown as."

_FULL_SCALE = 32768.0


class TrackMeter:
    """The loudest 20 ms of one direction since it was read. Called by the media thread, read by the event loop."""

    def __init__(self) -> None:
        self._loudest = 0

    def __call__(self, pcm: bytes, _due_ms: int) -> None:
        loudness = audioop.rms(pcm, 2)
        self._loudest = max(self._loudest, loudness)

    def read(self) -> int:
        """In decibels below full scale (dBov), whole ones, at least FLOOR_DB."""
        # A frame that comes between the two is not shown: no lock is worth that.
        loudest, self._loudest = self._loudest, 0
        return max(FLOOR_DB, round(20 * math.log10(loudest / _FULL_SCALE))) if loudest else FLOOR_DB


class CallMeter:
    """Both directions of a call, for all who look at it."""

    def __init__(self) -> None:
        self.inbound, self.outbound = TrackMeter(), TrackMeter()
        self.stops: list[Callable[[], None]] = []
        self.watchers = 0


class Meters:
    """Of all calls that somebody looks at. Everything but the listeners belongs to the event loop."""

    def __init__(self, calls: CallsControl) -> None:
        self._calls = calls
        self._meters: dict[str, CallMeter] = {}

    @property
    def metered(self) -> int:
        return len(self._meters)

    def watch(self, wanted: Iterable[str]) -> set[str]:
        """Begin to look at calls; those that can be: not calls that are over or unknown, nor more than MAX_METERED."""
        return {call_id for call_id in dict.fromkeys(wanted) if self._begin(call_id)}

    def unwatch(self, watched: Iterable[str]) -> None:
        """Undo watch(), with what it gave."""
        for call_id in watched:
            meter = self._meters[call_id]
            meter.watchers -= 1
            if not meter.watchers:
                del self._meters[call_id]
                for stop in meter.stops:
                    stop()

    def read(self) -> dict[str, tuple[int, int]]:
        """Levels in dBov by call, (inbound, outbound), since it was last called."""
        return {call_id: (meter.inbound.read(), meter.outbound.read()) for call_id, meter in self._meters.items()}

    def _begin(self, call_id: str) -> bool:
        meter = self._meters.get(call_id)
        if meter is None:
            call = self._calls.find(call_id)
            if call is None or call.over or len(self._meters) >= MAX_METERED:
                return False
            meter = CallMeter()
            try:
                meter.stops.append(call.listen("inbound", meter.inbound))
                meter.stops.append(call.listen("outbound", meter.outbound))
            except RefusedError:  # it has ended, or has no media yet
                for stop in meter.stops:
                    stop()
                return False
            self._meters[call_id] = meter
        meter.watchers += 1
        return True
