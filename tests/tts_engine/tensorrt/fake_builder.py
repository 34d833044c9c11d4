"""TensorRT's Python API as far as the build and the flavours use it, by its own names (tensorrt-cu13-bindings 10.16),
for a machine with an A10G. Engines know their ports and profiles; nothing computes.
"""

from __future__ import annotations

import enum
import json
import re
from types import ModuleType
from typing import Any

import onnx

GPU = "sm86"

_DTYPES = {1: "FLOAT", 6: "INT32", 7: "INT64", 9: "BOOL", 10: "HALF", 16: "BF16"}


class Severity(enum.Enum):
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


class ILogger:
    def log(self, severity: Severity, message: str) -> None:
        raise NotImplementedError


class IProgressMonitor:
    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        raise NotImplementedError

    def step_complete(self, phase_name: str, step: int) -> bool:
        raise NotImplementedError

    def phase_finish(self, phase_name: str) -> None:
        raise NotImplementedError


DataType = enum.Enum("DataType", list(_DTYPES.values()))
TensorIOMode = enum.Enum("TensorIOMode", ["NONE", "INPUT", "OUTPUT"])
MemoryPoolType = enum.Enum("MemoryPoolType", ["WORKSPACE", "TACTIC_DRAM"])
ProfilingVerbosity = enum.Enum("ProfilingVerbosity", ["LAYER_NAMES_ONLY", "NONE", "DETAILED"])
BuilderFlag = enum.Enum("BuilderFlag", ["TF32", "REFIT", "DISABLE_TIMING_CACHE"])
HardwareCompatibilityLevel = enum.Enum("HardwareCompatibilityLevel", ["NONE", "AMPERE_PLUS", "SAME_COMPUTE_CAPABILITY"])
ExecutionContextAllocationStrategy = enum.Enum(
    "ExecutionContextAllocationStrategy", ["STATIC", "ON_PROFILE_CHANGE", "USER_MANAGED"]
)
CudaGraphStrategy = enum.Enum("CudaGraphStrategy", ["DISABLED", "WHOLE_GRAPH_CAPTURE"])
DynamicShapesKernelSpecializationStrategy = enum.Enum(
    "DynamicShapesKernelSpecializationStrategy", ["LAZY", "EAGER", "NONE"]
)
ComputeCapability = enum.Enum("ComputeCapability", ["NONE", "CURRENT", "SM75", "SM86", "SM120"])


class NetworkDefinitionCreationFlag(enum.IntEnum):
    EXPLICIT_BATCH, STRONGLY_TYPED = 0, 1


class ITimingCache:
    def __init__(self, data: bytes) -> None:
        self.data = data or GPU.encode() + b":"

    def serialize(self) -> bytes:
        return self.data


class NetworkTensor:
    def __init__(self, info: onnx.ValueInfoProto) -> None:
        kind = info.type.tensor_type
        self.name = info.name
        self.dtype = DataType[_DTYPES[kind.elem_type]]
        self.shape = tuple(-1 if axis.dim_param else axis.dim_value for axis in kind.shape.dim)


class Network:
    def __init__(self, flags: int) -> None:
        self.flags = flags
        self.inputs: list[NetworkTensor] = []
        self.outputs: list[NetworkTensor] = []

    num_inputs = property(lambda self: len(self.inputs))
    num_outputs = property(lambda self: len(self.outputs))

    def get_input(self, index: int) -> NetworkTensor:
        return self.inputs[index]

    def get_output(self, index: int) -> NetworkTensor:
        return self.outputs[index]


class OnnxParser:
    num_errors = 0

    def __init__(self, network: Network, logger: ILogger) -> None:
        self.network = network

    def parse_from_file(self, model: str) -> bool:
        graph = onnx.load(model).graph
        self.network.inputs = [NetworkTensor(info) for info in graph.input]
        self.network.outputs = [NetworkTensor(info) for info in graph.output]
        return True


class IOptimizationProfile:
    def __init__(self) -> None:
        self.shapes: dict[str, tuple[tuple[int, ...], ...]] = {}

    def set_shape(self, input: str, min: tuple[int, ...], opt: tuple[int, ...], max: tuple[int, ...]) -> None:
        self.shapes[input] = (tuple(min), tuple(opt), tuple(max))


class IBuilderConfig:
    def __init__(self) -> None:
        self.hardware_compatibility_level = HardwareCompatibilityLevel.NONE
        self.builder_optimization_level = 3
        self.profiling_verbosity = ProfilingVerbosity.LAYER_NAMES_ONLY
        self.progress_monitor: IProgressMonitor | None = None
        self._flags = {BuilderFlag.TF32}
        self._limits: dict[MemoryPoolType, int] = {}
        self._profiles: list[IOptimizationProfile] = []
        self._timing: ITimingCache | None = None

    def set_memory_pool_limit(self, pool: MemoryPoolType, pool_size: int) -> None:
        self._limits[pool] = pool_size

    def clear_flag(self, flag: BuilderFlag) -> None:
        self._flags.discard(flag)

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        self._profiles.append(profile)
        return len(self._profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache:
        return ITimingCache(serialized_timing_cache)

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        if not cache.data.startswith(GPU.encode()) and not ignore_mismatch:
            return False
        self._timing = cache
        return True

    def get_timing_cache(self) -> ITimingCache | None:
        return self._timing

    def measure(self, data: bytes) -> None:
        assert self._timing is not None
        self._timing.data += data


class IExecutionContext:
    def __init__(self, given: Any) -> None:
        self.strategy = self.config = given

    def is_stream_capturable(self, stream: int) -> bool:
        return True


class IRuntimeCache:
    def __init__(self) -> None:
        self.data = b""

    def deserialize(self, blob: bytes) -> bool:
        if blob.startswith(GPU.encode()):
            self.data = blob
            return True
        return False

    def serialize(self) -> bytes:
        return self.data


class IRuntimeConfig:
    def __init__(self) -> None:
        self.cuda_graph_strategy = CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        self.dynamic_shapes_kernel_specialization_strategy = DynamicShapesKernelSpecializationStrategy.NONE
        self.strategy = ExecutionContextAllocationStrategy.STATIC
        self.cache: IRuntimeCache | None = None

    def set_execution_context_allocation_strategy(self, strategy: ExecutionContextAllocationStrategy) -> None:
        self.strategy = strategy

    def create_runtime_cache(self) -> IRuntimeCache:
        return IRuntimeCache()

    def set_runtime_cache(self, cache: IRuntimeCache) -> bool:
        self.cache = cache
        return True


class ICudaEngine:
    def __init__(self, plan: bytes) -> None:
        self._account = json.loads(bytes(plan))
        self._tensors = {tensor["name"]: tensor for tensor in self._account["tensors"]}
        self.num_io_tensors = len(self._tensors)
        self.num_optimization_profiles = len(self._account["scratch"])
        self.out_of_memory = False

    def get_tensor_name(self, index: int) -> str:
        return list(self._tensors)[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode[self._tensors[name]["mode"]]

    def get_tensor_dtype(self, name: str) -> DataType:
        return DataType[self._tensors[name]["dtype"]]

    def get_tensor_shape(self, name: str) -> list[int]:
        return list(self._tensors[name]["shape"])

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[list[int]]:
        return list(self._tensors[name]["profiles"][profile_index])

    def get_device_memory_size_for_profile_v2(self, profile_index: int) -> int:
        return int(self._account["scratch"][profile_index])

    def create_runtime_config(self) -> IRuntimeConfig:
        return IRuntimeConfig()

    def create_execution_context(self, given: Any = None) -> IExecutionContext | None:
        if self.out_of_memory:
            return None
        if isinstance(given, IRuntimeConfig) and given.cache is not None:
            given.cache.data = GPU.encode() + b":compiled"
        return IExecutionContext(given)


class Runtime:
    def __init__(self, logger: Any) -> None:
        self.logger = logger

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
        try:
            return ICudaEngine(serialized_engine)
        except ValueError:
            self.logger.log(Severity.ERROR, "Serialization assertion failed")
            return None


class Builder:
    def __init__(self, logger: ILogger | None) -> None:
        self.logger = logger
        self.configs: list[IBuilderConfig] = []

    def create_network(self, flags: int = 0) -> Network:
        return Network(flags)

    def create_builder_config(self) -> IBuilderConfig:
        return IBuilderConfig()

    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile()

    def build_serialized_network(self, network: Network, config: IBuilderConfig) -> bytes | None:
        monitor = config.progress_monitor
        assert monitor is not None
        monitor.phase_start("Building", None, 4)
        for step in range(4):
            if not monitor.step_complete("Building", step):
                return None
        monitor.phase_finish("Building")
        config.measure(b"measured ")
        return json.dumps(account(network, config)).encode()


def account(network: Network, config: IBuilderConfig) -> dict[str, Any]:
    """What an engine knows of itself; scratch memory grows with the largest sizes of a profile."""
    tensors = []
    for tensor in (*network.inputs, *network.outputs):
        is_input = tensor in network.inputs
        fixed = (tensor.shape,) * 3
        tensors.append(
            {
                "name": tensor.name,
                "mode": "INPUT" if is_input else "OUTPUT",
                "dtype": tensor.dtype.name,
                "shape": tensor.shape,
                "profiles": [profile.shapes.get(tensor.name, fixed) for profile in config._profiles if is_input],
            }
        )
    scratch = [
        sum(size for _, _, most in profile.shapes.values() for size in most) * 1000 for profile in config._profiles
    ]
    return {
        "tensors": tensors,
        "scratch": scratch,
        "limits": {pool.name: size for pool, size in config._limits.items()},
        "level": config.builder_optimization_level,
        "flags": [flag.name for flag in config._flags],
        "verbosity": config.profiling_verbosity.name,
        "network": network.flags,
    }


def fake_tensorrt(version: str = "10.16.1.11", *, rtx: bool = False) -> Any:
    """A module of its own, so that a test may change it."""
    module: Any = ModuleType("tensorrt_rtx" if rtx else "tensorrt")
    for name, value in globals().items():
        if not name.startswith("_") and (isinstance(value, type) or name == "GPU"):
            setattr(module, name, value)
    module.__version__ = version
    module.Logger = ILogger
    module.PLAN = json.dumps({"tensors": [], "scratch": [100]}).encode()
    # Not of the API: what tests ask the doubles.
    module.OURS = {"measure", "data"}
    if re.match(r"1[1-9]\.", version):
        del module.NetworkDefinitionCreationFlag
        module.NetworkDefinitionCreationFlag = enum.IntEnum("NetworkDefinitionCreationFlag", {"PREFER_AOT": 2})
    if not rtx:
        del module.ComputeCapability, module.IRuntimeCache
    return module
