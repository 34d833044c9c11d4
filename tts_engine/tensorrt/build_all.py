"""All engines of a model: weights -> stages -> ONNX -> checked -> half precision -> engine -> kept, with a manifest.

A stage is finished before the next begins, and the manifest is written after each: what was interrupted goes on where
it was, and what is there already, for the same weights, target, precision and TensorRT, is not built again.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from math import prod
from pathlib import Path
from typing import Literal

from tts_engine.chatterbox.checkpoint import S3GEN_FILE, T3_FILES, flavours
from tts_engine.chatterbox.model import Chatterbox, load
from tts_engine.chatterbox.tensor_file import TensorFile, TensorFileError
from tts_engine.tensorrt.builder import Built, Options, Ports, build_plan
from tts_engine.tensorrt.export import data_path, export
from tts_engine.tensorrt.faults import BuildError, PlanError
from tts_engine.tensorrt.flavour import Flavour, target_name
from tts_engine.tensorrt.manifest import HALVES, Manifest, Plan, Precision, weights_digest
from tts_engine.tensorrt.onnx_check import check
from tts_engine.tensorrt.plan_store import PlanStore, disk_faults
from tts_engine.tensorrt.ports import Stage
from tts_engine.tensorrt.precision import convert
from tts_engine.tensorrt.profiles import PROFILES
from tts_engine.tensorrt.stages import MAKERS

STAGES: tuple[str, ...] = tuple(PROFILES)

ExportPrecision = Precision | Literal["fp32"]

Report = Callable[[str, str, float | None], None]
"Told the stage, what is being done with it, and which part of that is done, if it is known. From any thread."

_T3_STAGES = ("t3_prefill", "t3_step")
_TOOLS = ("chatterline", "torch", "onnx", "onnxscript", "onnxruntime")

# Of a parameter, at most: the export in full precision and the half one, which exist for one stage at a time; a plan.
_EXPORT_BYTES, _PLAN_BYTES = 4 + 2, 2.5
_KERNELS_BYTES = 64 << 20
"Of a plan, besides the weights."


@dataclass(frozen=True)
class Order:
    """What is to be built."""

    weights: Path
    "A model's directory."
    model: str
    "Its name, for people."
    precision: Precision
    options: Options
    stages: Sequence[str] = STAGES

    def __post_init__(self) -> None:
        check_stages(self.stages)


@dataclass(frozen=True)
class Outcome:
    """What became of a stage."""

    plan: Plan
    built: bool
    "False: it was there already."


def check_stages(stages: Sequence[str]) -> None:
    """Raises BuildError if there is no such stage."""
    if unknown := [name for name in stages if name not in STAGES]:
        raise BuildError(f"there is no stage {', '.join(unknown)}: there are {', '.join(STAGES)}")


def build_all(order: Order, flavour: Flavour, store: PlanStore, report: Report) -> list[Outcome]:
    """Build what is missing or outdated. Raises BuildError, CheckpointError, NotInstalledError: what was finished
    before stays, and is found the next time.
    """
    options = order.options
    flavour.check_target(options.target, options.gpu, hardware_compatible=options.hardware_compatible)
    with store.locked():  # what is there is only known while nobody else builds
        manifest = _present(store, _wanted(order, flavour))
        missing = [stage for stage in order.stages if not _has(store, manifest, stage)]
        if missing:
            store.require_space(space_needed(order.weights, missing), f"building {', '.join(missing)}")
            model = load(order.weights)
        for stage in missing:
            plan = _build(stage, model, order, flavour, store, manifest, report)
            manifest = replace(manifest.with_plan(plan), built=int(time.time()))
            store.write_manifest(manifest)
    return [Outcome(manifest.plans[stage], stage in missing) for stage in order.stages]


def export_all(
    weights: Path, out: Path, stages: Sequence[str], precision: ExportPrecision, report: Report
) -> list[Path]:
    """The ONNX files alone, checked, for `trtexec` and others. `precision`: fp32, fp16 or bf16.

    Raises BuildError, CheckpointError, NotInstalledError.
    """
    check_stages(stages)
    store, made = PlanStore(out), []
    with store.locked():
        digest = weights_digest(weights)
        store.require_space(space_needed(weights, stages), f"exporting {', '.join(stages)}")
        model = load(weights)
        for name in stages:
            with store.scratch() as folder:
                path = make_onnx(MAKERS[name](model), folder, precision, digest, report)
                made.append(_moved(path, out))
            report(name, "exported", 1.0)
    return made


def _moved(path: Path, out: Path) -> Path:
    """An .onnx, and the weights beside it if there are any, to their place. Raises BuildError."""
    with disk_faults(out / path.name):
        if data_path(path).exists():
            data_path(path).replace(out / data_path(path).name)
        return path.replace(out / path.name)


def space_needed(weights: Path, stages: Sequence[str]) -> int:
    """Bytes on the disk that building these takes at most, by the tensors of the checkpoint."""
    t3 = _parameters(weights / T3_FILES[flavours(weights)[0]]) if flavours(weights) else 0
    of_t3 = sum(stage in _T3_STAGES for stage in stages)
    s3gen = _parameters(weights / S3GEN_FILE) if of_t3 < len(stages) else 0
    largest = max(t3 if of_t3 else 0, s3gen)
    return int(_EXPORT_BYTES * largest + _PLAN_BYTES * (of_t3 * t3 + s3gen)) + _KERNELS_BYTES * len(stages)


def _parameters(path: Path) -> int:
    try:
        with TensorFile(path) as file:
            return sum(prod(shape) for shape in file.shapes.values())
    except TensorFileError:
        return 0  # said in full when it is loaded


def _wanted(order: Order, flavour: Flavour) -> Manifest:
    """The manifest of what is ordered, without plans."""
    options = order.options
    return Manifest(
        target=target_name(options.target),
        precision=order.precision,
        flavour=flavour.name,
        version=flavour.version,
        weights=weights_digest(order.weights),
        model=order.model,
        hardware_compatible=options.hardware_compatible,
        options={"level": options.level, "workspace_bytes": options.workspace_bytes},
        tools=_tools(),
    )


def _present(store: PlanStore, wanted: Manifest) -> Manifest:
    """What is there of the same build; `wanted` itself, with no plans, if there is nothing or something else."""
    try:
        found = store.manifest(wanted.folder)
    except PlanError:
        return wanted
    return found if found.same_build(wanted) else wanted


def _has(store: PlanStore, manifest: Manifest, stage: str) -> bool:
    try:
        plan = manifest.plan(stage, store.directory)
    except PlanError:
        return False
    return store.is_whole(manifest.folder, plan)


def _build(
    name: str, model: Chatterbox, order: Order, flavour: Flavour, store: PlanStore, manifest: Manifest, report: Report
) -> Plan:
    """One stage, from the module to the plan's file."""
    started = time.perf_counter()
    stage, options = MAKERS[name](model), order.options
    with store.scratch() as folder:
        path = make_onnx(stage, folder, order.precision, manifest.weights, report)
        report(name, "building", 0.0)
        cache = store.timing_cache(manifest.target, flavour.name, flavour.version) if flavour.has_timing_cache else b""
        built = build_plan(
            flavour,
            path,
            PROFILES[name],
            Ports(stage.inputs, stage.outputs, HALVES[order.precision]),
            options.with_timing_cache(cache),
            lambda part: report(name, "building", part),
        )
    report(name, "writing", None)
    digest = store.write_plan(manifest.folder, name, built.plan)
    if built.timing_cache:
        store.write_timing_cache(manifest.target, flavour.name, flavour.version, built.timing_cache)
    report(name, "built", 1.0)
    return _plan(stage, built, digest, time.perf_counter() - started)


def _plan(stage: Stage, built: Built, digest: str, seconds: float) -> Plan:
    return Plan(
        stage=stage.name,
        bytes=built.plan.nbytes,
        sha256=digest,
        inputs=stage.inputs,
        outputs=stage.outputs,
        profiles=PROFILES[stage.name],
        scratch_bytes=built.scratch_bytes,
        weights_bytes=built.weights_bytes,
        seconds=round(seconds, 1),
        kernels=built.kernels,
    )


def make_onnx(stage: Stage, folder: Path, precision: ExportPrecision, digest: str, report: Report) -> Path:
    """The stage's file in that precision, compared with its module. What was made on the way is removed.

    Raises BuildError, NotInstalledError.
    """
    name, half = stage.name, None if precision == "fp32" else HALVES[precision]

    def exporting(what: str) -> None:
        report(name, what.removeprefix(f"{name}: "), None)

    path = folder / f"{name}.onnx"
    full = path if half is None else folder / f"{name}.fp32.onnx"
    with disk_faults(folder):
        export(stage, full, digest=digest, progress=exporting)
        report(name, "checking the export", None)
        check(stage, full)
        if half is not None:
            report(name, f"converting to {precision}", None)
            convert(stage, full, path, half)
            for file in (full, data_path(full)):
                file.unlink(missing_ok=True)
            report(name, f"checking {precision}", None)
            check(stage, path, half)
    return path


def _tools() -> dict[str, str]:
    return {"python": platform.python_version(), **dict(_versions())}


def _versions() -> Iterator[tuple[str, str]]:
    for name in _TOOLS:
        try:
            yield name, metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
