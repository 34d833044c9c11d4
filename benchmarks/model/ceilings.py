"""What a device reaches at most, measured: the matrix product of its library, and a copy of its memory."""

from __future__ import annotations

import itertools

import torch

from benchmarks.model.timing import event_milliseconds
from benchmarks.model.work import Ceilings

SIZE = 8192
CPU_SIZE = 512
COPY_BYTES = 2 << 30
CPU_COPY_BYTES = 64 << 20
SETS = 3
"Of inputs, taken in turn: none is left in a cache."


def measure(device: torch.device, dtype: torch.dtype, repeat: int = 20) -> Ceilings:
    """On random data: zeros run faster. The copy's bytes count twice, read and written."""
    with torch.inference_mode():
        return Ceilings(_product(device, dtype, repeat), _copy(device, repeat))


def _product(device: torch.device, dtype: torch.dtype, repeat: int) -> float:
    size = SIZE if device.type == "cuda" else CPU_SIZE
    pairs = [[torch.randn(size, size, device=device, dtype=dtype) for _ in range(2)] for _ in range(SETS)]
    out = torch.empty(size, size, device=device, dtype=dtype)
    turn = itertools.cycle(pairs)
    return 2 * size**3 / event_milliseconds(lambda: torch.mm(*next(turn), out=out), device, repeat) * 1000


def _copy(device: torch.device, repeat: int) -> float:
    count = COPY_BYTES if device.type == "cuda" else CPU_COPY_BYTES
    source = torch.randint(0, 255, (count,), device=device, dtype=torch.uint8)
    target = torch.empty_like(source)
    return 2 * count / event_milliseconds(lambda: target.copy_(source), device, repeat) * 1000
