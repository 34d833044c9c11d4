"""ONNX Runtime's sessions: which provider, how many threads, and errors in words."""

from __future__ import annotations

import contextlib
import io
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime  # type: ignore[import-untyped]

from tts_engine.onnx_bundle.faults import BundleError
from tts_engine.onnx_bundle.interface import check_interface, input_dtypes
from tts_engine.pooled_engine import Stop

logger = logging.getLogger(__name__)

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
NVIDIA = (CUDA, "TensorrtExecutionProvider", "NvTensorRTRTXExecutionProvider")
"Providers whose tensors lie in CUDA's memory."

CUDA_OPTIONS = {
    # By default each new length of text, and there are many, has every convolution tried out: seconds a length.
    "cudnn_conv_algo_search": "HEURISTIC",
    # By default the memory taken doubles whenever it does not suffice.
    "arena_extend_strategy": "kSameAsRequested",
}

_ERROR = 3

Array = npt.NDArray[Any]


def choose_providers(wanted: Sequence[str]) -> tuple[str, ...]:
    """The providers to ask for, the CPU last; with none wanted, CUDA if ONNX Runtime was built with it.

    Raises BundleError for one that this ONNX Runtime does not have.
    """
    available = onnxruntime.get_available_providers()
    missing = [name for name in wanted if name not in available]
    if missing:
        raise BundleError(
            f"ONNX Runtime has no {', '.join(missing)} here, only {', '.join(available)}; CUDA comes with the package "
            f"onnxruntime-gpu, which takes the place of onnxruntime"
        )
    chosen = list(wanted) or [name for name in (CUDA,) if name in available]
    if any(name in NVIDIA for name in chosen):
        _preload_cuda()
    return tuple(dict.fromkeys([*chosen, CPU]))


def _preload_cuda() -> None:
    """Load CUDA's and cuDNN's libraries from pip's packages nvidia-*, where the loader does not look by itself."""
    preload = getattr(onnxruntime, "preload_dlls", None)  # from 1.21 on
    if preload is None:
        return
    said = io.StringIO()
    # It prints what it cannot load; that may be installed elsewhere, so a session's start decides.
    with contextlib.redirect_stdout(said), contextlib.suppress(OSError, RuntimeError):
        preload()
    if said.getvalue():
        logger.debug("onnxruntime.preload_dlls: %s", said.getvalue().strip())


def open_part(part: str, path: Path, providers: Sequence[str], threads: int) -> Any:
    """A session with the part's interface. Raises BundleError.

    A provider that cannot start (no GPU, no CUDA library) is an error: a server that silently fell back to the CPU
    would take calls that it cannot serve.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERROR
    # Patterns are kept once for every length of input; and threads that spin take the cores from the pacer.
    options.enable_mem_pattern = False
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=provider_options(providers))
    # ONNX Runtime's exceptions share no base but Exception.
    except Exception as error:
        raise BundleError(f"{path} cannot be loaded: {error}") from error
    if session.get_providers()[0] != providers[0]:
        raise BundleError(
            f"{providers[0]} cannot start here, so {path.name} would run by {session.get_providers()[0]}: "
            f"{_remedy(providers[0])}"
        )
    check_interface(part, session)
    return session


def provider_options(providers: Sequence[str]) -> list[str | tuple[str, dict[str, str]]]:
    """The providers as InferenceSession takes them, CUDA with our options."""
    return [(name, dict(CUDA_OPTIONS)) if name == CUDA else name for name in providers]


def _remedy(provider: str) -> str:
    if provider not in NVIDIA:
        return 'name another in [tts.onnx] providers, or ["CPUExecutionProvider"]'
    return (
        "it needs an NVIDIA driver, and CUDA and cuDNN libraries of the version that onnxruntime-gpu was built for "
        "(pip install 'onnxruntime-gpu[cuda,cudnn]' brings the libraries); "
        'for the CPU set [tts.onnx] providers = ["CPUExecutionProvider"]'
    )


def run_options(stop: Stop) -> Any:
    """RunOptions whose runs, also one under way, end with an error once `stop` is set."""
    options = onnxruntime.RunOptions()

    def terminate() -> None:
        options.terminate = True

    stop.then(terminate)
    return options


def run(session: Any, feeds: Mapping[str, Array], options: Any = None) -> dict[str, Array]:
    """Outputs by name; inputs are converted to the types that the graph declares. `options`: RunOptions."""
    dtypes = input_dtypes(session)
    converted = {name: np.ascontiguousarray(array, dtypes[name]) for name, array in feeds.items()}
    names = [port.name for port in session.get_outputs()]
    return dict(zip(names, session.run(names, converted, options), strict=True))


def thread_count(threads: int, workers: int) -> int:
    """Of one session: `threads`, or for 0 the cores of this process divided by the workers."""
    return threads or max(1, len(os.sched_getaffinity(0)) // workers)
