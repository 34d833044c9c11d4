"""CUDA graphs: a T3 step is some hundreds of small kernels, the flow some thousand; launching costs more than they do.

A graph has fixed shapes and addresses. So each input is copied into a buffer of the graph's own, sizes are padded up
to a bucket, and results are to be used, in the stream's order, before the next call of any graph of the same pool.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

_WARM_UP_CALLS = 2
"Before capture: libraries allocate their workspaces, choose their kernels, and Triton compiles, at first use."


def bucket_of(size: int, buckets: Sequence[int]) -> int | None:
    """The smallest bucket that holds `size`, of ascending ones; None if it is beyond the largest."""
    at = bisect_left(buckets, size)
    return buckets[at] if at < len(buckets) else None


class CapturedCall:
    """A function of tensors as a graph: inputs are copied in by name, the outputs are the same tensors every time.

    It is captured, and replayed, on the current stream, which may not be the default one.
    """

    def __init__(self, function: Callable[..., tuple[Tensor, ...]], inputs: dict[str, Tensor], pool: Any) -> None:
        """`pool`: the memory that graphs share which never run at the same time (torch.cuda.graph_pool_handle)."""
        self._inputs = inputs
        self._graph = torch.cuda.CUDAGraph()
        stream = torch.cuda.current_stream()
        with torch.inference_mode():
            for _ in range(_WARM_UP_CALLS):
                function(**inputs)
            stream.synchronize()
            # Other threads may use CUDA meanwhile.
            with torch.cuda.graph(self._graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
                self._outputs = function(**inputs)

    def __call__(self, **given: Tensor) -> tuple[Tensor, ...]:
        """Inputs may be shorter than the buffers in the first dimension: what lies beyond stays as it was."""
        for name, tensor in given.items():
            self._inputs[name][: len(tensor)].copy_(tensor, non_blocking=True)
        self._graph.replay()
        return self._outputs
