"""Speed and memory of Chatterbox, ours and the reference side by side, over one checkpoint.

    python -m benchmarks.chatterbox --weights DIR [--device cuda] [--precision bfloat16] [--reference]

The plain modules, an utterance at a time; benchmarks/serving.py measures the engine. Random
weights (benchmarks/make_checkpoint.py) cost what real ones do: lengths are fixed, STOP is made impossible.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.common import RESULTS, commit, machine, table, versions, write_json

if TYPE_CHECKING:
    import torch

    from benchmarks.model.ours import Ours

TEXT_TOKENS = list(range(1000, 1024))
"24 tokens: a sentence."

LOAD = """
import json, re, sys
import torch, torch.nn
from pathlib import Path
from tts_engine.chatterbox.model import load
def status(key):
    return int(re.search(rf"^{key}:\\s+(\\d+)", Path("/proc/self/status").read_text(), re.M)[1]) / 1000
before = status("VmRSS")
import time; start = time.perf_counter()
model = load(Path(sys.argv[1]), device=sys.argv[2], dtype=getattr(torch, sys.argv[3]))
seconds = time.perf_counter() - start
parts = (model.t3, model.flow, model.vocoder)
weights = sum(p.numel() * p.element_size() for part in parts for p in part.parameters()) / 1e6
print(json.dumps({"seconds": seconds, "weights_mb": weights, "host_peak_mb": status("VmHWM") - before,
                  "host_after_mb": status("VmRSS") - before}))
"""
"A process of its own: the peak counts from its start."


def main() -> None:
    """Entry point."""
    arguments = _arguments()
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as the server has it
    import torch  # noqa: PLC0415  after --help

    device = torch.device(arguments.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    dtype = arguments.precision or ("bfloat16" if device.type == "cuda" else "float32")
    results: dict[str, Any] = {"load": _load(arguments.weights, str(device), dtype)}
    results["ours"] = _ours(arguments, device, getattr(torch, dtype))
    print(table(results["ours"].items()), flush=True)
    if arguments.reference:
        results["reference"] = _reference(arguments, device)
    _report(results, arguments, device, dtype)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="directory in the released layout")
    parser.add_argument("--device", help="cuda where there is one, else cpu")
    parser.add_argument("--precision", choices=("float32", "bfloat16", "float16"), help="of ours; default by device")
    parser.add_argument("--reference", action="store_true", help="also chatterbox-tts (requirements/reference.txt)")
    parser.add_argument("--tokens", type=int, default=128, help="length of the utterance; 25 a second")
    parser.add_argument("--flow-tokens", type=int, nargs="+", default=[20, 45, 95, 131])
    parser.add_argument("--vocoder-frames", type=int, nargs="+", default=[50, 100, 262])
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--name", default="chatterbox", help="of the result file")
    return parser.parse_args()


def _load(weights: Path, device: str, dtype: str) -> dict[str, float]:
    command = [sys.executable, "-c", LOAD, str(weights), device, dtype]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"loading failed:\n{done.stderr}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _ours(arguments: argparse.Namespace, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    from benchmarks.model.ours import WHOLE, Ours  # noqa: PLC0415
    from benchmarks.model.timing import forget_peak, milliseconds, peak_mb  # noqa: PLC0415
    from tts_engine.chatterbox.chunk_policy import ChunkPolicy  # noqa: PLC0415

    forget_peak(device)
    ours = Ours(arguments.weights, device, dtype)
    count, repeat = arguments.tokens, arguments.repeat
    result: dict[str, Any] = {}
    loop = milliseconds(lambda: list(ours.speech_tokens(TEXT_TOKENS, count)), device, max(1, repeat // 2))
    result["t3_ms_token"] = loop / count
    result |= _parts(ours, arguments, device)
    for name, policy in (("streamed", ChunkPolicy()), ("whole", WHOLE)):
        ours.say(TEXT_TOKENS, count, policy)
        runs = [ours.say(TEXT_TOKENS, count, policy) for _ in range(repeat)]
        seconds = runs[0][2] / 24000
        result[f"{name}_first_chunk_ms"] = statistics.median(run[0] for run in runs)
        result[f"{name}_ms"] = statistics.median(run[1] for run in runs)
        result[f"{name}_rtf"] = result[f"{name}_ms"] / 1000 / seconds
        result["speech_s"] = seconds
    result["peak_mb"] = peak_mb(device)
    return result


def _parts(engine: Ours | Any, arguments: argparse.Namespace, device: torch.device) -> dict[str, float]:
    """Flow and vocoder alone, which both sides have."""
    import torch  # noqa: PLC0415

    from benchmarks.model.timing import milliseconds  # noqa: PLC0415

    result = {}
    for count in arguments.flow_tokens:
        tokens = torch.randint(0, 6561, (count,), device=device)
        call = lambda tokens=tokens: engine.mel(tokens)  # noqa: E731
        result[f"flow_{count}_tokens_ms"] = milliseconds(call, device, arguments.repeat, warm_up=2)
    for frames in arguments.vocoder_frames:
        mel = torch.randn(1, 80, frames, device=device) * 2 - 4
        call = lambda mel=mel: engine.wave(mel)  # noqa: E731
        result[f"vocoder_{frames}_frames_ms"] = milliseconds(call, device, arguments.repeat, warm_up=2)
    return result


def _reference(arguments: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    from benchmarks.model.reference import Reference  # noqa: PLC0415
    from benchmarks.model.timing import forget_peak, milliseconds, peak_mb  # noqa: PLC0415
    from tts_engine.chatterbox.conds import read_conds  # noqa: PLC0415

    forget_peak(device)
    reference = Reference(arguments.weights, device, read_conds(arguments.weights / "conds.pt"))
    count, repeat = arguments.tokens, max(1, arguments.repeat // 2)
    loop = milliseconds(lambda: reference.speech_tokens(TEXT_TOKENS, count), device, repeat)
    result: dict[str, Any] = {"t3_ms_token": loop / count}
    result |= _parts(reference, arguments, device)
    silence = 3
    whole = milliseconds(lambda: reference.say(TEXT_TOKENS, count + silence), device, repeat)
    seconds = (count + silence) / 25
    result |= {"whole_ms": whole, "whole_first_chunk_ms": whole, "whole_rtf": whole / 1000 / seconds}
    result["peak_mb"] = peak_mb(device)
    return result


def _report(results: dict[str, Any], arguments: argparse.Namespace, device: torch.device, dtype: str) -> None:
    import torch  # noqa: PLC0415

    from benchmarks.make_checkpoint import RANDOM_NOTE  # noqa: PLC0415

    ours, reference = results["ours"], results.get("reference", {})
    rows = []
    for key, value in ours.items():
        # What the reference has no counterpart for is compared with what it does instead.
        other = reference.get(key.replace("streamed", "whole"))
        rows.append((key, value, other, other / value if other and value else None))
    print(table(rows, ("", "ours", "reference", "ratio")))
    print(table(results["load"].items(), ("loading", "")))
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    write_json(
        RESULTS / f"{arguments.name}-{device.type}.json",
        {
            "machine": machine() | {"gpu": gpu},
            "versions": versions(),
            **commit(),
            "weights": "random" if (arguments.weights / RANDOM_NOTE).exists() else "as released",
            "precision": dtype,
            "arguments": {key: value for key, value in vars(arguments).items() if key != "weights"},
            **results,
        },
    )


if __name__ == "__main__":
    main()
