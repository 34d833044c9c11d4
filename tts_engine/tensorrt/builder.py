"""From an ONNX file to an engine: parse, set profiles, build, read back what the engine became, compare.

Compared each time are the ports of the stage, and at the end its profiles too.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from tts_engine.tensorrt.build_log import BuildLog, Phases, Progress, Tensor, dtype_name, make_logger, make_monitor
from tts_engine.tensorrt.faults import BuildError
from tts_engine.tensorrt.flavour import Capability, Flavour
from tts_engine.tensorrt.ports import Port
from tts_engine.tensorrt.profiles import Profile

DEFAULT_WORKSPACE_BYTES = 2 << 30
DEFAULT_LEVEL = 3
"TensorRT's own default: it tries what is likely to be fastest, in minutes."

_POLL_SECONDS = 0.2
"How soon Ctrl-C is noticed during a build."


@dataclass(frozen=True)
class Ports:
    """Of a stage, and the dtype that those of kind half have."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    half: torch.dtype


@dataclass(frozen=True)
class Options:
    """How an engine is built."""

    target: Capability
    gpu: Capability | None = None
    "The GPU that is present."
    hardware_compatible: bool = False
    level: int = DEFAULT_LEVEL
    "0 to 5; higher ones try more kernels."
    workspace_bytes: int = DEFAULT_WORKSPACE_BYTES
    "Scratch memory that an engine may take."
    timing_cache: bytes = b""

    def with_timing_cache(self, data: bytes) -> Options:
        """The same with what was measured before."""
        return replace(self, timing_cache=data)


@dataclass(frozen=True)
class Built:
    """An engine, and what it says of itself."""

    plan: memoryview
    tensors: tuple[Tensor, ...]
    scratch_bytes: int
    weights_bytes: int
    seconds: float
    kernels: Mapping[str, int] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    timing_cache: bytes = b""


def build_plan(
    flavour: Flavour,
    onnx_path: Path,
    profiles: Sequence[Profile],
    ports: Ports,
    options: Options,
    progress: Progress = lambda part: None,
) -> Built:
    """Build an engine. Raises BuildError: what the parser or the builder refused, or what became of it instead."""
    flavour.check_target(options.target, options.gpu, hardware_compatible=options.hardware_compatible)
    module, log = flavour.module, BuildLog()
    started = time.perf_counter()
    logger = make_logger(module, log)
    builder = module.Builder(logger)
    if builder is None:
        raise BuildError(f"{flavour} made no builder: {log.last_error()}")
    network = flavour.network(builder)
    parser = _parse(module, network, logger, onnx_path)
    _check_network(network, ports, onnx_path)
    config = _configuration(flavour, builder, options)
    for profile in profiles:
        _add_profile(builder, config, network, ports, profile)
    cancelled = threading.Event()
    config.progress_monitor = monitor = make_monitor(module, Phases(progress), cancelled.is_set)
    plan = _serialise(builder, network, config, cancelled)
    if plan is None:
        raise BuildError(f"{flavour} built no engine of {onnx_path.name}: {_why_not(log, options)}")
    timing_cache = flavour.get_timing_cache(config)
    tensors, scratch = _account(flavour, plan, log, logger, options, len(profiles))
    if faults := list(_mismatches(tensors, ports, profiles)):
        raise BuildError(f"the engine of {onnx_path.name} is not as it was ordered: {'; '.join(faults)}")
    progress(1.0)
    del parser, monitor  # TensorRT uses what they own until here
    return Built(
        plan=memoryview(plan),
        tensors=tensors,
        scratch_bytes=scratch,
        weights_bytes=log.weights_bytes,
        seconds=time.perf_counter() - started,
        kernels=log.kernels(),
        warnings=tuple(log.warnings),
        timing_cache=timing_cache,
    )


def _parse(module: Any, network: Any, logger: Any, path: Path) -> Any:
    """The parser, which owns the weights that the network refers to."""
    parser = module.OnnxParser(network, logger)
    if not parser.parse_from_file(str(path)):
        faults = [parser.get_error(index) for index in range(parser.num_errors)]
        what = "; ".join(f"{_node(fault)}{fault.desc()}" for fault in faults[:3]) or "it cannot be read"
        raise BuildError(f"TensorRT's parser refuses {path.name}: {what}")
    return parser


def _node(fault: Any) -> str:
    """`Mish node_mish_3: ` where the fault is of a node."""
    return f"{fault.node_operator()} {fault.node_name()}: ".replace(" : ", ": ") if fault.node_operator() else ""


def _check_network(network: Any, ports: Ports, path: Path) -> None:
    """The parsed file has the ports of the stage, before an engine is built of it."""
    inputs = (network.get_input(index) for index in range(network.num_inputs))
    outputs = (network.get_output(index) for index in range(network.num_outputs))
    found = [
        Tensor(tensor.name, is_input, dtype_name(tensor.dtype.name), tuple(tensor.shape), ())
        for is_input, tensors in ((True, inputs), (False, outputs))
        for tensor in tensors
    ]
    if faults := list(_mismatches(found, ports, None)):
        raise BuildError(f"{path.name} is not what the stage's ports say: {'; '.join(faults)}")


def _configuration(flavour: Flavour, builder: Any, options: Options) -> Any:
    module = flavour.module
    config = builder.create_builder_config()
    flavour.aim(config, options.target, hardware_compatible=options.hardware_compatible)
    config.set_memory_pool_limit(module.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    config.builder_optimization_level = options.level
    config.profiling_verbosity = module.ProfilingVerbosity.DETAILED  # names kernels; costs nothing at run time
    config.clear_flag(module.BuilderFlag.TF32)  # on by default: F0 and phases need all their bits
    flavour.require_capturable(config)
    flavour.set_timing_cache(config, options.timing_cache)
    return config


def _add_profile(builder: Any, config: Any, network: Any, ports: Ports, profile: Profile) -> None:
    made = builder.create_optimization_profile()
    varying = {network.get_input(index).name for index in range(network.num_inputs)}
    for port in ports.inputs:
        if port.name in varying and any(isinstance(axis, str) for axis in port.shape):
            made.set_shape(port.name, *profile_shapes(port, profile))
    if config.add_optimization_profile(made) < 0:
        raise BuildError(f"TensorRT refuses the profile {profile.name!r}: its sizes contradict the network's")


def profile_shapes(port: Port, profile: Profile) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """A port's least, usual and largest shape under a profile."""
    least, usual, most = (
        port.sizes({name: sizes[index] for name, sizes in profile.dims.items()}) for index in range(3)
    )
    return least, usual, most


def _serialise(builder: Any, network: Any, config: Any, cancelled: threading.Event) -> Any:
    """The plan, or None. Built on a thread: an exception thrown through TensorRT's own frames, as Ctrl-C would be from
    the callbacks of a build on this one, ends the process.
    """
    result: list[Any] = []
    worker = threading.Thread(
        target=lambda: result.append(builder.build_serialized_network(network, config)), name="engine-build"
    )
    worker.start()
    try:
        while worker.is_alive():
            worker.join(_POLL_SECONDS)
    except BaseException:
        cancelled.set()
        worker.join()
        raise
    return result[0] if result else None


def _why_not(log: BuildLog, options: Options) -> str:
    said = log.last_error() or "it gave no reason"
    if any("OutOfMemory" in error or "workspace" in error for error in log.errors):
        return f"{said} (scratch memory is limited to {options.workspace_bytes / 1e6:.0f} MB)"
    return said


def _account(
    flavour: Flavour, plan: Any, log: BuildLog, logger: Any, options: Options, profiles: int
) -> tuple[tuple[Tensor, ...], int]:
    """What the engine is, and its scratch memory: from itself where its GPU is, else from the builder's report."""
    runs_here = options.gpu is not None and (options.gpu == options.target or options.hardware_compatible)
    if not runs_here:
        return log.tensors(), log.scratch_bytes
    runtime = flavour.module.Runtime(logger)
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise BuildError(f"{flavour} cannot load the engine that it has just built: {log.last_error()}")
    scratch = max(flavour.scratch_bytes(engine, profile) for profile in range(profiles)) if profiles else 0
    return tuple(_tensors_of(flavour.module, engine)), scratch


def _tensors_of(module: Any, engine: Any) -> Iterator[Tensor]:
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        is_input = engine.get_tensor_mode(name) == module.TensorIOMode.INPUT
        profiles = []
        for profile in range(engine.num_optimization_profiles if is_input else 0):
            least, usual, most = (tuple(shape) for shape in engine.get_tensor_profile_shape(name, profile))
            profiles.append((least, usual, most))
        yield Tensor(
            name=name,
            is_input=is_input,
            dtype=dtype_name(engine.get_tensor_dtype(name).name),
            shape=tuple(engine.get_tensor_shape(name)),
            profiles=tuple(profiles),
        )


def _mismatches(found: Sequence[Tensor], ports: Ports, profiles: Sequence[Profile] | None) -> Iterator[str]:
    """How tensors differ from the ports, and their shapes from the profiles if there are any yet."""
    if not found:
        yield "the builder told nothing of it"
        return
    for is_input, wanted, word in ((True, ports.inputs, "input"), (False, ports.outputs, "output")):
        by_name = {tensor.name: tensor for tensor in found if tensor.is_input == is_input}
        for port in wanted:
            tensor = by_name.pop(port.name, None)
            if tensor is None:
                yield f"{word} {port.name} is missing"
                continue
            yield from (f"{word} {port.name} {fault}" for fault in _faults(tensor, port, ports.half, profiles))
        for name in by_name:
            yield f"{word} {name} is unknown"


def _faults(tensor: Tensor, port: Port, half: torch.dtype, profiles: Sequence[Profile] | None) -> Iterator[str]:
    dtype = str(port.dtype(half)).removeprefix("torch.")
    if tensor.dtype != dtype:
        yield f"is {tensor.dtype}, wanted {dtype}"
    fixed = tuple(axis if isinstance(axis, int) else -1 for axis in port.shape)
    if not _same_shape(tensor, fixed):
        yield f"has shape {list(tensor.shape)}, wanted {list(fixed)}"
    if tensor.is_input and profiles is not None and -1 in fixed:
        wanted = tuple(profile_shapes(port, profile) for profile in profiles)
        if tensor.profiles != wanted:
            yield f"has profiles {tensor.profiles}, wanted {wanted}"


def _same_shape(tensor: Tensor, fixed: tuple[int, ...]) -> bool:
    """Of an output a size may be left open that is fixed: TensorRT does not always see it."""
    if tensor.is_input or len(tensor.shape) != len(fixed):
        return tensor.shape == fixed
    return all(size in {-1, wanted} for size, wanted in zip(tensor.shape, fixed, strict=True))
