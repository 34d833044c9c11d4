"""A float32 ONNX file to a strongly typed half-precision one: which node computes in what is written into the file.

Products run in half, where a GPU has tensor cores for them and where TensorRT has fused attention. What sums up over
the depth of the network or over a row (residual stream, norms, softmax, cumulative sums) stays in float32: it costs
little there and is where half precision overflows or loses the small terms. See `benchmarks/onnx_precision.py`.

Each value has one dtype in which it is computed; a Cast gives the other to who needs it, once. Operators that only
move numbers about run in the dtype in which the numbers come, or in which all that follow want them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import onnx
import torch
from onnx import ModelProto, NodeProto, TensorProto, helper

from tts_engine.tensorrt.export import PRECISION, data_path
from tts_engine.tensorrt.faults import BuildError
from tts_engine.tensorrt.onnx_weights import WeightsFile, read, to_half
from tts_engine.tensorrt.ports import Stage

Mode = Literal["float32", "half"]

HALVES = {torch.float16: TensorProto.FLOAT16, torch.bfloat16: TensorProto.BFLOAT16}
"ONNX's types for the dtypes that an engine can have."

NAMES = {TensorProto.FLOAT: "float32", TensorProto.FLOAT16: "float16", TensorProto.BFLOAT16: "bfloat16"}

PRODUCTS = frozenset({"MatMul", "Gemm", "Conv", "ConvTranspose", "Attention"})

LAYOUT = {
    "Reshape": (0,),
    "Transpose": (0,),
    "Slice": (0,),
    "Squeeze": (0,),
    "Unsqueeze": (0,),
    "Flatten": (0,),
    "Identity": (0,),
    "Expand": (0,),
    "Tile": (0,),
    "Split": (0,),
    "Gather": (0,),
    "GatherElements": (0,),
    "GatherND": (0,),
    "ScatterElements": (0, 2),
    "ScatterND": (0, 2),
    "Pad": (0, 2),
    "Where": (1, 2),
    "Concat": None,
}
"Operators that move numbers about, and which of their inputs are such numbers (None: all)."

_SHAPE_ONLY = frozenset({"Shape", "Size"})


@dataclass(frozen=True)
class Policy:
    """What computes in half precision."""

    half: frozenset[str] = PRODUCTS
    "Operators."
    whole: tuple[str, ...] = ("f0_predictor", "m_source", "stft", "istft")
    "Submodules that stay in float32, products too: an error of F0 adds up in the phase."
    kept: frozenset[str] = frozenset()
    "Nodes, by name, that stay in float32 besides."
    also: frozenset[str] = frozenset()
    "Nodes, by name, that compute in half besides, wherever they are."
    bias: bool = True
    "Whether the sum with a bias right behind a product without one counts as part of it."
    tables: bool = True
    "Whether embedding tables are stored in half."

    def computes_in_half(self, node: NodeProto) -> bool:
        """Whether this operator does. What moves numbers about is not asked."""
        return node.name in self.also or (node.op_type in self.half and not self.is_whole(node))

    def is_whole(self, node: NodeProto) -> bool:
        """Whether the node, or a submodule that it is part of, stays in float32."""
        return node.name in self.kept or not set(self.whole).isdisjoint(node.name.partition("/")[0].split("."))


POLICIES = {torch.float16: Policy(), torch.bfloat16: Policy(half=PRODUCTS - {"ConvTranspose"})}
"Those that engines are built by. TensorRT-RTX 1.7 has no transposed convolution in bfloat16 for any target."


def convert(stage: Stage, source: Path, target: Path, half: torch.dtype, policy: Policy | None = None) -> None:
    """Write the export `source` as `target` (and the file beside it), with products and `half` ports in this dtype.

    `policy`: default POLICIES'. One tensor is in memory at a time. Raises ValueError if `half` is no half dtype,
    BuildError if a weight overflows.
    """
    if half not in HALVES:
        raise ValueError(f"{half} is neither float16 nor bfloat16")
    if source == target:
        raise ValueError("an export cannot be converted in place: its weights are read while the others are written")
    model = onnx.load(source, load_external_data=False)
    ports = [port.name for port in (*stage.inputs, *stage.outputs) if port.kind == "half"]
    wanted = Pass(model, HALVES[half], ports, policy or POLICIES[half]).run()
    with data_path(target).open("wb") as file:
        weights = WeightsFile(file, data_path(target).name)
        tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        written = []
        for name, mode in wanted:
            values = read(tensors[name], source.parent)
            if mode == "half":
                written.append(weights.tensor(_half(name), HALVES[half], to_half(values, HALVES[half], name)))
            else:
                written.append(weights.tensor(name, tensors[name].data_type, values))
    del model.graph.initializer[:]
    model.graph.initializer.extend(written)
    for entry in model.metadata_props:
        if entry.key == PRECISION:
            entry.value = NAMES[HALVES[half]]
    onnx.save_model(model, target)


class Pass:
    """Rewrites a model's graph in place, its weights excepted: `run` says which of them are wanted in what."""

    def __init__(self, model: ModelProto, half: int, half_ports: Collection[str], policy: Policy) -> None:
        self._graph = model.graph
        self._half_type = half
        self._policy = policy
        self._half_ports = frozenset(half_ports)
        self._floats = float_values(model)
        self._constants = {tensor.name for tensor in self._graph.initializer}
        self._producers = {name: node for node in self._graph.node for name in node.output}
        self._outputs = {value.name for value in self._graph.output}
        self._native: dict[str, Mode] = {}
        self._cast: set[tuple[str, Mode]] = set()
        self._used: dict[tuple[str, Mode], None] = {}
        self._nodes: list[NodeProto] = []

    def run(self) -> list[tuple[str, Mode]]:
        """The initialisers that the new graph reads: as they are ("float32"), or in half as `_half(name)`."""
        for value in self._graph.input:
            if value.name in self._floats:
                self._native[value.name] = self._port(value.name)
        wants = self._wants()
        for node in self._graph.node:
            self._place(node, wants)
        del self._graph.node[:]
        self._graph.node.extend(self._nodes)
        self._type_values()
        return list(self._used)

    def _port(self, name: str) -> Mode:
        return "half" if name in self._half_ports else "float32"

    def _wants(self) -> dict[str, set[Mode]]:
        """Who follows, in what they compute: seen through what only moves numbers about."""
        wants: dict[str, set[Mode]] = defaultdict(set)
        for name in self._outputs & self._floats:
            wants[name].add(self._port(name))
        for node in reversed(self._graph.node):
            if node.op_type in _SHAPE_ONLY:
                continue
            if node.op_type in LAYOUT:
                follow = {mode for name in node.output for mode in wants[name]}
                for name in self._data(node):
                    wants[name] |= follow
            else:
                mode: Mode = "half" if self._is_half(node) else "float32"
                for name in node.input:
                    wants[name].add(mode)
        return wants

    def _data(self, node: NodeProto) -> list[str]:
        """The numbers that a layout operator moves, if they are floats."""
        which = LAYOUT[node.op_type]
        names = list(node.input) if which is None else [node.input[at] for at in which if at < len(node.input)]
        return [name for name in names if name in self._floats]

    def _is_half(self, node: NodeProto) -> bool:
        return self._policy.computes_in_half(node) or self._is_bias(node)

    def _is_bias(self, node: NodeProto) -> bool:
        if node.op_type != "Add" or not self._policy.bias or not self._constants & set(node.input):
            return False
        producers = [self._producers[name] for name in node.input if name in self._producers]
        return len(producers) == 1 and producers[0].op_type == "MatMul" and self._policy.computes_in_half(producers[0])

    def _place(self, node: NodeProto, wants: dict[str, set[Mode]]) -> None:
        """Put the node into the new graph, behind the Casts that it needs."""
        mode = self._mode(node, {mode for name in node.output for mode in wants[name]})
        if node.op_type == "Cast" and mode == "half":
            del node.attribute[:]
            node.attribute.append(helper.make_attribute("to", self._half_type))
        for at, name in enumerate(node.input):
            if name in self._floats:
                any_dtype = node.op_type in _SHAPE_ONLY and name in self._native
                node.input[at] = self._as(name, self._native[name] if any_dtype else mode)
            elif name in self._constants:
                self._used[name, "float32"] = None
        self._nodes.append(node)
        for at, name in enumerate(node.output):
            if name in self._floats:
                self._native[name] = mode
                if name in self._outputs and mode != self._port(name):
                    node.output[at] = self._name(name, mode)
                    self._as(name, self._port(name))

    def _mode(self, node: NodeProto, wanted: set[Mode]) -> Mode:
        if node.op_type == "Cast":
            return "half" if wanted == {"half"} and node.input[0] not in self._floats else "float32"
        if node.op_type not in LAYOUT:
            return "half" if self._is_half(node) else "float32"
        given = {self._native[name] for name in self._data(node) if name not in self._constants}
        table = node.op_type == "Gather" and not given and self._policy.tables and not self._policy.is_whole(node)
        return "half" if table or given == {"half"} or wanted == {"half"} else "float32"

    def _as(self, name: str, mode: Mode) -> str:
        """The value's name in this dtype, behind a Cast if it has none."""
        if name in self._constants:
            self._used[name, mode] = None
            return name if mode == "float32" else _half(name)
        if mode != self._native[name] and (name, mode) not in self._cast:
            self._cast.add((name, mode))
            source, cast = self._name(name, self._native[name]), self._name(name, mode)
            to = self._half_type if mode == "half" else TensorProto.FLOAT
            self._nodes.append(helper.make_node("Cast", [source], [cast], name=f"cast/{cast}", to=to))
        return self._name(name, mode)

    def _name(self, name: str, mode: Mode) -> str:
        """A value keeps its name in the dtype that it is computed in; an output in its port's."""
        keeps = self._port(name) if name in self._outputs else self._native[name]
        return name if mode == keeps else _half(name) if mode == "half" else f"{name}/float32"

    def _type_values(self) -> None:
        for value in (*self._graph.input, *self._graph.output):
            if value.name in self._floats and self._port(value.name) == "half":
                value.type.tensor_type.elem_type = self._half_type
        constants = [value for value in self._graph.value_info if value.name in self._constants]
        for value in constants:
            self._graph.value_info.remove(value)
        for value in self._graph.value_info:
            if self._native.get(value.name) == "half":
                value.type.tensor_type.elem_type = self._half_type


def float_values(model: ModelProto) -> set[str]:
    """The names of all values, initialisers too, that are float32. BuildError if a value's type is nowhere said."""
    graph = model.graph
    if any(attribute.HasField("g") for node in graph.node for attribute in node.attribute):
        raise BuildError("a graph with branches or loops in it cannot be converted")
    values = (*graph.input, *graph.output, *graph.value_info)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    if unknown := [name for node in graph.node for name in node.output if name and not types.get(name)]:
        raise BuildError(f"the file does not say of what type {unknown[0]} is")
    return {name for name, kind in types.items() if kind == TensorProto.FLOAT}


def _half(name: str) -> str:
    return f"{name}/half"
