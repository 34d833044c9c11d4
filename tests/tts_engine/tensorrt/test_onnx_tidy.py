from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnx_ir
import pytest
from onnx import ModelProto, TensorProto

from tests.tts_engine.tensorrt.onnx_graphs import FLOAT, model, node, run
from tts_engine.tensorrt.onnx_tidy import tidy

END = np.array([(1 << 31) - 1], np.int64)


def tidied(made: ModelProto) -> tuple[ModelProto, Counter[str]]:
    graph = onnx_ir.serde.deserialize_model(made)
    tidy(graph)
    after = onnx_ir.serde.serialize_model(graph)
    onnx.checker.check_model(after, full_check=True)
    return after, Counter(each.op_type for each in after.graph.node)


@pytest.mark.parametrize("index", [TensorProto.INT32, TensorProto.INT64])
@pytest.mark.parametrize("axis", [-1, 2])
def test_rows_are_gathered_by_index_in_either_integer(index: int, axis: int) -> None:
    nodes = [node("Unsqueeze", "at axis", "index"), node("GatherND", "x index", "y")]
    inputs = {"x": (FLOAT, ["n", 3]), "at": (index, ["a", "b"])}
    # ONNX's own GatherND knows int64 only: that the exporter writes int32 is what is put right.
    made = model(nodes, {**inputs, "at": (TensorProto.INT64, ["a", "b"])}, ["y"], {"axis": np.array([axis])})
    made.graph.input[1].type.tensor_type.elem_type = index
    made.graph.value_info[0].type.tensor_type.elem_type = index
    after, ops = tidied(made)
    assert ops == {"Gather": 1}
    x = np.random.default_rng().standard_normal((7, 3), np.float32)
    at = np.array([[6, 0, 3], [2, 2, 1]], np.int32 if index == TensorProto.INT32 else np.int64)
    np.testing.assert_array_equal(run(after, {"x": x, "at": at})["y"], x[at])


def test_other_gathers_stay() -> None:
    nodes = [node("Unsqueeze", "at axis", "index"), node("GatherND", "x index", "y", batch_dims=1)]
    inputs = {"x": (FLOAT, [4, 5]), "at": (TensorProto.INT64, [4])}
    assert tidied(model(nodes, inputs, ["y"], {"axis": np.array([-1])}))[1] == {"GatherND": 1, "Unsqueeze": 1}


def test_what_does_nothing_goes() -> None:
    nodes = [
        node("Transpose", "x", "same", perm=[0, 1]),
        node("Slice", "same zero end zero one", "whole"),
        node("Transpose", "whole", "turned", perm=[1, 0]),
        node("Slice", "turned one end zero one", "part"),
        node("Relu", "part", "y"),
    ]
    weights = {"zero": np.array([0]), "one": np.array([1]), "end": END}
    after, ops = tidied(model(nodes, {"x": (FLOAT, ["n", 3])}, ["y"], weights))
    assert ops == {"Transpose": 1, "Slice": 1, "Relu": 1}
    x = np.random.default_rng().standard_normal((4, 3), np.float32)
    np.testing.assert_array_equal(run(after, {"x": x})["y"], np.maximum(x.T[1:], 0))


def test_an_output_keeps_its_name() -> None:
    nodes = [node("Relu", "x", "z"), node("Transpose", "z", "y", perm=[0, 1])]
    after, _ = tidied(model(nodes, {"x": (FLOAT, ["n", 3])}, ["y"]))
    assert [value.name for value in after.graph.output] == ["y"]
    np.testing.assert_array_equal(run(after, {"x": -np.ones((2, 3), np.float32)})["y"], np.zeros((2, 3)))


def test_weights_are_transposed_in_the_file() -> None:
    weight = np.random.default_rng().standard_normal((300, 200), np.float32)
    nodes = [node("Transpose", "w", "turned", perm=[1, 0]), node("MatMul", "x turned", "y")]
    after, ops = tidied(model(nodes, {"x": (FLOAT, ["n", 200])}, ["y"], {"w": weight}))
    assert ops == {"MatMul": 1}
    x = np.random.default_rng().standard_normal((2, 200), np.float32)
    np.testing.assert_allclose(run(after, {"x": x})["y"], x @ weight.T, rtol=1e-4, atol=1e-4)
