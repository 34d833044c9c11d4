"""POST /v1/audio/speech with the embedded voice, by OpenAI's client: what is heard is what was asked for."""

from __future__ import annotations

import audioop
import io
from collections.abc import AsyncIterator
from pathlib import Path

import av
import numpy as np
import pytest

from tests.mediaserver.api.speech_server import SpeechServer, serving
from tests.recogniser import Recogniser, word_error_rate
from tts_engine.embedded import EmbeddedEngine

TEXT = "Your appointment is on Monday at half past three. Please bring your insurance card."


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[SpeechServer]:
    engine = EmbeddedEngine(workers=1)
    await engine.start()
    try:
        async with serving(tmp_path, engine) as running:
            yield running
    finally:
        await engine.stop()


async def test_it_is_understood_and_its_speed_is_what_was_asked(server: SpeechServer, recogniser: Recogniser) -> None:
    async with server.openai as client:
        mp3 = await client.audio.speech.create(model="tts-1", voice="alloy", input=TEXT)
        fast = await client.audio.speech.create(
            model="tts-1", voice="heart", input=TEXT, response_format="pcm", speed=2
        )
        ulaw = await client.audio.speech.create(
            model="embedded", voice="heart", input=TEXT, extra_body={"response_format": "ulaw"}
        )
    speech = _pcm(mp3.content)
    assert word_error_rate(TEXT, recogniser.transcribe(speech, 24_000)) <= 0.1
    assert word_error_rate(TEXT, recogniser.transcribe(audioop.ulaw2lin(ulaw.content, 2), 8000)) <= 0.1
    seconds = len(speech) / 48_000
    assert len(ulaw.content) / 8000 == pytest.approx(seconds, rel=0.1)
    assert len(fast.content) / 48_000 == pytest.approx(seconds / 2, rel=0.25)
    assert "x-chatterline-unsupported" not in fast.response.headers


def _pcm(mp3: bytes) -> bytes:
    """24 kHz, 16-bit, mono."""
    resampler = av.AudioResampler(format="s16", layout="mono", rate=24_000)
    with av.open(io.BytesIO(mp3)) as file:
        frames = [part for frame in file.decode(audio=0) for part in resampler.resample(frame)]
    samples: bytes = np.concatenate([frame.to_ndarray()[0] for frame in frames]).tobytes()
    return samples
