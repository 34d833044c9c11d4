"""A stage as an ONNX file: float32, all sizes that its ports name free, weights in one file beside it.

`torch.onnx.export` traces the module twice and translates operator by operator. The rewriting rules of its optimiser
take a third of the time again and change little of these graphs: here constants are folded and duplicates merged, no
more. Nodes are named after the submodules that they come from (`scope/value`), which is what `precision` goes by;
the exporter's notes of where in whose source that was are taken out.
"""

from __future__ import annotations

import ast
import inspect
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from tts_engine.tensorrt.faults import BuildError, NotInstalledError
from tts_engine.tensorrt.ports import Port, Stage

if TYPE_CHECKING:
    import onnx_ir

OPSET = 23
"The first with `Attention`, for which TensorRT has fused kernels."

STAGE, PRECISION, DIGEST = "chatterline.stage", "chatterline.precision", "chatterline.weights"
"Keys of the file's metadata: the stage's name, `float32`, `float16` or `bfloat16`, the digest of the model's weights."

Progress = Callable[[str], None]
"Told what is being done."

_PRIMES = (3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47)
_SMALL = ("voices", "rows", "pages", "pool", "tiles")
"Sizes that much depends on, the heaviest first; there are tiles for all rows."

_INLINE_BYTES = 1024
"What a tensor may have to stay in the .onnx itself."

_MOST_SAID = 500
"Characters of the exporter's messages, which go on with advice."

_SCOPES = "pkg.torch.onnx.name_scopes"
_NO_SCOPE = "_empty_nn_module_stack"
_SYMBOL = re.compile(r"\b[a-z]\w*")
_CHATTY = ("torch.onnx", "torch.export", "torch.fx", "onnxscript", "onnx_ir")


def data_path(path: Path) -> Path:
    """Where the weights of an .onnx lie."""
    return path.with_name(path.name + ".data")


def export(
    stage: Stage,
    path: Path,
    *,
    sizes: Mapping[str, int] | None = None,
    digest: str = "",
    progress: Progress = lambda _: None,
) -> None:
    """Write `path` and `data_path(path)`, replacing what is there.

    The module must lie on the CPU in float32; it may be shared with others and is not changed. `sizes`: what to trace
    with, for a stage whose sizes depend on one another; default: `example_sizes`. Raises NotInstalledError without
    onnx and onnxscript, BuildError if the module cannot be exported, ValueError if it is of another dtype or place.
    """
    _require(stage)
    with _silence(), torch.no_grad():
        try:
            progress(f"{stage.name}: tracing")
            traced = _trace(stage, example_sizes(stage) if sizes is None else sizes)
            progress(f"{stage.name}: translating to ONNX")
            model = _translate(traced, stage)
        except RuntimeError as error:  # what tracer and translator raise is all of this kind, and private
            raise BuildError(f"{stage.name} cannot be exported: {str(error).strip()[:_MOST_SAID]}") from error
        del traced
        progress(f"{stage.name}: folding constants")
        from tts_engine.tensorrt.onnx_tidy import tidy  # noqa: PLC0415 - wants onnx_ir

        tidy(model)
    _name_nodes(model)
    _name_axes(model, stage)
    model.metadata_props.update({STAGE: stage.name, PRECISION: "float32", DIGEST: digest})
    progress(f"{stage.name}: writing {path.name}")
    _save(model, path)


def example_sizes(stage: Stage) -> dict[str, int]:
    """A size for each name in the stage's ports: no two alike and none a fixed one, or the tracer takes them for one
    another; small, and lengths at least 11.
    """
    fixed = {axis for port in (*stage.inputs, *stage.outputs) for axis in port.shape if isinstance(axis, int)}
    axes = (axis for port in stage.inputs for axis in port.shape if isinstance(axis, str))
    names = {axis.rpartition("*")[2] for axis in axes}
    found: dict[str, int] = {}
    for name in (*(name for name in _SMALL if name in names), *sorted(names.difference(_SMALL))):
        least = 3 if name in _SMALL else 11
        found[name] = next(
            size for size in _PRIMES if size >= least and size not in fixed and size not in found.values()
        )
    return found


def _require(stage: Stage) -> None:
    try:
        import onnx  # noqa: F401, PLC0415
        import onnxscript  # noqa: F401, PLC0415
    except ImportError as error:
        raise NotInstalledError(
            f"exporting to ONNX needs onnx and onnxscript, and {error.name} is not installed: "
            f"pip install onnx onnxscript"
        ) from error
    for name, weight in stage.module.named_parameters():
        if weight.is_floating_point() and (weight.dtype, weight.device.type) != (torch.float32, "cpu"):
            raise ValueError(
                f"{stage.name}: {name} is {weight.dtype} on {weight.device}; exports are float32, on the CPU"
            )


@contextmanager
def _silence() -> Iterator[None]:
    """The exporter warns of what is meant so, by warnings and by loggers."""
    loggers = [logging.getLogger(name) for name in _CHATTY]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _trace(stage: Stage, sizes: Mapping[str, int]) -> torch.export.ExportedProgram:
    example = stage.example(sizes, torch.Generator().manual_seed(0))
    arguments = tuple(example[port.name] for port in stage.inputs)
    free = _like_signature(stage.module, [_free(port) for port in stage.inputs])
    return torch.export.export(stage.module, arguments, dynamic_shapes=free, strict=False)


def _free(port: Port) -> dict[int, Any]:
    # DYNAMIC, not torch.export.Dim(name): the tracer finds out itself which sizes are the same and which are multiples,
    # and refuses names that it would have to bound from below.
    return {at: torch.export.Dim.DYNAMIC for at, axis in enumerate(port.shape) if isinstance(axis, str)}


def _like_signature(module: nn.Module, values: list[Any]) -> tuple[Any, ...]:
    """One value a parameter of `forward`; those that belong to `*args` together."""
    kinds = [parameter.kind for parameter in inspect.signature(module.forward).parameters.values()]
    if inspect.Parameter.VAR_POSITIONAL not in kinds:
        return tuple(values)
    named = kinds.index(inspect.Parameter.VAR_POSITIONAL)
    return (*values[:named], tuple(values[named:]))


def _translate(traced: torch.export.ExportedProgram, stage: Stage) -> onnx_ir.Model:
    program = torch.onnx.export(
        traced,
        input_names=[port.name for port in stage.inputs],
        output_names=[port.name for port in stage.outputs],
        opset_version=OPSET,
        dynamo=True,
        optimize=False,
        verbose=False,
    )
    if program is None:
        raise BuildError(f"{stage.name}: the exporter gave nothing")
    return program.model


def _name_nodes(model: onnx_ir.Model) -> None:
    from onnx_ir.passes import common  # noqa: PLC0415

    for node in model.graph:
        scopes = ast.literal_eval(node.metadata_props.get(_SCOPES, "[]"))
        scope = scopes[-2] if len(scopes) > 1 and not scopes[-2].startswith(_NO_SCOPE) else ""
        node.name = f"{scope}/{node.outputs[0].name}"
    common.ClearMetadataAndDocStringPass()(model)


def _name_axes(model: onnx_ir.Model, stage: Stage) -> None:
    """The ports' names for sizes in place of the tracer's symbols; outputs keep the expressions that it found."""
    import onnx_ir  # noqa: PLC0415

    named: dict[str, str] = {}
    found = {value.name: value for value in model.graph.inputs}
    for port in stage.inputs:
        value = found[port.name]
        for old, axis in zip(value.shape or (), port.shape, strict=True):
            if isinstance(axis, str):
                if isinstance(old, int):
                    raise BuildError(f"{stage.name} takes the size {axis} of {port.name} to be {old}, whatever it is")
                named.setdefault(str(old), axis)
        value.shape = onnx_ir.Shape(port.shape)
    for node in model.graph:
        for value in node.outputs:
            if value.shape is not None:
                value.shape = onnx_ir.Shape([_renamed(axis, named) for axis in value.shape])


def _renamed(axis: int | onnx_ir.SymbolicDim, named: Mapping[str, str]) -> int | str | None:
    if isinstance(axis, int):
        return axis
    return None if axis.value is None else _SYMBOL.sub(lambda match: named.get(match[0], match[0]), str(axis.value))


def _save(model: onnx_ir.Model, path: Path) -> None:
    import onnx_ir  # noqa: PLC0415

    data_path(path).unlink(missing_ok=True)
    onnx_ir.save(model, path, external_data=data_path(path).name, size_threshold_bytes=_INLINE_BYTES)
