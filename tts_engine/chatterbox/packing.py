"""Ragged batches: rows of any lengths, one after the other in one long dimension, padded at its end only.

A packing is `starts` (R+1,) int32 with starts[0] = 0: row r is starts[r] .. starts[r+1], empty rows repeat a start, and
what follows starts[R] up to the size of the buffers is padding. Everything here is computed from `starts` on its
device, without a look at its values on the host, so a captured CUDA graph serves any packing of its size.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812


@dataclass(frozen=True)
class BatchShape:
    """What a batch is rounded up to: of the flow in tokens, of the vocoder in frames."""

    size: int
    "Positions of the packed buffers."
    rows: int
    "That hold anything, at most, and are the first ones: what a padded batch has. Packed ones do not care."
    longest: int
    "Positions of a row, at most."


def bucket_of(size: int, buckets: Sequence[int]) -> int | None:
    """The smallest bucket that holds `size`, of ascending ones; None if it is beyond the largest."""
    at = bisect_left(buckets, size)
    return buckets[at] if at < len(buckets) else None


def row_of(starts: Tensor, size: int) -> Tensor:
    """The row of each of `size` positions, (size,) int64; R in the padding behind the last row."""
    positions = torch.arange(size, device=starts.device, dtype=starts.dtype)
    return torch.searchsorted(starts[1:].contiguous(), positions, right=True)


@dataclass(frozen=True)
class Packing:
    """Which row and which position each of N packed indices has. All on the device of `starts`."""

    starts: Tensor
    "(R+1,) int32."
    lengths: Tensor
    "(R,) int32: positions of each row that attention reads and writes; at most starts[r+1] - starts[r]."
    row: Tensor
    "(N,) int64, 0 .. R-1; at padding R-1."
    position: Tensor
    "(N,) int32, from 0 in each row; the padding counts as a row of its own."
    left: Tensor
    "(N,) int32: positions of the same row that follow."
    inside: Tensor
    "(N,) bool: the position is before the row's length; False at padding."
    most: int
    "No row is longer; what is beyond is not attended to."

    def __len__(self) -> int:
        return len(self.position)

    def shortened(self, by: Tensor) -> Packing:
        """The same positions with the last `by` (R,) of each row, or all that it has, no longer of its length."""
        lengths = (self.lengths - by).clamp(min=0).to(torch.int32)
        return replace(self, lengths=lengths, inside=self.inside & (self.position < lengths[self.row]))


def pack(starts: Tensor, size: int, most: int) -> Packing:
    """The packing of `size` positions by `starts`, in rows of at most `most`."""
    index = torch.arange(size, device=starts.device, dtype=torch.int32)
    bounds = F.pad(starts, (0, 1), value=size)  # the padding as row R
    row = row_of(starts, size)
    position = index - bounds[row]
    left = bounds[row + 1] - index - 1
    lengths = (starts[1:] - starts[:-1]).clamp(max=most)
    inside = position < F.pad(lengths, (0, 1))[row]
    return Packing(starts, lengths, row.clamp(max=len(lengths) - 1), position, left, inside, most)
