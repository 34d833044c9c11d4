from __future__ import annotations

import logging
import sys
import warnings
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

from tests.tts_engine.tensorrt.tiny_stage import INPUTS, OUTPUTS, example, tiny_stage
from tts_engine.tensorrt.export import DIGEST, PRECISION, STAGE, data_path, example_sizes, export
from tts_engine.tensorrt.faults import BuildError, NotInstalledError
from tts_engine.tensorrt.onnx_session import OnnxSession
from tts_engine.tensorrt.ports import Port, Stage
from tts_engine.tensorrt.session import ModuleSession


@pytest.fixture(scope="module")
def skeleton(exported: Path) -> onnx.ModelProto:
    return onnx.load(exported, load_external_data=False)


def shape_of(value: onnx.ValueInfoProto) -> list[str | int]:
    return [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]


def test_inputs_have_the_ports_names_types_and_sizes(skeleton: onnx.ModelProto) -> None:
    kinds = {"half": 1, "float32": 1, "int32": 6, "int64": 7, "bool": 9}
    found = [(value.name, value.type.tensor_type.elem_type, shape_of(value)) for value in skeleton.graph.input]
    assert found == [(port.name, kinds[port.kind], list(port.shape)) for port in INPUTS]


def test_sizes_of_outputs_follow_from_those_of_inputs(skeleton: onnx.ModelProto) -> None:
    found = {value.name: shape_of(value) for value in skeleton.graph.output}
    assert found == {
        "wave": ["rows", "2*tokens", 8],
        "phase": ["rows", "tokens"],
        "kept_on": ["rows", "past + 1", 3, 64],
    }


def test_the_file_says_what_it_is(skeleton: onnx.ModelProto) -> None:
    assert {entry.key: entry.value for entry in skeleton.metadata_props} == {
        STAGE: "tiny",
        PRECISION: "float32",
        DIGEST: "abc",
    }


def test_nodes_are_named_after_their_submodules(skeleton: onnx.ModelProto) -> None:
    names = {node.name: node.op_type for node in skeleton.graph.node}
    assert len(names) == len(skeleton.graph.node)
    scopes = {(name.partition("/")[0], op) for name, op in names.items()}
    assert {
        ("blocks.0.qkv", "MatMul"),
        ("f0_predictor.conv", "Conv"),
        ("blocks.1.norm2", "LayerNormalization"),
    } <= scopes


def test_nothing_tells_where_the_source_lay(exported: Path, skeleton: onnx.ModelProto) -> None:
    assert not [node for node in skeleton.graph.node if node.metadata_props or node.doc_string]
    assert b".py" not in exported.read_bytes()


def test_attention_and_norms_stay_whole_and_detours_are_gone(skeleton: onnx.ModelProto) -> None:
    ops = Counter(node.op_type for node in skeleton.graph.node)
    assert (ops["Attention"], ops["LayerNormalization"], ops["Mish"], ops["Gelu"]) == (2, 5, 1, 2)
    assert not {"Softmax", "Identity", "GatherND", "Constant"} & ops.keys()
    for node in skeleton.graph.node:
        if node.op_type == "Transpose":
            perm = list(node.attribute[0].ints)
            assert perm != sorted(perm)


def test_weights_lie_beside_once(tiny: Stage, exported: Path) -> None:
    size = sum(weight.numel() * 4 for weight in tiny.module.parameters())
    assert size * 0.9 < data_path(exported).stat().st_size < size * 1.1
    assert exported.stat().st_size < 200_000


@pytest.mark.parametrize("dims", [(1, 4, 0), (2, 37, 1), (6, 9, 5)])
def test_it_computes_what_the_module_does(tiny: Stage, exported: Path, dims: tuple[int, int, int]) -> None:
    inputs = example(dict(zip(("rows", "tokens", "past"), dims, strict=True)), torch.Generator().manual_seed(sum(dims)))
    wanted, given = ModuleSession(tiny).run(inputs), OnnxSession(exported, tiny).run(inputs)
    for port in OUTPUTS:
        torch.testing.assert_close(given[port.name], wanted[port.name], rtol=1e-4, atol=1e-4)


class Indexed(nn.Module):
    """Rows picked by an int32 index: what ONNX's GatherND refuses."""

    def forward(self, table: Tensor, at: Tensor) -> tuple[Tensor]:
        return (table[at] * 2,)


def indexed_stage() -> Stage:
    def inputs(dims: Mapping[str, int], generator: torch.Generator) -> dict[str, Tensor]:
        return {
            "table": torch.randn(dims["pool"], 4, generator=generator),
            "at": torch.randint(dims["pool"], (dims["rows"], 2), generator=generator, dtype=torch.int32),
        }

    ports = (Port("table", "float32", ("pool", 4)), Port("at", "int32", ("rows", 2)))
    return Stage("indexed", Indexed(), ports, (Port("picked", "float32", ("rows", 2, 4)),), inputs)


def test_an_int32_index_works_and_a_second_export_replaces_the_first(tmp_path: Path) -> None:
    stage, path, said = indexed_stage(), tmp_path / "indexed.onnx", list[str]()
    path.write_bytes(b"old")
    data_path(path).write_bytes(b"old")
    export(stage, path, progress=said.append)
    inputs = stage.example({"pool": 9, "rows": 3}, torch.Generator().manual_seed(0))
    assert torch.equal(OnnxSession(path, stage).run(inputs)["picked"], inputs["table"][inputs["at"]] * 2)
    assert [text.partition(" ")[0] for text in said] == ["indexed:"] * len(said)
    assert len(said) >= 3


class Baked(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (x.view(-1, 11) * 2,)  # only if there are that many


def test_a_size_that_the_module_ties_to_a_number_is_refused(tmp_path: Path) -> None:
    port = Port("x", "float32", ("rows", "frames"))
    made = Stage("baked", Baked(), (port,), (port,), lambda dims, _: {"x": torch.ones(dims["rows"], 11)})
    with pytest.raises(BuildError, match=r"(?s)baked cannot be exported.*size\(\)\[1\].*11"):
        export(made, tmp_path / "baked.onnx")
    assert not (tmp_path / "baked.onnx").exists()


def test_it_is_silent_and_leaves_loggers_filters_and_the_module_as_they_were(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    before = [logger.level for logger in loggers], list(warnings.filters)
    stage = indexed_stage()
    stage.module.weight = nn.Parameter(torch.ones(3))
    with caplog.at_level(logging.INFO), warnings.catch_warnings():
        warnings.simplefilter("error")
        export(stage, tmp_path / "indexed.onnx")
    assert stage.module.training
    assert stage.module.weight.requires_grad
    assert capfd.readouterr() == ("", "")
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert ([logger.level for logger in loggers], list(warnings.filters)) == before


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_module_in_half_is_refused(tmp_path: Path, dtype: torch.dtype) -> None:
    stage = tiny_stage()
    stage.module.to(dtype)
    with pytest.raises(ValueError, match=r"table\.weight is torch\.b?float16 on cpu"):
        export(stage, tmp_path / "tiny.onnx")


@pytest.mark.parametrize("module", ["onnx", "onnxscript"])
def test_without_the_tools_it_says_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(NotInstalledError, match=f"{module} is not installed"):
        export(indexed_stage(), tmp_path / "indexed.onnx")


def test_example_sizes_are_all_different_and_no_fixed_one() -> None:
    ports = (
        Port("a", "float32", ("voices", 3, 11)),
        Port("b", "float32", ("rows", "frames", 5)),
        Port("c", "float32", ("rows", "2*frames")),
        Port("d", "float32", ("tiles", "tokens")),
    )
    sizes = example_sizes(Stage("s", nn.Module(), ports, (), lambda _, __: {}))
    assert sizes.keys() == {"voices", "rows", "frames", "tokens", "tiles"}
    assert len({*sizes.values(), 3, 5, 11}) == len(sizes) + 3
    assert sizes["rows"] < sizes["tiles"] < 40
    assert min(sizes["frames"], sizes["tokens"]) >= 11
