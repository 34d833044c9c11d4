"""What is known of a set of engines: for which weights, GPU and TensorRT they were built, with which ports and sizes.

A manifest is written beside the plans (plan_store.py), and read before any of them is loaded: a plan says nothing of
the weights in it, and TensorRT's own refusals are hard to read.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import torch

from tts_engine.chatterbox.checkpoint import S3GEN_FILE, T3_FILES, flavours
from tts_engine.tensorrt.faults import BuildError, PlanError
from tts_engine.tensorrt.flavour import Capability, Flavour, FlavourName, target_name
from tts_engine.tensorrt.ports import Axis, Kind, Port, Stage
from tts_engine.tensorrt.profiles import PROFILES, Profile

FORMAT = 2
"Of the file. A reader takes its own number only."

RECIPE = 2
"Of the stages' graphs and of how they are made half precision: raise it when a plan built before will not do."

Precision = Literal["fp16", "bf16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
HALVES: Mapping[Precision, torch.dtype] = {"fp16": torch.float16, "bf16": torch.bfloat16}
"What the engines compute products in."

AGAIN = "build them again: chatterline engine build"
"What helps."

_BLOCK_BYTES = 1 << 20
_DIGITS = 8
"Of the digest in a folder's name."
_AXIS = re.compile(r"(?:[1-9]\d{0,8}\*)?([a-z]\w*)", re.ASCII)
_OF_OUTPUTS = frozenset({"positions"})
"Sizes of outputs that no profile names: they follow from others."
_T = TypeVar("_T")


@dataclass(frozen=True)
class Plan:
    """One engine."""

    stage: str
    bytes: int
    sha256: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    profiles: tuple[Profile, ...]
    scratch_bytes: int
    "Device memory that a context needs under the largest profile."
    weights_bytes: int
    seconds: float
    "That the build took, the export included."
    kernels: Mapping[str, int] = field(default_factory=dict)
    "How many of a kind, where the builder told: `attention` are fused."

    def check_ports(self, stage: Stage) -> None:
        """Raises PlanError if the stage, made from the weights at hand, has other ports than the engine was built
        with: the engine is then another version's.
        """
        for word, mine, wanted in (("inputs", self.inputs, stage.inputs), ("outputs", self.outputs, stage.outputs)):
            if mine != wanted:
                differing = sorted({port.name for port in {*mine, *wanted} - ({*mine} & {*wanted})})
                what = f"other {word} ({', '.join(differing)})" if differing else f"its {word} in another order"
                raise PlanError(f"the engine for {self.stage} was built with {what} than this version has; {AGAIN}")


@dataclass(frozen=True)
class Manifest:
    """Engines that belong together, in one directory."""

    target: str
    precision: Precision
    flavour: FlavourName
    version: str
    "Of TensorRT. Engines run on the version that they were built with."
    weights: str
    "Digest of the checkpoint: `weights_digest`."
    model: str
    "Name of the checkpoint, for people."
    hardware_compatible: bool = False
    options: Mapping[str, int] = field(default_factory=dict)
    tools: Mapping[str, str] = field(default_factory=dict)
    "Versions of what took part."
    recipe: int = RECIPE
    built: int = 0
    "When the last plan was added, in seconds since 1970: of sets that fit the newest is taken."
    plans: Mapping[str, Plan] = field(default_factory=dict)

    @property
    def folder(self) -> str:
        """The name of its directory, another for each build: `sm86-fp16-tensorrt-rtx-1a2b3c4d`."""
        of = (self.weights, self.version, self.hardware_compatible, sorted(self.options.items()), self.recipe)
        digest = hashlib.sha256(json.dumps(of).encode()).hexdigest()[:_DIGITS]
        return f"{self.target}-{self.precision}-{self.flavour}-{digest}"

    def with_plan(self, plan: Plan) -> Manifest:
        """The same with a plan more, or another of that stage."""
        return replace(self, plans={**self.plans, plan.stage: plan})

    def same_build(self, other: Manifest) -> bool:
        """Whether both describe the same build, whatever plans are there already."""
        return self._bare() == other._bare()

    def _bare(self) -> Manifest:
        return replace(self, plans={}, tools={}, model="", built=0)

    def to_json(self) -> str:
        """Text for the file."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str, where: Path) -> Manifest:
        """Raises PlanError, which begins with `where`, if it is damaged or of another format."""
        try:
            given = json.loads(text)
            number = given.pop("format")
        except (ValueError, RecursionError, AttributeError, KeyError, TypeError):
            raise PlanError(f"{where} is damaged; {AGAIN}") from None
        if number != FORMAT:
            newer = isinstance(number, int) and number > FORMAT
            raise PlanError(
                f"{where} has format {number}; this version reads {FORMAT}: "
                f"{'update chatterline, or build the engines again with this one' if newer else AGAIN}"
            )
        try:
            return _manifest(given)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as fault:
            raise PlanError(f"{where} is damaged ({fault}); {AGAIN}") from None

    def check_fit(
        self,
        where: Path,
        *,
        weights: str,
        flavour: Flavour | None,
        gpu: Capability | None,
        precision: str | None = None,
    ) -> None:
        """Raises PlanError, saying why, if these engines do not fit the weights, the GPU or the TensorRT at hand.

        `flavour` or `gpu` None: not known, not compared. `precision`: what is wanted, if anything is.
        """
        if gpu is not None and not self.runs_on(gpu):
            raise PlanError(f"the engines in {where} are for {self.target}; the GPU here is {target_name(gpu)}")
        if precision is not None and precision != self.precision:
            raise PlanError(f"the engines in {where} are {self.precision}; {precision} is wanted")
        if flavour is not None and flavour.name != self.flavour:
            raise PlanError(f"the engines in {where} are for {self.flavour}; {flavour.name} is what is installed here")
        if flavour is not None and flavour.version != self.version:
            raise PlanError(
                f"the engines in {where} were built with {flavour.title} {self.version}; here is {flavour.version}: "
                f"install that one, or build them again"
            )
        if self.recipe != RECIPE:
            raise PlanError(f"the engines in {where} were built by another version of chatterline; {AGAIN}")
        if self.weights != weights:
            raise PlanError(
                f"the engines in {where} hold the weights of {self.model or 'another model'} as they were; "
                f"those at hand differ, or have changed since; {AGAIN}"
            )

    def plan(self, stage: str, where: Path) -> Plan:
        """The plan of a stage, as its profiles now are. Raises PlanError if there is none or it is outdated."""
        plan = self.plans.get(stage)
        if plan is None:
            raise PlanError(f"there is no engine for {stage} in {where}: `chatterline engine build` makes it")
        if plan.profiles != PROFILES.get(stage):
            raise PlanError(f"the engine for {stage} in {where} was built for other sizes of batches; {AGAIN}")
        return plan

    def runs_on(self, gpu: Capability) -> bool:
        """Whether they are for this GPU."""
        return target_name(gpu) == self.target or (self.hardware_compatible and gpu >= (8, 0))


def weights_digest(directory: Path) -> str:
    """SHA-256 over the files that engines are made of: T3's and S3Gen's, whole.

    Whole, not sampled, and not remembered by time and size: a fine-tune may touch one row of one tensor, and keep a
    file's date. The 3 GB of Turbo take about five seconds, of files that the server reads anyway. The built-in voice
    and the tokenizer are in no engine. Raises BuildError if there is no checkpoint or it cannot be read.
    """
    names = [T3_FILES[flavour] for flavour in flavours(directory)[:1]] + [S3GEN_FILE]
    if len(names) < 2:
        raise BuildError(f"{directory} holds no {' or '.join(T3_FILES.values())}: is it a model's directory?")
    try:
        with ThreadPoolExecutor(len(names)) as pool:  # hashing lets other threads run
            digests = list(pool.map(_sha256_of, (directory / name for name in names)))
    except OSError as error:
        raise BuildError(f"{error.filename or directory}: {error.strerror}") from None
    joined = "".join(f"{name} {digest}\n" for name, digest in zip(names, digests, strict=True))
    return hashlib.sha256(joined.encode()).hexdigest()


def _sha256_of(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while block := file.read(_BLOCK_BYTES):
            found.update(block)
    return found.hexdigest()


def _manifest(given: Mapping[str, Any]) -> Manifest:
    """Raises ValueError, KeyError, TypeError, AttributeError or OverflowError if something is missing or malformed."""
    precision = _one_of(given["precision"], PRECISIONS)
    flavour = _one_of(given["flavour"], get_args(FlavourName))
    plans = {_one_of(stage, tuple(PROFILES)): _plan(stage, fields) for stage, fields in given["plans"].items()}
    return Manifest(
        target=_target(given["target"]),
        precision=precision,
        flavour=flavour,
        version=_text(given["version"]),
        weights=_text(given["weights"]),
        model=_text(given["model"]),
        hardware_compatible=_one_of(given["hardware_compatible"], (False, True)),
        options={_text(name): _number(value) for name, value in given["options"].items()},
        tools={_text(name): _text(value) for name, value in given["tools"].items()},
        recipe=_number(given["recipe"]),
        built=_number(given["built"]),
        plans=plans,
    )


def _plan(stage: str, given: Mapping[str, Any]) -> Plan:
    if given["stage"] != stage:
        raise ValueError(f"{stage} is called {given['stage']}")
    profiles = tuple(_profile(profile) for profile in given["profiles"])
    # A size that one profile leaves open could not be set.
    dims = frozenset.intersection(*(frozenset(profile.dims) for profile in profiles)) if profiles else frozenset()
    return Plan(
        stage=stage,
        bytes=_number(given["bytes"]),
        sha256=_text(given["sha256"]),
        inputs=_ports(given["inputs"], dims),
        outputs=_ports(given["outputs"], dims | _OF_OUTPUTS),
        profiles=profiles,
        scratch_bytes=_number(given["scratch_bytes"]),
        weights_bytes=_number(given["weights_bytes"]),
        seconds=float(given["seconds"]),
        kernels={_text(name): _number(count) for name, count in given["kernels"].items()},
    )


def _ports(given: Sequence[Mapping[str, Any]], dims: Collection[str]) -> tuple[Port, ...]:
    """`dims`: the names of sizes that there are."""
    kinds: tuple[Kind, ...] = get_args(Kind)
    return tuple(
        Port(
            _text(port["name"]), _one_of(port["kind"], kinds), tuple(_axis(axis, dims) for axis in _list(port["shape"]))
        )
        for port in _list(given)
    )


def _axis(value: object, dims: Collection[str]) -> Axis:
    """A size, or `[N*]name`."""
    if not isinstance(value, str):
        return _number(value)
    found = _AXIS.fullmatch(value)
    if found is None or found[1] not in dims:
        raise ValueError(f"{value!r} is no size of this engine")
    return value


def _profile(given: Mapping[str, Any]) -> Profile:
    dims = {}
    for name, (least, usual, most) in given["dims"].items():
        dims[name] = (_number(least), _number(usual), _number(most))
    return Profile(_text(given["name"]), dims)


def _one_of(value: object, known: Sequence[_T]) -> _T:
    for item in known:
        if item == value and type(item) is type(value):  # 1 is not True
            return item
    raise ValueError(f"{value!r} is not known")


def _target(value: object) -> str:
    if not re.fullmatch(r"sm\d{2,3}", _text(value), re.ASCII):
        raise ValueError(f"{value!r} is no GPU target")
    return _text(value)


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"{value!r} is no list")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _number(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise TypeError(f"{value!r} is no size")
    return value
