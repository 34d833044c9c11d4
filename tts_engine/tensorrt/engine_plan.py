"""A plan as TensorRT loads it, compared with the stage that it is to be: its ports, its profiles."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch

from tts_engine.tensorrt.build_log import BuildLog, dtype_name, make_logger
from tts_engine.tensorrt.faults import PlanError
from tts_engine.tensorrt.flavour import Flavour
from tts_engine.tensorrt.ports import Port
from tts_engine.tensorrt.profiles import Profile

logger = logging.getLogger(__name__)

ShapeRange = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
"Least, usual and largest shape of an input."

_MOST_ERRORS = 8

_LEVELS = {"INTERNAL_ERROR": logging.ERROR, "ERROR": logging.ERROR, "WARNING": logging.WARNING}


class RuntimeLog(BuildLog):
    """TensorRT's messages go to ours, and the first error since `forget` into the message of the fault."""

    def take(self, severity: str, message: str) -> None:
        """See BuildLog; what is no error is not kept, as a server runs for long."""
        if "ERROR" in severity and len(self.errors) < _MOST_ERRORS:
            self.errors.append(message)
        logger.log(_LEVELS.get(severity, logging.DEBUG), "TensorRT: %s", message)

    def forget(self) -> None:
        """What was taken so far."""
        self.errors.clear()


@cache
def _runtime(module: Any) -> tuple[RuntimeLog, Any, Any]:
    """A process has one logger, whatever later runtimes are given; and it is to outlive all that is made with it."""
    log = RuntimeLog()
    trt_logger = make_logger(module, log)
    return log, trt_logger, module.Runtime(trt_logger)


class LoadedPlan:
    """`engine`, on the device that was current."""

    def __init__(self, name: str, plan: bytes, flavour: Flavour) -> None:
        """Raises PlanError with TensorRT's reason."""
        self._name = name
        log, _, runtime = _runtime(flavour.module)
        log.forget()
        self.engine: Any = None if runtime is None else runtime.deserialize_cuda_engine(plan)
        if self.engine is None:
            reason = log.last_error()
            raise PlanError(f"the plan of {name} cannot be loaded by {flavour}" + (f": {reason}" if reason else ""))

    def check_ports(self, inputs: Sequence[Port], outputs: Sequence[Port], half: torch.dtype) -> None:
        """Raises PlanError if they are not the engine's."""
        engine, name = self.engine, self._name
        tensors = [engine.get_tensor_name(number) for number in range(engine.num_io_tensors)]
        found = {
            each: (engine.get_tensor_mode(each).name, dtype_name(engine.get_tensor_dtype(each).name))
            for each in tensors
        }
        sides = [("INPUT", port) for port in inputs] + [("OUTPUT", port) for port in outputs]
        wanted = {port.name: (mode, str(port.dtype(half)).removeprefix("torch.")) for mode, port in sides}
        if foreign := sorted(set(found) ^ set(wanted)):
            raise PlanError(f"the plan is not that of {name}: {', '.join(foreign)} on one side only; build it again")
        for port_name, (mode, dtype) in wanted.items():
            has_mode, has_dtype = found[port_name]
            if (has_mode, has_dtype) != (mode, dtype):
                raise PlanError(
                    f"the plan of {name} has {port_name} as {has_mode.lower()} of {has_dtype}, not {mode.lower()} "
                    f"of {dtype}"
                )

    def ranges(self, inputs: Sequence[Port], profiles: Sequence[Profile]) -> tuple[tuple[ShapeRange, ...], ...]:
        """Of each profile the ranges of each input. Raises PlanError if the plan was built for others."""
        count, name = self.engine.num_optimization_profiles, self._name
        if count != len(profiles):
            raise PlanError(f"the plan of {name} has {count} profiles, not {len(profiles)}; build it again")
        return tuple(
            tuple(self._range(port, number, profile) for port in inputs) for number, profile in enumerate(profiles)
        )

    def _range(self, port: Port, number: int, profile: Profile) -> ShapeRange:
        least, usual, most = (port.sizes({dim: of[at] for dim, of in profile.dims.items()}) for at in range(3))
        if least != most:  # of what is fixed a profile says nothing
            sizes = [tuple(shape) for shape in self.engine.get_tensor_profile_shape(port.name, number)]
            if sizes != [least, usual, most]:
                raise PlanError(
                    f"the plan of {self._name} takes {port.name} as {sizes} in its profile {profile.name} (least, "
                    f"usual, most), not as {[least, usual, most]}; build it again"
                )
        return least, usual, most
