"""The packed vocoder on a GPU: right at full size, and how fast, beside the plain module over padded rows.

    python -m benchmarks.packed_vocoder [--precision bfloat16] [--sweep]

Random weights cost what real ones do. Everything timed is a CUDA graph. `--sweep` times the tiles that
kernels/conv.py chooses from, and changes nothing.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor

from benchmarks.common import RESULTS, commit, machine, table, versions, write_json
from tts_engine.chatterbox import counter
from tts_engine.chatterbox.constants import HARMONICS, MEL_BINS, SAMPLES_PER_FRAME
from tts_engine.chatterbox.kernels.conv import Tile, convolve
from tts_engine.chatterbox.packed_vocoder import PackedVocoder
from tts_engine.chatterbox.packing import BatchShape
from tts_engine.chatterbox.source import frame_phases
from tts_engine.chatterbox.vocoder import Vocoder
from tts_engine.serving.device import make_exact

DEVICE = torch.device("cuda")
SIZES = ((1, 50), (8, 100), (32, 100), (64, 100), (16, 262))
RAGGED = ((1, 2, 50, 0, 131), (100,) * 8, (262, 3, 17, 80, 0, 0, 41, 1))
GFLOP_A_FRAME = 31 / 50


def lively_vocoder(seed: int = 0) -> Vocoder:
    """Full size, float32, on the CPU: weights that keep the signal's size, F0 of 50 to 400 Hz."""
    generator = torch.Generator().manual_seed(seed)
    vocoder = Vocoder().eval().requires_grad_(False)
    for name, parameter in vocoder.named_parameters():
        if name.endswith("alpha"):
            parameter.uniform_(0.5, 2.0, generator=generator)
        elif parameter.ndim == 1:
            parameter.normal_(std=0.1, generator=generator)
        else:
            fan_in = parameter[0].numel() if not name.startswith("ups") else 2 * parameter.shape[0]
            parameter.normal_(std=(0.5 if "resblocks" in name else 1.0) / math.sqrt(fan_in), generator=generator)
    vocoder.f0_predictor.classifier.weight.mul_(250)
    vocoder.f0_predictor.classifier.bias.fill_(120)
    return vocoder


@dataclass
class Windows:
    """Inputs of both sides, on the device."""

    frames: Sequence[int]
    mel: Tensor
    starts: Tensor
    phase: Tensor
    offsets: Tensor
    keys: Tensor

    @classmethod
    def random(cls, frames: Sequence[int], padding: int = 0) -> Windows:
        """Rows of these lengths, and frames of no row after them."""
        rows, total = len(frames), sum(frames)
        with DEVICE:
            starts = torch.tensor([0, *frames]).cumsum(0).int()
            keys = torch.arange(rows) * 977 + 5
            phase, turns = torch.rand(rows, HARMONICS), torch.rand(rows, HARMONICS) * 2 - 1
            return cls(frames, torch.randn(total + padding, MEL_BINS), starts, phase, turns * math.pi, keys)

    def arguments(self) -> list[Any]:
        """Of PackedVocoder: no F0 is known."""
        none = torch.zeros(len(self.frames), dtype=torch.int32, device=DEVICE)
        known_f0 = torch.zeros(len(self.mel), device=DEVICE)
        shape = BatchShape(len(self.mel), len(self.frames), max(self.frames))
        return [self.mel, self.starts, self.phase, self.offsets, known_f0, none, self.keys, none, shape]

    def noise(self, row: int) -> Tensor:
        """(9, 480 T)."""
        sample = torch.arange(SAMPLES_PER_FRAME * self.frames[row], device=DEVICE)
        harmonic = torch.arange(HARMONICS, device=DEVICE)[:, None]
        return counter.normal(int(self.keys[row]), sample * HARMONICS + harmonic)

    def rows(self) -> Iterator[tuple[int, slice]]:
        """Those that are not empty."""
        at = 0
        for row, count in enumerate(self.frames):
            if count:
                yield row, slice(at, at + count)
            at += count


@torch.inference_mode()
def check(plain: Vocoder, packed: PackedVocoder, frames: Sequence[int]) -> dict[str, float]:
    """Errors against the plain float32 module, row by row: of F0 (Hz), and of the waveform over its own size."""
    given = Windows.random(frames, padding=13)
    given.mel[sum(frames) :] = torch.nan
    wave, f0, phases = packed(*given.arguments())
    worst = {"f0_hz": 0.0, "wave_relative_rms": 0.0, "wave_most": 0.0, "phases_equal": 1.0}
    for row, span in given.rows():
        mel = given.mel[span].T[None]
        worst["f0_hz"] = max(worst["f0_hz"], plain.f0(mel)[0].sub(f0[span]).abs().max().item())
        # On a CPU: a division on a GPU is a product with the inverse, whose phases differ.
        exact = frame_phases(f0[None, span].cpu(), given.phase[row : row + 1].cpu())[0, :, :-1].T
        worst["phases_equal"] *= float(torch.equal(exact, phases[span].cpu()))
        theirs = phases[span].T.contiguous()[None]
        source = plain.m_source(f0[None, span], theirs, given.offsets[row : row + 1], given.noise(row)[None])
        expected = plain.decode(mel, source)[0]
        error = wave[SAMPLES_PER_FRAME * span.start : SAMPLES_PER_FRAME * span.stop] - expected
        relative = (error.square().mean().sqrt() / expected.square().mean().sqrt()).item()
        worst["wave_relative_rms"] = max(worst["wave_relative_rms"], relative)
        worst["wave_most"] = max(worst["wave_most"], error.abs().max().item())
    silent = wave[SAMPLES_PER_FRAME * sum(frames) :]
    assert not silent.any(), "padding is to be silent"
    return worst


def graph_milliseconds(call: Callable[[], Any], repeat: int = 15) -> float:
    """Median time of a captured call's replay."""
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        for _ in range(2):
            call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    times = []
    for _ in range(repeat + 2):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return statistics.median(times[2:])


@torch.inference_mode()
def plain_milliseconds(plain: Vocoder, rows: int, frames: int) -> float:
    """The plain module over as many rows, all of one length, its noise given."""
    with DEVICE:
        given = (
            torch.randn(rows, MEL_BINS, frames),
            torch.rand(rows, HARMONICS),
            torch.rand(rows, HARMONICS),
            torch.randn(rows, HARMONICS, SAMPLES_PER_FRAME * frames),
            torch.full((rows,), frames),
        )
    return graph_milliseconds(lambda: plain.render(*given))


@torch.inference_mode()
def part_milliseconds(packed: PackedVocoder, rows: int, frames: int) -> dict[str, float]:
    """Each part alone, over what the parts before it gave."""
    mel, starts, phase, offsets, known_f0, known, keys, first, _ = Windows.random([frames] * rows).arguments()
    bounds, taps, narrow = packed.place(mel, starts)
    times = {"place": graph_milliseconds(lambda: packed.place(mel, starts))}
    f0 = packed.f0(taps, bounds, known_f0, known)
    times["f0"] = graph_milliseconds(lambda: packed.f0(taps, bounds, known_f0, known))
    source = (f0, starts, phase, offsets, keys, first, bounds)
    heard, _ = packed.spectrum(*source)
    times["source"] = graph_milliseconds(lambda: packed.spectrum(*source))
    x = packed.before(narrow, bounds)
    times["before"] = graph_milliseconds(lambda: packed.before(narrow, bounds))
    for at, step in enumerate(packed.steps):
        times[f"step {at + 1}"] = graph_milliseconds(lambda step=step, x=x: step(x, heard, bounds))
        x = step(x, heard, bounds)
    return times | {"after": graph_milliseconds(lambda: packed.after(x, bounds, rows * frames))}


TILES = [
    Tile(64, 64, 64, 4, 4),
    Tile(128, 64, 64, 4, 4),
    Tile(128, 128, 64, 4, 3),
    Tile(128, 128, 64, 8, 3),
    Tile(128, 128, 64, 8, 3, 128),
    Tile(128, 128, 64, 8, 4),
    Tile(128, 128, 32, 8, 4, 128),
    Tile(256, 64, 64, 8, 3, 128),
    Tile(256, 128, 64, 8, 3),
    Tile(128, 256, 64, 8, 3),
]


@torch.inference_mode()
def sweep(packed: PackedVocoder, rows: int, frames: int) -> list[tuple[str, str, float, float]]:
    """Of the layers that most time goes to: ms and TFLOP/s (of the layer's own work) with each tile that it allows."""
    mel, starts, *_ = Windows.random([frames] * rows).arguments()
    bounds, _, _ = packed.place(mel, starts)
    results = []
    for at, step in enumerate(packed.steps):
        blocks = step.blocks
        for name, layer in (("first", blocks.first[0]), ("second", blocks.second[0]), ("joined", blocks.second[-1])):
            shape = layer.shape
            columns = bounds.shape[1] * shape.rate
            x = torch.randn(len(layer.table), columns, shape.inputs, device=DEVICE).to(layer.weight.dtype)
            out, other = torch.empty_like(x[: layer.branches]), torch.empty_like(x[: layer.branches])
            options: dict[str, Any] = {"activated": other, "scales": blocks.scales[: layer.branches].contiguous()}
            if name != "first":
                options |= {"residual": x}
            if name == "second":
                options |= {"out": out}
            # A pair of columns multiplies one tap more than it needs to.
            taps = sum(count - (shape.group - 1) for count, _, _ in layer.table.tolist())
            flop = 2 * taps * columns * shape.inputs * shape.channels
            for tile in TILES:
                if shape.outputs % tile.outputs or shape.inputs % tile.inputs:
                    continue
                call = lambda: convolve(layer, x, bounds, **options, tile=tile)  # noqa: B023, E731
                try:
                    time = graph_milliseconds(call, repeat=7)
                except triton.runtime.errors.OutOfResources:
                    continue
                results.append((f"step {at + 1} {name}", str(tile)[4:], time, flop / time / 1e9))
    return results


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", choices=("float32", "bfloat16", "float16"), default="bfloat16")
    parser.add_argument("--sweep", action="store_true", help="also time the largest layers with other tiles")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("needs a GPU")
    make_exact()
    torch.manual_seed(0)
    dtype = getattr(torch, arguments.precision)
    exact = lively_vocoder().to(DEVICE)
    results: dict[str, Any] = {"errors": {}, "ms": {}, "parts_ms": {}}
    for precision in dict.fromkeys((torch.float32, dtype)):
        packed = PackedVocoder(lively_vocoder().to(DEVICE).cast(precision))
        errors = [check(exact, packed, frames) for frames in RAGGED]
        worst = {name: (min if name == "phases_equal" else max)(e[name] for e in errors) for name in errors[0]}
        results["errors"][str(precision).removeprefix("torch.")] = worst
        print(precision, {name: f"{value:.3g}" for name, value in worst.items()}, flush=True)
    plain = lively_vocoder().to(DEVICE).cast(dtype)
    for rows, frames in SIZES:
        given = Windows.random([frames] * rows).arguments()
        time = graph_milliseconds(lambda given=given: packed(*given))
        beside = plain_milliseconds(plain, rows, frames)
        results["ms"][f"{rows}x{frames}"] = {
            "packed": time,
            "plain": beside,
            "times_real": rows * frames * 20 / time,
            "tflops": GFLOP_A_FRAME * rows * frames / time,
        }
        results["parts_ms"][f"{rows}x{frames}"] = part_milliseconds(packed, rows, frames)
    rows_ = [(name, *values.values()) for name, values in results["ms"].items()]
    print(table(rows_, ("windows x frames", "packed ms", "plain ms", "x real time", "TFLOP/s")))
    parts = results["parts_ms"]
    names = list(next(iter(parts.values())))
    print(table([(size, *times.values()) for size, times in parts.items()], ("parts, ms", *names)), flush=True)
    if arguments.sweep:
        results["sweep"] = sweep(packed, 64, 100)
        print(table(results["sweep"], ("layer", "tile", "ms", "TFLOP/s")))
    write_json(
        RESULTS / "packed-vocoder-cuda.json",
        {
            "machine": machine() | {"gpu": torch.cuda.get_device_name()},
            "versions": versions() | {"triton": triton.__version__},
            **commit(),
            "weights": "random",
            "precision": arguments.precision,
            **results,
        },
    )


if __name__ == "__main__":
    main()
