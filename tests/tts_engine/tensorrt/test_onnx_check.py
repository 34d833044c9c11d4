from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from tests.tts_engine.tensorrt.tiny_stage import OUTPUTS
from tts_engine.tensorrt.export import data_path
from tts_engine.tensorrt.faults import BuildError
from tts_engine.tensorrt.onnx_check import FLOAT32_BOUND, LENGTHS, check, check_sizes, in_half, relative_error
from tts_engine.tensorrt.ports import Inputs, Port, Stage, Trial
from tts_engine.tensorrt.precision import convert
from tts_engine.tensorrt.profiles import PROFILES

CASES = ({"rows": 1, "tokens": 4, "past": 0}, {"rows": 3, "tokens": 17, "past": 2})


def copied(path: Path, folder: Path) -> Path:
    for file in (path, data_path(path)):
        shutil.copy(file, folder / file.name)
    return folder / path.name


def test_an_export_passes_at_all_sizes(tiny: Stage, exported: Path) -> None:
    found = check(tiny, exported, cases=CASES)
    assert [(error.port, error.sizes) for error in found] == [(port.name, case) for case in CASES for port in OUTPUTS]
    assert all(error.error < error.bound == FLOAT32_BOUND for error in found)


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16], ids=str)
def test_a_conversion_passes_and_leaves_nothing_behind(
    tiny: Stage, exported: Path, tmp_path: Path, half: torch.dtype
) -> None:
    convert(tiny, exported, tmp_path / "tiny.onnx", half)
    before = sorted(tmp_path.iterdir())
    found = check(tiny, tmp_path / "tiny.onnx", half, cases=CASES)
    assert sorted(tmp_path.iterdir()) == before
    assert max(error.error for error in found) > torch.finfo(half).eps / 8
    assert all(error.error < error.bound < 0.1 for error in found)


def test_a_changed_weight_is_found_and_the_worst_port_named(tiny: Stage, exported: Path, tmp_path: Path) -> None:
    path = copied(exported, tmp_path)
    model = onnx.load(path, load_external_data=False)
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == "up.bias")
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(0.01), "up.bias"))
    onnx.save(model, path)
    with pytest.raises(BuildError, match=r"tiny\.onnx does not compute .* wave is off by 0\.00\d+ .* at rows"):
        check(tiny, path, cases=CASES)


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16], ids=str)
def test_a_conversion_that_is_further_off_than_the_module_in_half_is_found(
    tiny: Stage, exported: Path, tmp_path: Path, half: torch.dtype
) -> None:
    path = tmp_path / "tiny.onnx"
    convert(tiny, exported, path, half)
    with data_path(path).open("r+b") as file:
        graph = onnx.load(path, load_external_data=False).graph
        table = next(tensor for tensor in graph.initializer if tensor.name == "table.weight/half")
        where = {entry.key: entry.value for entry in table.external_data}
        file.seek(int(where["offset"]))
        file.write(bytes(int(where["length"]) // 2))
    with pytest.raises(BuildError, match=r"is off by .* at rows"):
        check(tiny, path, half, cases=CASES)


def test_a_file_of_another_model_is_found(tiny: Stage, exported: Path) -> None:
    from tests.tts_engine.tensorrt.tiny_stage import tiny_stage

    with pytest.raises(BuildError, match="does not compute"):
        check(tiny_stage(seed=9), exported, cases=CASES[:1])


def test_a_stage_says_what_is_judged_on_which_inputs(tiny: Stage, exported: Path) -> None:
    def trials(given: Inputs) -> tuple[Trial, ...]:
        quiet = {**given, "scale_0": given["scale_0"] / 8}
        return (given, ("wave", "kept_on")), (quiet, ("phase",))

    found = check(replace(tiny, trials_of=trials), exported, cases=CASES)
    assert [error.port for error in found] == ["wave", "kept_on", "phase"] * 2


def test_a_module_that_loses_itself_in_half_is_no_measure(tiny: Stage, exported: Path, tmp_path: Path) -> None:
    """Its stream of numbers over 65504 is infinite in float16; the file's, in float32, is not."""

    def loud(dims: Mapping[str, int], generator: torch.Generator) -> Inputs:
        given = tiny.example(dims, generator)
        return {**given, "scale_0": given["scale_0"] * 1e5}

    stage = replace(tiny, example=loud, trials_of=lambda given: ((given, ("wave",)),))
    convert(tiny, exported, tmp_path / "tiny.onnx", torch.float16)
    with pytest.raises(BuildError, match=r"wave is off by inf of its range \(0\.2 is allowed\)"):
        check(stage, tmp_path / "tiny.onnx", torch.float16, cases=CASES[:1])


def test_a_nan_is_no_agreement() -> None:
    assert relative_error(torch.tensor([1.0, torch.nan]), torch.ones(2)) == float("inf")
    assert relative_error(torch.ones(2), torch.tensor([1.0, torch.nan])) == float("inf")
    assert relative_error(torch.ones(2), torch.ones(3)) == float("inf")


def test_errors_are_relative_to_the_greatest_number() -> None:
    assert relative_error(torch.tensor([100.0, 1.5]), torch.tensor([100.0, 1.0])) == pytest.approx(0.005)
    assert relative_error(torch.zeros(2), torch.zeros(2)) == 0
    assert relative_error(torch.zeros(0), torch.zeros(0)) == 0


def test_cycles_end_where_they_begin() -> None:
    given, wanted = torch.tensor([0.9999, 0.5]), torch.tensor([0.0, 0.5])
    assert relative_error(given, wanted, "phases") == pytest.approx(2e-4, rel=1e-2)
    assert relative_error(given, wanted, "wave") > 1


@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize("long", [True, False])
def test_sizes_lie_in_the_profiles_and_reach_their_ends(name: str, long: bool) -> None:
    dims = dict.fromkeys(axis for profile in PROFILES[name] for axis in profile.dims)
    stage = Stage(name, nn.Module(), (Port("x", "float32", tuple(dims)),), (), lambda _, __: {})
    cases = check_sizes(stage, long=long)
    least = {axis: min(profile.dims[axis][0] for profile in PROFILES[name]) for axis in dims}
    most = {axis: max(profile.dims[axis][2] for profile in PROFILES[name]) for axis in dims}
    assert cases[0] == least
    assert len({tuple(case.items()) for case in cases}) == len(cases) == 3 + long
    for case in cases:
        assert all(least[axis] <= size <= most[axis] for axis, size in case.items())
    if long:
        assert all(cases[-1][axis] == most[axis] for axis in dims if axis in LENGTHS)
        assert cases[-1]["rows"] == least["rows"]


def test_in_half_keeps_what_stays_whole_and_copies_no_weight_twice(tiny: Stage) -> None:
    half = in_half(replace(tiny, module=nn.Sequential(tiny.module)), torch.float16).module
    dtypes = {name: weight.dtype for name, weight in half.named_parameters()}
    assert dtypes["0.f0_predictor.conv.weight"] == torch.float32
    assert {dtype for name, dtype in dtypes.items() if "f0_predictor" not in name} == {torch.float16}
    assert {weight.dtype for weight in tiny.module.parameters()} == {torch.float32}
    whole = dict(tiny.module.named_parameters())
    assert half.get_parameter("0.f0_predictor.conv.weight") is whole["f0_predictor.conv.weight"]
    shape = {name: weight.shape for name, weight in half.named_parameters()}
    assert shape == {f"0.{name}": weight.shape for name, weight in whole.items()}
