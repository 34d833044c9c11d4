"""ONNX Runtime as a small process that shares its cores wants it."""

from __future__ import annotations

import onnxruntime  # type: ignore[import-untyped]

_ERROR = 3


def open_session(path: str) -> onnxruntime.InferenceSession:
    """A CPU session; any number of threads may run it at once, each on its own core.

    Without the arena and without memory patterns: both keep the largest buffers ever used, the patterns once for
    every length of input. Measured, it costs no time.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    options.log_severity_level = _ERROR
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
