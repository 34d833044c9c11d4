"""Bundles that the tests of this package only read."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tts_engine.onnx_bundle.synthetic_bundle import write_bundle


@pytest.fixture(scope="session")
def fp32(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("fp32"))


@pytest.fixture(scope="session")
def fp16(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("fp16"), "fp16")
