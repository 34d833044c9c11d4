"""What a caller says: speech of the embedded voice."""

from __future__ import annotations

import asyncio
import wave
from pathlib import Path

import pytest

from tts_engine.embedded import EmbeddedEngine
from tts_engine.engine import SpeechRequest

RATE = 8000
WORDS = "Wait a moment, please, I would like to talk to somebody."


@pytest.fixture(scope="session")
def caller_speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A WAV file, 16-bit mono at 8 kHz, of a sentence of some 3 s."""
    path = tmp_path_factory.mktemp("caller") / "caller.wav"
    write_wav(path, asyncio.run(_speak(WORDS)))
    return path


def write_wav(path: Path, pcm: bytes, rate: int = RATE) -> None:
    """PCM as a 16-bit mono WAV file."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(pcm)


async def _speak(text: str) -> bytes:
    engine = EmbeddedEngine()
    await engine.start()
    try:
        return b"".join([chunk.pcm async for chunk in engine.synthesize(SpeechRequest(text, sample_rate=RATE))])
    finally:
        await engine.stop()
