"""Virtual calls that an engine speaks for: one task each, which wakes for a chunk or a new text and for nothing else.

Open loop: a call's texts come when its caller would say them, whatever the engine makes of it; all calls begin at
random moments.
"""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass, field
from typing import Any, Literal

from benchmarks.load.listener import Listener
from benchmarks.load.quantiles import quantiles
from benchmarks.load.texts import CHARACTERS_A_SECOND, sentence
from tts_engine.engine import Engine, SpeechRequest
from tts_engine.errors import EngineBusyError, EngineNotReadyError, SynthesisError

Pattern = Literal["always", "calls"]

UTTERANCE_SECONDS = (2.0, 8.0)
PAUSE_SECONDS = (1.0, 3.0)
RAMP_SECONDS = sum(UTTERANCE_SECONDS) / 2
"Calls begin within the mean length of an utterance: as many texts come a second from then on as before."
REFUSED_SECONDS = 1.0
"After a refusal a call tries again."
DRAIN_SECONDS = 5.0
"What was handed in before the end is waited for so long, to know its first audio."
CLOCK_SECONDS = 0.002
"Timers of an event loop may fire a millisecond early."


@dataclass(frozen=True)
class Plan:
    """When calls speak. Times in seconds, monotonic."""

    streams: int
    pattern: Pattern
    start: float
    seconds: float
    "Measured, after warm_up."
    warm_up: float = 8.0
    queued: float = 0.0
    "How long before the last utterance has been played the next text comes; 0: at its end, with nothing buffered."
    sample_rate: int = 8000
    seed: int = 1

    @property
    def begin(self) -> float:
        return self.start + self.warm_up

    @property
    def end(self) -> float:
        return self.begin + self.seconds


@dataclass(slots=True)
class Utterance:
    handed: float
    "When its text was handed to the engine."
    first: float | None = None
    "When its first chunk was received."


@dataclass(slots=True)
class Heard:
    """What all listeners of a run heard."""

    utterances: list[Utterance] = field(default_factory=list)
    chunks: list[tuple[float, float]] = field(default_factory=list)
    "When received, and its seconds of audio."
    gaps: list[tuple[float, float, int]] = field(default_factory=list)
    "When an underrun ended, its seconds, and whose it was."
    refused: list[float] = field(default_factory=list)
    failures: list[tuple[float, str]] = field(default_factory=list)


async def speak_all(engine: Engine, plan: Plan, heard: Heard) -> None:
    """Run all calls to the end of the plan, and on until what they asked for has come or DRAIN_SECONDS are over."""
    tasks = [asyncio.create_task(_call(engine, plan, number, heard)) for number in range(plan.streams)]
    timeout = max(0.0, plan.end + DRAIN_SECONDS - time.monotonic())
    try:
        done, _ = await asyncio.wait(tasks, timeout=timeout, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        for task in tasks:
            task.cancel()
    for task in done:
        task.result()  # raises what is neither a refusal nor a failed utterance
    await asyncio.gather(*tasks, return_exceptions=True)


async def _call(engine: Engine, plan: Plan, number: int, heard: Heard) -> None:
    rng = random.Random(f"{plan.seed}/{number}")
    listener = Listener()
    at = plan.start + rng.uniform(0, min(RAMP_SECONDS, plan.warm_up))
    while True:
        await _until(min(at, plan.end))
        if at >= plan.end:
            return
        text = sentence(rng, round(CHARACTERS_A_SECOND * rng.uniform(*UTTERANCE_SECONDS)))
        spoken = await _utterance(engine, plan, number, text, listener, heard)
        pause = rng.uniform(*PAUSE_SECONDS) if plan.pattern == "calls" else -plan.queued
        now = time.monotonic()
        at = max(now, listener.runs_out + pause) if spoken else now + REFUSED_SECONDS


async def _until(when: float) -> None:
    wait = when - time.monotonic()
    if wait > 0:
        await asyncio.sleep(wait + CLOCK_SECONDS)


async def _utterance(engine: Engine, plan: Plan, number: int, text: str, listener: Listener, heard: Heard) -> bool:
    """Hand in a text and listen to its end; False if it was refused."""
    clock = time.monotonic
    utterance = Utterance(clock())
    listener.begin(utterance.handed)
    try:
        request = SpeechRequest(text, sample_rate=plan.sample_rate, buffered_seconds=lambda: listener.buffered(clock()))
        stream = engine.synthesize(request)
    except (EngineBusyError, EngineNotReadyError):
        listener.end()
        heard.refused.append(utterance.handed)
        return False
    heard.utterances.append(utterance)
    try:
        async for chunk in stream:
            now = clock()
            if utterance.first is None:
                utterance.first = now
            heard.chunks.append((now, chunk.seconds))
            if gap := listener.hear(now, chunk.seconds):
                heard.gaps.append((now, gap, number))
    except SynthesisError as error:
        heard.failures.append((clock(), str(error)))
    except asyncio.CancelledError:  # the run is over, the utterance is not
        now = clock()
        if gap := listener.starved(now):
            heard.gaps.append((now, gap, number))
        raise
    finally:
        stream.cancel()
        listener.end()
    return True


def figures(heard: Heard, begin: float, end: float) -> dict[str, Any]:
    """Of the time from `begin` to `end`: utterances handed in then, chunks received then, gaps that ended or were
    still open after `begin` and had begun before `end`.

    An utterance that never began counts as one that was waited for until the drain was over.
    """
    counted = [each for each in heard.utterances if begin <= each.handed < end]
    waits = [(end + DRAIN_SECONDS if each.first is None else each.first) - each.handed for each in counted]
    gaps = [(seconds, number) for time, seconds, number in heard.gaps if time >= begin and time - seconds < end]
    audio = sum(seconds for time, seconds in heard.chunks if begin <= time < end)
    return {
        "utterances": len(counted),
        "never_began": sum(each.first is None for each in counted),
        "first_audio_ms": quantiles(waits, scale=1000.0),
        "underruns": {
            "count": len(gaps),
            "streams": len({number for _, number in gaps}),
            "total_ms": 1000 * sum(seconds for seconds, _ in gaps),
            "longest_ms": 1000 * max((seconds for seconds, _ in gaps), default=0.0),
        },
        "audio_s_per_s": audio / (end - begin),
        "refused": sum(begin <= time < end for time in heard.refused),
        "failed": sum(begin <= time < end + DRAIN_SECONDS for time, _ in heard.failures),
        "failures": sorted({text for _, text in heard.failures})[:3],
    }
