"""What the base does for any engine, with one whose utterances are counted; the rest is in the engines' own tests."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from tts_engine import pooled_engine
from tts_engine.engine import EngineLimits, SpeechRequest
from tts_engine.errors import EngineBusyError, EngineError, EngineNotReadyError, SynthesisError, UnknownVoiceError
from tts_engine.measures import Histogram
from tts_engine.pooled_engine import PooledEngine, Stop
from tts_engine.pooled_stream import Piece, PooledStream


class Borrowed:
    """Something that an utterance holds while it is spoken."""


class CountingEngine(PooledEngine):
    """Says the words of a text, one a step; `fail` raises."""

    voices = ("plain", "loud")

    def __init__(self, *, max_streams: int = 4) -> None:
        super().__init__("counting", "plain", EngineLimits(100, max_streams), workers=1)
        self.problem: Exception | None = None
        self.failure: Exception = RuntimeError("what the caller said")
        self.loads = self.unloads = 0
        self.began, self.go_on = threading.Event(), threading.Event()
        self.go_on.set()
        self.told = False
        self.stopped: list[Stop] = []
        self.borrowed: weakref.WeakSet[Borrowed] = weakref.WeakSet()

    def _load(self) -> None:
        self.loads += 1
        self.began.set()
        self.go_on.wait(10)
        self.told = self._load_stop()
        if self.problem is not None:
            raise self.problem

    def _unload(self) -> None:
        self.unloads += 1

    def _speak(self, request: SpeechRequest, voice: str, stopped: Stop) -> Iterator[Piece]:
        self.stopped.append(stopped)
        thing = Borrowed()
        self.borrowed.add(thing)
        for word in request.text.split():
            if word == "fail":
                raise self.failure
            yield Piece(f"{voice}:{word};".encode(), final=False)
        del thing


@pytest.fixture
async def engine() -> AsyncIterator[CountingEngine]:
    engine = CountingEngine()
    await engine.start()
    yield engine
    await engine.stop()


async def read(stream: PooledStream) -> bytes:
    return b"".join([chunk.pcm async for chunk in stream])


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            gc.collect()
            await asyncio.sleep(0.001)


async def test_it_speaks(engine: CountingEngine) -> None:
    streams = [engine.synthesize(SpeechRequest("a b c", voice)) for voice in (None, "loud")]
    assert [await read(stream) for stream in streams] == [b"plain:a;plain:b;plain:c;", b"loud:a;loud:b;loud:c;"]
    assert await read(engine.synthesize(SpeechRequest(""))) == b""


async def test_what_a_voice_cannot_do_is_ignored(engine: CountingEngine) -> None:
    assert not engine.features
    request = SpeechRequest("a", rate=2.0, phonemes="ø")
    assert await read(engine.synthesize(request)) == b"plain:a;"
    assert "ø" not in repr(request)


async def test_a_load_that_fails_can_be_repeated() -> None:
    engine = CountingEngine()
    engine.problem = EngineError("no weights")
    for _ in range(2):
        with pytest.raises(EngineError, match="no weights"):
            await engine.start()
        assert not engine.ready
    with pytest.raises(EngineNotReadyError, match="the counting engine is not running"):
        engine.synthesize(SpeechRequest("a"))
    engine.problem = None
    await engine.start()
    assert await read(engine.synthesize(SpeechRequest("a"))) == b"plain:a;"
    await engine.stop()
    await engine.stop()
    assert (engine.loads, engine.unloads) == (3, 3), "what a failed load has taken is given back"


async def test_a_load_that_is_not_waited_for_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its thread keeps no process alive; it is told; what it gives is freed; the next start waits for it."""
    monkeypatch.setattr(pooled_engine, "STOP_SECONDS", 0.05)
    engine = CountingEngine()
    engine.go_on.clear()
    starting = asyncio.ensure_future(engine.start())
    await until(engine.began.is_set)
    [loader] = [thread for thread in threading.enumerate() if thread.name == "counting-load"]
    assert loader.daemon
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert loader.is_alive()
    assert (engine.ready, engine.unloads) == (False, 0)
    again = asyncio.ensure_future(engine.start())
    await asyncio.sleep(0.02)
    assert engine.loads == 1, "two loads at once would take twice the memory"
    engine.go_on.set()
    await again
    assert (engine.loads, engine.unloads, engine.ready) == (2, 1, True)
    assert not engine.told, "the second is wanted"
    await engine.stop()


async def test_a_load_learns_that_it_is_not_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = CountingEngine()
    engine.go_on.clear()
    starting = asyncio.ensure_future(engine.start())
    await until(engine.began.is_set)
    starting.cancel()
    await asyncio.sleep(0)
    engine.go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert engine.told
    await until(lambda: engine.unloads == 1)


def test_a_stop() -> None:
    stop, done = Stop(), []
    stop.then(lambda: done.append("first"))
    assert not stop()
    assert done == []
    stop.set()
    stop.set()
    assert stop()
    stop.then(lambda: done.append("late"))
    assert done == ["first", "late"]


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (RuntimeError("what the caller said"), "the voice failed on this text: RuntimeError"),
        (UnknownVoiceError("bob", ["plain"]), "unknown voice 'bob'; available: plain"),
        (SynthesisError("the numbers overflowed"), "the numbers overflowed"),
    ],
)
async def test_only_what_we_say_ourselves_is_quoted(engine: CountingEngine, failure: Exception, said: str) -> None:
    engine.failure = failure
    stream = engine.synthesize(SpeechRequest("a fail b"))
    assert (await anext(stream)).pcm == b"plain:a;"
    with pytest.raises(SynthesisError) as raised:
        await anext(stream)
    assert str(raised.value) == said
    assert raised.value.__cause__ is failure
    assert await read(stream) == b""
    assert engine.open_streams == 0


async def test_cancelling_frees_what_was_borrowed(engine: CountingEngine) -> None:
    """Also while the reader keeps the stream."""
    stream = engine.synthesize(SpeechRequest("a b c"))
    await anext(stream)
    assert len(engine.borrowed) == 1
    stream.cancel()
    await until(lambda: len(engine.borrowed) == 0)
    assert await read(stream) == b""


async def test_the_end_frees_what_was_borrowed(engine: CountingEngine) -> None:
    whole, failed = (engine.synthesize(SpeechRequest(text)) for text in ("a b", "a fail"))
    assert await read(whole) == b"plain:a;plain:b;"
    with pytest.raises(SynthesisError) as raised:
        await read(failed)
    raised.value.__cause__ = None  # its traceback holds the frames
    del raised
    engine.failure = RuntimeError()
    await until(lambda: len(engine.borrowed) == 0)


async def test_places_are_counted(engine: CountingEngine) -> None:
    streams = [engine.synthesize(SpeechRequest("a b")) for _ in range(4)]
    with pytest.raises(EngineBusyError):
        engine.synthesize(SpeechRequest("a"))
    await read(streams[0])
    streams[1].cancel()
    assert engine.open_streams == 2
    assert await read(engine.synthesize(SpeechRequest("a"))) == b"plain:a;"


async def test_a_step_under_way_learns_that_nobody_listens_any_more(engine: CountingEngine) -> None:
    streams = [engine.synthesize(SpeechRequest("a b c")) for _ in range(2)]
    for stream in streams:
        await anext(stream)
    first, second = engine.stopped
    assert not first()
    streams[0].cancel()
    assert first()
    assert not second()
    await read(streams[1])
    assert second(), "nor is anything wanted after the end"


async def test_it_says_why_a_further_stream_would_not_be_served() -> None:
    engine = CountingEngine(max_streams=2)
    fault = engine.available()
    assert isinstance(fault, EngineNotReadyError)
    assert str(fault) == "the counting engine is not running"
    await engine.start()
    assert engine.available() is None
    streams = [engine.synthesize(SpeechRequest("a b")) for _ in range(2)]
    fault = engine.available()
    assert isinstance(fault, EngineBusyError)
    assert (str(fault), fault.retry_after) == ("the counting engine runs 2 streams already", None)
    with pytest.raises(EngineBusyError, match="runs 2 streams already"):
        engine.synthesize(SpeechRequest("a"))
    streams[0].cancel()
    assert engine.available() is None
    await engine.stop()
    assert isinstance(engine.available(), EngineNotReadyError)


async def test_it_measures_itself(engine: CountingEngine) -> None:
    def read_all() -> dict[str, float]:
        return {measure.name: measure.value for measure in engine.measures if not isinstance(measure, Histogram)}

    assert read_all() == {
        "utterances": 0,
        "streams": 0,
        "streams_limit": 4,
        "steps_waiting": 0,
        "workers": 1,
        "workers_busy": 0,
        "synthesis_seconds": 0,
        "audio_seconds": 0,
    }
    first, second = (engine.synthesize(SpeechRequest("a b c")) for _ in range(2))
    assert (read_all()["utterances"], read_all()["streams"]) == (2, 2)
    spoken = await read(first)
    second.cancel()
    await until(lambda: read_all()["workers_busy"] == read_all()["steps_waiting"] == 0)
    after = read_all()
    assert (after["utterances"], after["streams"]) == (2, 0)
    assert after["audio_seconds"] >= len(spoken) / 16_000
    assert 0 < after["synthesis_seconds"] < 5


async def test_streams_are_counted_from_another_thread(engine: CountingEngine) -> None:
    """As a scrape does, while streams come, end and are forgotten."""
    stop, seen, errors = threading.Event(), [0], []

    def scrape() -> None:
        while not stop.is_set():
            try:
                seen.append(engine.open_streams)
            except RuntimeError as error:  # as of a set that changed while it was gone through
                errors.append(error)

    thread = threading.Thread(target=scrape)
    thread.start()
    for _ in range(100):
        engine.synthesize(SpeechRequest("a"))  # forgotten
        stream = engine.synthesize(SpeechRequest("a b"))
        await anext(stream)
        stream.cancel()
        await until(lambda: engine.open_streams <= 2)
    stop.set()
    thread.join()
    assert errors == []
    assert max(seen) > 0
