"""A stage by ONNX Runtime: what checks an export without TensorRT, on the CPU, and what runs one on other GPUs."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tts_engine.tensorrt.export import PRECISION
from tts_engine.tensorrt.faults import NotInstalledError, PlanError
from tts_engine.tensorrt.ports import Port, Stage

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"

_BFLOAT16 = 16  # ONNX's number for it: numpy has no such type
_NOWHERE = 64
"The address of a tensor without elements: ONNX Runtime wants one, and reads nothing there."
_DTYPES: Mapping[str, torch.dtype] = {
    "tensor(float)": torch.float32,
    "tensor(float16)": torch.float16,
    "tensor(bfloat16)": torch.bfloat16,
    "tensor(int32)": torch.int32,
    "tensor(int64)": torch.int64,
    "tensor(bool)": torch.bool,
}
_ELEMENT_TYPES: Mapping[torch.dtype, Any] = {
    torch.float32: np.float32,
    torch.float16: np.float16,
    torch.bfloat16: _BFLOAT16,
    torch.int32: np.int32,
    torch.int64: np.int64,
    torch.bool: np.bool_,
}


class OnnxSession:
    """See Session. Inputs are read and outputs written in place, by their addresses: nothing is copied.

    On a GPU all is queued on the stream that was current when the session was made: run it under that one.
    """

    def __init__(self, path: Path, stage: Stage, providers: Sequence[str] = (CPU,)) -> None:
        """`providers`: ONNX Runtime's names for what may run it, the preferred first.

        Raises NotInstalledError without ONNX Runtime or with one that lacks the first provider; PlanError for a file
        that it refuses, or whose ports are not the stage's.
        """
        self.inputs, self.outputs = stage.inputs, stage.outputs
        self._device = (
            torch.device("cuda", torch.cuda.current_device()) if providers[0] == CUDA else torch.device("cpu")
        )
        self._session = _open(path, providers, self._device)
        values = {value.name: value for value in (*self._session.get_inputs(), *self._session.get_outputs())}
        if missing := [port.name for port in (*stage.inputs, *stage.outputs) if port.name not in values]:
            raise PlanError(f"{path} is not a {stage.name}: it has no {', '.join(missing)}")
        self._dtypes = {name: _DTYPES[value.type] for name, value in values.items()}
        self._shapes = {port.name: tuple(values[port.name].shape) for port in self.outputs}

    @property
    def capturable(self) -> bool:
        """See Session. ONNX Runtime holds graphs of its own, and gets into no other's."""
        return False

    def dtype(self, name: str) -> torch.dtype:
        """A port's, in this file."""
        return self._dtypes[name]

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See Session."""
        for port in self.inputs:
            self._require(port, inputs)
        # By address: all of these have to live until the run is over, or is queued on the stream that they are of.
        given = {port.name: inputs[port.name].contiguous() for port in self.inputs}
        dims = sizes(self.inputs, given)
        made = {
            port.name: torch.empty(
                _sizes(self._shapes[port.name], dims), dtype=self._dtypes[port.name], device=self._device
            )
            for port in self.outputs
        }
        binding = self._session.io_binding()
        for bind, tensors in ((binding.bind_input, given), (binding.bind_output, made)):
            for name, tensor in tensors.items():
                place = (tensor.device.type, tensor.device.index or 0)
                bind(name, *place, _ELEMENT_TYPES[tensor.dtype], tuple(tensor.shape), tensor.data_ptr() or _NOWHERE)
        self._session.run_with_iobinding(binding)
        return made

    def _require(self, port: Port, inputs: Mapping[str, Tensor]) -> None:
        tensor = inputs.get(port.name)
        if tensor is None:
            raise ValueError(f"no tensor for {port.name}")
        if tensor.dtype != self._dtypes[port.name]:
            raise ValueError(f"{port.name} is {tensor.dtype}, the file takes {self._dtypes[port.name]}")
        if tensor.device != self._device:
            raise ValueError(f"{port.name} is on {tensor.device}, the session on {self._device}")


def sizes(ports: Sequence[Port], tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """What the names in the ports' shapes stand for. ValueError where a tensor is of another shape."""
    dims: dict[str, int] = {}
    for port in ports:
        for axis, size in zip(port.shape, tensors[port.name].shape, strict=False):
            if isinstance(axis, str):
                factor, _, name = axis.rpartition("*")
                dims.setdefault(name, size // int(factor or 1))
    for port in ports:
        if (shape := tuple(tensors[port.name].shape)) != port.sizes(dims):
            raise ValueError(f"{port.name} is of shape {shape}, which is not {port.shape} with {dims}")
    return dims


def _sizes(shape: Sequence[int | str], dims: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(axis if isinstance(axis, int) else _value(ast.parse(axis, mode="eval").body, dims) for axis in shape)


def _value(term: ast.expr, dims: Mapping[str, int]) -> int:
    """Of what the exporter finds the sizes of outputs to be: `rows`, `2*tokens`, `text + 1`."""
    match term:
        case ast.Constant(value=int(number)):
            return number
        case ast.Name(id=name) if name in dims:
            return dims[name]
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _value(left, dims) + _value(right, dims)
        case ast.BinOp(left=left, op=ast.Sub(), right=right):
            return _value(left, dims) - _value(right, dims)
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            return _value(left, dims) * _value(right, dims)
    raise ValueError(f"the size {ast.unparse(term)} of an output does not follow from {', '.join(dims)}")


def _open(path: Path, providers: Sequence[str], device: torch.device) -> Any:
    try:
        import onnxruntime  # type: ignore[import-untyped]  # noqa: PLC0415
    except ImportError as error:
        raise NotInstalledError("ONNX Runtime is not installed: pip install onnxruntime") from error
    if providers[0] not in onnxruntime.get_available_providers():
        raise NotInstalledError(
            f"this ONNX Runtime ({onnxruntime.__version__}) has no {providers[0]}, only "
            f"{', '.join(onnxruntime.get_available_providers())}; onnxruntime-gpu has CUDA's"
        )
    options: list[dict[str, str]] = [{} for _ in providers]
    if device.type == "cuda":
        stream = torch.cuda.current_stream(device).cuda_stream
        # TF32, its default for float32, is off by 1e-3 in F0, which the phase adds up.
        options[0] = {"device_id": str(device.index), "user_compute_stream": str(stream), "use_tf32": "0"}
    quiet = onnxruntime.SessionOptions()
    quiet.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(path, quiet, providers=list(providers), provider_options=options)
    except _errors(onnxruntime) as error:
        if "NOT_IMPLEMENTED" in str(error) and providers[0] == CPU and _is_bfloat16(path):
            raise PlanError(
                f"{path} is bfloat16, in which ONNX Runtime's CPU provider computes nothing: check it by "
                f"half_emulation, or run it on a GPU"
            ) from error
        raise PlanError(f"ONNX Runtime refuses {path}: {error}") from error
    if device.type == "cuda" and CUDA not in session.get_providers():
        raise NotInstalledError(f"ONNX Runtime could not load {CUDA}: CUDA's libraries are not those it was built for")
    return session


def _errors(onnxruntime: Any) -> tuple[type[Exception], ...]:
    state = onnxruntime.capi.onnxruntime_pybind11_state
    return (
        state.Fail,
        state.InvalidArgument,
        state.InvalidGraph,
        state.InvalidProtobuf,
        state.NoSuchFile,
        state.NotImplemented,
    )


def _is_bfloat16(path: Path) -> bool:
    try:
        import onnx  # noqa: PLC0415
    except ImportError:
        return False
    model = onnx.load(path, load_external_data=False)
    return any(entry.key == PRECISION and entry.value == "bfloat16" for entry in model.metadata_props)
