"""Whether an ONNX file computes what its module does: on fresh inputs, from the least sizes to the greatest.

A half-precision file may differ from the module in float32 by as much as the module run in half does, and a little
more: the two round at different places.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import NamedTemporaryFile

import torch
from torch import Tensor, nn

from tts_engine.tensorrt.export import example_sizes
from tts_engine.tensorrt.faults import BuildError
from tts_engine.tensorrt.onnx_session import CPU, OnnxSession
from tts_engine.tensorrt.ports import Stage
from tts_engine.tensorrt.profiles import PROFILES
from tts_engine.tensorrt.session import ModuleSession

FLOAT32_BOUND = 1e-4
"Of a port's greatest number."

HALF_FACTOR = 2.0
"How much more than the module's own error in half a file's may be."
HALF_FLOOR = {torch.float16: 2**-10, torch.bfloat16: 2**-7}
"What is no error: a rounding or two of the greatest number."

HALF_MOST = 0.2
"What no file's may be, where the module in half has lost itself."

LENGTHS = ("text", "pages", "tokens", "frames")
"Sizes that make one row long."
CYCLES = frozenset({"phases"})
"Ports that count in cycles: 0.999 is next to 0."

_WIDE_ROWS = 9


@dataclass(frozen=True)
class PortError:
    """How far one output was off, at these sizes."""

    sizes: Mapping[str, int]
    port: str
    error: float
    "Greatest, relative to the output's greatest number; infinite where one of the two was not finite."
    bound: float

    def __str__(self) -> str:
        at = ", ".join(f"{name} {size}" for name, size in self.sizes.items())
        return f"{self.port} is off by {self.error:.2g} of its range ({self.bound:.2g} is allowed) at {at}"


def check(
    stage: Stage,
    path: Path,
    half: torch.dtype | None = None,
    *,
    cases: Sequence[Mapping[str, int]] | None = None,
    seed: int = 1,
    provider: str = CPU,
) -> list[PortError]:
    """Run the file and the module at each of `cases` (default: `check_sizes`), on inputs of that seed.

    `half`: what the file was converted to, if it was. The module lies in float32 on the CPU. On ONNX Runtime's CPU
    provider half files are emulated. Gives every output's error at all sizes; BuildError with the worst if one is
    over its bound.
    """
    cases = check_sizes(stage, long=half is None) if cases is None else cases
    generator = torch.Generator().manual_seed(seed)
    device = torch.device("cpu" if provider == CPU else "cuda")
    exact = ModuleSession(stage)
    rough = None if half is None else ModuleSession(in_half(stage, half))
    found = []
    with _runnable(path, emulated=half is not None and provider == CPU) as file:
        session = OnnxSession(file, stage, (provider,))
        for sizes in cases:
            for trial, judged in stage.trials(stage.example(sizes, generator)):
                inputs = _as(half or torch.float32, stage, trial)
                wanted = exact.run(_as(torch.float32, stage, inputs))
                bounds = dict.fromkeys(judged, FLOAT32_BOUND)
                if rough is not None and half is not None:
                    off = _errors(rough.run(inputs), wanted, judged)
                    bounds = {name: _half_bound(error, half) for name, error in off.items()}
                given = session.run({name: tensor.to(device) for name, tensor in inputs.items()})
                off = _errors(given, wanted, judged)
                found += [PortError(sizes, name, error, bounds[name]) for name, error in off.items()]
    worst = max(found, key=lambda port: port.error / port.bound)
    if worst.error > worst.bound:
        raise BuildError(f"{path.name} does not compute what its module does: {worst}")
    return found


def check_sizes(stage: Stage, *, long: bool = True) -> list[dict[str, int]]:
    """The least of everything, uneven sizes, many rows, and (`long`) one row of the greatest length: within the
    profiles of this stage's name.
    """
    usual = example_sizes(stage)
    profiles = PROFILES.get(stage.name, ())
    least = {name: min((profile.dims[name][0] for profile in profiles), default=1) for name in usual}
    most = {name: max((profile.dims[name][2] for profile in profiles), default=64) for name in usual}
    uneven = {name: min(most[name], size + (name in LENGTHS)) for name, size in usual.items()}
    cases = [least, uneven, {**uneven, "rows": min(most.get("rows", 1), _WIDE_ROWS)}]
    if long:
        cases.append({name: most[name] if name in LENGTHS else size for name, size in least.items()})
    return cases


def in_half(stage: Stage, half: torch.dtype) -> Stage:
    """The stage with a copy of its module whose parameters are half; those of FLOAT32_PREFIXES stay."""
    module = stage.module
    whole = {
        f"{path}.{prefix}".lstrip(".")
        for path, part in module.named_modules()
        for prefix in getattr(part, "FLOAT32_PREFIXES", ())
    }
    copies: dict[int, nn.Parameter] = {}
    for name, weight in module.named_parameters():
        cast = weight.is_floating_point() and not name.startswith(tuple(whole))
        copies[id(weight)] = nn.Parameter(weight.detach().to(half), requires_grad=False) if cast else weight
    return replace(stage, module=copy.deepcopy(module, dict(copies)))


def _as(dtype: torch.dtype, stage: Stage, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """These inputs, `half` ports in this dtype."""
    return {port.name: inputs[port.name].to(port.dtype(dtype)) for port in stage.inputs}


def _half_bound(error: float, half: torch.dtype) -> float:
    return min(HALF_FACTOR * error + HALF_FLOOR[half], HALF_MOST)


def _errors(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor], judged: Sequence[str]) -> dict[str, float]:
    return {name: relative_error(given[name].cpu(), wanted[name], name) for name in judged}


def relative_error(given: Tensor, wanted: Tensor, port: str = "") -> float:
    """The greatest difference, relative to the greatest number wanted."""
    given, wanted = given.double(), wanted.double()
    if given.shape != wanted.shape:
        return float("inf")
    if not wanted.numel():
        return 0.0
    off = (given - wanted).abs()
    if port in CYCLES:
        off = torch.minimum(off, 1 - off)
    error = float(off.max() / wanted.abs().max().clamp_min(torch.finfo(torch.float32).tiny))
    return error if error == error else float("inf")  # noqa: PLR0124 - NaN


@contextmanager
def _runnable(path: Path, *, emulated: bool) -> Iterator[Path]:
    """The file, or for a while one beside it over the same weights, for ONNX Runtime's CPU provider."""
    if not emulated:
        yield path
        return
    import onnx  # noqa: PLC0415 - checks of engines do without

    from tts_engine.tensorrt.half_emulation import emulate  # noqa: PLC0415

    model = onnx.load(path, load_external_data=False)
    emulate(model)
    with NamedTemporaryFile(dir=path.parent, prefix=path.stem, suffix=".emulated.onnx") as file:
        file.write(model.SerializeToString())
        file.flush()
        yield Path(file.name)
