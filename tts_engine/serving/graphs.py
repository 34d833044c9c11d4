"""CUDA graphs: a T3 step is some hundreds of small kernels, the flow some thousand; launching costs more than they do.

A graph has fixed shapes and addresses. So each input is copied into a buffer of the graph's own, sizes are padded up
to a bucket, and results are to be used, in the stream's order, before the next call of any graph of the same pool.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tts_engine.tensorrt.graph_scope import GraphScope

logger = logging.getLogger(__name__)

_WARM_UP_CALLS = 2
"Before capture: libraries allocate their workspaces, choose their kernels, and Triton compiles, at first use."


class CapturedCall:
    """A function of tensors as a graph: inputs are copied in by name, the outputs are the same tensors every time.

    It is captured, and replayed, on the current stream, which may not be the default one. A function that calls an
    engine which no graph can hold at these sizes is not captured: each call runs it, on the same buffers.
    """

    def __init__(self, function: Callable[..., tuple[Tensor, ...]], inputs: dict[str, Tensor], pool: Any) -> None:
        """`pool`: the memory that graphs share which never run at the same time (torch.cuda.graph_pool_handle).

        Raises what the function raises; RuntimeError if the capture fails by itself.
        """
        self._inputs = inputs
        self._function = function
        self._graph: torch.cuda.CUDAGraph | None = None
        self._scope: GraphScope[Any] = GraphScope()
        stream = torch.cuda.current_stream()
        with torch.inference_mode(), self._scope:
            for _ in range(_WARM_UP_CALLS):
                self._scope.begin()
                function(**inputs)
            stream.synchronize()
            refusal = self._scope.refusal(stream.cuda_stream)
            if not refusal:
                self._scope.begin()
                self._capture(pool, stream)
        if refusal:
            logger.warning("launched without a graph: %s", refusal)
            self._scope = GraphScope()  # its contexts are of no use

    def _capture(self, pool: Any, stream: torch.cuda.Stream) -> None:
        graph, cause = torch.cuda.CUDAGraph(), None
        try:
            # Other threads may use CUDA meanwhile.
            with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
                try:
                    self._outputs = self._function(**self._inputs)
                except Exception as fault:
                    cause = fault
                    raise
        except RuntimeError as fault:
            # Ending a capture that has failed raises an error of its own, in place of what went wrong.
            if cause is not None and cause is not fault:
                raise cause from fault
            raise
        self._graph = graph

    def __call__(self, **given: Tensor) -> tuple[Tensor, ...]:
        """Inputs may be shorter than the buffers in the first dimension: what lies beyond stays as it was."""
        for name, tensor in given.items():
            self._inputs[name][: len(tensor)].copy_(tensor, non_blocking=True)
        if self._graph is None:
            return self._function(**self._inputs)
        self._graph.replay()
        return self._outputs
