"""Time on a device, and results on their way from it: nothing here waits unless it is asked to."""

from __future__ import annotations

import time
from itertools import pairwise

import torch
from torch import Tensor


class Laps:
    """Marks in a stream, the first made at once: whether the last was reached, and the time between them.

    Made and marked on the current stream; on a CPU, where all is done when it returns, by the clock.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._events: list[torch.cuda.Event] = []
        self._times: list[float] = []
        self.mark()

    def mark(self) -> None:
        """What was launched before belongs to the lap that ends here."""
        if not self._on_gpu:
            self._times.append(time.perf_counter())
            return
        # Blocking: a wait that spins would take a whole core from whoever paces packets.
        event = torch.cuda.Event(enable_timing=True, blocking=True)  # type: ignore[no-untyped-call]
        event.record()
        self._events.append(event)

    @property
    def done(self) -> bool:
        return not self._on_gpu or bool(self._events[-1].query())  # type: ignore[no-untyped-call]

    def wait(self) -> None:
        """Until the last mark; the interpreter is free meanwhile."""
        if self._on_gpu:
            self._events[-1].synchronize()

    def seconds(self) -> list[float]:
        """Of each lap. After wait()."""
        if self._on_gpu:
            return [first.elapsed_time(second) / 1000 for first, second in pairwise(self._events)]
        return [second - first for first, second in pairwise(self._times)]


def to_host(tensor: Tensor) -> Tensor:
    """A copy that will have arrived when the stream has; on a CPU the tensor itself."""
    if not tensor.is_cuda:
        return tensor
    on_host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return on_host.copy_(tensor, non_blocking=True)
