"""What each stage must at least do: floating-point operations, and bytes through the device's memory.

Counted from the model's sizes; a multiplication and an addition are two operations. Additions, norms and activations
are not counted as operations: they are a hundredth of the products. Elements are of 2 bytes unless said.

A stage has two floors. `floor`: all of it fused, so that only weights, inputs and outputs (caches among them) move.
`layered`: each operation reads its inputs from memory and writes its outputs there, attention as one operation that
keeps its scores to itself; the sum over operations of the slower of arithmetic and memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tts_engine.chatterbox.constants import FRAMES_PER_TOKEN, HARMONICS, MEL_BINS, SAMPLES_PER_FRAME
from tts_engine.chatterbox.flow import FlowSizes
from tts_engine.chatterbox.t3 import T3Sizes
from tts_engine.chatterbox.vocoder import VocoderSizes

HALF = 2  # bytes
FLOAT = 4
ESTIMATOR_HEAD = 64


@dataclass(frozen=True)
class Ceilings:
    """What a device reaches at most: operations a second of matrix products, bytes a second of its memory."""

    flop: float
    memory: float


@dataclass(frozen=True)
class Op:
    """One operation of a stage."""

    flop: float
    weights: float
    "Bytes."
    moved: float
    "Bytes of its inputs and outputs."

    def seconds(self, ceilings: Ceilings) -> float:
        return max(self.flop / ceilings.flop, (self.weights + self.moved) / ceilings.memory)


@dataclass(frozen=True)
class Stage:
    """Some operations, one after the other."""

    ops: tuple[Op, ...]
    outside: float
    "Bytes of what the whole stage reads and writes, besides its weights."

    @property
    def flop(self) -> float:
        return sum(op.flop for op in self.ops)

    @property
    def weights(self) -> float:
        """Bytes."""
        return sum(op.weights for op in self.ops)

    @property
    def least_bytes(self) -> float:
        return self.weights + self.outside

    @property
    def unfused_bytes(self) -> float:
        return sum(op.weights + op.moved for op in self.ops)

    def floor(self, ceilings: Ceilings) -> float:
        """Seconds, all fused."""
        return max(self.flop / ceilings.flop, self.least_bytes / ceilings.memory)

    def layered(self, ceilings: Ceilings) -> float:
        """Seconds, operation by operation."""
        return sum(op.seconds(ceilings) for op in self.ops)

    def bound_by(self, ceilings: Ceilings) -> str:
        """What the floor is made of."""
        return "arithmetic" if self.flop / ceilings.flop >= self.least_bytes / ceilings.memory else "memory"


def joined(stages: Sequence[Stage]) -> Stage:
    """Stages one after the other, as one that keeps nothing between them from memory."""
    return Stage(tuple(op for stage in stages for op in stage.ops), sum(stage.outside for stage in stages))


def linear(rows: float, inputs: int, outputs: int, *, added: int = 0, element: int = HALF) -> Op:
    """A product with a bias; `added`: further elements a row that it reads, such as the residual stream."""
    weights = (inputs * outputs + outputs) * element
    return Op(2.0 * rows * inputs * outputs, weights, rows * (inputs + outputs + added) * element)


def pointwise(rows: float, elements: int, element: int = HALF) -> Op:
    """Reads and writes each element once: a norm, an activation."""
    return Op(0.0, 0.0, 2.0 * rows * elements * element)


# T3


def t3_block_parameters(sizes: T3Sizes) -> int:
    """Of all blocks, biases and norms among them."""
    width = sizes.width
    products = 12 * width * width + (3 + 1 + 4 + 1) * width
    return sizes.layers * (products + 4 * width)


def _t3(sizes: T3Sizes, rows: float, logit_rows: float, attention: Op) -> tuple[Op, ...]:
    width = sizes.width
    block = (
        pointwise(rows, width),
        linear(rows, width, 3 * width),
        attention,
        linear(rows, width, width, added=width),
        pointwise(rows, width),
        linear(rows, width, 4 * width),
        linear(rows, 4 * width, width, added=width),
    )
    head = linear(logit_rows, width, sizes.speech_vocabulary)
    sampling = Op(0.0, 0.0, logit_rows * sizes.speech_vocabulary * FLOAT)
    return block * sizes.layers + (pointwise(logit_rows, width), head, sampling)


def t3_step(sizes: T3Sizes, batch: int, prefix: int, own: float) -> Stage:
    """A token more for each of `batch` rows that share one voice's prefix, each with `own` positions of its own."""
    width = sizes.width
    cache = 2 * width * HALF  # bytes of a position in a layer: a key and a value
    read, written = (prefix + batch * own) * cache, batch * cache
    attention = Op(4.0 * batch * (prefix + own) * width, 0.0, read + written + 2 * batch * width * HALF)
    embeddings = 2 * batch * width * HALF
    return Stage(_t3(sizes, batch, batch, attention), sizes.layers * (read + written) + embeddings)


def t3_cache_bytes(sizes: T3Sizes, positions: float) -> float:
    """Keys and values of so many positions."""
    return 2 * sizes.layers * sizes.width * HALF * positions


def t3_prefill(sizes: T3Sizes, batch: int, prefix: int, text: int) -> Stage:
    """[text | START] of each of `batch` rows, over one voice's prefix, to the first token."""
    width, rows = sizes.width, batch * (text + 1)
    cache = 2 * width * HALF
    seen = prefix + (text + 2) / 2  # on average: causal
    attention = Op(4.0 * rows * seen * width, 0.0, prefix * cache + rows * (cache + 2 * width * HALF))
    outside = sizes.layers * (prefix + rows) * cache + 2 * rows * width * HALF
    return Stage(_t3(sizes, rows, batch, attention), outside)


# Flow


def encoder(sizes: FlowSizes, lengths: Sequence[int]) -> Stage:
    """Rows of so many tokens each, prompts among them, to mu.

    What positions are projected to depends on the weights alone, so it is not counted; and of the scores by position
    only those of a distance that a row has: T of the 2T + 1 that the reference computes.
    """
    tokens, frames = sum(lengths), FRAMES_PER_TOKEN * sum(lengths)
    width, hidden = sizes.width, sizes.feed_forward

    def layer(rows: int, squares: float) -> tuple[Op, ...]:
        attention = Op(6.0 * squares * width, 0.0, 4 * rows * width * HALF)
        return (
            pointwise(rows, width),
            linear(rows, width, 3 * width),
            attention,
            linear(rows, width, width, added=width),
            pointwise(rows, width),
            linear(rows, width, hidden),
            linear(rows, hidden, width, added=width),
        )

    squares = float(sum(length * length for length in lengths))
    ahead = (
        linear(tokens, (sizes.look_ahead + 1) * width, width),
        linear(tokens, 3 * width, width, added=width),
    )
    ops = (
        linear(tokens, width, width),
        pointwise(tokens, width),
        *ahead,
        *layer(tokens, squares) * sizes.layers,
        linear(frames, (2 * FRAMES_PER_TOKEN + 1) * width, width),
        linear(frames, width, width),
        pointwise(frames, width),
        *layer(frames, FRAMES_PER_TOKEN**2 * squares) * sizes.up_layers,
        pointwise(frames, width),
        linear(frames, width, sizes.mel_bins),
    )
    return Stage(ops, (tokens * width + frames * sizes.mel_bins) * HALF)


def position_projection(sizes: FlowSizes, length: int) -> float:
    """Operations that the reference spends on projecting relative positions, for a row of so many tokens."""
    distances = sizes.layers * (2 * length + 1) + sizes.up_layers * (2 * FRAMES_PER_TOKEN * length + 1)
    return 2.0 * distances * sizes.width**2


def estimator(sizes: FlowSizes, frames: Sequence[int]) -> Stage:
    """One of the two steps, over rows of so many frames each, prompts among them."""
    rows, squares = sum(frames), float(sum(count * count for count in frames))
    channels, hidden, bins = sizes.channels, sizes.estimator_feed_forward, sizes.mel_bins
    inner = sizes.estimator_heads * ESTIMATOR_HEAD
    transformer = (
        pointwise(rows, channels),
        linear(rows, channels, 3 * inner),
        Op(4.0 * squares * inner, 0.0, 4 * rows * inner * HALF),
        linear(rows, inner, channels, added=channels),
        pointwise(rows, channels),
        linear(rows, channels, hidden),
        linear(rows, hidden, channels, added=channels),
    )

    def causal(inputs: int) -> tuple[Op, ...]:
        # A convolution of three frames is a product over them side by side, but reads each once.
        product = linear(rows, 3 * inputs, channels)
        return (Op(product.flop, product.weights, rows * (inputs + channels) * HALF), pointwise(rows, channels))

    def stage(inputs: int) -> tuple[Op, ...]:
        residual = (*causal(inputs), *causal(channels), linear(rows, inputs, channels, added=channels))
        return residual + transformer * sizes.transformers

    ops = (
        *stage(4 * bins),
        causal(channels)[0],
        *stage(channels) * sizes.mid_blocks,
        *stage(2 * channels),
        causal(channels)[0],
        *causal(channels),
        linear(rows, channels, bins),
    )
    return Stage(ops, rows * (3 * bins * HALF + 3 * bins * FLOAT))


def flow(sizes: FlowSizes, lengths: Sequence[int]) -> Stage:
    """Encoder and both steps of the estimator, over rows of so many tokens each, prompts among them."""
    step = estimator(sizes, [FRAMES_PER_TOKEN * length for length in lengths])
    return joined((encoder(sizes, lengths), step, step))


# Vocoder

RATES = (8, 5, 3)
UP_KERNELS = (16, 11, 7)
SOURCE_DOWNS = (15, 3, 1)
SOURCE_KERNELS = (7, 7, 11)
KERNELS = (3, 7, 11)
CONVOLUTIONS = 6  # of a residual block
SPECTRUM = 18  # real and imaginary parts of the 16-point transform
F0_LAYERS = 5


def vocoder(sizes: VocoderSizes, frames: int) -> Stage:
    """Windows of so many frames together, contexts among them, to samples."""

    def conv(columns: float, inputs: int, outputs: int, kernel: float, *, added: int = 0, element: int = HALF) -> Op:
        weights = inputs * outputs * kernel * element
        moved = columns * (inputs + outputs + added) * element
        return Op(2.0 * columns * inputs * outputs * kernel, weights, moved)

    def residual(columns: float, channels: int, kernel: int) -> tuple[Op, ...]:
        pair = (conv(columns, channels, channels, kernel), conv(columns, channels, channels, kernel, added=channels))
        return pair * (CONVOLUTIONS // 2)

    f0 = [conv(frames, MEL_BINS, sizes.f0_width, 3, element=FLOAT)]
    f0 += [conv(frames, sizes.f0_width, sizes.f0_width, 3, element=FLOAT)] * (F0_LAYERS - 1)
    samples = frames * SAMPLES_PER_FRAME
    ops = [*f0, Op(2.0 * HARMONICS * samples, 0.0, samples * FLOAT), conv(frames, MEL_BINS, sizes.width, 7)]
    columns, width = float(frames), sizes.width
    spectrum_columns = samples / 4
    for rate, kernel, down, source_kernel in zip(RATES, UP_KERNELS, SOURCE_DOWNS, SOURCE_KERNELS, strict=True):
        # A transposed convolution: each output column is reached by kernel / rate inputs.
        up = conv(columns * rate, width, width // 2, kernel / rate)
        weights = width * (width // 2) * kernel * HALF
        ops.append(Op(up.flop, weights, (columns * width + columns * rate * width // 2) * HALF))
        columns, width = columns * rate, width // 2
        taps = 2 * down if down > 1 else 1
        reduced = conv(columns, SPECTRUM, width, taps)
        ops.append(Op(reduced.flop, reduced.weights, (spectrum_columns * SPECTRUM + columns * width) * HALF))
        ops += residual(columns, width, source_kernel)
        for block_kernel in KERNELS:
            ops += residual(columns, width, block_kernel)
    ops.append(conv(columns, width, SPECTRUM, 7))
    ops.append(Op(2.0 * 2 * SPECTRUM * 16 * spectrum_columns, 0.0, (SPECTRUM * spectrum_columns + samples) * FLOAT))
    return Stage(tuple(ops), frames * (MEL_BINS + 1) * FLOAT + samples * FLOAT)
