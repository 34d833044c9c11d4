"""What goes into a stage and comes out of it: the same for a module, its ONNX and its engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

Kind = Literal["half", "float32", "int32", "int64", "bool"]
"""`half` is the dtype that the engine computes products in (float16 or bfloat16), float32 in an export of full
precision."""

Axis = int | str
"A fixed size, or the name of a size that varies: `rows`, `tokens`, or a multiple of one: `2*tokens`."


@dataclass(frozen=True)
class Port:
    """A named tensor at the edge of a stage."""

    name: str
    kind: Kind
    shape: tuple[Axis, ...]

    def dtype(self, half: torch.dtype) -> torch.dtype:
        """The tensor's dtype in an engine of this precision."""
        return half if self.kind == "half" else _DTYPES[self.kind]

    def sizes(self, dims: Mapping[str, int]) -> tuple[int, ...]:
        """The tensor's shape where the names stand for these sizes."""
        return tuple(axis if isinstance(axis, int) else size_of(axis, dims) for axis in self.shape)


Inputs = dict[str, Tensor]

Trial = tuple[Inputs, tuple[str, ...]]
"Inputs, and the outputs that they are fit to judge."


@dataclass(frozen=True)
class Stage:
    """A part of the model that is exported whole. The module takes the inputs in order and gives the outputs in order,
    a tuple even if there is one; it lies on any device, in any dtype that it was loaded in.
    """

    name: str
    module: nn.Module
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    example: Callable[[Mapping[str, int], torch.Generator], Inputs]
    "Inputs for these sizes that the model could meet, on the CPU, `half` ones in float32: for export and for checks."
    trials_of: Callable[[Inputs], tuple[Trial, ...]] | None = None
    "What to judge on which inputs, made of an example, where one example will not do for all outputs."

    def trials(self, example: Inputs) -> tuple[Trial, ...]:
        """Runs that together judge every output once."""
        if self.trials_of is not None:
            return self.trials_of(example)
        return ((example, tuple(port.name for port in self.outputs)),)


_DTYPES = {"float32": torch.float32, "int32": torch.int32, "int64": torch.int64, "bool": torch.bool}


def size_of(axis: str, dims: Mapping[str, int]) -> int:
    """`tokens` or `2*tokens` to a number."""
    factor, star, name = axis.rpartition("*")
    return dims[name] * (int(factor) if star else 1)
