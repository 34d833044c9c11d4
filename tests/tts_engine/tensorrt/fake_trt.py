"""TensorRT's Python API as far as sessions use it, over PyTorch modules on the CPU. It refuses what TensorRT refuses:
to run without memory, sizes or addresses, outside of its profiles, or once its memory has moved.
"""

from __future__ import annotations

import ctypes
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import torch
from torch import Tensor

from tts_engine.tensorrt.ports import Port, Stage
from tts_engine.tensorrt.profiles import Profile

_NAMES = {
    torch.float32: "FLOAT",
    torch.float16: "HALF",
    torch.bfloat16: "BF16",
    torch.int32: "INT32",
    torch.int64: "INT64",
    torch.bool: "BOOL",
}

ALIGNMENT = 256
"Bytes."

Strategy = Enum("Strategy", ["STATIC", "USER_MANAGED", "DISABLED", "WHOLE_GRAPH_CAPTURE", "EAGER", "LAZY", "NONE"])


Severity = Enum("Severity", ["INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"])


class ILogger:
    def log(self, severity: Severity, message: str) -> None:
        raise NotImplementedError


@dataclass
class Made:
    """A plan: what its engine computes."""

    stage: Stage
    profiles: Sequence[Profile]
    half: torch.dtype = torch.float32
    scratch: int = 1000
    capturable: bool | Callable[[Context], bool] = True
    runs: bool = True
    contexts: list[Context] = field(default_factory=list)


class FakeTrt(types.ModuleType):
    """A flavour's module. Plans are numbers of what `plan` was given."""

    def __init__(self, version: str = "1.7.1.116") -> None:
        super().__init__("fake_trt")
        self.__version__ = version
        self.ILogger = ILogger
        self.ExecutionContextAllocationStrategy = self.CudaGraphStrategy = Strategy
        self.DynamicShapesKernelSpecializationStrategy = Strategy
        self._plans: list[Made] = []
        loggers: list[ILogger] = []

        def runtime(log: ILogger) -> Runtime:
            loggers.append(log)
            return Runtime(loggers[0], self._plans)  # later ones are ignored

        self.Runtime = runtime

    def plan(self, made: Made) -> bytes:
        self._plans.append(made)
        return f"plan {len(self._plans) - 1}".encode()


class Runtime:
    def __init__(self, log: ILogger, plans: list[Made]) -> None:
        self._log = log
        self._plans = plans

    def deserialize_cuda_engine(self, plan: bytes) -> Engine | None:
        word, _, number = plan.partition(b" ")
        if word != b"plan":
            self._log.log(Severity.ERROR, "IRuntime::deserializeCudaEngine: Error Code 1: magic tag does not match")
            return None
        return Engine(self._plans[int(number)])


class Engine:
    def __init__(self, made: Made) -> None:
        self.made = made
        self._ports = {port.name: port for port in (*made.stage.inputs, *made.stage.outputs)}
        self.num_io_tensors = len(self._ports)
        self.num_optimization_profiles = len(made.profiles)

    def get_tensor_name(self, number: int) -> str:
        return list(self._ports)[number]

    def get_tensor_mode(self, name: str) -> Any:
        return types.SimpleNamespace(name="INPUT" if name in {p.name for p in self.made.stage.inputs} else "OUTPUT")

    def get_tensor_dtype(self, name: str) -> Any:
        return types.SimpleNamespace(name=_NAMES[self._ports[name].dtype(self.made.half)])

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[list[int]]:
        dims = self.made.profiles[profile].dims
        return [list(self._ports[name].sizes({dim: of[at] for dim, of in dims.items()})) for at in range(3)]

    def get_device_memory_size_for_profile_v2(self, profile: int) -> int:
        return self.made.scratch * (profile + 1)

    def create_runtime_config(self) -> RuntimeConfig:
        return RuntimeConfig()

    def create_execution_context(self, config: Any) -> Context:
        context = Context(self, config)
        self.made.contexts.append(context)
        return context


class RuntimeConfig:
    def __init__(self) -> None:
        self.strategy: Any = Strategy.STATIC
        self.dynamic_shapes_kernel_specialization_strategy: Any = None
        self.cuda_graph_strategy: Any = None
        self.runtime_cache: Any = None

    def set_execution_context_allocation_strategy(self, strategy: Any) -> None:
        self.strategy = strategy

    def create_runtime_cache(self) -> RuntimeCache:
        return RuntimeCache()

    def set_runtime_cache(self, cache: RuntimeCache) -> bool:
        self.runtime_cache = cache
        return True


class RuntimeCache:
    def __init__(self) -> None:
        self._data = b"compiled"

    def deserialize(self, data: bytes) -> bool:
        self._data = data
        return True

    def serialize(self) -> bytes:
        return self._data


class Context:
    def __init__(self, engine: Engine, config: Any) -> None:
        self.engine = engine
        self.config = config
        self.profile = 0
        self.memory: tuple[int, int] | None = None
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.set_addresses: list[str] = []
        "Every call of set_tensor_address."
        self.executed: list[tuple[tuple[int, ...], ...]] = []
        "The sizes of every execution."

    def set_optimization_profile_async(self, profile: int, stream: int) -> bool:
        self.profile, self.shapes = profile, {}
        return profile < len(self.engine.made.profiles)

    def set_device_memory(self, address: int, size: int) -> None:
        assert address % ALIGNMENT == 0
        self.memory = (address, size)

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        least, _, most = self.engine.get_tensor_profile_shape(name, self.profile)
        if not all(low <= size <= high for low, size, high in zip(least, shape, most, strict=True)):
            return False
        self.shapes[name] = tuple(shape)
        return True

    def infer_shapes(self) -> list[str]:
        return [port.name for port in self.engine.made.stage.inputs if port.name not in self.shapes]

    def get_tensor_shape(self, name: str) -> list[int]:
        stage = self.engine.made.stage
        dims: dict[str, int] = {}
        for port in stage.inputs:
            for axis, size in zip(port.shape, self.shapes[port.name], strict=True):
                if isinstance(axis, str) and "*" not in axis:
                    assert dims.setdefault(axis, size) == size, f"{axis} is {dims[axis]} and {size}"
        dims.setdefault("positions", dims.get("text", 0) + 1)
        return list(next(port for port in stage.outputs if port.name == name).sizes(dims))

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        self.set_addresses.append(name)
        return address % ALIGNMENT == 0

    def is_stream_capturable(self, stream: int) -> bool:
        capturable = self.engine.made.capturable
        return capturable if isinstance(capturable, bool) else capturable(self)

    def execute_async_v3(self, stream: int) -> bool:
        made = self.engine.made
        assert self.memory is not None
        assert self.memory[1] >= made.scratch * (self.profile + 1)
        assert not self.infer_shapes()
        if not made.runs:
            return False
        half = made.half
        inputs = [self._tensor(port, self.shapes[port.name], half) for port in made.stage.inputs]
        with torch.inference_mode():
            results = made.stage.module(*inputs)
            for port, result in zip(made.stage.outputs, results, strict=True):
                shape = tuple(self.get_tensor_shape(port.name))
                self._tensor(port, shape, half).copy_(result.reshape(shape) if result.shape == shape else result)
        self.executed.append(tuple(self.shapes[port.name] for port in made.stage.inputs))
        return True

    def _tensor(self, port: Port, shape: tuple[int, ...], half: torch.dtype) -> Tensor:
        """What lies at the address that was set."""
        dtype = port.dtype(half)
        count = 1
        for size in shape:
            count *= size
        memory = (ctypes.c_char * (count * dtype.itemsize)).from_address(self.addresses[port.name])
        return torch.frombuffer(memory, dtype=dtype).view(shape)
