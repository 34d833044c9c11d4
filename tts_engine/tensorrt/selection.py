"""Which units of the model run by TensorRT, which by CUDA graphs, which by plain PyTorch, and why, in words.

A pure decision: what engines there are, what they measured and what the device can do come as arguments.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from tts_engine.tensorrt.faults import PlanError

Unit = Literal["t3", "flow", "vocoder"]
Backend = Literal["auto", "tensorrt", "cuda-graphs", "eager"]
Taken = Literal["tensorrt", "cuda-graphs", "eager"]

UNITS: tuple[Unit, ...] = get_args(Unit)
TAKEN: tuple[Taken, ...] = get_args(Taken)

STAGES: Mapping[Unit, tuple[str, ...]] = {
    "t3": ("t3_prefill", "t3_step"),
    "flow": ("flow_encoder", "estimator"),
    "vocoder": ("vocoder",),
}
"A unit runs by engines if all its stages have one."

PLAN_FAULTS = ("not_installed", "wrong_flavour", "unfit", "unloadable", "unusable")
"""Why engines are not taken: there is no TensorRT; there is, of the other flavour; they are for another GPU, other
weights, another version or other sizes; a file cannot be read or a plan loaded; one does not run.
"""

SLOWER = 1.05
"An engine that takes so much of what CUDA graphs take, or more, is not taken: below is what two runs differ by."

_NAMES: Mapping[Taken, str] = {"tensorrt": "TensorRT", "cuda-graphs": "CUDA graphs", "eager": "eager"}


@dataclass(frozen=True)
class Offer:
    """What there is of a unit's engines."""

    title: str = ""
    "Of engines that are loaded: `TensorRT-RTX sm86 float16`; empty if there are none."
    fault: str = ""
    "Why there are none."
    capturable: bool = True
    "Whether CUDA graphs can hold them."
    slowdown: float | None = None
    "Time of the engines over that of CUDA graphs, as `engine check --run` measured it on this GPU; None: it did not."


@dataclass(frozen=True)
class Choice:
    """What a unit runs by."""

    unit: Unit
    backend: Taken
    reason: str
    "With the name of what was taken: a line for the log."

    def __str__(self) -> str:
        return f"{self.unit}: {self.reason}"


def choose(backend: Backend, offers: Mapping[Unit, Offer], graphs_fault: str | None) -> dict[Unit, Choice]:
    """A choice for each unit. `graphs_fault`: why the device cannot capture our own kernels; None: it can.

    Raises PlanError if `backend` is `tensorrt` and a unit has no engines.
    """
    return {unit: _choose(unit, backend, offers.get(unit, Offer()), graphs_fault) for unit in UNITS}


def _choose(unit: Unit, backend: Backend, offer: Offer, graphs_fault: str | None) -> Choice:
    if backend == "tensorrt":
        if not offer.title:
            raise PlanError(f"backend tensorrt: {unit} has no engines: {offer.fault or 'none were looked for'}")
        return Choice(unit, "tensorrt", offer.title)
    why_not = ""
    if backend == "auto":
        if not (why_not := _why_not(offer, graphs_fault)):
            return Choice(unit, "tensorrt", offer.title)
    elif backend == "eager":
        return Choice(unit, "eager", "eager, as configured")
    taken: Taken = "cuda-graphs" if graphs_fault is None else "eager"
    because = ", ".join(reason for reason in (graphs_fault, why_not) if reason)
    return Choice(unit, taken, _NAMES[taken] + (f", because {because}" if because else ""))


def _why_not(offer: Offer, graphs_fault: str | None) -> str:
    """What speaks against a unit's engines, "" if nothing does."""
    if not offer.title:
        return offer.fault or "there are no engines"
    if offer.slowdown is not None and offer.slowdown >= SLOWER:
        return f"{offer.title} took {offer.slowdown:.2f} times as long here (chatterline engine check --run)"
    if offer.slowdown is None and not offer.capturable and graphs_fault is None:
        return f"graphs cannot hold {offer.title}, and nobody measured it (chatterline engine check --run)"
    return ""


def in_words(choices: Mapping[Unit, Choice]) -> str:
    """For the log: one statement for units of the same reason."""
    by_reason: dict[str, list[str]] = {}
    for choice in choices.values():
        by_reason.setdefault(choice.reason, []).append(choice.unit)
    if len(by_reason) == 1:
        return next(iter(by_reason))
    return "; ".join(f"{', '.join(units)}: {reason}" for reason, units in by_reason.items())
