"""How long a call takes on a device, and how much memory it took at most."""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch


def synchronize(device: torch.device) -> None:
    """Wait for the device's queue: its work is asynchronous."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def milliseconds(call: Callable[[], Any], device: torch.device, repeat: int, warm_up: int = 1) -> float:
    """Median time of a call, until the device is done with it."""
    for _ in range(warm_up):
        call()
    times = []
    for _ in range(repeat):
        synchronize(device)
        start = time.perf_counter()
        call()
        synchronize(device)
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times)


def forget_peak(device: torch.device) -> None:
    """Begin a new measurement of peak_mb()."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak_mb(device: torch.device) -> float:
    """Most memory held at once: the device's, or, on a CPU, the process's resident set since it began."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
