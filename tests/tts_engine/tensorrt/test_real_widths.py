"""Every stage of a checkpoint of Turbo's widths, one block deep: exported, checked, made half precision and built for
an SM86, whose engine is then read back. Random weights; nothing needs a GPU.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from benchmarks.make_checkpoint import released_sizes, write_checkpoint
from tests.tts_engine.tensorrt.s3gen import shallow
from tts_engine.chatterbox.model import Chatterbox, load
from tts_engine.tensorrt import build_all
from tts_engine.tensorrt.build_all import STAGES, make_onnx
from tts_engine.tensorrt.builder import Options, Ports, build_plan, profile_shapes
from tts_engine.tensorrt.export import example_sizes
from tts_engine.tensorrt.flavour import find_flavour
from tts_engine.tensorrt.onnx_check import check, check_sizes
from tts_engine.tensorrt.profiles import PROFILES
from tts_engine.tensorrt.stages import MAKERS

SCRATCH_BYTES = 2 << 30
"Of the largest: all engines of a stream share it."


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Chatterbox:
    directory = tmp_path_factory.mktemp("turbo")
    sizes = released_sizes("turbo", layers=1, mid_blocks=1)
    shallower = replace(sizes, flow=replace(sizes.flow, layers=1, up_layers=1))
    write_checkpoint(directory, sizes=shallower, unread=False)
    whole = load(directory)
    return replace(whole, vocoder=shallow(whole.vocoder))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", STAGES)
def test_a_stage_becomes_an_engine(
    name: str, model: Chatterbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = MAKERS[name](model)
    # At the least sizes and at two others; a build checks many rows and the longest too, which takes minutes here.
    longer = {size: number + 3 for size, number in example_sizes(stage).items()}
    monkeypatch.setattr(build_all, "check", partial(check, cases=[*check_sizes(stage, long=False)[:2], longer]))
    told: list[str] = []
    path = make_onnx(stage, tmp_path, "fp16", "digest", lambda _, what, part: told.append(what))
    assert told[0] == "tracing"
    assert told[-1] == "checking fp16"
    assert {file.name for file in tmp_path.iterdir()} == {f"{name}.onnx", f"{name}.onnx.data"}
    ports = Ports(stage.inputs, stage.outputs, torch.float16)
    options = Options(target=(8, 6), workspace_bytes=SCRATCH_BYTES)
    built = build_plan(find_flavour("tensorrt-rtx"), path, PROFILES[name], ports, options)
    tensors = {tensor.name: tensor for tensor in built.tensors}
    assert list(tensors) == [port.name for port in (*stage.inputs, *stage.outputs)]
    for port in stage.inputs:
        assert tensors[port.name].dtype == str(port.dtype(torch.float16)).removeprefix("torch.")
        if any(isinstance(axis, str) for axis in port.shape):
            assert tensors[port.name].profiles == tuple(profile_shapes(port, profile) for profile in PROFILES[name])
    assert 0 < built.scratch_bytes < SCRATCH_BYTES
    assert 0 < built.weights_bytes < built.plan.nbytes
    if name in {"t3_prefill", "estimator"}:
        assert built.kernels["attention"] == {"t3_prefill": 1, "estimator": 12}[name]
