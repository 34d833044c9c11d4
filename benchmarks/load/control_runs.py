"""What the two runs of benchmarks/control.py share: how much is measured, a server, and calls that are up."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import ROOT
from benchmarks.load import analysis, run
from benchmarks.load.control_agents import Agents
from benchmarks.load.control_callers import Timetable
from benchmarks.load.control_server import HOST, Client, Controlled, controlled
from benchmarks.load.plan import Plan
from benchmarks.telephone_line import PHRASES

GREETING = "Thank you for calling."
"What every call says first, and what is in the prompt cache from then on."
LONGEST_TEXT_SECONDS = 7.0
"Of those of `Size.characters`."
END_SECONDS = 30.0

Records = list[NDArray[np.void]]


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured. Times in seconds."""

    calls: int = 50
    rate: float = 10.0
    greeting: float = 2.0
    "Until it has been said."
    says: int = 250
    cached: int = 100
    streams: int = 250
    gap: float = 0.14
    "Between two calls' being asked to say something; a call's turn comes again after `gap` x `calls`."
    characters: int = 30
    "Of a text, at least."
    interruptions: int = 4
    "Of each call."
    period: float = 6.0
    "Between two interruptions of a call."
    lead: float = 2.5
    "From the text to the caller who interrupts it."
    last: float = 2.5
    "From then on until all is quiet again."
    phrases: int = len(PHRASES)
    "Of what callers say, that are different."
    sockets: int = 200
    sockets_rate: float = 20.0
    warm: float = 5.0
    "Before the first window: all texts are said once, and are in the prompt cache from then on."
    windows: int = 4
    "Without and with agents in turn."
    window: float = 15.0
    between: float = 4.0
    "Windows: for agents to connect or to leave."
    every: float = 6.0
    "A text of each call."

    @property
    def ask_seconds(self) -> float:
        return (self.says + self.cached + self.streams) * self.gap

    @property
    def interrupted_from(self) -> float:
        """When the last texts have been said to their end."""
        return self.greeting + self.ask_seconds + min(LONGEST_TEXT_SECONDS, self.calls * self.gap)

    @property
    def delays_seconds(self) -> float:
        return self.interrupted_from + self.lead + self.interruptions * self.period + self.last

    @property
    def sockets_seconds(self) -> float:
        return self.warm + self.windows * (self.window + self.between) + 0.5


FULL = Size()
QUICK = Size(
    calls=6,
    rate=40.0,
    greeting=2.3,
    says=2,
    cached=2,
    streams=2,
    gap=0.1,
    interruptions=1,
    period=0.5,
    lead=1.5,
    last=0.8,
    phrases=0,
    sockets=6,
    sockets_rate=40.0,
    warm=1.0,
    windows=2,
    window=0.6,
    between=0.5,
    every=0.6,
)
"Both runs at once: that it works, not how well."


class Run:
    """Calls that are up at a server."""

    def __init__(self, plan: Plan, controlled: Controlled, directory: Path) -> None:
        self.plan, self.controlled, self.directory = plan, controlled, directory
        self.client = Client(controlled)
        self.ids: list[str] = []
        "Of the calls, by their number."

    async def until(self, offset: float) -> None:
        """Seconds into the window with all calls up."""
        await asyncio.sleep(self.plan.window[0] + offset - time.monotonic())

    def find_calls(self) -> None:
        """Raises RuntimeError if one is missing."""
        self.client.connect()  # not before: a connection without a request is closed after a while
        found = self.client.call_ids()
        names = [f"{self.plan.token}s0c{number}@{HOST}" for number in range(self.plan.calls)]
        if missing := [name for name in names if name not in found]:
            raise RuntimeError(f"{len(missing)} of {len(names)} calls are not up")
        self.ids = [found[name] for name in names]

    def records(self) -> Records:
        return analysis.by_call(analysis.read(self.directory / "records-0.bin"), self.plan.calls)


@contextlib.asynccontextmanager
async def serving(directory: Path, calls: int, settings: dict[str, str]) -> AsyncIterator[Controlled]:
    """controlled(), in whose start and end the loop goes on."""
    stack = contextlib.ExitStack()
    try:
        yield await asyncio.to_thread(stack.enter_context, controlled(directory, calls, settings))
    finally:
        await asyncio.to_thread(stack.close)


@contextlib.asynccontextmanager
async def calling(controlled: Controlled, directory: Path, timetable: Timetable, **plan: Any) -> AsyncIterator[Run]:
    """Calls from a process of their own: up while the block runs, over and written down when it is left.

    Raises RuntimeError if the process fails.
    """
    calls = plan.pop("calls")
    lead = run.LEAD_SECONDS + run.LEAD_SECONDS_A_CALL * calls
    made = Plan(
        server=controlled.target.address,
        scripts=[[GREETING]] * calls,
        start=time.monotonic() + lead,
        token=secrets.token_hex(6),
        sound="noise",
        rtcp=False,
        repeat=False,
        **plan,
    )
    made.write(directory / "plan.json")
    timetable.write(directory / "timetable.json")
    command = [sys.executable, "-m", "benchmarks.load.control_callers", str(directory)]
    current = Run(made, controlled, directory)
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdin=subprocess.DEVNULL)
    try:
        await current.until(0.3)
        current.find_calls()
        yield current
        async with asyncio.timeout(made.end - time.monotonic() + END_SECONDS):
            status = await process.wait()
        if status:
            raise RuntimeError(f"the callers' process ended with status {status}")
    finally:
        current.client.close()
        if process.returncode is None:
            process.kill()
            await process.wait()


def complaints(agents: Agents) -> dict[str, Any]:
    """What agents met that they should not have."""
    return {"errors": len(agents.errors), "error_texts": sorted(set(agents.errors))[:3], "lost": agents.lost}
