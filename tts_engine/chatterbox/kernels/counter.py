"""chatterbox/counter.py for kernels: the same integers, normals to float32's rounding."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def counter_bits(key, index):
    """64 random bits (uint64): `key` int64, `index` int64; they broadcast."""
    word = index.to(tl.uint64) * tl.full((), 0x9E3779B97F4A7C15, tl.uint64) + key.to(tl.uint64)
    word = (word ^ (word >> 30)) * tl.full((), 0xBF58476D1CE4E5B9, tl.uint64)
    word = (word ^ (word >> 27)) * tl.full((), 0x94D049BB133111EB, tl.uint64)
    return word ^ (word >> 31)


@triton.jit
def counter_normal(key, index):
    """float32, standard normal."""
    word = counter_bits(key, index)
    high = (word >> 32).to(tl.uint32).to(tl.float32)
    low = (word & 0xFFFFFFFF).to(tl.uint32).to(tl.float32)
    radius = tl.sqrt(-2.0 * tl.log((high + 0.5) * 2.3283064365386963e-10))
    return radius * tl.cos(low * 1.4629180792671596e-09)
