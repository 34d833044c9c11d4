"""Bundles that the tests of this package only read."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tests.tts_engine.onnx_bundle.speaking import pcm_of, samples, settings
from tests.tts_engine.onnx_bundle.synthetic_bundle import write_bundle


@pytest.fixture(scope="session")
def fp32(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("fp32"))


@pytest.fixture(scope="session")
def fp16(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("fp16"), "fp16")


@pytest.fixture(scope="session")
def whole(fp32: Path) -> np.ndarray:
    """TEXT as `fp32` says it, each segment whole, at 24 kHz."""
    # On a thread: a test's event loop may be the one that this thread has.
    with ThreadPoolExecutor(1) as pool:
        return samples(pool.submit(lambda: asyncio.run(pcm_of(settings(fp32)))).result())
