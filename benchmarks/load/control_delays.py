"""How soon calls speak that are asked to, and fall silent when they are interrupted: a run of benchmarks/control.py."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.load import caller_sound, run, server, texts
from benchmarks.load.control_agents import Agents
from benchmarks.load.control_callers import Spoken, Timetable, write_phrases
from benchmarks.load.control_hearing import Asked, Hearing, first_audio, interruptions
from benchmarks.load.control_runs import GREETING, Run, Size, calling, complaints, serving
from benchmarks.telephone_line import PHRASES, frame_levels, make_clips
from mediaserver.rtp.voice_activity import FRAME_SAMPLES, level_of

CALLER_DBOV = -26.0
VOWELS_FRAMES = 50
"Of the load generator's callers, whose sound begins with voice."
ONSET_DB = 15.0
"A phrase's first voiced frame is the first within that of its level (as in benchmarks/barge_in.py)."
LONG_TEXT_CHARACTERS = 120
"Of what callers interrupt: 8 s."


async def delays(size: Size, seed: int, directory: Path) -> dict[str, Any]:
    """`say`, token streams and interruptions, with an agent on each call, which the server dials."""
    agents = Agents()
    spoken = interruptions_of(size, seed)
    phrases = await asyncio.to_thread(caller_phrases, size.phrases, seed)
    write_phrases(directory / "phrases.npz", *phrases)
    async with (
        agents.listening() as url,
        serving(directory, size.calls, {"CHATTERLINE_AGENT__URL": url}) as under_test,
    ):
        before = server.read_page(under_test.target.metrics_port)
        async with calling(
            under_test,
            directory,
            Timetable(spoken=spoken),
            calls=size.calls,
            rate=size.rate,
            seconds=size.delays_seconds,
            seed=seed,
        ) as current:
            said = await _ask(current, agents, size, seed)
            await _be_interrupted(current, agents, spoken, size.lead)
            await current.until(size.delays_seconds - 0.2)
            after = server.read_page(under_test.target.metrics_port)
            agents.expect_end()
    return _delays(current, agents, said) | {
        "agents": complaints(agents),
        "server": server.counted(before, after),
        "callers": run.collect(directory)["generator"],
    }


async def _ask(current: Run, agents: Agents, size: Size, seed: int) -> dict[str, list[Asked]]:
    """One call after the other: by `say`, new texts and one that is cached, then by tokens."""
    lines = texts.speeches(size.says + size.streams, size.characters, seed)
    turn = iter(range(size.says + size.cached + size.streams))
    said: dict[str, list[Asked]] = {"say": [], "say_cached": [], "tokens": []}
    streams: list[tuple[int, asyncio.Task[int]]] = []

    async def say(kind: str, text: str) -> None:
        number = next(turn)
        await current.until(size.greeting + number * size.gap)
        call = number % size.calls
        # In a thread, so that agents' sockets are served meanwhile, as they would be elsewhere.
        stamp, answered_ms, status = await asyncio.to_thread(current.client.say, current.ids[call], text)
        said[kind].append(Asked(call, stamp, answered_ms, status))

    for line in lines[: size.says]:
        await say("say", line)
    for _ in range(size.cached):
        await say("say_cached", GREETING)
    for line in lines[size.says :]:
        number = next(turn)
        await current.until(size.greeting + number * size.gap)
        call = number % size.calls
        streams.append((call, asyncio.create_task(agents.stream(current.ids[call], line))))
    said["tokens"] = [Asked(call, await task) for call, task in streams]
    return said


def interruptions_of(size: Size, seed: int) -> list[Spoken]:
    """Callers speak in turn, each `size.interruptions` times."""
    rng = random.Random(seed)
    rows = []
    for number in range(size.interruptions):
        for call in range(size.calls):
            at = (
                size.interrupted_from
                + size.lead
                + (number + call / size.calls) * size.period * 0.9
                + rng.random() * 0.02
            )
            rows.append(Spoken(at, call, rng.randrange(max(1, size.phrases))))
    return rows


async def _be_interrupted(current: Run, agents: Agents, spoken: Sequence[Spoken], lead: float) -> None:
    long_texts = texts.speeches(10, LONG_TEXT_CHARACTERS, 1)
    for row in sorted(spoken):
        await current.until(row.at - lead)
        await agents.say(current.ids[row.call], long_texts[row.call % len(long_texts)])


def caller_phrases(count: int, seed: int) -> tuple[list[NDArray[np.uint8]], list[int]]:
    """Phrases as frames of mu-law, and the first voiced frame of each.

    As many of benchmarks/barge_in.py's; for none of them, one of the callers of the load generator.
    """
    if not count:
        return [caller_sound.frames("speech", seed)[:VOWELS_FRAMES]], [0]
    clips = make_clips(prompts=(), phrases=PHRASES[:count])
    rng = np.random.default_rng(seed)
    frames, onsets = [], []
    for clip in clips.phrases:
        phrase = clip * 10 ** (CALLER_DBOV / 20)
        phrase = np.pad(phrase, (0, -len(phrase) % FRAME_SAMPLES))
        onsets.append(int(np.argmax(frame_levels(phrase) > level_of(CALLER_DBOV - ONSET_DB))))
        noise = rng.normal(0.0, caller_sound.ROOM, len(phrase))
        frames.append(caller_sound.encode(phrase + noise).reshape(-1, FRAME_SAMPLES))
    return frames, onsets


def _delays(current: Run, agents: Agents, said: dict[str, list[Asked]]) -> dict[str, Any]:
    hearings = [Hearing(records) for records in current.records()]
    numbers = {name: number for number, name in enumerate(current.ids)}
    messages = [(numbers[call], at) for call, at in agents.interrupts]
    onsets = [(call, at) for call, at in json.loads((current.directory / "onsets.json").read_text())]
    return {
        **{kind: first_audio(hearings, asked) for kind, asked in said.items()},
        "barge_in": interruptions(hearings, onsets, messages),
    }
