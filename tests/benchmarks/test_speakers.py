"""Virtual calls over an engine whose timing is known."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import pytest

from benchmarks.load import levels, speakers
from benchmarks.load.speakers import DRAIN_SECONDS, Heard, Plan, Utterance, figures, speak_all
from tts_engine.engine import Engine, PcmChunk, SpeechRequest
from tts_engine.errors import EngineBusyError, SynthesisError
from tts_engine.measures import Counter

RATE = 8000
TEXT_RATE = 150
"Characters a second: utterances are short here, their texts are not."
Script = Callable[[SpeechRequest], AsyncIterator[PcmChunk]]


def chunk(seconds: float) -> PcmChunk:
    return PcmChunk(bytes(2 * round(seconds * RATE)), RATE)


class Stream:
    def __init__(self, chunks: AsyncIterator[PcmChunk]) -> None:
        self._chunks = chunks
        self.cancelled = False

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> PcmChunk:
        return await anext(self._chunks)

    def cancel(self) -> None:
        self.cancelled = True


class ScriptedEngine:
    """What a benchmark calls of an engine."""

    name = "scripted"

    def __init__(self, script: Script, refuse: Callable[[int], bool] = lambda _: False) -> None:
        self.requests: list[tuple[float, SpeechRequest]] = []
        self.streams: list[Stream] = []
        self.measures = (Counter("requests", "Requests"),)
        self._script = script
        self._refuse = refuse

    def synthesize(self, request: SpeechRequest) -> Stream:
        self.requests.append((time.monotonic(), request))
        if self._refuse(len(self.requests)):
            raise EngineBusyError("full")
        self.measures[0].add()
        self.streams.append(Stream(self._script(request)))
        return self.streams[-1]


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speakers, "CHARACTERS_A_SECOND", TEXT_RATE)
    monkeypatch.setattr(speakers, "UTTERANCE_SECONDS", (0.4, 0.6))
    monkeypatch.setattr(speakers, "PAUSE_SECONDS", (0.2, 0.3))
    monkeypatch.setattr(speakers, "RAMP_SECONDS", 0.1)
    monkeypatch.setattr(speakers, "REFUSED_SECONDS", 0.1)
    monkeypatch.setattr(speakers, "DRAIN_SECONDS", 0.4)


def soon_after(seconds: float, value: float) -> bool:
    """Timers are never early; on a busy machine they may be late."""
    return seconds - 0.005 <= value <= seconds + 0.3


def plan(**changes: object) -> Plan:
    values: dict[str, object] = {"streams": 3, "pattern": "always", "seconds": 0.6, "warm_up": 0.1}
    return levels.plan_now(**(values | changes))


async def speak(engine: ScriptedEngine, chosen: Plan) -> Heard:
    heard = Heard()
    await asyncio.wait_for(speak_all(engine, chosen, heard), 10)  # type: ignore[arg-type]
    return heard


async def at_once(request: SpeechRequest) -> AsyncIterator[PcmChunk]:
    await asyncio.sleep(0.03)
    yield chunk(len(request.text) / TEXT_RATE)


async def test_next_text_comes_when_the_last_has_been_heard() -> None:
    engine = ScriptedEngine(at_once)
    heard = await speak(engine, plan(streams=1, seconds=1.0))

    (first, request), (second, _) = engine.requests[:2]
    assert soon_after(0.03 + len(request.text) / TEXT_RATE, second - first)
    assert not heard.gaps
    assert heard.utterances[0].first is not None
    assert soon_after(0.03, heard.utterances[0].first - heard.utterances[0].handed)
    assert all(stream.cancelled for stream in engine.streams)


async def test_every_text_is_another_and_nothing_is_buffered_when_it_comes() -> None:
    buffered: list[float] = []

    async def script(request: SpeechRequest) -> AsyncIterator[PcmChunk]:
        buffered.append(request.buffered_seconds())
        async for each in at_once(request):
            yield each
        buffered.append(-request.buffered_seconds())

    engine = ScriptedEngine(script)
    await speak(engine, plan(streams=4))

    texts = [request.text for _, request in engine.requests]
    assert len(texts) >= 4
    assert len(set(texts)) == len(texts)
    assert {seconds for seconds in buffered if seconds >= 0} == {0}
    assert all(0.1 < -seconds <= 0.61 for seconds in buffered if seconds < 0), "held after the chunk was heard"


async def test_calls_pause() -> None:
    engine = ScriptedEngine(at_once)
    await speak(engine, plan(streams=1, pattern="calls", seconds=1.0))

    (first, request), (second, _) = engine.requests[:2]
    assert soon_after(0.2 + 0.03 + len(request.text) / TEXT_RATE, second - first)


async def test_queued_text_comes_before_the_last_has_been_heard() -> None:
    held: list[float] = []

    async def script(request: SpeechRequest) -> AsyncIterator[PcmChunk]:
        held.append(request.buffered_seconds())
        async for each in at_once(request):
            yield each

    await speak(ScriptedEngine(script), plan(streams=1, queued=0.3, seconds=1.0))

    assert held[0] == 0
    assert 0.05 < held[1] <= 0.3


async def test_late_chunks_are_underruns_of_their_length() -> None:
    async def script(request: SpeechRequest) -> AsyncIterator[PcmChunk]:
        yield chunk(0.1)
        await asyncio.sleep(0.25)
        yield chunk(0.5)

    heard = await speak(ScriptedEngine(script), plan(streams=2))

    assert len(heard.gaps) == len(heard.utterances) >= 2
    assert all(soon_after(0.15, seconds) for _, seconds, _ in heard.gaps)
    assert {number for *_, number in heard.gaps} == {0, 1}


async def test_stalled_stream_counts_as_underrun_and_is_cancelled() -> None:
    async def script(request: SpeechRequest) -> AsyncIterator[PcmChunk]:
        yield chunk(0.1)
        await asyncio.sleep(60)

    engine = ScriptedEngine(script)
    chosen = plan(streams=2)
    heard = await speak(engine, chosen)

    found = figures(heard, chosen.begin, chosen.end)
    assert found["underruns"]["count"] == found["underruns"]["streams"] == 2
    assert found["underruns"]["longest_ms"] > 700
    assert all(stream.cancelled for stream in engine.streams)


async def test_refused_calls_try_again_and_are_counted() -> None:
    engine = ScriptedEngine(at_once, refuse=lambda number: number % 2 == 1)
    heard = await speak(engine, plan(streams=1, seconds=1.2))

    assert len(heard.refused) >= 2
    assert soon_after(0.1, engine.requests[1][0] - engine.requests[0][0])


async def test_failed_utterance_is_no_underrun() -> None:
    async def script(request: SpeechRequest) -> AsyncIterator[PcmChunk]:
        yield chunk(0.1)
        await asyncio.sleep(0.2)
        raise SynthesisError("out of numbers")

    chosen = plan(streams=1)
    heard = await speak(ScriptedEngine(script), chosen)

    found = figures(heard, chosen.begin, chosen.end)
    assert found["failed"] > 0
    assert found["failures"] == ["out of numbers"]
    assert found["underruns"]["count"] == 0


async def test_what_no_engine_may_raise_ends_the_run() -> None:
    async def script(request: SpeechRequest) -> AsyncIterator[PcmChunk]:
        yield chunk(1 / (len(request.text) - len(request.text)))

    with pytest.raises(ZeroDivisionError):
        await speak(ScriptedEngine(script), plan())


async def test_level_has_every_figure_and_holds() -> None:
    engine: Engine = ScriptedEngine(at_once)  # type: ignore[assignment]
    level = await levels.run_level(engine, plan(streams=5))

    assert level["streams"] == 5
    assert 2 < level["audio_s_per_s"] < 8
    assert 30 <= level["first_audio_ms"]["p50"] < 300
    assert level["measures"]["requests"]["count"] >= 3
    assert level["loop_late_ms"]["count"] > 5
    assert level["gpu_memory_mb"] == {}
    assert len(levels.row(level)) == len(levels.HEADER)


def test_only_the_measured_time_counts() -> None:
    heard = Heard(
        utterances=[Utterance(9.9, 10.5), Utterance(10.0, 10.1), Utterance(19.0, 20.3), Utterance(20.0, 20.1)],
        chunks=[(9.0, 1.0), (10.0, 2.0), (19.9, 3.0), (20.0, 4.0)],
        gaps=[(9.5, 0.1, 1), (10.5, 1.0, 2), (20.5, 1.0, 3), (21.5, 1.0, 4)],
        refused=[9.0, 11.0, 21.0],
    )

    found = figures(heard, 10.0, 20.0)

    assert found["utterances"] == 2
    assert found["first_audio_ms"]["max"] == pytest.approx(1300)
    assert found["audio_s_per_s"] == 0.5
    assert found["underruns"]["count"] == 2
    assert found["underruns"]["total_ms"] == 2000
    assert found["refused"] == 1
    assert found["never_began"] == 0


def test_utterance_that_never_began_waited_to_the_end() -> None:
    found = figures(Heard(utterances=[Utterance(11.0)]), 10.0, 20.0)

    assert found["never_began"] == 1
    assert found["first_audio_ms"]["p50"] == pytest.approx(1000 * (9 + speakers.DRAIN_SECONDS))
    assert DRAIN_SECONDS == 5, "the module's own, imported before it was shortened"
