"""What a run of the generator is to do; made by the benchmark, read by the generator's processes."""

from __future__ import annotations

import json
import random
from dataclasses import asdict, dataclass
from pathlib import Path

LINGER = 0.3
"Seconds to go on receiving once the last call is over: packets then are the server's fault."
PACKETS_A_SECOND = 75
"Of records to have room for, of a call that sends 50: half as much again."
REDUCED_SECONDS = 8.0
"Room for records where they are reduced to figures as they come."


@dataclass(frozen=True, slots=True)
class Plan:
    """What to place. The window with all calls up is [start + ramp, start + ramp + seconds]."""

    server: tuple[str, int]
    rate: float
    "Calls arriving a second."
    seconds: float
    "Time with all calls up."
    scripts: list[list[str]]
    "The texts of each call, said in order, and from the first again: speech lasts as long as the call."
    start: float
    "Time of the first call on time.monotonic(), which all processes of the host share."
    token: str
    "Makes Call-IDs unique to the run."
    sound: str = "speech"
    "One of caller_sound.SOUNDS: what the callers send."
    rtcp: bool = True
    rtcp_mux: bool = False
    keep: bool = True
    "Keep every packet for analysis; else reduce each minute to figures as it goes."
    repeat: bool = True
    "False: a call says its script once."
    give_up: float = 8.0
    seed: int = 1

    @property
    def calls(self) -> int:
        return len(self.scripts)

    @property
    def ramp(self) -> float:
        """Seconds over which the calls arrive, and over which they leave."""
        return self.calls / self.rate

    @property
    def hold(self) -> float:
        """Seconds from a call's INVITE to its BYE, the same for all calls."""
        return self.ramp + self.seconds

    @property
    def window(self) -> tuple[float, float]:
        """Monotonic, in which all calls are up."""
        return self.start + self.ramp, self.start + self.ramp + self.seconds

    @property
    def end(self) -> float:
        """The latest time at which the run is over, whatever happens."""
        return self.start + self.ramp + self.hold + self.give_up + LINGER + 1.0

    def capacity(self, calls: int) -> int:
        """Room for records of that many of the calls."""
        seconds = self.hold + 2.0 if self.keep else REDUCED_SECONDS
        return int(calls * PACKETS_A_SECOND * seconds) + 1000

    def arrivals(self) -> list[float]:
        """When each call is placed: one in each slot of 1/rate, at random in it, so that the server's calls do not
        all share one phase of the 20 ms period.
        """
        rng = random.Random(self.seed)
        return [self.start + (i + rng.random()) / self.rate for i in range(self.calls)]

    @classmethod
    def read(cls, path: Path) -> Plan:
        fields = json.loads(path.read_text(encoding="utf-8"))
        return cls(**{**fields, "server": tuple(fields["server"])})

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")
