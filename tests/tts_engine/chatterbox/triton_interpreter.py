"""Kernels on a CPU: imported before anything that imports Triton, it turns Triton's interpreter on where no GPU is.

NEEDED are marks for tests that run kernels: they skip them where neither a GPU nor an interpreter is.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from typing import Any

import pytest
import torch

ROUNDING = 1.0 if torch.cuda.is_available() else 2.0
"Of bfloat16, in units of a GPU's: the interpreter cuts off the bits that do not fit."

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def _patch_interpreter() -> None:
    """Mend what Triton 3.6's interpreter gets wrong.

    Loops may have bounds that were loaded (NumPy 2.4 makes no index of an array of one element), and products of
    bfloat16 are of the numbers, not of the integers that hold their bits.
    """
    import numpy as np
    import triton.language as tl
    from triton.runtime import interpreter

    def widened(handle: Any) -> Any:
        if handle.dtype.scalar != tl.bfloat16:
            return handle
        return interpreter.TensorHandle((handle.data.astype(np.uint32) << 16).view(np.float32), tl.float32)

    dot = interpreter.InterpreterBuilder.create_dot

    def create_dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        return dot(self, widened(a), widened(b), *rest)

    interpreter.InterpreterBuilder.create_dot = create_dot
    patch = interpreter._patch_lang_tensor

    def patch_lang_tensor(tensor: Any, scope: Any) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    interpreter._patch_lang_tensor = patch_lang_tensor


def _available() -> bool:
    if importlib.util.find_spec("triton") is None:
        return False
    if DEVICE == "cuda":
        return True
    if "triton" in sys.modules and os.environ.get("TRITON_INTERPRET") != "1":
        return False  # too late: its own library is compiled, not interpreted
    os.environ["TRITON_INTERPRET"] = "1"
    _patch_interpreter()
    return True


NEEDED = [
    pytest.mark.skipif(not _available(), reason="needs a GPU, or Triton and its interpreter"),
    # NumPy's, where a kernel computes what nobody reads: padding, and what is poisoned.
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
]
