"""A stage run by TensorRT: on torch's current stream, in torch's memory, inside CUDA graphs where the flavour allows.

An execution context holds the sizes that it runs with. A CUDA graph is tied to them (NVIDIA: a context for each graph),
so every call that a graph holds has a context of its own (graph_scope), and all other calls share one a profile. What
they compute in, their scratch, belongs to none: engines of one stream run one after the other and share it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tts_engine.tensorrt.engine_plan import LoadedPlan
from tts_engine.tensorrt.faults import BuildError, PlanError, TensorRtError
from tts_engine.tensorrt.flavour import Contexts, Flavour
from tts_engine.tensorrt.graph_scope import current_scope
from tts_engine.tensorrt.ports import Port
from tts_engine.tensorrt.profiles import Profile

ALIGNMENT = 256
"Bytes: where a tensor may begin that TensorRT is given (NvInferRuntime.h, setTensorAddress)."

Shapes = tuple[tuple[int, ...], ...]
"Of the inputs, in the order of the ports."


class Scratch:
    """What engines of one stream compute in, one after the other: as much as the one that needs most."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.size = 0
        "Bytes."
        self._memory: Tensor | None = None

    def reserve(self, size: int) -> None:
        """Before the first use: graphs have its address. TensorRtError if it comes later and asks for more."""
        if size > self.size and self._memory is not None:
            raise TensorRtError(f"scratch of {self.size} bytes is in use and cannot grow to {size}")
        self.size = max(self.size, size)

    def memory(self) -> Tensor:
        """(bytes,) uint8, the same each time; taken at the first, which may not be in a graph."""
        if self._memory is None:
            self._memory = torch.empty(self.size + ALIGNMENT, dtype=torch.uint8, device=self.device)
        offset = -self._memory.data_ptr() % ALIGNMENT
        return self._memory[offset : offset + self.size]


class EngineSession:
    """See session.Session. Made on the device that is current; the plan is not needed afterwards."""

    def __init__(
        self,
        name: str,
        plan: bytes,
        flavour: Flavour,
        inputs: tuple[Port, ...],
        outputs: tuple[Port, ...],
        profiles: Sequence[Profile],
        half: torch.dtype,
        scratch: Scratch,
        kernels: bytes = b"",
    ) -> None:
        """`name` of the stage, for messages; `half`: what the ports of that kind are; `kernels`: what kernels() gave
        on an earlier day, for a faster start.

        Raises PlanError if the plan cannot be loaded, or is not that of this stage.
        """
        self.name, self.inputs, self.outputs = name, inputs, outputs
        self._half = half
        self._flavour = flavour
        self._scratch = scratch
        self._loaded = LoadedPlan(name, plan, flavour)
        self._engine = self._loaded.engine
        self._loaded.check_ports(inputs, outputs, half)
        self._ranges = self._loaded.ranges(inputs, profiles)
        scratch.reserve(max(flavour.scratch_bytes(self._engine, number) for number in range(len(profiles))))
        self._contexts: Contexts = flavour.contexts(self._engine, kernels, "eager")
        self._loose: dict[int, _Context] = {}
        self._capturable: bool | None = None

    @property
    def capturable(self) -> bool:
        """See Session. The first time it is asked it runs, on zeros and at the least sizes: ask on a stream of your
        own, not the default one, which no graph can hold. Of other sizes GraphScope.refusal knows, before each capture.
        Raises TensorRtError if TensorRT refuses to run.
        """
        if self._capturable is None:
            least = [(port, least) for port, (least, _, _) in zip(self.inputs, self._ranges[0], strict=True)]
            device = self._scratch.device
            self.run(
                {port.name: torch.zeros(shape, dtype=port.dtype(self._half), device=device) for port, shape in least}
            )
            self._capturable = not self._loose[0].refusal(_stream(device))
        return self._capturable

    def settle(self) -> None:
        """No graph is captured from now on: sizes that none was captured with wait for no kernel to be compiled. An
        engine that our graphs cannot hold captures itself, if its flavour can.
        """
        own = self._capturable is False
        self._contexts = self._flavour.contexts(self._engine, self._contexts.cache(), "lazy", own_graphs=own)
        self._loose.clear()

    def kernels(self) -> bytes:
        """What was compiled so far, to be kept for the next start; empty if the flavour keeps nothing."""
        return self._contexts.cache()

    @torch.inference_mode()
    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See Session. Raises TensorRtError if TensorRT refuses to run."""
        given = [self._checked(port, inputs) for port in self.inputs]
        context = self._context(tuple(tuple(tensor.shape) for tensor in given))
        results = {
            port.name: _empty(shape, dtype=port.dtype(self._half), device=self._scratch.device)
            for port, shape in zip(self.outputs, context.outputs, strict=True)
        }
        for port, tensor in zip(self.inputs, given, strict=True):
            context.bind(port.name, tensor)
        for name, tensor in results.items():
            context.bind(name, tensor)
        if not context.context.execute_async_v3(_stream(self._scratch.device)):
            raise TensorRtError(f"the engine {self.name} did not run; TensorRT's messages are in the log")
        return results

    def _checked(self, port: Port, inputs: Mapping[str, Tensor]) -> Tensor:
        tensor = inputs.get(port.name)
        if tensor is None:
            raise ValueError(f"{self.name}: no tensor for {port.name}")
        dtype, device = port.dtype(self._half), self._scratch.device
        if tensor.dtype != dtype:
            raise ValueError(f"{self.name}: {port.name} is {tensor.dtype}, not {dtype}")
        if tensor.device != device:
            raise ValueError(f"{self.name}: {port.name} is on {tensor.device}, not on {device}")
        if not tensor.is_contiguous():
            raise ValueError(f"{self.name}: {port.name} is not contiguous")
        # A slice may begin anywhere.
        return (
            _empty(tensor.shape, dtype=dtype, device=device).copy_(tensor) if tensor.data_ptr() % ALIGNMENT else tensor
        )

    def _context(self, shapes: Shapes) -> _Context:
        """One whose sizes are these."""
        profile = self._profile(shapes)
        scope = current_scope()
        if scope is None:
            if _capturing(self._scratch.device):
                raise TensorRtError(f"{self.name}: a graph of {self._said(shapes)} is captured outside of a GraphScope")
            if (context := self._loose.get(profile)) is None:
                context = self._loose[profile] = self._new_context(profile)
            if context.shapes != shapes:
                context.set_shapes(self.inputs, self.outputs, shapes)
            return context
        place = scope.place(self)
        held: _Context | None = scope.get(self, place)
        if held is None or held.shapes != shapes:
            if _capturing(self._scratch.device):
                raise TensorRtError(f"{self.name}: a graph of {self._said(shapes)} needs a call of the same before it")
            held = self._new_context(profile)
            held.set_shapes(self.inputs, self.outputs, shapes)
            scope.keep(self, place, held)
        return held

    def _new_context(self, profile: int) -> _Context:
        try:
            made = self._contexts.make()
        except (BuildError, PlanError) as fault:
            raise TensorRtError(f"the engine {self.name}: {fault}") from None
        if not made.set_optimization_profile_async(profile, _stream(self._scratch.device)):
            raise TensorRtError(f"the engine {self.name} refuses its profile {profile}")
        made.set_device_memory(self._scratch.memory().data_ptr(), self._scratch.size)
        return _Context(self.name, made, self._flavour, (self._contexts, self._scratch.memory()))

    def _profile(self, shapes: Shapes) -> int:
        """The first that holds these sizes."""
        for number, ranges in enumerate(self._ranges):
            if all(_within(shape, *range_) for shape, range_ in zip(shapes, ranges, strict=True)):
                return number
        raise ValueError(f"{self.name}: no profile holds {self._said(shapes)}{self._misfit(shapes)}")

    def _misfit(self, shapes: Shapes) -> str:
        """The first port whose shape fits no profile at all, in words."""
        for at, (port, shape) in enumerate(zip(self.inputs, shapes, strict=True)):
            if not any(_within(shape, *ranges[at]) for ranges in self._ranges):
                least, most = self._ranges[0][at][0], [ranges[at][2] for ranges in self._ranges]
                return f": {port.name} may be from {least} to {' or '.join(map(str, most))}"
        return ""

    def _said(self, shapes: Shapes) -> str:
        return ", ".join(f"{port.name} {list(shape)}" for port, shape in zip(self.inputs, shapes, strict=True))


class _Context:
    """An execution context, its sizes, and the addresses that it has."""

    def __init__(self, name: str, context: Any, flavour: Flavour, needed: object) -> None:
        """`needed`: what is to live as long as the context: its runtime configuration and cache, its memory."""
        self.context = context
        self.shapes: Shapes | None = None
        self.outputs: Shapes = ()
        self._name = name
        self._flavour = flavour
        self._needed = needed
        self._addresses: dict[str, int] = {}

    def set_shapes(self, inputs: Sequence[Port], outputs: Sequence[Port], shapes: Shapes) -> None:
        self.shapes = None  # until all of them are set
        for port, shape in zip(inputs, shapes, strict=True):
            if not self.context.set_input_shape(port.name, shape):
                raise TensorRtError(f"the engine {self._name} refuses {port.name} of {list(shape)}")
        if unknown := self.context.infer_shapes():
            raise TensorRtError(f"the engine {self._name}: sizes follow from no input: {', '.join(unknown)}")
        self.outputs = tuple(tuple(self.context.get_tensor_shape(port.name)) for port in outputs)
        self.shapes = shapes

    def refusal(self, stream: int) -> str:
        """See graph_scope.Held."""
        if self._flavour.capturable(self.context, stream):
            return ""
        sizes = " ".join(str(list(shape)) for shape in (self.shapes or ())[:2])
        return f"no graph can hold the engine {self._name} at {sizes}"

    def bind(self, name: str, tensor: Tensor) -> None:
        address = tensor.data_ptr()
        if self._addresses.get(name) != address:
            if not self.context.set_tensor_address(name, address):
                raise TensorRtError(f"the engine {self._name} refuses the address of {name}")
            self._addresses[name] = address


def _within(shape: tuple[int, ...], least: tuple[int, ...], _: tuple[int, ...], most: tuple[int, ...]) -> bool:
    if len(shape) != len(least):
        return False
    return all(low <= size <= high for low, size, high in zip(least, shape, most, strict=True))


_empty = torch.empty
"Outputs, on GPUs at multiples of 512 bytes."


def _stream(device: torch.device) -> int:
    """The handle of torch's current stream."""
    return torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0


def _capturing(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()
