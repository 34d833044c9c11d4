"""From packed rows (chatterbox/packing.py) to a padded batch and back, for engines: by index arithmetic on the device.

Nothing waits for the device and shapes depend on those of the inputs only, so a CUDA graph can hold it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from tts_engine.chatterbox.packing import row_of


def first_rows(tensor: Tensor, rows: int) -> Tensor:
    """The first `rows` of (R, ...), contiguous; zeros where there are fewer."""
    missing = rows - len(tensor)
    if missing <= 0:
        return tensor[:rows].contiguous()
    return F.pad(tensor, (0, 0) * (tensor.ndim - 1) + (0, missing))


@dataclass(frozen=True)
class Padding:
    """Where the N positions of a packing lie in a padded batch, and the batch's in the packing."""

    lengths: Tensor
    "(rows,) int32."
    inside: Tensor
    "(rows, longest) bool: before the row's length."
    packed_at: Tensor
    "(rows, longest) int64: position in the packing; anything in it where not inside."
    used: Tensor
    "(N,) bool: before the length of a row of the batch."
    padded_at: Tensor
    "(N,) int64: position in the batch, row after row; anything in it where not used."

    @classmethod
    def of(cls, starts: Tensor, size: int, rows: int, longest: int, shorter: Tensor | None = None) -> Padding:
        """Of a packing of `size` positions by `starts` (R + 1,) int32, whose first `rows` rows alone hold anything.

        `shorter` (R,): the last positions of each row that are left out. Rows are cut at `longest`.
        """
        extra = rows + 1 - len(starts)
        starts = torch.cat((starts, starts[-1:].expand(extra))) if extra > 0 else starts[: rows + 1]
        lengths = (starts[1:] - starts[:-1]).clamp(max=longest)
        if shorter is not None:
            lengths = (lengths - first_rows(shorter, rows)).clamp(min=0)
        lengths = lengths.to(torch.int32)
        position = torch.arange(longest, device=starts.device)
        packed_at = (starts[:-1, None] + position).clamp(max=max(size - 1, 0))

        row = row_of(starts, size)
        mine, row = row < rows, row.clamp(max=rows - 1)
        at = torch.arange(size, device=starts.device) - starts[row]
        padded_at = row * longest + at.clamp(max=longest - 1)
        return cls(lengths, position < lengths[:, None], packed_at, mine & (at < lengths[row]), padded_at)

    def pad(self, packed: Tensor) -> Tensor:
        """(N, ...) to (rows, longest, ...); zero where no row is, whatever the packing has there."""
        if not len(packed):
            return packed.new_zeros(*self.inside.shape, *packed.shape[1:])
        return _zero_outside(packed[self.packed_at], self.inside)

    def pack(self, padded: Tensor) -> Tensor:
        """(rows, longest, ...) to (N, ...); zero where no row is."""
        return _zero_outside(padded.flatten(0, 1)[self.padded_at], self.used)

    def mask(self, padded: Tensor) -> Tensor:
        """(rows, longest, ...) with zeros where no row is."""
        return _zero_outside(padded, self.inside)


def _zero_outside(tensor: Tensor, inside: Tensor) -> Tensor:
    return tensor.masked_fill(~inside.reshape(*inside.shape, *[1] * (tensor.ndim - inside.ndim)), 0)
