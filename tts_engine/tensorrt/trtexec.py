"""Lines for NVIDIA's own programs, trtexec and tensorrt_rtx, that build what builder.py builds: for those who do so by
hand, or want to see a stage's speed without anything of ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from tts_engine.tensorrt.builder import DEFAULT_WORKSPACE_BYTES, profile_shapes
from tts_engine.tensorrt.ports import Port
from tts_engine.tensorrt.profiles import Profile

Program = Literal["trtexec", "tensorrt_rtx"]

_OPTIONS: dict[Program, str] = {
    "trtexec": "--stronglyTyped --noTF32 --timingCacheFile=timing.cache ",
    "tensorrt_rtx": "",
}
_WHICH = ("min", "opt", "max")


def command(program: Program, stage: str, inputs: Sequence[Port], profiles: Sequence[Profile]) -> str:
    """A command for the shell, to be run where STAGE.onnx lies; it writes STAGE.plan. A profile is a line."""
    head = (
        f"{program} --onnx={stage}.onnx {_OPTIONS[program]}"
        f"--memPoolSize=workspace:{DEFAULT_WORKSPACE_BYTES >> 20} --skipInference --saveEngine={stage}.plan"
    )
    lines = (f"--profile={index} {shapes(inputs, profile)}" for index, profile in enumerate(profiles))
    return " \\\n  ".join((head, *lines))


def shapes(inputs: Sequence[Port], profile: Profile) -> str:
    """`--minShapes=x:1x8x80,... --optShapes=... --maxShapes=...` of the inputs that vary."""
    varying = [port for port in inputs if any(isinstance(axis, str) for axis in port.shape)]
    by_port = [(port.name, profile_shapes(port, profile)) for port in varying]
    return " ".join(
        f"--{which}Shapes=" + ",".join(f"{name}:{'x'.join(map(str, ranges[at]))}" for name, ranges in by_port)
        for at, which in enumerate(_WHICH)
    )
