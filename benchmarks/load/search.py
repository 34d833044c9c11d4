"""The largest load that still passes, by few trials: each takes a minute of a machine."""

from __future__ import annotations

from collections.abc import Callable


def largest(passes: Callable[[int], bool], start: int, most: int, resolution: float = 0.05) -> int:
    """Doubles from `start` until a trial fails or `most` has passed, then bisects.

    Returns the largest number that passed with one that failed at most `resolution` (a share of it, at least 1) above;
    0 if nothing passes. Assumes that what passes at a number passes below; no number is tried twice. ValueError unless
    1 <= start <= most.
    """
    if not 1 <= start <= most:
        raise ValueError(f"the search must start from 1 to {most}, not {start}")
    passed, failed, trial = 0, most + 1, start
    while trial <= most:
        if not passes(trial):
            failed = trial
            break
        passed = trial
        if trial == most:
            return most
        trial = min(2 * trial, most)
    while failed - passed > max(1, int(resolution * passed)):
        middle = (passed + failed) // 2
        if passes(middle):
            passed = middle
        else:
            failed = middle
    return passed
