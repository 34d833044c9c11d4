"""The tiny stage's export, made once: tracing takes seconds."""

from __future__ import annotations

from pathlib import Path

import pytest

from tts_engine.tensorrt.ports import Stage


@pytest.fixture(scope="session")
def tiny() -> Stage:
    # Imported here: not every test of this folder has PyTorch's exporter.
    from tests.tts_engine.tensorrt.tiny_stage import tiny_stage

    return tiny_stage()


@pytest.fixture(scope="session")
def exported(tiny: Stage, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In float32. Not to be written to."""
    from tts_engine.tensorrt.export import export

    path = tmp_path_factory.mktemp("tiny") / "tiny.onnx"
    export(tiny, path, digest="abc")
    return path
