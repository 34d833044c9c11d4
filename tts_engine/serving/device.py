"""The devices that an engine runs on, and how PyTorch is to behave there."""

from __future__ import annotations

import torch


def devices_of(names: tuple[str, ...]) -> tuple[str, ...]:
    """The devices meant: those named, or every GPU, or the CPU where there is none."""
    return names or tuple(f"cuda:{number}" for number in range(torch.cuda.device_count())) or ("cpu",)


def use_device(device: torch.device) -> None:
    """Make a GPU this thread's own: graphs are captured, and Triton launches, on the current one."""
    if device.type == "cuda":
        torch.cuda.set_device(device.index or 0)


def make_exact() -> None:
    """For the whole process: F0 is float32, which TF32, cuDNN's default, would detune; and the same request gives the
    same samples, while some of cuDNN's transposed convolutions add in whatever order.
    """
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.deterministic = True
