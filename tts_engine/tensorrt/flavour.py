"""The two flavours of TensorRT behind one adapter. What differs between them is said here and nowhere else.

TensorRT (10.x and 11.x) builds for the GPU that is present: it times kernels on it. TensorRT-RTX builds for a named
compute capability, with or without a GPU, and compiles kernels when an engine is loaded. Their Python modules are the
same but for what the classes below do.

TensorRT-RTX 1.7 was run, TensorRT was not: its class follows NVIDIA's documentation and the names in its bindings.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from types import ModuleType
from typing import Any, Literal

import torch

from tts_engine.tensorrt.faults import BuildError, NotInstalledError, PlanError

FlavourName = Literal["tensorrt-rtx", "tensorrt"]
FLAVOURS: tuple[FlavourName, ...] = ("tensorrt-rtx", "tensorrt")

Capability = tuple[int, int]
"Compute capability of a GPU: (8, 6) for the A10G."

Specialisation = Literal["eager", "lazy", "none"]
"When TensorRT-RTX compiles kernels for shapes it has not met: at once, in the background, or never."

_EARLIEST = (10, 14)
"Of TensorRT: the first whose parser knows ONNX's Attention, by its release notes."


def parse_target(text: str) -> Capability:
    """`sm86`, `sm_86`, `SM86` or `8.6` to (8, 6). Raises BuildError."""
    found = re.fullmatch(r"(?:sm_?)?(\d+)\.?(\d)", text.strip().lower())
    if not found or not 5 <= int(found[1]) <= 99:
        raise BuildError(f"{text!r} is not the name of a GPU target; an A10G's is sm86, an L4's sm89")
    return int(found[1]), int(found[2])


def target_name(capability: Capability) -> str:
    """(8, 6) to `sm86`."""
    return f"sm{capability[0]}{capability[1]}"


def present_gpu() -> Capability | None:
    """The compute capability of the first GPU that PyTorch sees, None if it sees none."""
    return torch.cuda.get_device_capability(0) if torch.cuda.is_available() else None


class Flavour(ABC):
    """One of the two, imported. `module` is its Python API, whose objects have no types."""

    name: FlavourName
    title: str
    package: str
    "To import."
    needs_gpu: bool
    "To build."
    has_timing_cache: bool

    def __init__(self, module: ModuleType) -> None:
        self.module: Any = module
        self.version: str = module.__version__

    def __str__(self) -> str:
        return f"{self.title} {self.version}"

    # Building

    @abstractmethod
    def check_target(self, target: Capability, gpu: Capability | None, *, hardware_compatible: bool) -> None:
        """Raises BuildError, saying why, if an engine for `target` cannot be built where `gpu` is the GPU."""

    @abstractmethod
    def aim(self, config: Any, target: Capability, *, hardware_compatible: bool) -> None:
        """Tell the builder's configuration which GPU the engine is for."""

    def network(self, builder: Any) -> Any:
        """An empty network whose tensors have the dtypes of the ONNX file.

        From TensorRT 11, and in TensorRT-RTX, all networks are such, and the flag is deprecated or gone.
        """
        strongly_typed = getattr(self.module.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
        if strongly_typed is None or self._always_strongly_typed():
            return builder.create_network()
        return builder.create_network(1 << int(strongly_typed))

    def require_capturable(self, config: Any) -> None:
        """Have the builder make no engine that allocates memory of its own while it runs: no CUDA graph could hold it.

        Where there is no such flag no engine does.
        """
        flag = getattr(self.module.BuilderFlag, "REQUIRE_USER_ALLOCATION", None)
        if flag is not None:
            config.set_flag(flag)

    def set_timing_cache(self, config: Any, data: bytes) -> bool:
        """Let the builder start with what was measured before (b"": nothing). False: it was of no use."""
        return not data

    def get_timing_cache(self, config: Any) -> bytes:
        """All that is measured now; b"" if this flavour keeps nothing."""
        return b""

    # Running

    def scratch_bytes(self, engine: Any, profile: int) -> int:
        """Device memory that a context needs under a profile."""
        return int(engine.get_device_memory_size_for_profile_v2(profile))

    @abstractmethod
    def contexts(
        self, engine: Any, cache: bytes = b"", specialisation: Specialisation = "eager", *, own_graphs: bool = False
    ) -> Contexts:
        """What makes contexts of an engine. `cache`: what `Contexts.cache` gave, on an earlier day. `own_graphs`: they
        capture themselves in CUDA graphs, if the flavour can; ours cannot hold them then.
        """

    @abstractmethod
    def capturable(self, context: Any, stream: int) -> bool:
        """Whether a CUDA graph may hold this context's execution on the stream (its handle). Ask after a first call."""

    def _always_strongly_typed(self) -> bool:
        return False


class Contexts(ABC):
    """Makes execution contexts of one engine, without device memory of their own: the caller sets it, for each."""

    @abstractmethod
    def make(self) -> Any:
        """A new context. Raises PlanError if there is none to be had (the log says why)."""

    def cache(self) -> bytes:
        """What kernels were compiled so far, for a faster start next time; b"" if this flavour keeps nothing."""
        return b""


class TensorRtRtx(Flavour):
    """TensorRT for RTX GPUs: `pip install tensorrt-rtx-cu13`, libraries included."""

    name = "tensorrt-rtx"
    title = "TensorRT-RTX"
    package = "tensorrt_rtx"
    needs_gpu = False
    has_timing_cache = False  # its calls are there, deprecated, and do nothing

    def check_target(self, target: Capability, gpu: Capability | None, *, hardware_compatible: bool) -> None:
        """See Flavour."""
        if hardware_compatible:
            raise BuildError("TensorRT-RTX builds for the target it is given; --hardware-compatible is TensorRT's")
        if self._target(target) is None:
            names = [name for name in self.module.ComputeCapability.__members__ if re.fullmatch(r"SM\d+", name)]
            known = ", ".join(sorted((name.lower() for name in names), key=lambda name: int(name[2:])))
            raise BuildError(f"{self} builds for {known}, not for {target_name(target)}")

    def aim(self, config: Any, target: Capability, *, hardware_compatible: bool) -> None:
        """See Flavour."""
        self.check_target(target, None, hardware_compatible=hardware_compatible)
        config.num_compute_capabilities = 1
        config.set_compute_capability(self._target(target), 0)

    def contexts(
        self, engine: Any, cache: bytes = b"", specialisation: Specialisation = "eager", *, own_graphs: bool = False
    ) -> Contexts:
        """See Flavour."""
        return _RtxContexts(self.module, engine, cache, specialisation, own_graphs)

    def capturable(self, context: Any, stream: int) -> bool:
        """See Flavour."""
        return bool(context.is_stream_capturable(stream))

    def _target(self, target: Capability) -> Any:
        return getattr(self.module.ComputeCapability, target_name(target).upper(), None)

    def _always_strongly_typed(self) -> bool:
        return True


class _RtxContexts(Contexts):
    def __init__(
        self, module: Any, engine: Any, cache: bytes, specialisation: Specialisation, own_graphs: bool
    ) -> None:
        self._engine = engine
        self._config = engine.create_runtime_config()
        self._config.set_execution_context_allocation_strategy(module.ExecutionContextAllocationStrategy.USER_MANAGED)
        strategies = module.DynamicShapesKernelSpecializationStrategy
        self._config.dynamic_shapes_kernel_specialization_strategy = getattr(strategies, specialisation.upper())
        graphs = module.CudaGraphStrategy
        self._config.cuda_graph_strategy = graphs.WHOLE_GRAPH_CAPTURE if own_graphs else graphs.DISABLED
        self._cache = self._config.create_runtime_cache()
        if cache:
            self._cache.deserialize(cache)  # of another GPU or version: left empty, which costs time only
        self._config.set_runtime_cache(self._cache)

    def make(self) -> Any:
        """See Contexts."""
        return _made(self._engine.create_execution_context(self._config))

    def cache(self) -> bytes:
        """See Contexts."""
        data = self._cache.serialize()
        return bytes(data) if data is not None else b""


class TensorRt(Flavour):
    """TensorRT 10.x and 11.x: `pip install tensorrt-cu13`, libraries from NVIDIA's index. Not run."""

    name = "tensorrt"
    title = "TensorRT"
    package = "tensorrt"
    needs_gpu = True
    has_timing_cache = True

    def __init__(self, module: ModuleType) -> None:
        super().__init__(module)
        if self._release() < _EARLIEST:
            raise NotInstalledError(f"TensorRT {self.version} is too old: 10.14 or later is needed")

    def check_target(self, target: Capability, gpu: Capability | None, *, hardware_compatible: bool) -> None:
        """See Flavour. Hardware compatible engines run on Ampere and later, and are built there."""
        if gpu is None:
            raise BuildError(
                f"{self} builds on the GPU that the engine is for, and there is none here; TensorRT-RTX builds without "
                f"one: pip install 'chatterline[tensorrt-rtx]'"
            )
        if target == gpu or (hardware_compatible and min(target, gpu) >= (8, 0)):
            return
        if hardware_compatible:
            raise BuildError(f"hardware compatible engines are for sm80 and later, not {target_name(min(target, gpu))}")
        raise BuildError(
            f"{self} builds for the GPU that is present, {target_name(gpu)}, not for {target_name(target)}; "
            f"--hardware-compatible builds engines that run on every GPU from sm80 on, somewhat slower"
        )

    def aim(self, config: Any, target: Capability, *, hardware_compatible: bool) -> None:
        """See Flavour."""
        if hardware_compatible:
            config.hardware_compatibility_level = self.module.HardwareCompatibilityLevel.AMPERE_PLUS

    def set_timing_cache(self, config: Any, data: bytes) -> bool:
        """See Flavour. The cache knows the GPU and the version that it is of; a foreign one is refused."""
        known = config.create_timing_cache(data) if data else None
        if known is not None and config.set_timing_cache(known, False):
            return True
        empty = config.create_timing_cache(b"")
        if empty is not None:
            config.set_timing_cache(empty, False)
        return not data

    def get_timing_cache(self, config: Any) -> bytes:
        """See Flavour."""
        cache = config.get_timing_cache()
        return bytes(cache.serialize()) if cache is not None else b""

    def contexts(
        self, engine: Any, cache: bytes = b"", specialisation: Specialisation = "eager", *, own_graphs: bool = False
    ) -> Contexts:
        """See Flavour. Kernels are in the plan: there is nothing to specialise, and nothing to keep."""
        strategy = self.module.ExecutionContextAllocationStrategy.USER_MANAGED
        return _PlainContexts(lambda: engine.create_execution_context(strategy))

    def capturable(self, context: Any, stream: int) -> bool:
        """See Flavour. After one call with the same shapes, by the documentation's word."""
        return True

    def _always_strongly_typed(self) -> bool:
        return self._release() >= (11, 0)

    def _release(self) -> tuple[int, int]:
        major, minor = (int(part) for part in re.findall(r"\d+", self.version)[:2])
        return major, minor


class _PlainContexts(Contexts):
    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make

    def make(self) -> Any:
        """See Contexts."""
        return _made(self._make())


def _made(context: Any) -> Any:
    if context is None:
        raise PlanError("TensorRT made no execution context; its messages are in the log")
    return context


_CLASSES: dict[FlavourName, type[Flavour]] = {"tensorrt-rtx": TensorRtRtx, "tensorrt": TensorRt}


def find_flavour(wanted: str | None = None, gpu: Capability | None = None) -> Flavour:
    """The flavour of that name; without one TensorRT where there is a GPU for it, else what is installed.

    `gpu`: the GPU that is present. Raises NotInstalledError, naming the extra to install.
    """
    if wanted is not None:
        return _import(wanted)
    order: tuple[FlavourName, ...] = ("tensorrt", "tensorrt-rtx") if gpu else FLAVOURS
    faults = []
    for name in order:
        try:
            return _import(name)
        except NotInstalledError as fault:
            if _is_there(name):
                faults.append(str(fault))
    raise NotInstalledError("; ".join(faults) or _NONE)


_NONE = (
    "TensorRT is not installed: pip install 'chatterline[tensorrt-rtx]' builds for a named GPU, also without one; "
    "pip install 'chatterline[tensorrt]' builds on the GPU itself"
)


def _is_there(name: FlavourName) -> bool:
    return importlib.util.find_spec(_CLASSES[name].package) is not None


def _import(name: str) -> Flavour:
    if name not in _CLASSES:
        raise NotInstalledError(f"{name!r} is no flavour of TensorRT: there are {' and '.join(FLAVOURS)}")
    kind = next(kind for known, kind in _CLASSES.items() if known == name)
    absent = f"{kind.title} is not installed: pip install 'chatterline[{name}]'"
    if not _is_there(kind.name):
        raise NotInstalledError(absent)
    try:
        module = importlib.import_module(kind.package)
    except (ImportError, OSError) as fault:  # the bindings without the libraries
        raise NotInstalledError(f"{absent} (what there is cannot be loaded: {fault})") from None
    return kind(module)
