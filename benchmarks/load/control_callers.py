"""The callers of benchmarks/control.py: those of generator.py, whose INFO texts and speech follow a timetable.

Run as `python -m benchmarks.load.control_callers DIRECTORY`, with plan.json and timetable.json (phrases.npz, too, where
callers are to speak) in DIRECTORY; leaves records-0.bin, calls-0.json and onsets.json there.
"""

from __future__ import annotations

import gc
import heapq
import json
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.load import caller_sound, uac
from benchmarks.load.control_talkers import Talkers
from benchmarks.load.generator import Generator
from benchmarks.load.plan import Plan

AGAIN_SECONDS = 0.05
"After which an INFO is tried again that met another under way."


class Said(NamedTuple):
    """A text by INFO, `at` seconds into the window with all calls up."""

    at: float
    call: int
    text: str


class Spoken(NamedTuple):
    """A phrase of the caller's, `at` seconds into the window; the number of it in phrases.npz."""

    at: float
    call: int
    phrase: int


@dataclass
class Timetable:
    """What the callers do while all calls are up."""

    said: list[Said] = field(default_factory=list)
    spoken: list[Spoken] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> Timetable:
        fields = json.loads(path.read_text(encoding="utf-8"))
        return cls([Said(*row) for row in fields["said"]], [Spoken(*row) for row in fields["spoken"]])

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")


def write_phrases(path: Path, phrases: list[NDArray[np.uint8]], onsets: list[int]) -> None:
    """Phrases as frames of mu-law, with the number of the first voiced frame of each."""
    frames = {f"phrase{n}": phrase for n, phrase in enumerate(phrases)}
    np.savez(path, onsets=np.asarray(onsets), **frames)  # type: ignore[arg-type]


class ControlledCallers(Generator):
    """Calls that say what a timetable says; nothing else is different."""

    def __init__(self, plan: Plan, directory: Path, timetable: Timetable) -> None:
        super().__init__(plan, directory)
        begin = plan.window[0]
        self._said = [(begin + row.at, row.call, row.text) for row in timetable.said]
        heapq.heapify(self._said)
        self.talkers: Talkers | None = None
        if timetable.spoken:
            with np.load(directory / "phrases.npz") as kept:
                onsets = [int(n) for n in kept["onsets"]]
                phrases = [kept[f"phrase{n}"] for n in range(len(onsets))]
            room = caller_sound.frames("noise", plan.seed)
            when = [(begin + row.at, row.call, row.phrase) for row in timetable.spoken]
            self.talkers = Talkers(self._rtp, room, phrases, onsets, when, plan)
            self.uplink = self.talkers

    def _speak(self, now: float) -> None:
        while self._said and self._said[0][0] <= now:
            _, index, text = heapq.heappop(self._said)
            call = self.calls[index]
            if call.state is not uac.State.ESTABLISHED:
                continue
            request = call.say(text, now)
            if not request:
                heapq.heappush(self._said, (now + AGAIN_SECONDS, index, text))
                continue
            self._send(request, call.server)
            assert call.due is not None
            heapq.heappush(self._agenda, (call.due, index))

    def save(self) -> None:
        super().save()
        onsets = self.talkers.onsets if self.talkers else []
        (self._directory / "onsets.json").write_text(json.dumps(onsets), encoding="utf-8")


def main(directory: Path) -> None:
    callers = ControlledCallers(
        Plan.read(directory / "plan.json"), directory, Timetable.read(directory / "timetable.json")
    )
    gc.collect()
    gc.disable()
    try:
        callers.run()
        callers.save()
    finally:
        callers.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
