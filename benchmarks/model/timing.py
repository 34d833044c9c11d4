"""How long a call takes on a device, and how much memory it took at most."""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

WARM_UP_CALLS = 3
"Libraries choose their kernels and take their workspaces at first use."


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


def graph_milliseconds(call: Callable[[], Any], device: torch.device, repeat: int) -> float:
    """Median time of a call on the device itself: on a GPU of the replays of a CUDA graph of it, by events.

    The call must be fit for a graph: no host synchronisation, and its inputs stay where they are.
    """
    if device.type != "cuda":
        return milliseconds(call, device, repeat)
    side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        for _ in range(WARM_UP_CALLS):
            call()
    torch.cuda.current_stream(device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = call()
    found = event_milliseconds(graph.replay, device, repeat)
    del kept  # its memory is the graph's
    return found


def event_milliseconds(call: Callable[[], Any], device: torch.device, repeat: int) -> float:
    """Median time between events around a call, which is asynchronous; on a CPU simply its time."""
    if device.type != "cuda":
        return milliseconds(call, device, repeat)
    for _ in range(WARM_UP_CALLS):
        call()
    pairs = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(repeat)]  # type: ignore[no-untyped-call]
    for start, end in pairs:
        start.record()
        call()
        end.record()
    synchronize(device)
    return float(statistics.median(start.elapsed_time(end) for start, end in pairs))
