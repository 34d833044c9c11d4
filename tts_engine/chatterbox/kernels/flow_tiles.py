"""Which tiles a kernel of the flow works in: a table by the GPU's family, for graphs leave no time to try some."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Tile:
    """A program's share: rows of the packing by `columns` (keys, hidden units or outputs) at a time."""

    rows: int
    columns: int
    warps: int
    stages: int

    @property
    def options(self) -> dict[str, int]:
        return {"num_warps": self.warps, "num_stages": self.stages}


Table = Mapping[tuple[str, bool], Tile]
"By `family` and whether elements have two bytes."
FEW = 2000
"Positions of a packing up to which more, smaller tiles fill a GPU better."
INTERPRETED = Tile(32, 32, 1, 1)


def interpreting() -> bool:
    """Kernels run on the CPU, in Triton's interpreter (as it was when they were imported)."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def family(capability: tuple[int, int]) -> str:
    """`large`: about 227 KB of shared memory a block (compute capability 9.0, 10.x); `small`: 99 KB, as on 8.6."""
    return "large" if capability[0] in (9, 10) else "small"


def divisor(most: int, whole: int) -> int:
    """The largest of most, most / 2, most / 4 ... that divides `whole`."""
    while whole % most:
        most //= 2
    return most


def choose(table: Table, like: torch.Tensor) -> Tile:
    """The tile for the device and dtype of `like`."""
    if not like.is_cuda:
        return INTERPRETED
    return table[family(torch.cuda.get_device_capability(like.device)), like.element_size() == 2]
