"""POST /v1/audio/speech as OpenAI's own client uses it, on a real port."""

from __future__ import annotations

import asyncio
import audioop
import base64
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import av
import httpx
import openai
import pytest

from mediaserver.api.audio_speech import MAX_INPUT_CHARS
from mediaserver.api.encoders import FORMATS, MEDIA_TYPES
from tests.mediaserver.api.speech_server import SpeechServer, serving
from tests.mediaserver.fake_engine import FakeEngine, pcm_of
from tts_engine.engine import EngineLimits

SECONDS_A_WORD = 0.2


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
async def server(tmp_path: Path, engine: FakeEngine) -> AsyncIterator[SpeechServer]:
    async with serving(tmp_path, engine, FakeEngine("second", ("deep",)), max_speech_streams=2) as running:
        yield running


async def speak(server: SpeechServer, text: str = "hello there", **more: Any) -> bytes:
    arguments = {"model": "tts-1", "voice": "heart", "response_format": "pcm", **more}
    async with server.openai as client:
        answer = await client.audio.speech.create(input=text, **arguments)
        return await answer.aread()


async def until(condition: Any) -> None:
    """Waits for what another task does next."""
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it did not come about")


async def test_the_openai_client_gets_the_pcm_of_every_word(server: SpeechServer, engine: FakeEngine) -> None:
    assert await speak(server) == pcm_of("hello", 24_000) + pcm_of("there", 24_000)
    request = engine.streams[0].request
    assert (request.voice, request.sample_rate, request.rate) == ("heart", 24_000, 1.0)
    assert request.buffered_seconds() > 0  # calls, which have nothing yet, are served first
    assert server.slots == 0
    assert server.state.counts["speech_requests"] == 1


@pytest.mark.parametrize("audio_format", FORMATS)
async def test_every_format_says_what_it_is_and_can_be_decoded(server: SpeechServer, audio_format: str) -> None:
    async with server.http as client:
        answer = await client.post("/v1/audio/speech", json={"input": "one two three", "response_format": audio_format})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == MEDIA_TYPES[audio_format]  # type: ignore[index]
    assert answer.headers["cache-control"] == "no-store"
    assert _seconds(answer.content, audio_format) == pytest.approx(3 * SECONDS_A_WORD, abs=0.15)


def _seconds(data: bytes, audio_format: str) -> float:
    if audio_format == "pcm":
        return len(data) / 48_000
    if audio_format == "ulaw":
        return len(data) / 8000
    with av.open(io.BytesIO(data)) as file:
        return sum(frame.samples / frame.sample_rate for frame in file.decode(audio=0))


async def test_mp3_is_the_default_as_it_is_with_openai(server: SpeechServer) -> None:
    data = await speak(server, response_format=openai.omit)
    assert _seconds(data, "mp3") == pytest.approx(2 * SECONDS_A_WORD, abs=0.15)


async def test_ulaw_is_synthesised_at_8_khz(server: SpeechServer, engine: FakeEngine) -> None:
    async with server.http as client:
        answer = await client.post("/v1/audio/speech", json={"input": "hello", "response_format": "ulaw"})
    assert answer.content == audioop.lin2ulaw(pcm_of("hello", 8000), 2)
    assert engine.streams[0].request.sample_rate == 8000


async def test_audio_is_sent_as_it_is_made(server: SpeechServer, engine: FakeEngine) -> None:
    engine.gate = asyncio.Semaphore(1)
    async with server.openai as client:
        create = client.audio.speech.with_streaming_response.create
        async with create(model="tts-1", voice="heart", input="one two", response_format="pcm") as answer:
            chunks = answer.iter_bytes()
            first = await anext(chunks)
            # The second word cannot have been made.
            assert first == pcm_of("one", 24_000)[: len(first)]
            engine.gate.release()
            engine.gate.release()  # for the end
            rest = b"".join([chunk async for chunk in chunks])
    assert first + rest == pcm_of("one", 24_000) + pcm_of("two", 24_000)


async def test_server_sent_events(server: SpeechServer) -> None:
    body = {"input": "hello there", "response_format": "pcm", "stream_format": "sse"}
    async with server.http as client:
        answer = await client.post("/v1/audio/speech", json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = _events(answer.text)
    assert [event["type"] for event in events] == ["speech.audio.delta", "speech.audio.delta", "speech.audio.done"]
    audio = b"".join(base64.b64decode(event["audio"]) for event in events[:-1])
    assert audio == pcm_of("hello", 24_000) + pcm_of("there", 24_000)
    assert events[-1]["usage"] == {"input_tokens": 11, "output_tokens": 10, "total_tokens": 21}


def _events(text: str) -> list[dict[str, Any]]:
    return [json.loads(block.removeprefix("data: ")) for block in text.split("\n\n") if block]


async def test_the_openai_client_streams_events(server: SpeechServer) -> None:
    async with server.openai as client:
        create = client.audio.speech.with_streaming_response.create
        async with create(
            model="gpt-4o-mini-tts", voice="alloy", input="hello", response_format="wav", stream_format="sse"
        ) as answer:
            lines = [line async for line in answer.iter_lines() if line]
    kinds = [json.loads(line.removeprefix("data: "))["type"] for line in lines]
    assert kinds[-1] == "speech.audio.done"
    assert set(kinds[:-1]) == {"speech.audio.delta"}


# Models and voices


async def test_models_are_the_engines_and_openais_names(server: SpeechServer, engine: FakeEngine) -> None:
    async with server.openai as client:
        names = [model.id async for model in client.models.list()]
        assert names[:2] == ["fake", "second"]
        assert "gpt-4o-mini-tts" in names
        assert (await client.models.retrieve("second")).id == "second"
        with pytest.raises(openai.NotFoundError, match="does not exist"):
            await client.models.retrieve("davinci")
    await speak(server, model="gpt-4o-mini-tts-2025-12-15")
    assert len(engine.streams) == 1


async def test_a_model_that_is_an_engine_is_spoken_by_it(server: SpeechServer, engine: FakeEngine) -> None:
    await speak(server, model="second", voice="deep")
    assert engine.streams == []


@pytest.mark.parametrize("voice", ["alloy", "shimmer", "default", openai.omit, {"id": "marin"}])
async def test_openais_voices_mean_the_default_one(server: SpeechServer, engine: FakeEngine, voice: Any) -> None:
    body = {"model": "tts-1", "input": "hello", "voice": voice}
    if voice is openai.omit:
        del body["voice"]
    async with server.http as client:
        assert (await client.post("/v1/audio/speech", json=body)).status_code == 200
    assert engine.streams[0].request.voice is None


async def test_a_voice_of_the_engine_by_its_id(server: SpeechServer, engine: FakeEngine) -> None:
    await speak(server, voice={"id": "other"})
    assert engine.streams[0].request.voice == "other"


async def test_an_engine_that_has_a_voice_of_such_a_name_uses_it(tmp_path: Path) -> None:
    engine = FakeEngine(voices=("heart", "nova"))
    async with serving(tmp_path, engine) as server:
        await speak(server, voice="nova")
    assert engine.streams[0].request.voice == "nova"


# What cannot be done is told


@pytest.mark.parametrize(
    ("features", "body", "rate", "told"),
    [
        ((), {"speed": 1.0}, 1.0, None),
        ((), {"speed": 1.5}, 1.0, "speed"),
        (("rate",), {"speed": 1.5}, 1.5, None),
        (("rate",), {"speed": 4.0}, 2.0, "speed"),
        (("rate",), {"speed": 0.25, "instructions": "Whisper."}, 0.5, "instructions, speed"),
    ],
)
async def test_speed(
    server: SpeechServer, engine: FakeEngine, features: Any, body: Any, rate: float, told: str | None
) -> None:
    engine.features = frozenset(features)
    async with server.http as client:
        answer = await client.post("/v1/audio/speech", json={"input": "hello", **body})
    assert answer.status_code == 200
    assert engine.streams[0].request.rate == rate
    assert answer.headers.get("x-chatterline-unsupported") == told


# Long texts


async def test_a_text_over_the_engines_limit_is_said_in_pieces(server: SpeechServer, engine: FakeEngine) -> None:
    engine.limits = EngineLimits(max_text_chars=40, max_streams=100)
    text = "The first sentence is here. The second is here too. A third one ends it."
    data = await speak(server, text)
    assert data == b"".join(pcm_of(word, 24_000) for word in text.split())
    assert len(engine.streams) == 3
    assert all(len(stream.request.text) <= 40 for stream in engine.streams)


async def test_an_engine_that_is_busy_between_two_pieces_is_waited_for(
    server: SpeechServer, engine: FakeEngine
) -> None:
    engine.limits = EngineLimits(max_text_chars=40, max_streams=100)
    engine.gate = asyncio.Semaphore(2)
    text = "The first sentence is rather long. The second one is so as well."
    speaking = asyncio.create_task(speak(server, text))
    await until(lambda: engine.streams and engine.streams[0].taken == 2)
    engine.busy = True
    for _ in range(20):
        engine.gate.release()
    await until(lambda: engine.asked > 1)  # and was refused
    assert len(engine.streams) == 1
    engine.busy = False
    assert len(await speaking) == 13 * len(pcm_of("The", 24_000))


async def test_an_engine_of_very_short_texts(server: SpeechServer, engine: FakeEngine) -> None:
    engine.limits = EngineLimits(max_text_chars=10, max_streams=100)
    assert await speak(server, "short")
    with pytest.raises(openai.BadRequestError) as raised:
        await speak(server, "longer than that")
    assert raised.value.code == "string_above_max_length"


async def test_a_text_that_is_too_long(server: SpeechServer) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        await speak(server, "a " * (MAX_INPUT_CHARS // 2) + "b")
    assert raised.value.code == "string_above_max_length"
    assert raised.value.param == "input"


# Errors are of the classes that the client has for them


@pytest.mark.parametrize(
    ("arguments", "expected", "param"),
    [
        ({"voice": "nobody"}, openai.BadRequestError, "voice"),
        ({"model": "davinci"}, openai.NotFoundError, "model"),
        ({"speed": 9.0}, openai.BadRequestError, "speed"),
        ({"response_format": "midi"}, openai.BadRequestError, "response_format"),
        ({"text": ""}, openai.BadRequestError, "input"),
        ({"text": " .,! "}, openai.BadRequestError, "input"),
        ({"stream_format": "carrier-pigeon"}, openai.BadRequestError, "stream_format"),
    ],
)
async def test_bad_requests(server: SpeechServer, arguments: Any, expected: Any, param: str) -> None:
    with pytest.raises(expected) as raised:
        await speak(server, **arguments)
    assert raised.value.param == param
    assert raised.value.type == "invalid_request_error"
    assert raised.value.body["message"]


@pytest.mark.parametrize("body", [b"{", b"[]", b'"text"', b"", b'{"input": 5}', b'{"input": "\xff"}'])
async def test_bodies_that_are_none(server: SpeechServer, body: bytes) -> None:
    async with server.http as client:
        answer = await client.post("/v1/audio/speech", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


async def test_what_was_sent_is_not_repeated(server: SpeechServer) -> None:
    async with server.http as client:
        answer = await client.post("/v1/audio/speech", json={"input": ["my secret"], "speed": "my secret"})
    assert answer.status_code == 400
    assert "secret" not in answer.text


async def test_half_a_surrogate_pair_is_not_said(server: SpeechServer) -> None:
    async with server.http as client:
        body = b'{"input": "hello \\ud800", "voice": "\\ud800", "response_format": "pcm"}'
        answer = await client.post("/v1/audio/speech", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400


async def test_who_may_not(server: SpeechServer) -> None:
    server.token, wrong = "ctl_" + "x" * 43, server.weak_token
    with pytest.raises(openai.AuthenticationError) as raised:
        await speak(server)
    assert raised.value.code == "invalid_api_key"
    server.token = wrong
    with pytest.raises(openai.PermissionDeniedError):
        await speak(server)


async def test_calls_come_first(server: SpeechServer, engine: FakeEngine) -> None:
    engine.busy, engine.retry_after = True, 7.2
    with pytest.raises(openai.InternalServerError) as raised:
        await speak(server)
    assert (raised.value.status_code, raised.value.response.headers["retry-after"]) == (503, "7")
    engine.busy, engine.ready = False, False
    with pytest.raises(openai.InternalServerError, match="starting again"):
        await speak(server)
    assert engine.asked == 0
    assert server.state.counts["speech_refused"] == 2


async def test_no_more_streams_than_allowed(server: SpeechServer, engine: FakeEngine) -> None:
    engine.gate = asyncio.Semaphore(0)
    speaking = [asyncio.create_task(speak(server)) for _ in range(2)]
    await until(lambda: engine.asked == 2)
    with pytest.raises(openai.RateLimitError) as raised:
        await speak(server)
    assert raised.value.response.headers["retry-after"] == "1"
    for _ in range(6):
        engine.gate.release()
    assert {len(data) for data in await asyncio.gather(*speaking)} == {2 * len(pcm_of("a", 24_000))}
    engine.gate = None
    assert await speak(server)


async def test_speech_without_a_call_can_be_off(tmp_path: Path, engine: FakeEngine) -> None:
    async with serving(tmp_path, engine, max_speech_streams=0) as server:
        with pytest.raises(openai.PermissionDeniedError, match="max_speech_streams"):
            await speak(server)


# Failure


async def test_a_failure_before_the_first_sound_is_an_error(server: SpeechServer) -> None:
    with pytest.raises(openai.InternalServerError, match="asked to fail"):
        await speak(server, "FAIL")
    assert server.slots == 0


async def test_a_failure_half_way_is_no_whole_file(server: SpeechServer) -> None:
    with pytest.raises((httpx.RemoteProtocolError, openai.APIConnectionError)):
        await speak(server, "one two FAIL")
    assert server.slots == 0
    assert await speak(server)


async def test_a_failure_half_way_is_an_event(server: SpeechServer) -> None:
    body = {"input": "one FAIL", "response_format": "pcm", "stream_format": "sse"}
    async with server.http as client:
        events = _events((await client.post("/v1/audio/speech", json=body)).text)
    assert [event["type"] for event in events] == ["speech.audio.delta", "error"]
    assert "asked to fail" in events[-1]["error"]["message"]


async def test_a_client_that_goes_cancels_the_stream(server: SpeechServer, engine: FakeEngine) -> None:
    engine.gate = asyncio.Semaphore(1)
    async with server.openai as client:
        create = client.audio.speech.with_streaming_response.create
        async with create(model="tts-1", voice="heart", input="one two", response_format="pcm") as answer:
            await anext(answer.iter_bytes())
            assert server.slots == 1
    await until(lambda: engine.streams[0].cancelled and server.slots == 0)
