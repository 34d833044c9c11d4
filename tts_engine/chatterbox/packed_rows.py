"""Which packed row a position lies in.

Packed rows lie one after the other in one long dimension, padding only at its very end. `starts` (R + 1,) int32 says
where: row r at starts[r] .. starts[r + 1]. Rows that are not used are empty.
"""

from __future__ import annotations

import torch
from torch import Tensor


def row_of(starts: Tensor, size: int) -> Tensor:
    """The row of each of `size` positions, (size,) int64; R in the padding behind the last row."""
    positions = torch.arange(size, device=starts.device, dtype=starts.dtype)
    return torch.searchsorted(starts[1:].contiguous(), positions, right=True)
