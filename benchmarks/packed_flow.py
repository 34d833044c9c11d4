"""The packed flow on a GPU: that it equals the plain one, and what it and each of its kernels take.

    python -m benchmarks.packed_flow [--skip-checks] [--skip-tiles]

Random weights at the released sizes. Times are medians of replays of CUDA graphs, in milliseconds.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch
import triton
from torch import Tensor

from benchmarks.common import RESULTS, commit, machine, table, versions, write_json
from benchmarks.random_weights import s3gen_tensors
from tts_engine.chatterbox.flow import Flow, FlowSizes
from tts_engine.chatterbox.kernels.flow_attention import attend
from tts_engine.chatterbox.kernels.flow_mlp import feed_forward, norm_project
from tts_engine.chatterbox.kernels.flow_norm import layer_norm, layer_norm_mish
from tts_engine.chatterbox.kernels.flow_taps import gather_taps
from tts_engine.chatterbox.kernels.flow_tiles import Tile
from tts_engine.chatterbox.model import FLOW
from tts_engine.chatterbox.packed_estimator import Tuning
from tts_engine.chatterbox.packed_flow import PackedFlow
from tts_engine.chatterbox.packing import BatchShape, Packing, pack
from tts_engine.chatterbox.vocoder import VocoderSizes
from tts_engine.chatterbox.voice import Voice

ROWS = 64
"Of every packing: those that are not used are empty, as in serving."
REPLAYS = 20
PACKINGS = (("1 x 270", [270]), ("8 x 310", [310] * 8), ("32 x 325", [325] * 32))
CHECKED = ([270], [1, 0, 310, 74, 133, 325, 2], [300, 255, 263, 299, 4, 128, 64])
ESTIMATOR_ROWS, ESTIMATOR_FRAMES = 32, 650
BLOCKS, RESNETS = 56, 14

ATTENTION_TILES = [
    Tile(*tile)
    for tile in ((128, 64, 4, 3), (128, 64, 4, 2), (128, 64, 8, 3), (128, 128, 8, 2), (64, 64, 4, 3), (64, 128, 4, 2))
]
POSITION_TILES = [Tile(*tile) for tile in ((64, 64, 4, 3), (64, 64, 4, 2), (64, 32, 4, 3), (128, 64, 8, 2))]
MLP_TILES = [Tile(*tile) for tile in ((128, 64, 8, 2), (128, 32, 8, 3), (64, 64, 4, 2), (64, 64, 8, 2), (64, 32, 4, 3))]
PROJECT_TILES = [
    Tile(*tile) for tile in ((128, 128, 8, 2), (128, 64, 8, 3), (64, 128, 4, 2), (64, 64, 4, 3), (128, 64, 4, 2))
]
SMALL_TILES = [Tile(*tile) for tile in ((64, 32, 8, 2), (64, 64, 8, 1), (64, 64, 4, 2), (64, 64, 8, 2), (32, 32, 4, 2))]


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--skip-checks", action="store_true", help="do not compare with the plain flow")
    parser.add_argument("--skip-tiles", action="store_true", help="only the tiles that the kernels choose")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("needs a GPU")
    results: dict[str, Any] = {"checks": [] if arguments.skip_checks else checks()}
    flow = random_flow(torch.bfloat16)
    results["flow"] = whole(flow)
    results["estimator"] = estimator(flow)
    results["kernels"] = kernels(tiles=not arguments.skip_tiles)
    write_json(
        RESULTS / "packed-flow-cuda.json",
        {
            "machine": machine() | {"gpu": torch.cuda.get_device_name()},
            "versions": versions() | {"triton": triton.__version__},
            **commit(),
            "weights": "random",
            **results,
        },
    )


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Print what is in all rows as a table."""
    if rows:
        print(table([list(row.values()) for row in rows], list(rows[0])), "\n", flush=True)


def random_flow(dtype: torch.dtype) -> Flow:
    """Full size; the same weights, rounded to bfloat16, in every dtype."""
    generator = torch.Generator().manual_seed(3)
    with torch.device("meta"):
        flow = Flow(FlowSizes())
    tensors = s3gen_tensors(FlowSizes(), VocoderSizes(), generator, torch.float32)
    state = {one.name.removeprefix(FLOW): one.draw().bfloat16() for one in tensors if one.name.startswith(FLOW)}
    flow.load_state_dict(state, assign=True)
    return flow.to("cuda", dtype).eval().requires_grad_(False)


def random_voices(count: int) -> list[Voice]:
    """Voices with prompts of different lengths, up to ten seconds."""
    found = []
    for number in range(count):
        tokens = 250 - 60 * number
        mel, x_vector = torch.randn(2 * tokens, 80) * 2 - 4, torch.randn(192)
        none = torch.zeros(0, dtype=torch.int64)
        found.append(Voice(torch.zeros(256), none, torch.randint(6561, (tokens,)), mel, x_vector).to("cuda", mel.dtype))
    return found


class Batch:
    """Arguments of PackedFlow for rows of these lengths, in as few blocks of 256 tokens as hold them."""

    def __init__(self, lengths: Sequence[int], voices: int, *, poisoned: bool = False) -> None:
        used = sum(lengths)
        size = -(-used // 256) * 256
        device = torch.device("cuda")
        self.lengths, self.most = list(lengths), max(lengths)
        ends = torch.tensor([0, *lengths, *[0] * (ROWS - len(lengths))]).cumsum(0)
        self.starts = ends.to(device, torch.int32)
        self.tokens = torch.randint(6561, (size,), device=device)
        self.noise = torch.randn(2 * size, 80, device=device)
        if poisoned:
            self.noise[2 * used :] = torch.nan
        self.look_ahead = torch.arange(ROWS, dtype=torch.int32, device=device) % 2 * 3
        self.voices = torch.arange(ROWS, dtype=torch.int32, device=device) % voices

    def run(self, flow: PackedFlow) -> Tensor:
        shape = BatchShape(len(self.tokens), len(self.lengths), self.most)
        return flow(self.tokens, self.starts, self.look_ahead, self.voices, self.noise, shape)

    @torch.no_grad()
    def alone(self, flow: Flow, voices: Sequence[Voice], row: int) -> Tensor:
        start, length = int(self.starts[row]), self.lengths[row]
        voice = voices[int(self.voices[row])]
        noise = self.noise[None, 2 * start : 2 * (start + length)].transpose(1, 2)
        tokens, mel, x_vector = self.tokens[None, start : start + length], voice.flow_prompt_mel, voice.x_vector
        look_ahead = int(self.look_ahead[row])
        found: Tensor = flow(tokens, None, mel[None], None, x_vector[None], noise, look_ahead=look_ahead)
        return found[0].T


def checks() -> list[dict[str, Any]]:
    """Errors against the plain flow in float32, of packed and plain: relative, root mean square, of the worst row."""
    voices, exact = random_voices(3), random_flow(torch.float32)
    rows: list[dict[str, Any]] = []
    for dtype in (torch.float32, torch.bfloat16):
        flow = exact if dtype == torch.float32 else random_flow(dtype)
        tunings = (Tuning(), Tuning("split", "fused"), Tuning("fused", "split"))
        for tuning, lengths in itertools.product(tunings, CHECKED):
            packed = banked(flow, voices, tuning)
            batch = Batch(lengths, len(voices), poisoned=True)
            mel = batch.run(packed)
            ours, plain, elsewhere = 0.0, 0.0, True
            for row, length in enumerate(lengths):
                start, end = 2 * int(batch.starts[row]), 2 * int(batch.starts[row + 1])
                frames = 2 * max(0, length - int(batch.look_ahead[row]))
                elsewhere &= bool(mel[start + frames : end].eq(0).all())
                if frames:
                    expected = batch.alone(exact, voices, row)
                    ours = max(ours, _error(mel[start : start + frames], expected))
                    plain = max(plain, _error(batch.alone(flow, voices, row), expected))
            elsewhere &= bool(mel[2 * sum(lengths) :].eq(0).all())
            name = str(dtype).removeprefix("torch.")
            rows.append(
                {"dtype": name, **vars(tuning), "rows": len(lengths), "packed_error": ours, "plain_error": plain}
                | {"zero_elsewhere": elsewhere}
            )
    print(table([[*list(row.values())[:4], *(f"{row[k]:.1e}" for k in ("packed_error", "plain_error")),
                  row["zero_elsewhere"]] for row in rows], list(rows[0])), "\n", flush=True)  # fmt: skip
    return rows


def _error(out: Tensor, expected: Tensor) -> float:
    error = float((out - expected).norm() / expected.norm())
    return error if error == error else 1e9  # NaN: JSON has none


def banked(flow: Flow, voices: Sequence[Voice], tuning: Tuning | None = None) -> PackedFlow:
    """A packed flow with these voices."""
    packed = PackedFlow(flow, voices=len(voices), tuning=tuning)
    for index, voice in enumerate(voices):
        packed.set_voice(index, voice)
    return packed


def replayed(call: Callable[[], object], times: int = 1) -> float:
    """Milliseconds of one call, of `times` in a graph."""
    with torch.no_grad():
        call()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(times):
                call()
        for _ in range(3):
            graph.replay()
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(REPLAYS + 1)]
        marks[0].record()
        for mark in marks[1:]:
            graph.replay()
            mark.record()
        torch.cuda.synchronize()
        return statistics.median(a.elapsed_time(b) for a, b in itertools.pairwise(marks)) / times


def whole(flow: Flow) -> list[dict[str, Any]]:
    """The flow and its encoder alone."""
    voices = random_voices(3)
    packed = banked(flow, voices)
    rows = []
    for name, lengths in PACKINGS:
        batch = Batch(lengths, len(voices))
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        flow_ms = replayed(lambda batch=batch: batch.run(packed))  # type: ignore[misc]
        peak = (torch.cuda.max_memory_allocated() - before) / 1e6
        size = len(batch.tokens)
        heard = pack(batch.starts, size, batch.most)
        frames = pack(2 * batch.starts, 2 * size, 2 * batch.most)
        embedded = flow.input_embedding(batch.tokens)
        encoder_ms = replayed(lambda e=embedded, h=heard, f=frames: packed._encoder(e, h, f))  # type: ignore[misc]
        rows.append({"packing": name, "flow_ms": flow_ms, "encoder_ms": encoder_ms, "peak_mb": peak})
    show(rows)
    return rows


def estimator_packing() -> Packing:
    lengths = [ESTIMATOR_FRAMES] * ESTIMATOR_ROWS + [0] * (ROWS - ESTIMATOR_ROWS)
    starts = torch.tensor([0, *lengths]).cumsum(0).to("cuda", torch.int32)
    return pack(starts, ESTIMATOR_ROWS * ESTIMATOR_FRAMES, ESTIMATOR_FRAMES)


def estimator(flow: Flow) -> list[dict[str, Any]]:
    """One pass under every tuning, and the plain module's."""
    packing = estimator_packing()
    count = len(packing)
    frames = torch.randn(count, 80, device="cuda")
    conditions = torch.randn(count, 240, device="cuda").bfloat16()
    rows: list[dict[str, Any]] = []
    for mlp, qkv in itertools.product(("widened", "split", "fused"), ("split", "fused")):
        ours = PackedFlow(flow, voices=1, tuning=Tuning(mlp, qkv))._estimator  # type: ignore[arg-type]
        sides = ours.gather_conditions(conditions, packing)
        took = replayed(lambda o=ours, s=sides: o(frames, s, 0, packing))  # type: ignore[misc]
        rows.append({"mlp": mlp, "qkv": qkv, "ms": took})
    plain = flow.decoder.estimator
    x = torch.randn(ESTIMATOR_ROWS, ESTIMATOR_FRAMES, 320, device="cuda").bfloat16()
    times = plain.times()
    rows.append({"mlp": "module", "qkv": "module", "ms": replayed(lambda: plain(x, times[0]))})
    show(rows)
    return rows


def kernels(*, tiles: bool) -> list[dict[str, Any]]:
    """Each kernel alone at 32 x 650 frames: what it takes, and all of its kind in a pass of the estimator."""
    packing = estimator_packing()
    count, width, hidden, inner, heads = len(packing), 256, 1024, 512, 8

    def randn(*shape: int) -> Tensor:
        return torch.randn(shape, device="cuda").bfloat16() * shape[-1] ** -0.5

    stream, shift, projected = randn(count, width), torch.randn(width, device="cuda"), randn(count, 3 * inner)
    one, zero = torch.ones(width, device="cuda").bfloat16(), torch.zeros(width, device="cuda").bfloat16()
    qkv, out = randn(3 * inner, width), randn(width, inner)
    up, up_bias, down, conv = randn(hidden, width), randn(hidden), randn(width, hidden), randn(width, 3 * width)
    attended, sides, wide = randn(count, inner), randn(count, 3 * width), randn(count, 3 * width)
    after, activated = randn(width), randn(count, hidden)
    by_distance = randn(heads, count, 2 * ESTIMATOR_FRAMES + 4)
    flop = {name: 2.0 * count * size for name, size in _work(width, hidden, inner).items()}
    small = torch.cuda.get_device_capability()[0] < 9
    rows: list[dict[str, Any]] = []

    def measure(name: str, tile: Tile | None, uses: int, work: float, call: Callable[[], object]) -> None:
        try:
            took = replayed(call, 10)
        except triton.runtime.errors.OutOfResources:
            return
        chosen = "chosen" if tile is None else f"{tile.rows}x{tile.columns} w{tile.warps} s{tile.stages}"
        rows.append(
            {"kernel": name, "tile": chosen, "us": took * 1e3, "ms_a_pass": took * uses}
            | {"tflops": work / took / 1e9 if work else None}
        )

    def sweep(of_large: list[Tile]) -> list[Tile | None]:
        return [None, *((SMALL_TILES if small else of_large) if tiles else [])]

    starts, lengths, most = packing.starts, packing.lengths, packing.most
    for tile in sweep(ATTENTION_TILES):
        measure("attention", tile, BLOCKS, flop["attention"],
                lambda tile=tile: attend(projected, starts, lengths, most, heads, None, tile))  # fmt: skip
    for tile in sweep(POSITION_TILES):
        measure("attention, by distance", tile, 0, flop["attention"],
                lambda tile=tile: attend(projected, starts, lengths, most, heads, by_distance, tile))  # fmt: skip
    weights = (one, zero, up, up_bias, down, zero)
    for tile in sweep(MLP_TILES):
        measure("mlp, fused", tile, BLOCKS, flop["mlp"],
                lambda tile=tile: feed_forward(stream, shift, *weights, 1e-5, tile))  # fmt: skip
    for tile in sweep(PROJECT_TILES):
        measure("norm + qkv, fused", tile, BLOCKS, flop["qkv"],
                lambda tile=tile: norm_project(stream, shift, one, zero, qkv, None, 1e-5, tile))  # fmt: skip
    for tile in sweep(PROJECT_TILES):
        measure("norm + up + gelu, fused", tile, BLOCKS, flop["mlp"] / 2,
                lambda tile=tile: norm_project(stream, shift, one, zero, up, up_bias, 1e-5, tile))  # fmt: skip
    measure("down, added (cuBLAS)", None, BLOCKS, flop["mlp"] / 2, lambda: stream.addmm_(activated, down.t()))
    measure("layer norm", None, BLOCKS, 0, lambda: layer_norm(stream, shift, one, zero, 1e-5))
    measure("qkv (cuBLAS)", None, BLOCKS, flop["qkv"], lambda: stream @ qkv.t())
    measure("out, added (cuBLAS)", None, BLOCKS, flop["out"], lambda: stream.addmm_(attended, out.t()))
    gather = lambda: gather_taps(stream, shift, packing.position, packing.left, sides, taps=3)  # noqa: E731
    measure("gather", None, 2 * RESNETS + 4, 0, gather)
    measure("convolution (cuBLAS)", None, 2 * RESNETS + 3, flop["conv"], lambda: wide @ conv.t())
    measure("norm + mish", None, 2 * RESNETS + 1, 0, lambda: layer_norm_mish(stream, shift, one, zero, 1e-5, after))
    show(rows)
    return rows


def _work(width: int, hidden: int, inner: int) -> dict[str, float]:
    """Multiplications of a frame."""
    return {
        "attention": 2 * ESTIMATOR_FRAMES * inner,
        "mlp": 2 * width * hidden,
        "qkv": 3 * width * inner,
        "out": width * inner,
        "conv": 3 * width * width,
    }


if __name__ == "__main__":
    main()
