"""Where half precision hurts: a stage layer by layer, in float32 and with this or that of it in half.

Attention and norms are taken apart first, so that what happens inside them is seen, and every result is rounded as
`half_emulation` does it. A variant is a policy; there is one for each class of operators left out of "everything in
half", and one for each taken into the policy that engines are built by.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import ModelProto, NodeProto, TensorProto, helper

from tts_engine.tensorrt.half_emulation import decompose, emulate, halve, rounded
from tts_engine.tensorrt.ports import Stage
from tts_engine.tensorrt.precision import HALVES, LAYOUT, POLICIES, PRODUCTS, Policy, float_values

Array = npt.NDArray[Any]

SOFTMAX, NORMS, RESIDUAL, F0, OTHER = "softmax", "norms", "residual stream", "F0 and source", "the rest"
CLASSES = (SOFTMAX, NORMS, RESIDUAL, F0, OTHER)
"What is not a product. OTHER are activations, masks, sums of other kinds."

EVERYTHING, AS_BUILT = "everything in half", "as engines are built"
"The two variants that the others differ from by a class."

_NO_ARITHMETIC = ("Cast", "Shape", "Size")


@dataclass(frozen=True)
class LayerError:
    """One product, softmax, norm or residual sum."""

    layer: str
    "Submodule and value."
    op: str
    largest: float
    "Greatest magnitude in float32; float16 ends at 65504."
    error: float
    "Root mean square of the difference, relative to the values'; infinite where half has lost a value altogether."
    overflows: int
    "Values that are not finite in half and are in float32."


@dataclass(frozen=True)
class Comparison:
    """A variant against float32, on the same inputs."""

    variant: str
    outputs: Mapping[str, float]
    "By port, the error as in LayerError."
    layers: Sequence[LayerError]

    @property
    def overflows(self) -> int:
        """Of all layers."""
        return sum(layer.overflows for layer in self.layers)

    @property
    def worst_output(self) -> float:
        """The greatest error of an output."""
        return max(self.outputs.values())


def compare(
    stage: Stage, path: Path, half: torch.dtype, sizes: Mapping[str, int], *, seed: int = 2
) -> list[Comparison]:
    """All variants of the export `path` (float32), at these sizes. A file beside it comes and goes for each."""
    source = onnx.load(path, load_external_data=False)
    classes = classify(source)
    example = stage.example(sizes, torch.Generator().manual_seed(seed))
    kept = {value.name for value in source.graph.input}
    feeds = {name: _rounded(tensor, half, stage, name) for name, tensor in example.items() if name in kept}
    layers = layers_of(source, classes)
    outputs = [value.name for value in source.graph.output]
    wanted = _run(source, path, feeds, [*outputs, *(node.output[0] for node in layers)])
    found = []
    for variant, policy in variants(source, classes, half).items():
        model = _copy(source)
        halve(model, HALVES[half], (), policy)
        emulate(model)
        given = _run(model, path, feeds, list(wanted))
        errors = [
            LayerError(node.name, node.op_type, _largest(wanted[name]), *_error(given[name], wanted[name]))
            for node in layers
            for name in node.output[:1]
        ]
        found.append(Comparison(variant, {name: _error(given[name], wanted[name])[0] for name in outputs}, errors))
    return found


def variants(model: ModelProto, classes: Mapping[str, frozenset[str]], half: torch.dtype) -> dict[str, Policy]:
    """Policies by what they are called."""
    everything = frozenset(node.name for node in model.graph.node if node.op_type in PRODUCTS).union(*classes.values())
    built = POLICIES[half]
    found = {EVERYTHING: Policy(half=frozenset(), whole=(), also=everything), AS_BUILT: built}
    for name, nodes in classes.items():
        if nodes:
            found[f"{EVERYTHING} but {name}"] = Policy(half=frozenset(), whole=(), also=everything - nodes)
    for name, nodes in classes.items():
        if nodes:
            found[f"{AS_BUILT}, and {name} in half"] = replace(built, also=nodes)
    return found


def classify(model: ModelProto) -> dict[str, frozenset[str]]:
    """Take the model's attention and norms apart, in place, and say which nodes make up each of CLASSES."""
    norms = {node.name for node in model.graph.node if node.op_type == "LayerNormalization"}
    decompose(model)
    floats = float_values(model)
    nodes = [
        node
        for node in model.graph.node
        if node.op_type not in LAYOUT
        and node.op_type not in ("Cast", "Shape", "Size")
        and floats & {*node.input, *node.output}
    ]
    residual = _residual_sums(model, floats)
    pitch = _pitch(model)
    found: dict[str, set[str]] = {name: set() for name in CLASSES}
    for node in nodes:
        if node.name in pitch:
            found[F0].add(node.name)
        elif node.op_type in PRODUCTS:
            continue
        elif node.op_type == "Softmax":
            found[SOFTMAX].add(node.name)
        elif node.name.rpartition("/")[0] in norms:
            found[NORMS].add(node.name)
        elif node.name in residual:
            found[RESIDUAL].add(node.name)
        else:
            found[OTHER].add(node.name)
    return {name: frozenset(nodes) for name, nodes in found.items()}


def layers_of(model: ModelProto, classes: Mapping[str, frozenset[str]]) -> list[NodeProto]:
    """The nodes whose results are compared: products with their bias, softmax, a norm's squares and its end, residual
    sums.
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    readers: dict[str, list[NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)

    def is_inner(node: NodeProto) -> bool:
        """Whether the next node belongs to the same layer: a bias to a product, a norm's step to its next."""
        after = readers.get(node.output[0], [])
        if len(after) != 1:
            return node.name in classes[NORMS] and all(other.name in classes[NORMS] for other in after)
        if node.op_type == "MatMul":
            return after[0].op_type == "Add" and not constants.isdisjoint(after[0].input)
        return node.name in classes[NORMS] and after[0].name in classes[NORMS]

    biases = {
        after.name
        for node in model.graph.node
        if node.op_type == "MatMul" and is_inner(node)
        for after in readers[node.output[0]]
    }
    # What overflows in a norm is gone from its result: divided by an infinite deviation it is zero.
    squares = {node.name for node in model.graph.node if node.op_type == "Mul" and len(set(node.input)) == 1}
    inside = squares & classes[NORMS]
    shown = classes[SOFTMAX] | classes[NORMS] | classes[RESIDUAL] | biases
    return [
        node
        for node in model.graph.node
        if node.name in inside or ((node.op_type in PRODUCTS or node.name in shown) and not is_inner(node))
    ]


def _residual_sums(model: ModelProto, floats: set[str]) -> set[str]:
    """Sums of a value and of what products made of it. A mask, which lengths alone decide, is no such value."""
    large = {tensor.name for tensor in model.graph.initializer if np.prod(tensor.dims) > 1}
    data = floats & (large | {value.name for value in model.graph.input})
    for node in model.graph.node:
        if not data.isdisjoint(node.input) and node.op_type not in _NO_ARITHMETIC:
            data.update(node.output)
    producers = {name: (at, node) for at, node in enumerate(model.graph.node) for name in node.output}

    def reaches(name: str, origin: str) -> bool:
        """Whether `name` was made of `origin` by way of a product. Looks at what lies between the two only."""
        first = producers[origin][0] if origin in producers else -1
        seen: set[tuple[str, bool]] = set()
        front = [(name, False)]
        while front:
            at, product = front.pop()
            if at == origin and product:
                return True
            where, node = producers.get(at, (-1, None))
            if node is None or where <= first or (at, product) in seen:
                continue
            seen.add((at, product))
            front += [(above, product or node.op_type in PRODUCTS) for above in node.input if above in floats]
        return False

    return {
        node.name
        for node in model.graph.node
        if node.op_type == "Add"
        and data.issuperset(node.input)
        and (reaches(node.input[0], node.input[1]) or reaches(node.input[1], node.input[0]))
    }


def _pitch(model: ModelProto) -> set[str]:
    """All within POLICIES' whole submodules, and what lies between the predictor of F0 and the source it drives."""
    whole = Policy()
    inside = {node.name for node in model.graph.node if whole.is_whole(node)}
    after = _spread(model, lambda node: "f0_predictor" in node.name, backwards=False)
    before = _spread(model, lambda node: "m_source" in node.name, backwards=True)
    return inside | (after & before)


def _spread(model: ModelProto, begins: Any, *, backwards: bool) -> set[str]:
    """The names of nodes that depend on one that `begins`, or (backwards) that one of these depends on."""
    reached: set[str] = set()
    found = set()
    for node in reversed(model.graph.node) if backwards else model.graph.node:
        sources, targets = (node.output, node.input) if backwards else (node.input, node.output)
        if begins(node) or not reached.isdisjoint(sources):
            reached.update(targets)
            found.add(node.name)
    return found


def _rounded(tensor: torch.Tensor, half: torch.dtype, stage: Stage, name: str) -> Array:
    kind = next(port.kind for port in stage.inputs if port.name == name)
    found: Array = (tensor.to(half).float() if kind == "half" else tensor).numpy()
    return found


def _run(model: ModelProto, path: Path, feeds: Mapping[str, Array], names: Sequence[str]) -> dict[str, Array]:
    """Values of the graph by name; a rounded one if it was rounded."""
    import onnxruntime  # type: ignore[import-untyped]  # noqa: PLC0415

    exposed = _copy(model)
    produced = {name for node in exposed.graph.node for name in node.output}
    given = {value.name for value in exposed.graph.output}
    where = {name: name if name in given or rounded(name) not in produced else rounded(name) for name in names}
    extra = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in where.values() if name not in given
    ]
    exposed.graph.output.extend(extra)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    with NamedTemporaryFile(dir=path.parent, prefix=path.stem, suffix=".layers.onnx") as file:
        file.write(exposed.SerializeToString())
        file.flush()
        session = onnxruntime.InferenceSession(file.name, options, providers=["CPUExecutionProvider"])
    values = session.run(list(where.values()), dict(feeds))
    return dict(zip(where, values, strict=True))


def _copy(model: ModelProto) -> ModelProto:
    copy = ModelProto()
    copy.CopyFrom(model)
    return copy


def _largest(values: Array) -> float:
    finite = values[np.isfinite(values)]
    return float(np.abs(finite).max()) if finite.size else 0.0


def _error(given: Array, wanted: Array) -> tuple[float, int]:
    """LayerError's error and overflows. What is infinite in both (masked scores) is no error."""
    finite = np.isfinite(wanted)
    lost = int((finite & ~np.isfinite(given)).sum())
    if lost:
        return float("inf"), lost
    given, wanted = given[finite].astype(np.float64), wanted[finite].astype(np.float64)
    power = float(np.square(wanted).sum())
    return (float(np.sqrt(np.square(given - wanted).sum() / power)) if power else 0.0), 0
