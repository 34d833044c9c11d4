"""The stages' ONNX files through ONNX Runtime, against the PyTorch modules that they were made of: errors and times.

    python -m benchmarks.onnx_stages --weights DIR [--device cuda|cpu] [--precision fp16] [--stage NAME ...]

The files are those that TensorRT builds its engines of, so on a GPU of any kind this shows that they say the same
there (`chatterline engine check --run` does it for engines, on the GPU that they are for). PyTorch's times are of the
stage's module in the same precision, as a CUDA graph; ONNX Runtime's are without one: for small batches, launches.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import RESULTS, commit, machine, table, versions, write_json
from tts_engine.chatterbox.model import Chatterbox, load
from tts_engine.tensorrt.engine_check import Check, check_stage
from tts_engine.tensorrt.engines import gpu_name, own_stream
from tts_engine.tensorrt.export import export
from tts_engine.tensorrt.manifest import HALVES
from tts_engine.tensorrt.onnx_session import CPU, CUDA, OnnxSession
from tts_engine.tensorrt.precision import convert
from tts_engine.tensorrt.profiles import PROFILES
from tts_engine.tensorrt.stages import MAKERS

HEADER = ("stage, profile, sizes", "off by", "allowed", "ORT ms", "PyTorch ms", "PyTorch / ORT")


def checks_of(
    name: str, source: Chatterbox, exact: Chatterbox, half: torch.dtype, folder: Path, say: Any
) -> Iterator[Check]:
    """Of one stage at all sizes of its profiles. `source` lies on the CPU, `exact` where it is to run; both float32."""
    stage, device = MAKERS[name](source), exact.device
    full, path = folder / f"{name}.fp32.onnx", folder / f"{name}.onnx"
    started = time.perf_counter()
    export(stage, full)
    exported = time.perf_counter()
    convert(stage, full, path, half)
    say(f"{name}: exported in {exported - started:.0f} s, converted in {time.perf_counter() - exported:.0f} s")
    session = OnnxSession(path, stage, (CUDA,) if device.type == "cuda" else (CPU,))
    yield from check_stage(MAKERS[name](exact), session, PROFILES[name], half)


def row_of(check: Check) -> tuple[object, ...]:
    """A line of the table."""
    sizes = " ".join(f"{name} {size}" for name, size in check.sizes.items())
    worst = check.worst
    return (
        f"{check.stage}, {check.profile}, {sizes}",
        f"{worst.error:.1e}",
        f"{worst.bound:.1e}{'' if check.passed else ' WRONG: ' + worst.port}",
        1000 * check.seconds,
        1000 * check.module_seconds,
        check.module_seconds / check.seconds,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=tuple(HALVES), default="fp16")
    parser.add_argument("--stage", action="append", choices=tuple(MAKERS), help="one or more; default: all")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
    device = torch.device(given.device, 0) if given.device == "cuda" else torch.device("cpu")
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    source = load(given.weights)
    exact = source if device.type == "cpu" else load(given.weights, device=device)
    checks: list[Check] = []
    for name in given.stage or MAKERS:
        with (
            tempfile.TemporaryDirectory(prefix="onnx-") as folder,
            own_stream(device) if device.type == "cuda" else nullcontext(),
        ):
            for check in checks_of(name, source, exact, HALVES[given.precision], Path(folder), print):
                print(*row_of(check)[:3], flush=True)
                checks.append(check)
    print(table([row_of(check) for check in checks], HEADER))
    write_json(
        given.json or RESULTS / f"onnx-stages-{device.type}.json",
        {
            **commit(),
            "machine": machine(),
            "gpu": gpu_name(device) if device.type == "cuda" else None,
            "versions": versions(),
            "precision": given.precision,
            "random_weights": any(given.weights.glob("RANDOM_WEIGHTS*")),
            "checks": [{**asdict(check), "passed": check.passed} for check in checks],
        },
    )
    return 0 if all(check.passed for check in checks) else 1


if __name__ == "__main__":
    sys.exit(main())
