"""A stage of a few operators as an ONNX file: what the build's own tests need, in milliseconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from tts_engine.tensorrt.ports import Port
from tts_engine.tensorrt.profiles import Profile

WIDTH = 64
INPUTS = (
    Port("x", "half", ("rows", "frames", WIDTH)),
    Port("lengths", "int32", ("rows",)),
    Port("keep", "bool", ("rows",)),
    Port("ids", "int64", ("rows",)),
    Port("time", "float32", (3, WIDTH)),
)
OUTPUTS = (Port("y", "half", ("rows", "2*frames", WIDTH)), Port("sums", "float32", ("rows",)))
PROFILES = (
    Profile("short", {"rows": (1, 4, 8), "frames": (2, 8, 16)}),
    Profile("long", {"rows": (1, 1, 2), "frames": (2, 32, 64)}),
)

_HALVES = {"float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16, "float32": TensorProto.FLOAT}
_TYPES = {
    "float32": TensorProto.FLOAT,
    "int32": TensorProto.INT32,
    "int64": TensorProto.INT64,
    "bool": TensorProto.BOOL,
}


def write(path: Path, half: str = "float16", *, operator: str = "Relu") -> Path:
    """y = the operator of x @ w and the same again behind it; sums = lengths + ids + time, 0 where not kept."""
    kind = _HALVES[half]
    rng = np.random.default_rng()

    def of(port: Port) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(port.name, _TYPES.get(port.kind, kind), port.shape)

    weights = rng.normal(size=WIDTH * WIDTH).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["product"]),
        helper.make_node(operator, ["product"], ["active"], name="activation"),
        helper.make_node("Concat", ["active", "active"], ["y"], axis=1),
        helper.make_node("Cast", ["lengths"], ["long"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["ids"], ["id"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["time"], ["mean"], keepdims=0),
        helper.make_node("Add", ["long", "id"], ["added"]),
        helper.make_node("Add", ["added", "mean"], ["all"]),
        helper.make_node("Where", ["keep", "all", "zero"], ["sums"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [of(port) for port in INPUTS],
        [of(port) for port in OUTPUTS],
        [
            helper.make_tensor("w", kind, [WIDTH, WIDTH], weights),
            helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0]),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10), path)
    return path
