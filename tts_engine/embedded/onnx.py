"""ONNX Runtime as a small process that shares its cores wants it."""

from __future__ import annotations

import onnxruntime  # type: ignore[import-untyped]

_ERROR = 3


def open_session(model: str | bytes) -> onnxruntime.InferenceSession:
    """A CPU session of a model: its path, or its bytes. Any number of threads may run it, each on its own core.

    Without the arena and without memory patterns: both keep the largest buffers ever used, the patterns once for
    every length of input. Measured, it costs no time.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    options.log_severity_level = _ERROR
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
