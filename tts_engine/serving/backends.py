"""What each unit of a model runs by on a device: TensorRT's engines, CUDA graphs of our own kernels, plain PyTorch."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from tts_engine.chatterbox.step_attention import fused_fault
from tts_engine.errors import EngineError
from tts_engine.serving.device import make_exact
from tts_engine.serving.serving_measures import ServingMeasures
from tts_engine.serving.settings import WorkerSettings
from tts_engine.tensorrt.engines import Engines, NoEnginesError, UnfitError, find_engines, in_a_line, load_engines
from tts_engine.tensorrt.faults import TensorRtError
from tts_engine.tensorrt.manifest import HALVES, weights_digest
from tts_engine.tensorrt.profiles import MOST_VOICES
from tts_engine.tensorrt.selection import UNITS, Choice, Unit, choose, in_words

logger = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

NO_GPU = "there is no GPU"


@dataclass(frozen=True)
class Backends:
    """A worker's."""

    choices: Mapping[Unit, Choice]
    engines: Engines
    dtype: torch.dtype
    "Of the model, and of T3's keys and values."
    fused: bool = False
    "Whether our own kernels run here: sampling uses them whatever T3 runs by."

    def by_engine(self, unit: Unit) -> bool:
        """Whether it runs by engines."""
        return self.choices[unit].backend == "tensorrt"

    def captured(self, unit: Unit) -> bool:
        """Whether its calls are CUDA graphs."""
        taken = self.choices[unit].backend
        return taken == "cuda-graphs" or (taken == "tensorrt" and unit in self.engines.capturable)

    @property
    def summary(self) -> str:
        """For the log."""
        return in_words(self.choices)

    def measure(self, measures: ServingMeasures) -> None:
        """Tell what was taken, and what failed."""
        for unit, choice in self.choices.items():
            measures.backends[unit, choice.backend].set(1)
        for fault in self.engines.failed:
            measures.plans_failed[fault].add()


def choose_backends(settings: WorkerSettings, directory: Path, device: torch.device, failed: str = "") -> Backends:
    """For the model in `directory`. `failed`: engines were tried, and this came of it: they are not tried again.

    Raises EngineError if what is configured cannot be had.
    """
    asked, precision = settings.engine.backend, settings.engine.precision
    if device.type != "cuda":
        if asked in {"tensorrt", "cuda-graphs"}:
            raise EngineError(f"backend {asked} needs a GPU; the device is {device}")
        dtype = torch.float32 if precision == "auto" else DTYPES[precision]
        engines = Engines.none(NO_GPU)
        return Backends({unit: Choice(unit, "eager", f"eager, because {NO_GPU}") for unit in UNITS}, engines, dtype)
    make_exact()
    graphs_fault = fused_fault()
    if failed:
        engines = Engines.none(failed, "unusable")
    elif asked in {"auto", "tensorrt"}:
        engines = _engines(settings, directory, device)
    else:
        engines = Engines.none("not asked for")
    choices = choose(asked, engines.offers, graphs_fault)
    if graphs_fault is not None and any(choice.backend == "eager" for choice in choices.values()) and asked != "eager":
        # The plain modules wait for the device, which no graph can hold.
        logger.warning("no CUDA graphs and no fused kernels, so a good deal slower: %s", graphs_fault)
    unused = {unit: choice.reason for unit, choice in choices.items() if choice.backend != "tensorrt"}
    engines = engines.without(unused)  # their memory is free again
    # T3's engines and its cache share a precision; the others' ports are float32.
    by_t3 = choices["t3"].backend == "tensorrt"
    automatic = engines.half if by_t3 and engines.half is not None else torch.bfloat16
    dtype = automatic if precision == "auto" else DTYPES[precision]
    return Backends(choices, engines, dtype, fused=graphs_fault is None and asked != "eager")


def _engines(settings: WorkerSettings, directory: Path, device: torch.device) -> Engines:
    """Those there are; why not, in words for the log, where there are none. What was to be expected is no warning."""
    engine = settings.engine
    if engine.engines_dir is None:
        return Engines.none("no directory of engines is configured")
    if engine.precision == "float32":
        return Engines.none("engines are of float16 or bfloat16, and precision is float32")
    wanted = next((name for name, dtype in HALVES.items() if dtype == DTYPES.get(engine.precision)), None)
    try:
        found = find_engines(
            engine.engines_dir, lambda: weights_digest(directory), torch.cuda.get_device_capability(device), wanted
        )
    except NoEnginesError as fault:
        return Engines.none(str(fault))
    except TensorRtError as fault:
        logger.warning("TensorRT engines are not used: %s", fault)
        return Engines.none(str(fault), fault.word if isinstance(fault, UnfitError) else "unfit")
    except Exception as fault:
        logger.warning("TensorRT engines are not used: %s", in_a_line(fault), exc_info=True)
        return Engines.none(in_a_line(fault), "unusable")
    units = tuple(unit for unit in UNITS if not (unit == "t3" and engine.voices > MOST_VOICES))
    try:
        engines = load_engines(found, device, units)
    except Exception as fault:
        logger.warning("TensorRT engines are not used: %s", in_a_line(fault), exc_info=True)
        return Engines.none(in_a_line(fault), "unusable")
    for unit in UNITS:
        if unit in units and (why := engines.offers[unit].fault):
            logger.warning("TensorRT engines of %s are not used: %s", unit, why)
    if "t3" not in units:
        engines = engines.without({"t3": f"voices_at_once is {engine.voices}, and its engines take {MOST_VOICES}"})
    return engines
