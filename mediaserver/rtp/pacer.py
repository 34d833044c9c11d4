"""One pacer for all legs: who is due when, on absolute deadlines, so that nothing ever drifts.

Time is cut into ticks of 1 ms since an origin. A leg of interval I ms has a phase p within it and is due at every tick
t with t mod I = p: each interval in use is a wheel of I slots, each slot the legs of one phase.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import floor
from threading import Lock
from typing import Protocol

CATCH_UP = 3
"""Intervals that a late pacer makes up for by sending at once: 60 ms at ptime=20ms, what a receiver's jitter buffer
holds. What is due for longer is skipped: the receiver would throw it away."""

MIN_INTERVAL_MS, MAX_INTERVAL_MS = 10, 60

OFFSETS = (0, 2, 4, 1, 3)
"""Ticks within each 5 ms that legs are put on, in this order: a wake-up costs as much as some ten legs (caches that
have gone cold, the switch itself), so few legs share few of them; a further tick is used once all before have FILL."""
FILL = 25
"""Legs of one phase: a millisecond's work where the processor is shared, by as much as which its packets' spacing
varies. With 50, four wake-ups for 200 calls, |spacing - 20 ms| p99 was twice that; a tenth more CPU is the price."""

LATENESS_BOUNDS = (0.001, 0.002, 0.005, 0.010, 0.020, 0.050, 0.100)
"Upper bounds, in seconds, of the buckets of lateness; one more bucket takes the rest."

_EARLY = 1e-6  # seconds; a deadline computed in floats must count as reached when the clock shows it


class PacedLeg(Protocol):
    """What the pacer drives."""

    @property
    def interval_ms(self) -> int:
        """Packet interval, MIN_INTERVAL_MS to MAX_INTERVAL_MS. Constant while the leg is on the pacer."""

    def tick(self, due_ms: int) -> None:
        """Do what is due at this tick: milliseconds since the pacer's origin, the same clock for all legs.

        Called under the pacer's lock: it must not block, nor add or remove legs.
        """


@dataclass(slots=True)
class PacerMetrics:
    """Counted by the thread that advances."""

    slots: int = 0
    "Slots with a leg in them that were run."
    skipped_intervals: int = 0
    "Packets that were not sent because they were due for too long."
    failures: int = 0
    "Legs removed because sending raised."
    max_lateness: float = 0.0
    "Seconds, skipped packets included."
    lateness: list[int] = field(default_factory=lambda: [0] * (len(LATENESS_BOUNDS) + 1))
    "Slots run by how late they were begun, not cumulative; bounds are LATENESS_BOUNDS."

    def observe(self, late: float) -> None:
        self.slots += 1
        self.max_lateness = max(self.max_lateness, late)
        for bucket, bound in enumerate(LATENESS_BOUNDS):
            if late <= bound:
                self.lateness[bucket] += 1
                return
        self.lateness[-1] += 1


@dataclass(slots=True, eq=False)
class _Place:
    """Where a leg sits on its wheel."""

    leg: PacedLeg
    interval: int
    phase: int
    first: int
    "The first tick at which it is due."

    def due_between(self, start: int, stop: int) -> int:
        """How many of its ticks are in [start, stop)."""
        start = max(start, self.first)
        if stop <= start:
            return 0
        return (stop - 1 - self.phase) // self.interval - (start - 1 - self.phase) // self.interval


class Pacer:
    """The schedule, without thread or clock: advance() runs all that is due at a time it is told.

    add and remove may be called by another thread than the one that advances.
    """

    def __init__(self, origin: float, now: float | None = None) -> None:
        """origin: tick 0, monotonic seconds. now: what was due before is nobody's; by default the origin."""
        self.metrics = PacerMetrics()
        self._origin = origin
        self._tick = 0 if now is None else self._tick_at(now)  # all before and including this have been run
        self._places: dict[int, _Place] = {}  # by id() of the leg
        self._wheels: dict[int, list[list[_Place]]] = {}  # by interval, then by phase
        self._lock = Lock()  # held while one slot is run

    def __len__(self) -> int:
        return len(self._places)

    def add(self, leg: PacedLeg, now: float) -> float:
        """Put a leg on a phase of its interval; returns when it is first due.

        Raises ValueError for an interval out of range or a leg that is already there.
        """
        interval = leg.interval_ms
        if not MIN_INTERVAL_MS <= interval <= MAX_INTERVAL_MS:
            raise ValueError(f"packet interval {interval} ms is not within {MIN_INTERVAL_MS}-{MAX_INTERVAL_MS} ms")
        with self._lock:
            if id(leg) in self._places:
                raise ValueError("leg is already on the pacer")
            wheel = self._wheels.setdefault(interval, [[] for _ in range(interval)])
            following = max(self._tick, self._tick_at(now)) + 1
            phase = _phase(wheel, following)
            place = _Place(leg, interval, phase, following + (phase - following) % interval)
            self._places[id(leg)] = place
            wheel[phase].append(place)
            return self._time_of(place.first)

    def remove(self, leg: PacedLeg) -> bool:
        """Take a leg off; False if it was not there. After the return it is not being sent and will not be."""
        with self._lock:
            return self._remove(leg)

    def advance(self, now: float) -> tuple[float | None, list[tuple[PacedLeg, Exception]]]:
        """Run every slot due by `now`.

        Returns the time of the next slot with a leg in it (None: there is no leg), and the legs that were taken
        off because sending raised.
        """
        now_tick = self._tick_at(now)
        failed: list[tuple[PacedLeg, Exception]] = []
        start = self._tick + 1
        if now_tick - start >= CATCH_UP * MIN_INTERVAL_MS:
            with self._lock:
                start = self._skip(start, now_tick)
        for tick in range(start, now_tick + 1):
            with self._lock:
                self._tick = tick
                self._run(tick, now, now_tick, failed)
        with self._lock:
            self._tick = max(self._tick, now_tick)
            return self._next_deadline(), failed

    def _run(self, tick: int, now: float, now_tick: int, failed: list[tuple[PacedLeg, Exception]]) -> None:
        ran = False
        failing = len(failed)
        for interval, wheel in self._wheels.items():
            slot = wheel[tick % interval]
            if not slot or tick <= now_tick - CATCH_UP * interval:
                continue
            ran = True
            for place in slot:
                if tick < place.first:
                    continue
                try:
                    place.leg.tick(tick)
                except Exception as error:  # noqa: BLE001 - one leg's fault must not silence the others
                    failed.append((place.leg, error))
        if ran:
            self.metrics.observe(now - self._time_of(tick))
        for leg, _ in failed[failing:]:
            self._remove(leg)
            self.metrics.failures += 1

    def _skip(self, start: int, now_tick: int) -> int:
        """Count what is due for too long; returns the first tick that any wheel still has to run."""
        for place in self._places.values():
            stop = now_tick - CATCH_UP * place.interval + 1
            skipped = place.due_between(start, stop)
            if skipped:
                self.metrics.skipped_intervals += skipped
                first = max(start, place.first)
                first += (place.phase - first) % place.interval
                self.metrics.max_lateness = max(self.metrics.max_lateness, (now_tick - first) / 1000)
        longest = max(self._wheels, default=0)
        return max(start, now_tick - CATCH_UP * longest + 1)

    def _remove(self, leg: PacedLeg) -> bool:
        place = self._places.pop(id(leg), None)
        if place is None:
            return False
        wheel = self._wheels[place.interval]
        wheel[place.phase].remove(place)
        if not any(wheel):
            del self._wheels[place.interval]
        return True

    def _next_deadline(self) -> float | None:
        after = self._tick + 1
        waits = [
            next(wait for wait in range(interval) if wheel[(after + wait) % interval])
            for interval, wheel in self._wheels.items()
        ]
        return self._time_of(after + min(waits)) if waits else None

    def _tick_at(self, now: float) -> int:
        return floor((now - self._origin + _EARLY) * 1000)

    def _time_of(self, tick: int) -> float:
        return self._origin + tick / 1000


def _phase(wheel: list[list[_Place]], following: int) -> int:
    """Where a leg goes that may first be due at the tick `following`: the least loaded, the soonest among equals."""
    interval = len(wheel)

    def load_and_wait(phase: int) -> tuple[int, int]:
        return len(wheel[phase]), (phase - following) % interval

    for offset in OFFSETS:
        phase = min(range(offset, interval, len(OFFSETS)), key=load_and_wait)
        if len(wheel[phase]) < FILL:
            return phase
    return min(range(interval), key=load_and_wait)
