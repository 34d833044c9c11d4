"""The engines that a worker can use: of all that were built those for its GPU, its weights and its TensorRT, loaded."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from tts_engine.tensorrt.check_record import read_record
from tts_engine.tensorrt.engine_session import EngineSession, Scratch
from tts_engine.tensorrt.faults import NotInstalledError, PlanError, TensorRtError
from tts_engine.tensorrt.flavour import Capability, Flavour, find_flavour, target_name
from tts_engine.tensorrt.manifest import HALVES, Manifest, Precision
from tts_engine.tensorrt.plan_store import PlanStore, Stored
from tts_engine.tensorrt.selection import STAGES, UNITS, Offer, Unit
from tts_engine.tensorrt.session import Session

logger = logging.getLogger(__name__)

KERNELS_SUFFIX = ".kernels"
"Of what a flavour compiled for a plan on this machine."


@dataclass(frozen=True)
class EngineSet:
    """A directory of engines that fits this machine."""

    store: PlanStore
    manifest: Manifest
    flavour: Flavour

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return self.store.directory / self.manifest.folder

    @property
    def half(self) -> torch.dtype:
        """What its engines compute products in."""
        return HALVES[self.manifest.precision]

    @property
    def title(self) -> str:
        """`TensorRT-RTX sm86 float16`."""
        return f"{self.flavour.title} {self.manifest.target} {str(self.half).removeprefix('torch.')}"


@dataclass(frozen=True)
class Engines:
    """Loaded, on one device."""

    offers: Mapping[Unit, Offer]
    sessions: Mapping[str, Session] = field(default_factory=dict)
    "By stage, of the units that are offered."
    half: torch.dtype | None = None
    "None: there are no engines."
    capturable: frozenset[Unit] = frozenset()
    "Units that CUDA graphs can hold."
    failed: tuple[str, ...] = ()
    "A word of selection.PLAN_FAULTS for each time that what was there could not be used."
    folder: Path | None = None

    @classmethod
    def none(cls, why: str, *failed: str) -> Engines:
        """No engines, for this reason."""
        return cls({unit: Offer(fault=why) for unit in UNITS}, failed=failed)

    def without(self, units: Mapping[Unit, str]) -> Engines:
        """Less those units, each for its reason."""
        gone = {stage for unit in units for stage in STAGES[unit]}
        return replace(
            self,
            offers={**self.offers, **{unit: Offer(fault=why) for unit, why in units.items()}},
            sessions={stage: session for stage, session in self.sessions.items() if stage not in gone},
        )

    def settle(self) -> None:
        """All graphs are captured: see EngineSession.settle. What was compiled for them is kept for the next start."""
        for stage, session in self.sessions.items():
            if isinstance(session, EngineSession):
                if self.folder is not None and (kernels := session.kernels()):
                    _keep(self.folder / (stage + KERNELS_SUFFIX), kernels)
                session.settle()


def find_engines(
    directory: Path, digest: Callable[[], str], capability: Capability, precision: Precision | None
) -> EngineSet:
    """The set to use of all below `directory`. `digest` of the weights at hand is asked only if it decides.

    Raises PlanError, or BuildError if there are no weights, saying why there is none.
    """
    faults: list[str] = []
    for fitting in all_engines(directory, digest, capability, precision, faults):
        return fitting
    raise PlanError("; ".join(faults))


def all_engines(
    directory: Path, digest: Callable[[], str], capability: Capability, precision: Precision | None, faults: list[str]
) -> Iterator[EngineSet]:
    """All sets that fit, the one to use first; `faults` gets why others do not, or that there are none."""
    store, foreign, any_here = PlanStore(directory), False, False
    for stored in sorted(store.list(), key=_preference):
        given = stored.manifest
        if given is not None and not given.runs_on(capability):
            foreign = True
            continue
        any_here = True
        if given is None:
            faults.append(stored.problem or f"{stored.folder} cannot be read")
            continue
        try:
            flavour = find_flavour(given.flavour, capability)
            # First what costs nothing to know.
            given.check_fit(stored.folder, weights=given.weights, flavour=flavour, gpu=None, precision=precision)
            given.check_fit(stored.folder, weights=digest(), flavour=None, gpu=None)
        except (PlanError, NotInstalledError) as fault:
            faults.append(str(fault))
            continue
        yield EngineSet(store, given, flavour)
    if not any_here:
        others = " (there are some for others)" if foreign else ""
        faults.append(f"no engine for {target_name(capability)} in {directory}{others}")


def load_engines(found: EngineSet, device: torch.device, units: tuple[Unit, ...] = UNITS) -> Engines:
    """Onto that device, which is the current one. What cannot be loaded, or does not run, its unit's offer says."""
    scratches = {"t3": Scratch(device), "s3gen": Scratch(device)}  # a stream each
    sessions: dict[str, Session] = {}
    offers: dict[Unit, Offer] = {unit: Offer(fault="it was not asked for") for unit in UNITS}
    failed: list[str] = []
    record = read_record(found.folder)
    if record is not None and not record.fits(gpu_name(device), found.manifest):
        record = None
    for unit in units:
        if record is not None and unit in record.faults:
            offers[unit] = Offer(fault=f"{found.title}: {record.faults[unit]} (chatterline engine check --run)")
            continue
        absent = [stage for stage in STAGES[unit] if stage not in found.manifest.plans]
        if absent:
            offers[unit] = Offer(fault=f"there is no engine for {' and '.join(absent)} in {found.folder}")
            continue
        scratch = scratches["t3" if unit == "t3" else "s3gen"]
        try:
            made = {stage: load_session(found, stage, scratch) for stage in STAGES[unit]}
        except PlanError as fault:
            failed.append("unloadable")
            offers[unit] = Offer(fault=str(fault))
            continue
        sessions |= made
        offers[unit] = Offer(found.title, slowdown=None if record is None else record.slowdowns.get(unit))
    loaded = Engines(offers, sessions, found.half if sessions else None, frozenset(), tuple(failed), found.folder)
    return _tried(loaded, device)


def _tried(engines: Engines, device: torch.device) -> Engines:
    """Each engine has run once, and it is known which of them graphs can hold."""
    faults: dict[Unit, str] = {}
    capturable: set[Unit] = set()
    with own_stream(device):
        for unit in [unit for unit in UNITS if engines.offers[unit].title]:
            try:
                held = [engines.sessions[stage].capturable for stage in STAGES[unit]]
                if all(held):
                    capturable.add(unit)
            except (TensorRtError, torch.OutOfMemoryError) as fault:
                faults[unit] = str(fault).partition("\n")[0]
    failed = (*engines.failed, *("unusable" for _ in faults))
    return replace(engines.without(faults), capturable=frozenset(capturable), failed=failed)


@contextmanager
def own_stream(device: torch.device) -> Iterator[None]:
    """Work on a stream of its own, not the default one, which no graph can hold, and wait for it."""
    if device.type != "cuda":
        yield
        return
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    with torch.cuda.stream(stream):
        yield
    stream.synchronize()  # what was set up on it is used on others


def load_session(found: EngineSet, stage: str, scratch: Scratch) -> EngineSession:
    """One of them. Raises PlanError."""
    plan = found.manifest.plan(stage, found.folder)
    data = found.store.read(found.manifest.folder, plan)
    kernels = _kept(found.folder / (stage + KERNELS_SUFFIX))
    return EngineSession(
        stage, data, found.flavour, plan.inputs, plan.outputs, plan.profiles, found.half, scratch, kernels
    )


def gpu_name(device: torch.device) -> str:
    """As the driver says it."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def _preference(stored: Stored) -> tuple[int, int, str]:
    """float16 before bfloat16, as it is nearer to float32 (docs/chatterbox.md), and TensorRT, which has timed its
    kernels here, before TensorRT-RTX.
    """
    if stored.manifest is None:
        return (9, 9, str(stored.folder))
    return (
        list(HALVES).index(stored.manifest.precision),
        ("tensorrt", "tensorrt-rtx").index(stored.manifest.flavour),
        stored.folder.name,
    )


def _kept(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _keep(path: Path, data: bytes) -> None:
    """Whole or not at all. Where it cannot be written, the next start takes as long as this one."""
    unfinished = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        unfinished.write_bytes(data)
        unfinished.replace(path)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        logger.warning("compiled kernels are not kept for the next start: %s: %s", path, error.strerror)
