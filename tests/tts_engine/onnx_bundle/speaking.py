"""An engine over a synthetic bundle, and what it says."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from tts_engine.engine import Engine, PcmChunk, SpeechRequest
from tts_engine.onnx_bundle.engine import OnnxBundleEngine
from tts_engine.onnx_bundle.settings import OnnxBundleSettings

TEXT = "Thank you for calling. Please hold the line."


def settings(directory: Path, **changes: object) -> OnnxBundleSettings:
    return replace(OnnxBundleSettings(directory, "fp32", threads=1), **changes)  # type: ignore[arg-type]


@asynccontextmanager
async def running(chosen: OnnxBundleSettings, **limits: int) -> AsyncIterator[OnnxBundleEngine]:
    engine = OnnxBundleEngine(chosen, **limits)
    await engine.start()
    try:
        yield engine
    finally:
        await engine.stop()


async def spoken(engine: Engine, text: str = TEXT, rate: int = 24000, voice: str | None = None) -> list[PcmChunk]:
    return [chunk async for chunk in engine.synthesize(SpeechRequest(text, voice, rate))]


async def pcm_of(chosen: OnnxBundleSettings, text: str = TEXT, rate: int = 24000, voice: str | None = None) -> bytes:
    async with running(chosen) as engine:
        return b"".join(chunk.pcm for chunk in await spoken(engine, text, rate, voice))


def samples(pcm: bytes) -> np.ndarray:
    return np.frombuffer(pcm, "<i2")
