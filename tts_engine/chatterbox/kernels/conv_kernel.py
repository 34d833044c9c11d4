"""The kernel of kernels/conv.py: a tile of a convolution as matrix products, and what is pointwise after them."""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra import libdevice


@triton.jit
def _sine_squared(x, FAST: tl.constexpr):
    """The GPU's own sine is right to 2^-20 about zero: enough for what is then rounded to 16 bits."""
    if FAST:
        sine = libdevice.fast_sinf(x)
    else:
        # Half turns, then the Taylor series: to float32's rounding, and without the branches of a library's sine.
        turns = x * 0.3183098861837907
        turns -= tl.floor(turns + 0.5)
        square = turns * turns
        sine = square * 0.0004663028 - 0.0073704309
        sine = sine * square + 0.0821458866
        sine = sine * square - 0.5992645293
        sine = sine * square + 2.5501640399
        sine = sine * square - 5.1677127800
        sine = (sine * square + 3.1415926536) * turns
    return sine * sine


@triton.jit
def _emit(
    value,
    at,
    keep,
    channel,
    branch,
    size,
    residual,
    out,
    activated,
    scales,
    CHANNELS: tl.constexpr,
    JOINED: tl.constexpr,
    RESIDUAL: tl.constexpr,
    STORE: tl.constexpr,
    ACTIVATIONS: tl.constexpr,
    SLOPE: tl.constexpr,
    FAST: tl.constexpr,
):
    """Add what the convolution is added to; store the sum, and what activations make of it.

    `at` is the position inside a tensor of `size` numbers; of a batch of branches, each has its own.
    """
    if RESIDUAL:
        for source in range(JOINED):  # one after the other: fewer registers
            # One tensor (1) that all branches share, or one each (2).
            beside = residual + ((branch + source) * (RESIDUAL - 1)).to(tl.int64) * size
            value += tl.load(beside + at, mask=keep, other=0.0).to(tl.float32)
    if JOINED > 1:
        value *= 1.0 / JOINED
    if STORE:
        tl.store(out + branch.to(tl.int64) * size + at, value.to(out.dtype.element_ty), mask=keep)
    for number in tl.static_range(ACTIVATIONS):
        which = branch + number
        if SLOPE != 0.0:
            active = tl.where(value > 0, value, value * SLOPE)
        else:
            scale = tl.load(scales + which * 2 * CHANNELS + channel)
            inverse = tl.load(scales + (which * 2 + 1) * CHANNELS + channel)
            active = value + _sine_squared(value * scale[None, :], FAST) * inverse[None, :]
        tl.store(activated + which.to(tl.int64) * size + at, active.to(activated.dtype.element_ty), mask=keep)


@triton.jit
def _emit_polar(value, column, keep, columns, out, BLOCK: tl.constexpr, OUTPUTS: tl.constexpr, BINS: tl.constexpr):
    """Log magnitude and angle of each bin, side by side, to real parts (BINS, columns) and imaginary parts."""
    magnitude, angle = tl.split(tl.reshape(value, (BLOCK, OUTPUTS // 2, 2)))
    magnitude = tl.exp(magnitude)
    magnitude = tl.where(magnitude > 100.0, 100.0, magnitude)  # not-a-number stays
    angle = tl.sin(angle)
    bin_ = tl.arange(0, OUTPUTS // 2)[None, :]
    at = bin_ * columns + column[:, None]
    kept = keep[:, None] & (bin_ < BINS)
    tl.store(out + at, magnitude * tl.cos(angle), mask=kept)
    tl.store(out + BINS * columns + at, magnitude * tl.sin(angle), mask=kept)


@triton.jit(do_not_specialize=["slots", "dilation"])
def convolve_tile(  # noqa: PLR0915 - a kernel is one function
    x,
    weight,
    bias,
    table,
    residual,
    out,
    activated,
    scales,
    bounds,
    slots,
    dilation,
    INPUTS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    CHANNELS: tl.constexpr,
    IN_RATE: tl.constexpr,
    IN_EDGE: tl.constexpr,
    STRIDE: tl.constexpr,
    EDGE: tl.constexpr,
    GROUP: tl.constexpr,
    JOINED: tl.constexpr,
    RESIDUAL: tl.constexpr,
    STORE: tl.constexpr,
    ACTIVATIONS: tl.constexpr,
    SLOPE: tl.constexpr,
    REFLECT: tl.constexpr,
    POLAR: tl.constexpr,
    FAST: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """A tile of (columns, outputs) of one branch; JOINED branches are summed in one product.

    Each tap is a matrix product of the input, shifted. GROUP = 2: a row of the product is two columns, `dilation`
    apart, which share all but one of their taps: twice as wide a product for a narrow layer.
    """
    RATE: tl.constexpr = IN_RATE // STRIDE
    CHUNKS: tl.constexpr = INPUTS // BLOCK_K
    TILES: tl.constexpr = OUTPUTS // BLOCK_N
    tile = tl.program_id(0)
    branch = tl.program_id(1)
    m = (tile // TILES) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = (tile % TILES) * BLOCK_N + tl.arange(0, BLOCK_N)
    column = m if GROUP == 1 else m // dilation * (GROUP * dilation) + m % dilation
    slot = tl.minimum(column // RATE, slots - 1)
    low = tl.load(bounds + slot)
    high = tl.load(bounds + slots + slot)
    last = tl.where(high > low, high * RATE - 1 + EDGE, -1)
    valid = (column <= last) & (column < slots * RATE)
    if tl.max(valid.to(tl.int32), 0) == 0:
        return
    in_first = low * IN_RATE
    in_last = tl.where(valid, high * IN_RATE - 1 + IN_EDGE, -1)
    k = tl.arange(0, BLOCK_K)
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    taps = tl.load(table + branch * 3)
    centre = tl.load(table + branch * 3 + 1)
    before = tl.load(table + branch * 3 + 2)  # taps of the branches before: where this one's weights begin
    steps = taps * CHUNKS
    for number in tl.static_range(1, JOINED):
        steps += tl.load(table + number * 3) * CHUNKS
    inputs = x + branch.to(tl.int64) * slots * (IN_RATE * INPUTS) + k[None, :]
    weights = weight + before * (INPUTS * OUTPUTS) + k[:, None] * OUTPUTS + n[None, :]
    for step in range(steps):
        shift = step // CHUNKS - centre
        from_ = inputs + (step % CHUNKS) * BLOCK_K
        for number in tl.static_range(1, JOINED):
            # One loop over all their taps: from which on is it another's?
            begin = tl.load(table + number * 3 + 2)
            here = step // CHUNKS >= begin
            shift = tl.where(here, step // CHUNKS - begin - tl.load(table + number * 3 + 1), shift)
            from_ += tl.where(here, slots, 0).to(tl.int64) * (IN_RATE * INPUTS)
        at = column * STRIDE + shift * dilation
        there = (at >= in_first) & (at <= in_last)
        a = tl.load(from_ + at[:, None] * INPUTS, mask=there[:, None], other=0.0)
        b = tl.load(weights + step * (BLOCK_K * OUTPUTS))
        total = tl.dot(a, b, total, input_precision="ieee")
    channel = n % CHANNELS
    total += tl.load(bias + branch * CHANNELS + channel)[None, :]
    if POLAR:
        _emit_polar(total, column, valid, slots * RATE, out, BLOCK_M, BLOCK_N, 9)
        return
    size = slots * (RATE * OUTPUTS // GROUP)
    if GROUP == 1:
        flat = column[:, None] * OUTPUTS + n[None, :]
        keep = valid[:, None] & (n >= 0)[None, :]
    else:
        reached = column[:, None] + (n // CHANNELS)[None, :] * dilation
        flat = reached * CHANNELS + channel[None, :]
        keep = reached <= tl.where(valid, last, -1)[:, None]
    if REFLECT:
        # One column on; the row's first column is the mirror image: what its second one would have been.
        flat += CHANNELS
        mirrored = (valid & (column == low * RATE))[:, None] & (n // CHANNELS == 1)[None, :]
        if tl.max(tl.max(mirrored.to(tl.int32), 1), 0) > 0:
            _emit(
                total, flat - 2 * CHANNELS, mirrored, channel, branch, size, residual, out, activated, scales,
                CHANNELS, JOINED, RESIDUAL, STORE, ACTIVATIONS, SLOPE, FAST,
            )  # fmt: skip
    _emit(
        total, flat, keep, channel, branch, size, residual, out, activated, scales,
        CHANNELS, JOINED, RESIDUAL, STORE, ACTIVATIONS, SLOPE, FAST,
    )  # fmt: skip
