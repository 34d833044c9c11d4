"""Quantiles of a list of measurements, by the nearest rank: every figure is one that was measured."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

POINTS = (50.0, 95.0, 99.0)


def quantile(ordered: Sequence[float], percent: float) -> float | None:
    """The smallest value that at least `percent` of them do not exceed; None of nothing."""
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)] if ordered else None


def quantiles(values: Iterable[float], points: Sequence[float] = POINTS, scale: float = 1.0) -> dict[str, float | None]:
    """{"p50": ..., "max": ..., "count": ...} of the values times `scale`."""
    ordered = sorted(values)
    found: dict[str, float | None] = {f"p{point:g}": _scaled(quantile(ordered, point), scale) for point in points}
    return {**found, "max": _scaled(quantile(ordered, 100), scale), "count": len(ordered)}


def _scaled(value: float | None, scale: float) -> float | None:
    return None if value is None else value * scale
