"""What the exporter writes down at length: simplified in place, by a few rules of which each is exact."""

from __future__ import annotations

import numpy as np
import onnx_ir
from onnx_ir.passes import common

_TO_THE_END = (1 << 31) - 1


def tidy(model: onnx_ir.Model) -> None:
    """Fold constants and merge duplicates; take out what does nothing; gather by index without detours."""
    from onnxscript import optimizer  # noqa: PLC0415 - loads seconds of PyTorch's operators

    def is_weight(node: onnx_ir.Node) -> bool | None:
        return True if node.op_type == "Transpose" and node.inputs[0] in weights else None

    common.InlinePass()(model)
    weights = set(model.graph.initializers.values())
    optimizer.fold_constants(model, onnx_shape_inference=True, should_fold=is_weight)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    for node in model.graph:
        if node.op_type == "GatherND":
            _gather_rows(node)
        elif _does_nothing(node) and node.inputs[0] is not None:
            _replace(model, node.outputs[0], node.inputs[0])
    for step in (
        common.IdentityEliminationPass(),
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedFunctionsPass(),  # type: ignore[no-untyped-call]
        common.RemoveUnusedOpsetsPass(),
        common.DeduplicateInitializersPass(),
        common.CommonSubexpressionEliminationPass(),
        common.OutputFixPass(),
        common.NameFixPass(),
    ):
        step(model)


def _gather_rows(node: onnx_ir.Node) -> None:
    """`data[index]`: Gather, which takes int32 too, in place of GatherND over an index with an axis more."""
    index = node.inputs[1]
    where = index.producer() if index is not None else None
    if where is None or where.op_type != "Unsqueeze" or (node.attributes.get_int("batch_dims") or 0):
        return
    axes = _constant(where.inputs[1])
    rank = None if where.inputs[0] is None or where.inputs[0].shape is None else where.inputs[0].shape.rank()
    if axes is None or rank is None or axes.tolist() not in ([-1], [rank]):
        return
    node.op_type = "Gather"
    node.attributes.clear()
    node.attributes["axis"] = onnx_ir.AttrInt64("axis", 0)
    node.replace_input_with(1, where.inputs[0])


def _does_nothing(node: onnx_ir.Node) -> bool:
    if node.op_type == "Transpose":
        perm = list(node.attributes.get_ints("perm", ()))
        return bool(perm) and perm == sorted(perm)
    if node.op_type == "Slice":
        starts, ends, *_ = found = [_constant(value) for value in node.inputs[1:]]
        steps = found[3] if len(found) > 3 else np.ones(1)
        if starts is None or ends is None or steps is None:
            return False
        return bool((starts == 0).all() and (ends >= _TO_THE_END).all() and (steps == 1).all())
    return False


def _constant(value: onnx_ir.Value | None) -> np.ndarray | None:
    return None if value is None or value.const_value is None else value.const_value.numpy()


def _replace(model: onnx_ir.Model, old: onnx_ir.Value, new: onnx_ir.Value) -> None:
    """Whoever reads `old` reads `new`. What the graph gives stays, for its name."""
    if old in model.graph.outputs:
        return
    for use in list(old.uses()):
        use.node.replace_input_with(use.idx, new)
