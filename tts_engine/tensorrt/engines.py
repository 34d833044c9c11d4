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
    kept: dict[str, int] = field(default_factory=dict, compare=False)
    "By stage, of how many bytes the kernels are that were kept last."

    @classmethod
    def none(cls, why: str, *failed: str) -> Engines:
        """No engines, for this reason."""
        return cls({unit: Offer(fault=why) for unit in UNITS}, failed=failed)

    @property
    def tried(self) -> bool:
        """Whether TensorRT has run anything in this process, or was to."""
        return bool(self.sessions) or "unusable" in self.failed or "unloadable" in self.failed

    def without(self, units: Mapping[Unit, str]) -> Engines:
        """Less those units, each for its reason."""
        gone = {stage for unit in units for stage in STAGES[unit]}
        return replace(
            self,
            offers={**self.offers, **{unit: Offer(fault=why) for unit, why in units.items()}},
            sessions={stage: session for stage, session in self.sessions.items() if stage not in gone},
        )

    def keep_kernels(self) -> None:
        """What was compiled so far is kept for the next start, which need not come after a whole one."""
        for stage, session in self.sessions.items():
            if self.folder is not None and isinstance(session, EngineSession):
                keep_kernels(self.folder, stage, session, self.kept)

    def settle(self) -> None:
        """All graphs are captured: see EngineSession.settle."""
        self.keep_kernels()
        for session in self.sessions.values():
            if isinstance(session, EngineSession):
                session.settle()


class NoEnginesError(PlanError):
    """There is nothing at all where engines could be: no fault, unless they are asked for."""


class UnfitError(PlanError):
    """There are engines, and they cannot be used here. `word` of selection.PLAN_FAULTS says why."""

    def __init__(self, message: str, word: str) -> None:
        super().__init__(message)
        self.word = word


def find_engines(
    directory: Path, digest: Callable[[], str], capability: Capability, precision: Precision | None
) -> EngineSet:
    """The set to use of all below `directory`. `digest` of the weights at hand is asked only if it decides.

    Raises NoEnginesError or UnfitError, or BuildError if there are no weights, saying why there is none.
    """
    faults: list[UnfitError] = []
    for fitting in all_engines(directory, digest, capability, precision, faults):
        return fitting
    if not faults:
        raise NoEnginesError(f"no engine for {target_name(capability)} in {directory}")
    # What is nearest to fitting tells most: those of another GPU may just lie beside.
    word = next((fault.word for fault in faults if fault.word != "unfit"), "unfit")
    raise UnfitError("; ".join(map(str, faults)), word)


def all_engines(
    directory: Path,
    digest: Callable[[], str],
    capability: Capability,
    precision: Precision | None,
    faults: list[UnfitError],
) -> Iterator[EngineSet]:
    """All sets that fit, the one to use first; `faults` gets why others do not."""
    store = PlanStore(directory)
    try:
        found = store.list()
    except PlanError as fault:
        faults.append(UnfitError(str(fault), "unloadable"))
        return
    for stored in sorted(found, key=_preference):
        given = stored.manifest
        if given is None:
            faults.append(UnfitError(stored.problem or f"{stored.folder} cannot be read", "unloadable"))
            continue
        try:
            # First what costs nothing to know.
            given.check_fit(stored.folder, weights=given.weights, flavour=None, gpu=capability)
            flavour = find_flavour(given.flavour, capability)
            given.check_fit(stored.folder, weights=given.weights, flavour=flavour, gpu=None, precision=precision)
            given.check_fit(stored.folder, weights=digest(), flavour=None, gpu=None)
        except NotInstalledError as fault:
            faults.append(_not_installed(given, str(fault), capability))
        except PlanError as fault:
            faults.append(UnfitError(str(fault), "unfit"))
        else:
            yield EngineSet(store, given, flavour)


def _not_installed(given: Manifest, fault: str, capability: Capability) -> UnfitError:
    try:
        other = find_flavour(None, capability)
    except NotInstalledError:
        return UnfitError(fault, "not_installed")
    return UnfitError(f"{fault}; {other} is, for which those engines are not", "wrong_flavour")


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
        except Exception as fault:  # noqa: BLE001 - whatever the bindings raise: it costs this unit its engines
            failed.append("unloadable")
            offers[unit] = Offer(fault=in_a_line(fault))
            continue
        sessions |= made
        offers[unit] = Offer(found.title, slowdown=None if record is None else record.slowdowns.get(unit))
    loaded = Engines(offers, sessions, found.half if sessions else None, frozenset(), tuple(failed), found.folder)
    return _tried(loaded, device)


def _tried(engines: Engines, device: torch.device) -> Engines:
    """Each engine has run once, and it is known which of them graphs can hold."""
    faults: dict[Unit, str] = {}
    capturable: set[Unit] = set()
    for unit in [unit for unit in UNITS if engines.offers[unit].title]:
        try:
            with own_stream(device):
                held = [engines.sessions[stage].capturable for stage in STAGES[unit]]
            if all(held):
                capturable.add(unit)
        except Exception as fault:  # noqa: BLE001 - a GPU's fault, or what the bindings raise: it costs this unit
            faults[unit] = in_a_line(fault)
    offers = {unit: replace(offer, capturable=unit in capturable) for unit, offer in engines.offers.items()}
    failed = (*engines.failed, *("unusable" for _ in faults))
    return replace(replace(engines, offers=offers).without(faults), capturable=frozenset(capturable), failed=failed)


def in_a_line(fault: BaseException) -> str:
    """What it says, for the log: a CUDA error goes on for a page."""
    said = str(fault).partition("\n")[0]
    return said if isinstance(fault, (TensorRtError, torch.OutOfMemoryError)) else f"{type(fault).__name__}: {said}"


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


def _preference(stored: Stored) -> tuple[int, int, int, str]:
    """float16 before bfloat16, as it is nearer to float32 (docs/chatterbox.md), and TensorRT, which has timed its
    kernels here, before TensorRT-RTX; of these the newest.
    """
    if stored.manifest is None:
        return (9, 9, 0, str(stored.folder))
    return (
        list(HALVES).index(stored.manifest.precision),
        ("tensorrt", "tensorrt-rtx").index(stored.manifest.flavour),
        -stored.manifest.built,
        stored.folder.name,
    )


def _kept(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def keep_kernels(folder: Path, stage: str, session: EngineSession, kept: dict[str, int]) -> None:
    """What was compiled for a session, beside its plan, if it is more than what was `kept` of that stage."""
    kernels = session.kernels()
    if len(kernels) != kept.get(stage, 0):
        kept[stage] = len(kernels)
        _keep(folder / (stage + KERNELS_SUFFIX), kernels)


def _keep(path: Path, data: bytes) -> None:
    """Whole or not at all. Where it cannot be written, the next start takes as long as this one."""
    unfinished = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        unfinished.write_bytes(data)
        unfinished.replace(path)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        logger.warning("compiled kernels are not kept for the next start: %s: %s", path, error.strerror)
