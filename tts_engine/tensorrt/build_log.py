"""What TensorRT's builder says while it works: what went wrong, how far it is, and what the engine became.

An engine can be asked about itself only where the driver and the GPU that it is for are. Elsewhere the builder's own
report, at level VERBOSE with detailed profiling, is the one account of its inputs, outputs, profiles and kernels.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Shape = tuple[int, ...]

Progress = Callable[[float], None]
"Told the part that is done, 0 to 1, from any thread."


@dataclass(frozen=True)
class Tensor:
    """An input or output of an engine; -1 in a shape varies."""

    name: str
    is_input: bool
    dtype: str
    "As torch names it: `float16`."
    shape: Shape
    profiles: tuple[tuple[Shape, Shape, Shape], ...]
    "Of an input, by profile: least, usual and largest shape."


_DTYPES = {
    "Float": "float32",
    "FLOAT": "float32",
    "Half": "float16",
    "HALF": "float16",
    "BFloat16": "bfloat16",
    "BF16": "bfloat16",
    "Int32": "int32",
    "INT32": "int32",
    "Int64": "int64",
    "INT64": "int64",
    "Bool": "bool",
    "BOOL": "bool",
}

_TENSOR = re.compile(
    r"^ *Name: (?P<name>[^,]+), IOMode: (?P<mode>Input|Output), DataType: (?P<dtype>\w+), "
    r"Dimensions: \[(?P<shape>[^\]]*)\]",
    re.MULTILINE,
)
_PROFILE = re.compile(r"MinShape: \[([^\]]*)\], OptShape: \[([^\]]*)\], MaxShape: \[([^\]]*)\]")
_LAYER = re.compile(r"^ *Name: (?P<name>.+?), LayerType: (?P<type>\w+)", re.MULTILINE)
_GRAPH = re.compile(r"_myl(\d+)_\d+$")
"Ends the name of a kernel: the profile's graph that it is part of."
_REPORT = "I/O Tensors:"
_BYTES = re.compile(r"(Max Scratch|Total Device Persistent|Total Weights) Memory: (\d+) bytes")


class BuildLog:
    """Takes the builder's messages one by one; thread-safe as far as appending to a list is."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.warnings: list[str] = []
        self._report = ""
        self._bytes: dict[str, list[int]] = {}

    def take(self, severity: str, message: str) -> None:
        """`severity`: TensorRT's name of it."""
        if "ERROR" in severity:
            self.errors.append(message)
        elif severity == "WARNING":
            self.warnings.append(message)
        elif severity == "INFO":
            for what, number in _BYTES.findall(message):
                self._bytes.setdefault(what, []).append(int(number))
        elif _REPORT in message:
            self._report = message

    @property
    def scratch_bytes(self) -> int:
        """Of the largest profile. 0 if it was not told."""
        return max(self._bytes.get("Max Scratch", (0,))) + max(self._bytes.get("Total Device Persistent", (0,)))

    @property
    def weights_bytes(self) -> int:
        """0 if it was not told."""
        return max(self._bytes.get("Total Weights", (0,)))

    def tensors(self) -> tuple[Tensor, ...]:
        """Inputs and outputs of the engine; () if there was no report."""
        return tuple(_tensors(self._report.partition(_REPORT)[2]))

    def kernels(self) -> Mapping[str, int]:
        """How many kernels the engine runs under one profile, by kind; `attention` are the fused ones.

        Each profile has a graph of its own, alike but for what its sizes allow; that of the most kernels is counted.
        """
        graphs: dict[str, dict[str, int]] = {}
        for layer in _LAYER.finditer(self._report.partition(_REPORT)[0]):
            graph = _GRAPH.search(layer["name"])
            kind = "attention" if "mha" in layer["name"].lower() else layer["type"]
            counts = graphs.setdefault(graph[1] if graph else "", {})
            counts[kind] = counts.get(kind, 0) + 1
        return max(graphs.values(), key=lambda counts: sum(counts.values()), default={})

    def last_error(self) -> str:
        """The first line of the first error, which is mostly the cause; "" without one."""
        return " ".join(self.errors[0].split())[:_SHOWN] if self.errors else ""


_SHOWN = 400


def _tensors(report: str) -> Iterator[Tensor]:
    for line in report.splitlines():
        if found := _TENSOR.match(line):
            is_input = found["mode"] == "Input"
            ranges = [tuple(_shape(shape) for shape in profile) for profile in _PROFILE.findall(line)]
            yield Tensor(
                name=found["name"],
                is_input=is_input,
                dtype=dtype_name(found["dtype"]),
                shape=_shape(found["shape"]),
                profiles=tuple((least, usual, most) for least, usual, most in ranges) if is_input else (),
            )


def dtype_name(name: str) -> str:
    """TensorRT's name of a dtype, in a report or in its API, as torch's; unknown ones as they are."""
    return _DTYPES.get(name, name)


def _shape(text: str) -> Shape:
    return tuple(int(size) for size in text.split(",") if size.strip())


def make_logger(module: Any, log: BuildLog) -> Any:
    """TensorRT's logger that hands everything on. It must live as long as what was made with it."""

    class Logger(module.ILogger):  # type: ignore[misc]  # of either module
        def __init__(self) -> None:
            module.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            log.take(severity.name, message)

    return Logger()


class Phases:
    """The builder's nested phases, each of so many steps, as one number that only grows."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._lock = threading.Lock()
        self._open: dict[str, tuple[str | None, int, int]] = {}  # parent, steps in all, steps done
        self._told = 0.0

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """A phase begins, as a step of its parent."""
        with self._lock:
            self._open[name] = (parent, max(1, steps), 0)

    def step(self, name: str, step: int) -> None:
        """The step of that number, counted from 0, is done."""
        with self._lock:
            if name in self._open:
                parent, steps, _ = self._open[name]
                self._open[name] = (parent, steps, min(step + 1, steps))
            self._told = max(self._told, self._done(None))
            told = self._told
        self._progress(told)

    def finish(self, name: str) -> None:
        """A phase is over: its parent counts the step, by a call of its own."""
        with self._lock:
            self._open.pop(name, None)

    def _done(self, parent: str | None) -> float:
        """The part that is done of the phases below `parent`: the one that is furthest."""
        parts = [
            min(1.0, (done + self._done(name)) / steps)
            for name, (above, steps, done) in self._open.items()
            if above == parent and name != parent
        ]
        return max(parts, default=0.0)


def make_monitor(module: Any, phases: Phases, cancelled: Callable[[], bool]) -> Any:
    """TensorRT's progress monitor over `phases`; the build ends at the next step once `cancelled` is true."""

    class Monitor(module.IProgressMonitor):  # type: ignore[misc]  # of either module
        def __init__(self) -> None:
            module.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            phases.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            phases.step(phase_name, step)
            return not cancelled()

        def phase_finish(self, phase_name: str) -> None:
            phases.finish(phase_name)

    return Monitor()
