"""Random numbers without a generator's state: each is a hash of a key and a position.

SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014) jumps to any position for
nothing: number `index` of stream `key` is its finaliser over key + index x GOLDEN. The integers are the same on every
device; uniforms too; normals to float32's rounding. `kernels/counter.py` is the same in Triton.
"""

from __future__ import annotations

import math

from torch import Tensor

UNIFORM, PROMPT, FLOW, PHASE, SOURCE = range(5)
"Streams of an utterance: T3's draws, the flow's noise of the prompt and of the speech, the source's phases and noise."

_WORD = 1 << 64


def _signed(value: int) -> int:
    value %= _WORD
    return value - _WORD if value >= _WORD >> 1 else value


GOLDEN = _signed(0x9E3779B97F4A7C15)
MIX_1 = _signed(0xBF58476D1CE4E5B9)
MIX_2 = _signed(0x94D049BB133111EB)


def key(seed: int, stream: int) -> int:
    """The key of one of a seed's streams, as a signed 64-bit integer."""
    word = (seed + (stream + 1) * GOLDEN) % _WORD
    word = (word ^ word >> 30) * MIX_1 % _WORD
    word = (word ^ word >> 27) * MIX_2 % _WORD
    return _signed(word ^ word >> 31)


def _shifted(word: Tensor, by: int) -> Tensor:
    """A logical shift to the right; int64's own copies the sign."""
    return (word >> by) & ((1 << (64 - by)) - 1)


def bits(key: Tensor | int, index: Tensor) -> Tensor:
    """64 random bits as int64 for each int64 index; key and index broadcast."""
    word = index * GOLDEN + key
    word = (word ^ _shifted(word, 30)) * MIX_1
    word = (word ^ _shifted(word, 27)) * MIX_2
    return word ^ _shifted(word, 31)


def uniform(key: Tensor | int, index: Tensor) -> Tensor:
    """float32 in [0, 1), of 24 bits: none rounds to 1."""
    return _shifted(bits(key, index), 40).float() * 2.0**-24


def normal(key: Tensor | int, index: Tensor) -> Tensor:
    """float32, standard normal (Box-Muller; up to 6.7)."""
    word = bits(key, index)
    radius = ((_shifted(word, 32).float() + 0.5) * 2.0**-32).log_().mul_(-2).sqrt_()
    return radius * ((word & 0xFFFFFFFF).float() * (math.tau * 2.0**-32)).cos_()
