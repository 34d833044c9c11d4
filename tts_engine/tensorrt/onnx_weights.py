"""Tensors of an ONNX file, one at a time: read in place from the file beside it, written to another such file.

A whole model in memory would be over what one protocol buffer may hold (2 GB), and there twice.
"""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, numpy_helper

from tts_engine.tensorrt.faults import BuildError

Array = npt.NDArray[Any]

_INLINE_BYTES = 1024
_PAGE = 4096
_LARGE_BYTES = 1 << 20
"From here on a tensor begins on a page of its own, so that it can be mapped."


def read(tensor: TensorProto, directory: Path) -> Array:
    """An initialiser's numbers; those in a file beside are mapped, not copied. bfloat16 comes as uint16."""
    dtype = storage_dtype(tensor.data_type)
    shape = tuple(tensor.dims)
    if tensor.data_location != TensorProto.EXTERNAL:
        values = numpy_helper.to_array(tensor)
        return values if values.dtype == dtype else values.view(dtype)
    where = {entry.key: entry.value for entry in tensor.external_data}
    count = int(np.prod(shape, dtype=np.int64))
    if not count:
        return np.zeros(shape, dtype)
    try:
        mapped = np.memmap(directory / where["location"], dtype, "r", int(where.get("offset", 0)), shape)
    except (OSError, ValueError) as error:
        raise BuildError(f"{directory / where['location']} does not hold {tensor.name}: {error}") from error
    return mapped


def storage_dtype(data_type: int) -> np.dtype[Any]:
    """How numpy holds ONNX's type: as itself, bfloat16 as uint16."""
    return np.dtype(np.uint16) if data_type == TensorProto.BFLOAT16 else onnx.helper.tensor_dtype_to_np_dtype(data_type)


def to_half(values: Array, half: int, name: str) -> Array:
    """float32 to float16, or to bfloat16 as uint16, rounded to the nearest. BuildError if a finite number overflows."""
    values = np.ascontiguousarray(values, np.float32)
    if half == TensorProto.BFLOAT16:
        bits = values.view(np.uint32)
        # Half of the last place that stays; a tie goes to the even number. NaN is no number to round.
        rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
        return np.where(np.isnan(values), np.uint16(0x7FC0), rounded)
    with np.errstate(over="ignore"):
        halved = values.astype(np.float16)
    if (np.isinf(halved) & np.isfinite(values)).any():
        raise BuildError(f"{name} holds {np.abs(values[np.isfinite(values)]).max():.3g}, which float16 cannot (65504)")
    return halved


class WeightsFile:
    """Collects the tensors of an .onnx that is being written."""

    def __init__(self, file: IO[bytes], location: str) -> None:
        self._file = file
        self._location = location

    def tensor(self, name: str, data_type: int, values: Array) -> TensorProto:
        """An initialiser of these numbers: small ones inside it, others written to the file, to which it points."""
        tensor = TensorProto(name=name, data_type=data_type, dims=values.shape)
        data = np.ascontiguousarray(values)
        if data.nbytes < _INLINE_BYTES:
            tensor.raw_data = data.tobytes()
            return tensor
        self._file.write(bytes(-self._file.tell() % (_PAGE if data.nbytes >= _LARGE_BYTES else 64)))
        tensor.data_location = TensorProto.EXTERNAL
        entries = {"location": self._location, "offset": self._file.tell(), "length": data.nbytes}
        for key, value in entries.items():
            tensor.external_data.add(key=key, value=str(value))
        self._file.write(data.data)
        return tensor
