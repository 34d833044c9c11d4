"""Figures that tests record, in one form: pytest prints them as a table at its end (conftest.py)."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

FIGURE = "figure"

Figure = tuple[str, str, str]
"What, in which dtype, the value."

Record = Callable[[str, object], None]


def error(
    record: Record, what: str, got: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype = torch.float32
) -> float:
    """Record how far `got`, computed in `dtype`, is from `expected`.

    Gives the RMS of the error over the standard deviation of what is expected.
    """
    difference = (got.float() - expected).flatten()
    largest, spread = float(difference.abs().max()), float(expected.std())
    relative = float(difference.square().mean().sqrt()) / spread
    note(record, what, dtype, f"max {largest:.1e}, RMS {relative:.1e} of the spread {spread:.2g}")
    return relative


def note(record: Record, what: str, dtype: torch.dtype, value: str) -> None:
    record(FIGURE, (what, str(dtype).removeprefix("torch."), value))


def lines(figures: Iterable[Figure]) -> list[str]:
    """The table, by dtype and in the order of the tests."""
    order = ["float32", "bfloat16", "float16"]
    ordered = sorted(figures, key=lambda figure: order.index(figure[1]))
    width = max((len(what) for what, _, _ in ordered), default=0)
    return [f"{what:{width}}  {dtype:8}  {value}" for what, dtype, value in ordered]
