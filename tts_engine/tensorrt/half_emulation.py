"""What a half-precision ONNX file computes, in float32 with every rounding written out.

ONNX Runtime's CPU provider has no operators in bfloat16 at all, and of float16 chains it makes float32 ones: nothing
in between is rounded, nothing overflows. Here every operator takes what half numbers it is given and computes in
float32, as a GPU's tensor cores sum; then its result goes to half and back by two Casts, which ONNX Runtime leaves
alone. Within fused attention nothing is rounded: `decompose` first, to see what would happen there.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from tts_engine.tensorrt.precision import LAYOUT, Pass, Policy

_HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)


def emulate(model: ModelProto) -> None:
    """Rewrite a strongly typed file's graph in place; ports and weights stay. See `rounded` for where values are."""
    graph = model.graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.value_info, *graph.output)}
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    types |= {node.output[0]: _to(node) for node in graph.node if node.op_type == "Cast"}
    halves = {name: kind for name, kind in types.items() if kind in _HALVES}
    given = [value.name for value in (*graph.input, *graph.initializer) if value.name in halves]
    nodes = [_cast(name, rounded(name), TensorProto.FLOAT) for name in given]
    outputs = {value.name for value in graph.output}
    for node in graph.node:
        nodes += _emulated(node, halves, outputs)
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)


def rounded(name: str) -> str:
    """Where the emulation has, in float32, what the file has in half under this name."""
    return f"{name}/rounded"


def _emulated(node: NodeProto, halves: dict[str, int], outputs: Collection[str]) -> list[NodeProto]:
    if halves.keys().isdisjoint([*node.input, *node.output]):
        return [node]
    made = [name for name in node.output if name in halves]
    if node.op_type == "Cast" and made:
        return [node, _cast(made[0], rounded(made[0]), TensorProto.FLOAT)]
    moved = node.op_type in LAYOUT
    for at, name in enumerate(node.input):
        if name in halves:
            node.input[at] = rounded(name)
    for at, name in enumerate(node.output):
        if name in halves:
            node.output[at] = rounded(name) if moved else f"{name}/exact"
    nodes = [node]
    for name in made:
        if not moved:
            nodes += [_cast(f"{name}/exact", name, halves[name]), _cast(name, rounded(name), TensorProto.FLOAT)]
        elif name in outputs:
            nodes.append(_cast(rounded(name), name, halves[name]))
    return nodes


def halve(model: ModelProto, half: int, half_ports: Collection[str], policy: Policy) -> None:
    """What `precision.convert` does, but with the weights left where they are and rounded in the graph."""
    graph = model.graph
    wanted = Pass(model, half, half_ports, policy).run()
    casts = [_cast(name, f"{name}/half", half) for name, mode in wanted if mode == "half"]
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def decompose(model: ModelProto) -> None:
    """LayerNorm and attention into the operators that they stand for, in place, in a float32 file.

    Attention that is causal, has a cache of its own or is not by head stays whole.
    """
    graph = model.graph
    nodes: list[NodeProto] = []
    for node in graph.node:
        if node.op_type == "LayerNormalization":
            nodes += _layer_norm(node, model)
        elif node.op_type == "Attention" and _is_plain(node):
            nodes += _attention(node, model)
        else:
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)


def _is_plain(node: NodeProto) -> bool:
    given = {attribute.name: attribute for attribute in node.attribute}
    heads = "q_num_heads" in given or "kv_num_heads" in given
    causal = "is_causal" in given and given["is_causal"].i
    return not heads and not causal and len(node.input) <= 4 and len(node.output) == 1


def _layer_norm(node: NodeProto, model: ModelProto) -> list[NodeProto]:
    x, *affine = node.input
    steps = _Steps(node, model)
    epsilon = next((attribute.f for attribute in node.attribute if attribute.name == "epsilon"), 1e-5)
    last = steps.constant("axis", np.array([-1], np.int64))
    centred = steps.add("Sub", x, steps.add("ReduceMean", x, last))
    variance = steps.add("ReduceMean", steps.add("Mul", centred, centred), last)
    deviation = steps.add("Sqrt", steps.add("Add", variance, steps.constant("epsilon", np.float32(epsilon))))
    scaled = steps.add("Div", centred, deviation)
    for op, weight in zip(("Mul", "Add"), affine, strict=False):
        scaled = steps.add(op, scaled, weight)
    return steps.finish()


def _attention(node: NodeProto, model: ModelProto) -> list[NodeProto]:
    query, key, value, *bias = node.input
    steps = _Steps(node, model)
    scale = next((attribute.f for attribute in node.attribute if attribute.name == "scale"), None)
    if scale is None:
        scale = 1 / math.sqrt(_type(query, model).shape.dim[-1].dim_value)
    scaled = steps.add("Mul", query, steps.constant("scale", np.float32(scale)))
    scores = steps.add("MatMul", scaled, steps.add("Transpose", key, perm=[0, 1, 3, 2]))
    if bias and bias[0] and _type(bias[0], model).elem_type == TensorProto.BOOL:
        scores = steps.add("Where", bias[0], scores, steps.constant("hidden", np.float32(-np.inf)))
    elif bias and bias[0]:
        scores = steps.add("Add", scores, bias[0])
    steps.add("MatMul", steps.add("Softmax", scores, axis=-1), value)
    return steps.finish()


def _type(name: str, model: ModelProto) -> Any:
    values = (*model.graph.value_info, *model.graph.input)
    return next(value.type.tensor_type for value in values if value.name == name)


class _Steps:
    """Operators in place of one, named after it; their values are all float32."""

    def __init__(self, node: NodeProto, model: ModelProto) -> None:
        self._node = node
        self._graph = model.graph
        self._nodes: list[NodeProto] = []

    def constant(self, name: str, value: np.ndarray | np.generic) -> str:
        full = f"{self._node.output[0]}/{name}"
        self._graph.initializer.append(numpy_helper.from_array(np.asarray(value), full))
        return full

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        output = f"{self._node.output[0]}/{len(self._nodes)}"
        name = f"{self._node.name}/{len(self._nodes)}"
        self._nodes.append(helper.make_node(op, inputs, [output], name=name, **attributes))
        self._graph.value_info.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, None))
        return output

    def finish(self) -> list[NodeProto]:
        """The last operator's result is the whole's."""
        self._nodes[-1].output[0] = self._node.output[0]
        return self._nodes


def _to(node: NodeProto) -> int:
    return next(int(attribute.i) for attribute in node.attribute if attribute.name == "to")


def _cast(source: str, target: str, to: int) -> NodeProto:
    return helper.make_node("Cast", [source], [target], name=f"cast/{target}", to=to)
