from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch

from tests.tts_engine.tensorrt.tiny_stage import example
from tts_engine.tensorrt.layer_errors import (
    AS_BUILT,
    CLASSES,
    EVERYTHING,
    F0,
    NORMS,
    OTHER,
    RESIDUAL,
    SOFTMAX,
    Comparison,
    classify,
    compare,
    layers_of,
    variants,
)
from tts_engine.tensorrt.ports import Stage

SIZES = {"rows": 2, "tokens": 15, "past": 1}


@pytest.fixture(scope="module")
def found(tiny: Stage, exported: Path) -> dict[str, Comparison]:
    return {each.variant: each for each in compare(tiny, exported, torch.float16, SIZES)}


@pytest.fixture(scope="module")
def model(exported: Path) -> onnx.ModelProto:
    return onnx.load(exported, load_external_data=False)


@pytest.fixture(scope="module")
def classes(model: onnx.ModelProto) -> dict[str, frozenset[str]]:
    return classify(model)


def test_residual_sums_are_those_of_the_blocks(classes: dict[str, frozenset[str]]) -> None:
    """One before the blocks and two in each; sums with a mask or a bias are none."""
    scopes = sorted(name.partition("/")[0] for name in classes[RESIDUAL])
    assert scopes == ["", "blocks.0", "blocks.0", "blocks.1", "blocks.1"]


def test_each_operator_is_of_one_class(model: onnx.ModelProto, classes: dict[str, frozenset[str]]) -> None:
    assert tuple(classes) == CLASSES
    names = [name for nodes in classes.values() for name in nodes]
    assert len(set(names)) == len(names)
    ops = {node.name: node.op_type for node in model.graph.node}
    assert {ops[name] for name in classes[SOFTMAX]} == {"Softmax"}
    assert len(classes[SOFTMAX]) == 2
    assert {ops[name] for name in classes[NORMS]} == {"ReduceMean", "Sub", "Mul", "Add", "Sqrt", "Div"}
    assert len(classes[NORMS]) == 5 * 9
    assert {name for name in classes[F0] if ops[name] == "Conv"} == {"f0_predictor.conv/conv1d"}
    assert {"Mish", "Gelu"} <= {ops[name] for name in classes[OTHER]}


def test_layers_are_products_with_their_bias_softmax_norms_and_sums(
    model: onnx.ModelProto, classes: dict[str, frozenset[str]]
) -> None:
    layers = [node.name for node in layers_of(model, classes)]
    assert len(set(layers)) == len(layers)
    expected = {"taps/linear", "norm/layer_norm/8", "blocks.0.qkv/linear_1", "blocks.0.out/linear_2", "up/convolution"}
    assert expected <= set(layers)
    assert "blocks.0.out/val_113" not in layers
    assert classes[RESIDUAL] | classes[SOFTMAX] <= set(layers)
    # taps, norms and their squares, the blocks' products, softmax, sums, convolutions
    assert len(layers) == 1 + 2 * 5 + 2 * (4 + 2) + 2 + 5 + 2


def test_there_is_a_variant_for_every_class_in_and_out(found: dict[str, Comparison]) -> None:
    assert list(found)[:2] == [EVERYTHING, AS_BUILT]
    assert len(found) == 2 + 2 * len(CLASSES)


def test_as_built_is_nearer_than_everything_in_half(found: dict[str, Comparison]) -> None:
    everything, built = found[EVERYTHING], found[AS_BUILT]
    assert everything.outputs.keys() == {"wave", "phase", "kept_on"}
    assert 0 < built.outputs["kept_on"] < everything.outputs["kept_on"] < 5e-3
    assert built.worst_output < everything.worst_output
    assert built.overflows == everything.overflows == 0


def test_a_class_taken_out_or_in_makes_a_difference_where_it_is(found: dict[str, Comparison]) -> None:
    def error(variant: str) -> float:
        return found[variant].outputs["kept_on"]

    assert error(f"{EVERYTHING} but {RESIDUAL}") < 0.9 * error(EVERYTHING)
    assert error(f"{AS_BUILT}, and {RESIDUAL} in half") > 1.2 * error(AS_BUILT)
    assert error(f"{AS_BUILT}, and {F0} in half") == error(AS_BUILT)
    phase = {name: found[name].outputs["phase"] for name in (AS_BUILT, f"{AS_BUILT}, and {F0} in half")}
    assert phase[AS_BUILT] != phase[f"{AS_BUILT}, and {F0} in half"]


def test_each_layer_has_its_magnitude_and_error(found: dict[str, Comparison]) -> None:
    assert [layer.layer for layer in found[AS_BUILT].layers] == [layer.layer for layer in found[EVERYTHING].layers]
    for layer in found[EVERYTHING].layers:
        assert 0 < layer.error < 0.01
        assert layer.overflows == 0
    softmax = [layer for layer in found[AS_BUILT].layers if layer.op == "Softmax"]
    assert all(0 < layer.largest <= 1 for layer in softmax)


def test_a_stream_of_large_numbers_overflows_a_norm_in_float16_only(tiny: Stage, exported: Path) -> None:
    """Squares over 65504: what TensorRT warns of. Products, which see normed numbers, are none the worse."""

    def loud(dims: dict[str, int], generator: torch.Generator) -> dict[str, torch.Tensor]:
        inputs = example(dims, generator)
        return {**inputs, "scale_0": inputs["scale_0"] * 200}

    stage = Stage(tiny.name, tiny.module, tiny.inputs, tiny.outputs, loud)  # type: ignore[arg-type]
    found = {each.variant: each for each in compare(stage, exported, torch.float16, SIZES)}
    lost = [layer for layer in found[EVERYTHING].layers if layer.overflows]
    assert lost
    assert {layer.op for layer in lost} == {"Mul"}
    assert all("norm" in layer.layer and layer.largest > 65504 and layer.error == float("inf") for layer in lost)
    worst = {layer.layer: layer.error for layer in found[EVERYTHING].layers if layer.layer.startswith("norm/")}
    assert worst["norm/layer_norm/8"] > 0.5
    assert found[EVERYTHING].overflows == sum(layer.overflows for layer in lost)
    assert found[AS_BUILT].overflows == 0
    assert all(layer.error < 0.01 for layer in found[AS_BUILT].layers)
    assert found[f"{EVERYTHING} but {NORMS}"].overflows == 0
    assert found[f"{AS_BUILT}, and {NORMS} in half"].overflows > 0
    wide = {each.variant: each for each in compare(stage, exported, torch.bfloat16, SIZES)}
    assert wide[EVERYTHING].overflows == 0


def test_files_beside_the_export_go_again(tiny: Stage, exported: Path, found: dict[str, Comparison]) -> None:
    assert found
    assert {path.name for path in exported.parent.iterdir()} == {"tiny.onnx", "tiny.onnx.data"}


def test_policies_name_what_they_say(model: onnx.ModelProto, classes: dict[str, frozenset[str]]) -> None:
    policies = variants(model, classes, torch.float16)
    for name, nodes in classes.items():
        assert not policies[f"{EVERYTHING} but {name}"].also & nodes
        assert policies[f"{AS_BUILT}, and {name} in half"].also == nodes
