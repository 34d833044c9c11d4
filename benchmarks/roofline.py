"""What share of the device's limits each stage reaches, and what that would make of an A10G.

    python -m benchmarks.roofline [--device cuda] [--flavour nano] [--repeat 30]

First the ceilings are measured: a large matrix product and a copy of memory. Then each stage runs alone, in a CUDA
graph, with real sizes and random weights, and is compared with the time that its operations and bytes need at these
ceilings (benchmarks/model/work.py). The projection takes each stage's share of its limit over to an A10G.
"""

from __future__ import annotations

import argparse
import math
import os
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.common import RESULTS, commit, machine, table, versions, write_json

if TYPE_CHECKING:
    import torch

    from benchmarks.model.projection import Shares
    from benchmarks.model.stages import Stages, Timed
    from benchmarks.model.work import Ceilings

A10G_TFLOPS = 70.0
A10G_MEMORY_GB_S = 600.0
USUAL_ROWS = {"T3 step": 64, "T3 prefill": 2, "flow": 8, "vocoder": 8}


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", help="cuda where there is one, else cpu")
    parser.add_argument("--precision", choices=("float32", "bfloat16", "float16"), help="default by device")
    parser.add_argument("--flavour", choices=("turbo", "nano"), default="turbo")
    parser.add_argument("--small", action="store_true", help="a model of a few million parameters: to try the command")
    shapes = parser.add_argument_group("shapes")
    shapes.add_argument("--rows", type=int, nargs="+", default=[1, 32, 64, 128, 256], help="of T3's step")
    shapes.add_argument("--own", type=int, default=96, help="positions of each row besides the voice's 376")
    shapes.add_argument("--prefill-rows", type=int, nargs="+", default=[1, 8])
    shapes.add_argument("--text", type=int, default=32, help="text tokens of a prefill")
    shapes.add_argument("--flow", type=shape, nargs="+", default=[(1, 270), (8, 325), (32, 325)], metavar="ROWSxTOKENS")
    shapes.add_argument(
        "--vocoder", type=shape, nargs="+", default=[(1, 34), (8, 100), (32, 150)], metavar="ROWSxFRAMES"
    )
    shapes.add_argument(
        "--estimator", type=shape, nargs="*", default=[(32, 650)], metavar="ROWSxFRAMES", help="one step alone"
    )
    parser.add_argument("--repeat", type=int, default=30)
    parser.add_argument("--json", type=Path, help="result file (default: in benchmarks/results, named by device)")
    return parser.parse_args(argv)


def shape(text: str) -> tuple[int, int]:
    """ROWSxLENGTH."""
    rows, _, length = text.partition("x")
    found = int(rows), int(length)
    if min(found) < 1:
        raise ValueError(f"{text} is no shape")
    return found


def main() -> None:
    """Entry point."""
    args = arguments()
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    import torch  # noqa: PLC0415  after --help

    from benchmarks.make_checkpoint import released_sizes, small_sizes  # noqa: PLC0415
    from benchmarks.model import ceilings as ceiling  # noqa: PLC0415
    from benchmarks.model.projection import Assumptions, project  # noqa: PLC0415
    from benchmarks.model.stages import Stages  # noqa: PLC0415
    from tts_engine.serving.device import make_exact, use_device  # noqa: PLC0415

    device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    use_device(device)
    precision = args.precision or ("bfloat16" if device.type == "cuda" else "float32")
    dtype = getattr(torch, precision)
    sizes = small_sizes() if args.small else released_sizes(args.flavour)
    ceilings = ceiling.measure(device, dtype, args.repeat)
    make_exact()  # as the server has it
    print(table([(ceilings.flop / 1e12, ceilings.memory / 1e9)], ("TFLOP/s", "GB/s, read and written")), flush=True)

    stages = Stages(sizes, device, dtype, args.repeat)
    rows = [row for timed in _timed(_calls(stages, args), device) for row in [_row(timed, ceilings)]]
    print(table([list(row.values()) for row in rows], list(rows[0]) if rows else ()), end="\n\n", flush=True)

    projections = {}
    if reached := shares(rows):
        here = Assumptions(ceilings.flop / 1e12, ceilings.memory / 1e9, sustained_tflops=1.0, sustained_memory=1.0)
        projections = {
            "A10G": project(sizes, Assumptions(A10G_TFLOPS, A10G_MEMORY_GB_S), reached),
            "this device, by the same reckoning": project(sizes, here, reached),
        }
    for name, projection in projections.items():
        _print_projection(name, projection)
    path = args.json or RESULTS / f"roofline-{device.type}.json"
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    write_json(
        path,
        {
            "benchmark": "roofline",
            **commit(),
            "machine": machine() | {"gpu": gpu},
            "versions": versions(),
            "precision": precision,
            "model": "small" if args.small else args.flavour,
            "ceilings": asdict(ceilings),
            "stages": rows,
            "projections": projections,
        },
    )
    print(path)


def _calls(stages: Stages, args: argparse.Namespace) -> list[Callable[[], Timed]]:
    return [
        *(partial(stages.step, rows, args.own) for rows in args.rows),
        *(partial(stages.prefill, rows, args.text) for rows in args.prefill_rows),
        *(partial(stages.flow, *at) for at in args.flow),
        *(partial(stages.estimator, *at) for at in args.estimator),
        *(partial(stages.plain_estimator, *at) for at in args.estimator),
        *(partial(stages.vocoder, *at) for at in args.vocoder),
    ]


def _timed(calls: Sequence[Callable[[], Timed]], device: torch.device) -> Iterator[Timed]:
    import torch  # noqa: PLC0415

    for call in calls:
        try:
            yield call()
        except Exception:  # noqa: BLE001 - time on a GPU is dear: what one stage raises must not cost the others
            traceback.print_exc()
        if device.type == "cuda":
            torch.cuda.empty_cache()


def _row(timed: Timed, ceilings: Ceilings) -> dict[str, Any]:
    stage, seconds = timed.work, timed.milliseconds / 1000
    return {
        "stage": timed.name,
        "shape": timed.shape,
        "how": timed.how,
        "ms": timed.milliseconds,
        "gflop": stage.flop / 1e9,
        "least_mb": stage.least_bytes / 1e6,
        "unfused_mb": stage.unfused_bytes / 1e6,
        "floor_ms": 1000 * stage.floor(ceilings),
        "bound_by": stage.bound_by(ceilings),
        "share_of_floor": stage.floor(ceilings) / seconds,
        "layered_ms": 1000 * stage.layered(ceilings),
        "share_of_layered": stage.layered(ceilings) / seconds,
        "tflop_s": stage.flop / seconds / 1e12,
        "gb_s": stage.least_bytes / seconds / 1e9,
    }


def shares(rows: Sequence[dict[str, Any]]) -> Shares | None:
    """Of each kind of stage the share of its layered floor, from the shape whose rows are nearest to those of a server
    that is busy; above 1 where kernels fuse what the floor keeps apart. None if a stage is missing.
    """
    from benchmarks.model.projection import Shares  # noqa: PLC0415

    found = {}
    for name, usual in USUAL_ROWS.items():
        of_it = [row for row in rows if row["stage"] == name]
        if not of_it:
            return None
        nearest = min(of_it, key=lambda row: abs(math.log(int(row["shape"].split()[0]) / usual)))
        found[name] = nearest["share_of_layered"]
    return Shares(step=found["T3 step"], prefill=found["T3 prefill"], flow=found["flow"], vocoder=found["vocoder"])


def _print_projection(name: str, projection: dict[str, Any]) -> None:
    print(f"{name}: {projection['streams']} streams, always speaking")
    print(
        table(
            [(f"  {stage}", ms) for stage, ms in projection["ms_a_second_of_speech"].items()],
            ("  ms a second of speech", ""),
        )
    )
    for figure in ("first_audio_ms_alone", "first_audio_ms_among_all", "t3_cache_gb"):
        print(f"  {figure}: {projection[figure]:.3g}")
    print(table([(f"  {key}", value) for key, value in projection["assumptions"].items()], ("  assumed", "")))
    print(
        table(
            [(f"  {key}", value) for key, value in projection["shares"].items()], ("  share of the layered floor", "")
        )
    )
    print()


if __name__ == "__main__":
    main()
