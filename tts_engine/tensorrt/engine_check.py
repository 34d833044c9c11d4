"""`chatterline engine check --run`: every engine for this GPU against PyTorch, how near and how fast, in one table.

An engine may differ from the module in float32 by as much as the module in the engine's precision does, and a little
more, as an ONNX file may (onnx_check.py). What is found is kept beside the engines: the server takes none that is wrong
or slower than what it would run instead (check_record.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tts_engine.chatterbox.model import Chatterbox, load
from tts_engine.chatterbox.step_attention import fused_fault
from tts_engine.tensorrt.check_record import CheckRecord
from tts_engine.tensorrt.engine_session import EngineSession, Scratch
from tts_engine.tensorrt.engine_speed import SPEEDS, Rivals, Speed, fused_rivals, seconds_of, slowdown
from tts_engine.tensorrt.engines import (
    EngineSet,
    NoEnginesError,
    UnfitError,
    all_engines,
    gpu_name,
    keep_kernels,
    load_session,
    own_stream,
)
from tts_engine.tensorrt.faults import PlanError, TensorRtError
from tts_engine.tensorrt.flavour import target_name
from tts_engine.tensorrt.manifest import weights_digest
from tts_engine.tensorrt.onnx_check import HALF_FACTOR, HALF_FLOOR, PortError, in_half, relative_error
from tts_engine.tensorrt.ports import Stage
from tts_engine.tensorrt.profiles import Profile
from tts_engine.tensorrt.selection import STAGES, UNITS, Unit
from tts_engine.tensorrt.session import ModuleSession, Session
from tts_engine.tensorrt.stages import MAKERS

MOST = {"pool": 256, "voices": 4}
"Of sizes that engines take and a check does not need: pages and voices that nobody reads cost memory."


@dataclass(frozen=True)
class Check:
    """An engine at one set of sizes."""

    stage: str
    profile: str
    sizes: Mapping[str, int]
    errors: tuple[PortError, ...]
    seconds: float
    module_seconds: float
    "Of the stage's module in the engine's precision, captured likewise."

    @property
    def worst(self) -> PortError:
        """Of its outputs, the one nearest to its bound or furthest beyond."""
        return max(self.errors, key=lambda port: port.error / port.bound)

    @property
    def passed(self) -> bool:
        """Whether all outputs are within their bounds."""
        return self.worst.error <= self.worst.bound


@dataclass(frozen=True)
class Findings:
    """Of one set of engines."""

    checks: tuple[Check, ...]
    speeds: tuple[Speed, ...]
    faults: Mapping[str, str]
    "By stage: why it could not be run."

    def unit_faults(self) -> dict[str, str]:
        """By unit, what its engines compute wrongly, or why they do not run."""
        found: dict[str, str] = {}
        for unit in UNITS:
            wrong = [f"{check.stage}: {check.worst}" for check in self.checks if not check.passed]
            broken = [f"{stage}: {fault}" for stage, fault in self.faults.items()]
            mine = [fault for fault in (*broken, *wrong) if fault.partition(":")[0] in STAGES[unit]]
            if mine:
                found[unit] = mine[0]
        return found

    def slowdowns(self) -> dict[str, float]:
        """By unit, where it was measured."""
        by_unit = {unit: [speed for speed in self.speeds if speed.unit == unit] for unit in UNITS}
        return {unit: round(slowdown(speeds), 3) for unit, speeds in by_unit.items() if speeds}


def run_checks(directory: Path, weights: Path, say: Callable[[str], None]) -> bool:
    """Of all engines below `directory` that are for this GPU and these weights; `say` gets the table line by line.

    Whether nothing was wrong. Raises PlanError if there are none, CheckpointError, TensorRtError if what was found
    cannot be written beside them.
    """
    if not torch.cuda.is_available():
        raise PlanError("--run needs the GPU that the engines are for, and PyTorch sees none here")
    device = torch.device("cuda", 0)
    # What is compared with is float32 whole.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    faults: list[UnfitError] = []
    capability = torch.cuda.get_device_capability(device)
    engines = list(all_engines(directory, lambda: weights_digest(weights), capability, None, faults))
    if not engines:
        if not faults:
            raise NoEnginesError(f"no engine for {target_name(capability)} in {directory}")
        raise PlanError("; ".join(map(str, faults)))
    for fault in faults:
        say(f"left out: {fault}")
    return check_sets(engines, weights, device, say)


def check_sets(engines: Sequence[EngineSet], weights: Path, device: torch.device, say: Callable[[str], None]) -> bool:
    """See run_checks."""
    exact = load(weights, device=device)
    good = True
    for found in engines:
        say(f"{found.title} ({found.flavour}) in {found.folder}, on {gpu_name(device)}")
        with own_stream(device):
            findings = check_set(found, exact, weights, say)
        plans = {stage: plan.sha256 for stage, plan in found.manifest.plans.items()}
        faults = findings.unit_faults()
        CheckRecord(gpu_name(device), plans, findings.slowdowns(), faults).write(found.folder)
        for unit, fault in faults.items():
            say(f"{unit} is not fit for use: {fault}")
        good = good and not faults
    return good


def check_set(found: EngineSet, exact: Chatterbox, weights: Path, say: Callable[[str], None]) -> Findings:
    """On the current stream. `exact`: the model in float32."""
    sessions: dict[str, Session] = {}
    faults: dict[str, str] = {}
    scratch = Scratch(exact.device)
    for stage in found.manifest.plans:
        try:
            sessions[stage] = load_session(found, stage, scratch)
        except TensorRtError as fault:
            faults[stage] = str(fault)
            say(f"{stage}: {fault}")
    checks: list[Check] = []
    kept: dict[str, int] = {}
    say(HEADING)
    for name, session in sessions.items():
        try:
            for check in check_stage(MAKERS[name](exact), session, found.manifest.plans[name].profiles, found.half):
                checks.append(check)
                say(line_of(check))
        except TensorRtError as fault:
            faults[name] = str(fault)
            say(f"{name}: {fault}")
        if isinstance(session, EngineSession):
            keep_kernels(found.folder, name, session, kept)
    whole = {unit for unit in UNITS if all(stage in sessions and stage not in faults for stage in STAGES[unit])}
    speeds: list[Speed] = []
    if (fused := fused_fault()) is not None:
        say(f"not compared with CUDA graphs: {fused}")
    elif whole:
        model = load(weights, device=exact.device, dtype=found.half)
        for speed in measure(model, sessions, whole, fused_rivals()):
            speeds.append(speed)
            say(
                f"{speed.unit} {speed.what}: {1000 * speed.seconds:.2f} ms, by CUDA graphs of our own kernels "
                f"{1000 * speed.rival_seconds:.2f} ms"
            )
        for name, session in sessions.items():
            if isinstance(session, EngineSession):
                keep_kernels(found.folder, name, session, kept)
    return Findings(tuple(checks), tuple(speeds), faults)


@torch.inference_mode()
def check_stage(
    stage: Stage,
    session: Session,
    profiles: Sequence[Profile],
    half: torch.dtype,
    generator: torch.Generator | None = None,
) -> Iterator[Check]:
    """At the least, the usual and the largest sizes of each profile, on fresh inputs. The stage is in float32, on the
    session's device. Raises TensorRtError if the engine does not run.
    """
    if generator is None:
        generator = torch.Generator()
        generator.seed()
    device = next(stage.module.parameters()).device
    exact, rough = ModuleSession(stage), ModuleSession(in_half(stage, half))
    for profile in profiles:
        for sizes in sizes_of(profile):
            errors: list[PortError] = []
            for example, judged in stage.trials(stage.example(sizes, generator)):
                moved = {name: tensor.to(device) for name, tensor in example.items()}
                wanted = exact.run(_of(stage, moved, torch.float32))
                given = _of(stage, moved, half)
                run, rounded = session.run(given), rough.run(given)
                for name in judged:
                    off, allowed = (relative_error(it[name].cpu(), wanted[name].cpu(), name) for it in (run, rounded))
                    errors.append(PortError(sizes, name, off, HALF_FACTOR * allowed + HALF_FLOOR.get(half, 1e-4)))
                del wanted, run, rounded
            yield Check(
                stage.name,
                profile.name,
                sizes,
                tuple(errors),
                seconds_of(lambda given=given: session.run(given), device, captured=session.capturable),  # type: ignore[misc]
                seconds_of(lambda given=given: rough.run(given), device, captured=True),  # type: ignore[misc]
            )


def sizes_of(profile: Profile) -> list[dict[str, int]]:
    """Least, usual and largest, but for MOST; each once."""
    found: list[dict[str, int]] = []
    for at in range(3):
        sizes = {name: min(range_[at], MOST.get(name, range_[at])) for name, range_ in profile.dims.items()}
        if sizes not in found:
            found.append(sizes)
    return found


def measure(model: Chatterbox, sessions: Mapping[str, Session], units: set[Unit], rivals: Rivals) -> Iterator[Speed]:
    """Of those units, against their rivals. `model` in the engines' precision."""
    for unit in UNITS:
        if unit in units:
            captured = all(sessions[stage].capturable for stage in STAGES[unit])
            yield from SPEEDS[unit](model, sessions, rivals, captured=captured)


HEADING = f"{'stage':13}{'profile':9}{'sizes':58}{'off by':>9}{'allowed':>9}{'ms':>9}{'PyTorch':>9}"


def line_of(check: Check) -> str:
    """A row of the table."""
    sizes = " ".join(f"{name} {size}" for name, size in check.sizes.items())
    worst = check.worst
    numbers = f"{worst.error:9.1e}{worst.bound:9.1e}{1000 * check.seconds:9.2f}{1000 * check.module_seconds:9.2f}"
    wrong = "" if check.passed else f"  WRONG: {worst.port}"
    return f"{check.stage:13}{check.profile:9}{sizes:58}{numbers}{wrong}"


def _of(stage: Stage, example: Mapping[str, Tensor], half: torch.dtype) -> dict[str, Tensor]:
    return {port.name: example[port.name].to(port.dtype(half)) for port in stage.inputs}
