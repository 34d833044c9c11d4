"""Speech for readers who go, stall or wait: what it is made of, without a network."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mediaserver.api.encoders import make_encoder
from mediaserver.api.speech_stream import MIN_PIECE_CHARS, Events, Speech, SpeechResponse, encoded, pieces
from tests.mediaserver.fake_engine import FakeEngine, pcm_of
from tts_engine.engine import SpeechRequest
from tts_engine.errors import EngineBusyError, SynthesisError, TextTooLongError

SCOPE = {"type": "http", "asgi": {"spec_version": "2.3"}}


class Bench:
    """An engine, speech from it, and how often it was closed."""

    def __init__(self, *texts: str) -> None:
        self.engine = FakeEngine()
        self.closed = 0
        requests = [SpeechRequest(text, sample_rate=24_000) for text in texts]
        self.speech = Speech(self.engine, requests, self._count)
        self.sent: list[dict[str, Any]] = []

    def _count(self) -> None:
        self.closed += 1

    def response(self, **more: Any) -> SpeechResponse:
        body = encoded(self.speech, make_encoder("pcm"))
        return SpeechResponse(self.speech, body, "audio/pcm", {}, **more)

    @property
    def complete(self) -> bool:
        return not self.sent[-1].get("more_body", True)

    async def send(self, message: Any) -> None:
        self.sent.append(message)


async def stays() -> dict[str, Any]:
    """A client that stays."""
    await asyncio.Event().wait()
    raise AssertionError


async def test_texts_follow_one_another() -> None:
    bench = Bench("one two", "", "three")
    await bench.speech.begin()
    assert [chunk async for chunk in bench.speech.chunks()] == [
        pcm_of(word, 24_000) for word in ("one", "two", "three")
    ]
    assert bench.speech.seconds == pytest.approx(0.6)
    # The second is not begun before the first has been said: an engine's room is for calls.
    assert [stream.request.text for stream in bench.engine.streams] == ["one two", "", "three"]


async def test_one_that_is_busy_at_once_is_refused() -> None:
    engine = FakeEngine()
    engine.busy = True
    with pytest.raises(EngineBusyError):
        Speech(engine, [SpeechRequest("one")], lambda: None)


async def test_closing_cancels_what_runs_and_what_would_follow() -> None:
    bench = Bench("one two", "three")
    await bench.speech.begin()
    bench.speech.close()
    bench.speech.close()
    assert bench.closed == 1
    assert bench.engine.streams[0].cancelled
    assert [chunk async for chunk in bench.speech.chunks()] == [pcm_of("one", 24_000)]
    assert len(bench.engine.streams) == 1


async def test_a_whole_response() -> None:
    bench = Bench("one two")
    await bench.response()(SCOPE, stays, bench.send)
    assert b"".join(message.get("body", b"") for message in bench.sent) == pcm_of("one", 24_000) + pcm_of("two", 24_000)
    assert bench.complete
    assert bench.closed == 1


async def test_a_greeting_that_is_kept_is_sent_in_pieces() -> None:
    """The prompt cache gives it as one chunk."""
    bench = Bench("one")
    bench.speech = Speech(bench.engine, [SpeechRequest(" ".join(["one"] * 3), sample_rate=24_000)], lambda: None)
    whole = b"".join([chunk async for chunk in bench.speech.chunks()]) * 4

    class Kept:
        async def chunks(self) -> Any:
            yield whole

    sent = [data async for data in encoded(Kept(), make_encoder("pcm"))]  # type: ignore[arg-type]
    assert b"".join(sent) == whole
    assert max(map(len, sent)) <= 24_000


async def test_a_reader_that_takes_nothing_is_left() -> None:
    bench = Bench("one two three")

    async def send(message: Any) -> None:
        bench.sent.append(message)
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()  # the socket's buffer is full

    await bench.response(slow_reader_s=0.05)(SCOPE, stays, send)
    assert bench.closed == 1
    assert bench.engine.streams[0].cancelled
    assert not bench.complete  # so the server closes the connection


async def test_a_reader_that_takes_a_little_at_a_time_is_served() -> None:
    bench = Bench(" ".join(["word"] * 10))

    async def send(message: Any) -> None:
        bench.sent.append(message)
        await asyncio.sleep(0.06)

    await bench.response(slow_reader_s=0.5)(SCOPE, stays, send)
    assert bench.complete


async def test_a_client_that_goes_while_the_engine_is_working() -> None:
    bench = Bench("one two")
    bench.engine.gate = asyncio.Semaphore(1)
    gone = asyncio.Event()

    async def receive() -> dict[str, Any]:
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        await bench.send(message)
        if message["type"] == "http.response.body":
            gone.set()  # with the first word; the second never comes

    await asyncio.wait_for(bench.response()(SCOPE, receive, send), 5)
    assert bench.closed == 1
    assert bench.engine.streams[0].cancelled


async def test_a_failure_half_way_leaves_the_body_open() -> None:
    bench = Bench("one FAIL")
    await bench.response()(SCOPE, stays, bench.send)
    assert not bench.complete
    assert bench.closed == 1


async def test_an_engine_that_fails_at_once() -> None:
    bench = Bench("FAIL")
    with pytest.raises(SynthesisError):
        await bench.speech.begin()


async def test_events_of_an_engine_that_stays_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mediaserver.api.speech_stream.BUSY_WAIT_S", 0.0)
    bench = Bench("one", "two")
    bench.engine.busy = True
    events = [event async for event in Events(bench.speech, make_encoder("pcm"), 6).stream()]
    assert len(events) == 2
    assert b'"type": "error"' in events[-1]
    assert b"stayed busy" in events[-1]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from(["word", "a", "sentence.", "Dr.", "3.5,", "longer", "x" * 60, "\n"]), max_size=60))
def test_pieces_are_the_text_and_fit(words: list[str]) -> None:
    text = " ".join(words)
    cut = pieces(text, MIN_PIECE_CHARS)
    assert "".join("".join(cut).split()) == "".join(text.split())
    assert all(len(piece) <= MIN_PIECE_CHARS for piece in cut)


def test_pieces_that_would_be_crumbs() -> None:
    assert pieces("a" * 10, 10) == ["a" * 10]
    with pytest.raises(TextTooLongError):
        pieces("a" * 11, 10)
