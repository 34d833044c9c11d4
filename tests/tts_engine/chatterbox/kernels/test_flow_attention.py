from __future__ import annotations

import pytest
import torch

from tests.tts_engine.chatterbox import triton_interpreter
from tests.tts_engine.chatterbox.triton_interpreter import DEVICE, ROUNDING

pytestmark = triton_interpreter.NEEDED
pytest.importorskip("triton")

from tts_engine.chatterbox.kernels.flow_attention import HEAD, LOG2_E, attend  # noqa: E402
from tts_engine.chatterbox.kernels.flow_tiles import Tile  # noqa: E402

HEADS = 2
TILE = Tile(16, 16, 4, 2)


class Case:
    """Stacked projections of rows of these lengths, NaN where no row is or its length ends before it."""

    def __init__(
        self, lengths: list[int], *, parts: int = 3, gap: int = 0, padding: int = 5, dtype: torch.dtype = torch.float32
    ) -> None:
        self.lengths, self.most = lengths, max(lengths) + 2
        self.starts = [sum(lengths[:row]) + gap * row for row in range(len(lengths) + 1)]
        self.count = self.starts[-1] + padding
        self.projected = torch.full((self.count, parts * HEADS * HEAD), torch.nan, dtype=dtype, device=DEVICE)
        self.scores = torch.full((HEADS, self.count, 2 * self.most + 3), torch.nan, dtype=dtype, device=DEVICE)
        for rows in self.rows():
            shape = self.projected[rows].shape
            self.projected[rows] = torch.randn(shape, device=DEVICE).to(dtype)
            self.scores[:, rows] = torch.randn(self.scores[:, rows].shape, device=DEVICE).to(dtype)

    def rows(self) -> list[slice]:
        return [slice(start, start + length) for start, length in zip(self.starts, self.lengths, strict=False)]

    def run(self, *, positions: bool = False, tile: Tile | None = TILE) -> torch.Tensor:
        starts = torch.tensor(self.starts, dtype=torch.int32, device=DEVICE)
        lengths = torch.tensor(self.lengths, dtype=torch.int32, device=DEVICE)
        scores = self.scores if positions else None
        return attend(self.projected, starts, lengths, self.most, HEADS, scores, tile)

    def expected(self, rows: slice, *, positions: bool = False) -> torch.Tensor:
        """By the definition, in float64: (length, heads * 64)."""
        length = rows.stop - rows.start
        query, key, value = (
            self.projected[rows].double().unflatten(1, (-1, HEADS, HEAD)).transpose(0, 2)[:, :3].unbind(1)
        )
        scores = query @ key.transpose(1, 2) * HEAD**-0.5  # (heads, length, length)
        if positions:
            index = torch.arange(length, device=DEVICE)
            column = self.most + index[None, :] - index[:, None]
            by_distance = self.scores[:, rows].double()
            scores = scores + by_distance.gather(2, column.expand(HEADS, -1, -1)) / LOG2_E
        return (scores.softmax(-1) @ value).transpose(0, 1).flatten(1)

    def check(self, out: torch.Tensor, bound: float, *, positions: bool = False) -> None:
        for rows in self.rows():
            if rows.start < rows.stop:
                expected = self.expected(rows, positions=positions)
                error = (out[rows] - expected).norm() / expected.norm()
                assert error < bound


@pytest.mark.parametrize("positions", [False, True])
@pytest.mark.parametrize("lengths", [[1], [16], [32, 7], [3, 0, 37, 0, 1, 18], [0, 0, 5]])
def test_each_row_attends_to_itself_alone(lengths: list[int], positions: bool) -> None:
    case = Case(lengths)
    case.check(case.run(positions=positions), 1e-5, positions=positions)


@pytest.mark.parametrize("positions", [False, True])
def test_bfloat16(positions: bool) -> None:
    case = Case([21, 4], dtype=torch.bfloat16)
    out = case.run(positions=positions)
    assert out.dtype == torch.bfloat16
    case.check(out, 8e-3 * ROUNDING, positions=positions)


@pytest.mark.parametrize("tile", [Tile(32, 16, 4, 1), Tile(16, 32, 4, 3), None])
def test_tiles_decide_nothing(tile: Tile | None) -> None:
    case = Case([35, 2, 16])
    case.check(case.run(positions=True, tile=tile), 1e-5, positions=True)


def test_rows_may_end_before_the_next_begins() -> None:
    case = Case([9, 17], gap=6)  # the gap is NaN: a look-ahead that is not read
    out = case.run()
    case.check(out, 1e-5)
    assert out.shape == (case.count, HEADS * HEAD)


def test_what_is_packed_behind_the_values_is_not_read() -> None:
    case = Case([9, 17], parts=4)
    case.projected[:, 3 * HEADS * HEAD :] = torch.nan
    case.check(case.run(), 1e-5)


def test_large_scores() -> None:
    case = Case([20])
    case.projected[:, : 2 * HEADS * HEAD] *= 30  # scores of some thousands: exp() of them is infinite
    case.check(case.run(), 1e-3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.bfloat16, 8e-3)])
@pytest.mark.parametrize("positions", [False, True])
def test_real_sizes(dtype: torch.dtype, bound: float, positions: bool) -> None:
    case = Case([650, 1, 0, 127, 128, 129, 513], dtype=dtype)
    case.check(case.run(positions=positions, tile=None), bound, positions=positions)
