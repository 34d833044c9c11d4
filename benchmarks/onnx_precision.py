"""Where half precision hurts: every stage layer by layer, half against float32, and which operators are to blame.

    python -m benchmarks.onnx_precision [--weights DIR] [--half bfloat16] [--stages estimator vocoder] [--layers N] ...

Runs by ONNX Runtime on the CPU, with every rounding written out (tts_engine.tensorrt.half_emulation). Random weights
do not have the ranges of trained ones: what is wanted are figures of `--weights` with a released model; without,
a checkpoint of the released widths is made, and the result says so.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import RESULTS, commit, machine, table, versions, write_json
from benchmarks.make_checkpoint import RANDOM_NOTE, Sizes, released_sizes, small_sizes, write_checkpoint
from tts_engine.chatterbox.model import Chatterbox, load
from tts_engine.tensorrt.export import export
from tts_engine.tensorrt.layer_errors import AS_BUILT, EVERYTHING, Comparison, LayerError, compare
from tts_engine.tensorrt.ports import Stage
from tts_engine.tensorrt.stages import MAKERS

SIZES: Mapping[str, Mapping[str, int]] = {
    "t3_prefill": {"rows": 2, "text": 60, "voices": 2},
    "t3_step": {"rows": 4, "pages": 5, "tiles": 4, "pool": 20, "voices": 2},
    "flow_encoder": {"rows": 2, "tokens": 150},
    "estimator": {"rows": 2, "frames": 200},
    "vocoder": {"rows": 2, "frames": 60},
}
"Those of a short sentence after a short prompt: every layer's values are held in memory twice."

FLOAT16_MOST = 65504.0
SHOWN = 12
"Layers in the printed table: those of the largest numbers."
KEPT = 24
"Layers of a stage in the file, likewise."


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--weights", type=Path, help="a model's directory; default: random weights of released widths")
    parser.add_argument("--half", choices=("float16", "bfloat16"), default="float16")
    parser.add_argument("--stages", nargs="+", choices=MAKERS, default=list(MAKERS))
    parser.add_argument("--layers", type=int, help="of T3, if the weights are random")
    parser.add_argument("--mid-blocks", type=int, help="of the estimator, if the weights are random")
    parser.add_argument("--small", action="store_true", help="random weights of small widths: to try this command")
    parser.add_argument("--out", type=Path, help="default: results/onnx-precision-HALF.json")
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        weights = chosen.weights
        if weights is None:
            weights = Path(folder) / "random"
            sizes = small_sizes() if chosen.small else released_sizes("turbo", chosen.layers, chosen.mid_blocks)
            write_checkpoint(weights, sizes=sizes, unread=False)
        kind = kind_of(weights)
        print(f"{kind} weights, {chosen.half}")
        model = load(weights)
        stages = {}
        for name in chosen.stages:
            stages[name] = measure(MAKERS[name](model), Path(folder), getattr(torch, chosen.half), SIZES[name])
            report(name, stages[name])
    write_json(
        chosen.out or RESULTS / f"onnx-precision-{chosen.half}.json",
        {
            "benchmark": "onnx_precision",
            "machine": machine(),
            "versions": versions(),
            **commit(),
            "weights": {"kind": kind, "sizes": asdict(_sizes_of(model))},
            "half": chosen.half,
            "stages": {name: as_json(name, found) for name, found in stages.items()},
        },
    )


def kind_of(weights: Path) -> str:
    """`random` or `released`."""
    return "random" if (weights / RANDOM_NOTE).exists() else "released"


def measure(stage: Stage, folder: Path, half: torch.dtype, sizes: Mapping[str, int]) -> list[Comparison]:
    """Export the stage and compare all variants."""
    path = folder / f"{stage.name}.onnx"
    began = time.monotonic()
    export(stage, path)
    print(f"\n{stage.name}: exported in {time.monotonic() - began:.0f} s", flush=True)
    return compare(stage, path, half, sizes)


def report(name: str, found: Sequence[Comparison]) -> None:
    """Print the variants, and the layers that come worst out of "everything in half"."""
    ports = list(found[0].outputs)
    rows = [[each.variant, each.overflows, *(_figure(each.outputs[port]) for port in ports)] for each in found]
    print(table(rows, [name, "overflows", *ports]))
    everything = {layer.layer: layer for layer in _variant(found, EVERYTHING).layers}
    built = {layer.layer: layer for layer in _variant(found, AS_BUILT).layers}
    worst = sorted(everything, key=lambda layer: (-everything[layer].largest, layer))[:SHOWN]
    lines = [
        [layer, f"{built[layer].largest:.3g}", _figure(everything[layer].error), _figure(built[layer].error)]
        for layer in worst
    ]
    print()
    print(table(lines, ["largest layers", "magnitude", EVERYTHING, AS_BUILT]), flush=True)


def as_json(name: str, found: Sequence[Comparison]) -> dict[str, Any]:
    """A stage's figures. An error is null where values were lost."""
    everything, built = _variant(found, EVERYTHING), _variant(found, AS_BUILT)
    pairs = zip(everything.layers, built.layers, strict=True)
    return {
        "sizes": dict(SIZES[name]),
        "variants": [
            {
                "variant": each.variant,
                "overflows": each.overflows,
                "outputs": {port: _finite(error) for port, error in each.outputs.items()},
            }
            for each in found
        ],
        "over_float16": sum(layer.largest > FLOAT16_MOST for layer in built.layers),
        "layers": sorted((_layer(*pair) for pair in pairs), key=lambda layer: -layer["largest"])[:KEPT],
    }


def _layer(everything: LayerError, built: LayerError) -> dict[str, Any]:
    return {
        "layer": built.layer,
        "op": built.op,
        "largest": _rounded(built.largest),
        "everything": {"error": _finite(everything.error), "overflows": everything.overflows},
        "as_built": {"error": _finite(built.error), "overflows": built.overflows},
    }


def _variant(found: Sequence[Comparison], name: str) -> Comparison:
    return next(each for each in found if each.variant == name)


def _sizes_of(model: Chatterbox) -> Sizes:
    vocoder = model.vocoder
    widths = {name: tuple(weight.shape) for name, weight in vocoder.named_parameters()}
    return Sizes(model.t3.sizes, model.flow.sizes, type(small_sizes().vocoder).from_shapes(widths))


def _finite(error: float) -> float | None:
    return _rounded(error) if math.isfinite(error) else None


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def _figure(error: float) -> str:
    return f"{error:.2e}" if math.isfinite(error) else "lost"


if __name__ == "__main__":
    main()
