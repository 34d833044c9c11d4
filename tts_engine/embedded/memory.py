"""Keeps the C library's allocator from holding on to memory for each thread."""

from __future__ import annotations

import ctypes
import sys

_M_ARENA_MAX = -8  # mallopt(3)


def share_one_malloc_arena() -> None:
    """Let all threads of the process allocate from one glibc arena; call before they start.

    By default every worker fills an arena of its own with what its largest inference needed: 50 MB more for two
    workers. Sharing showed no cost in speed, for the large blocks are few. Does nothing without glibc.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # musl has none
        mallopt(_M_ARENA_MAX, 1)
