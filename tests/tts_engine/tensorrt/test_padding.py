"""From packed rows to padded ones and back."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.tts_engine.chatterbox.packed_windows import int32, starts_of
from tts_engine.tensorrt.padding import Padding, first_rows

packings = st.tuples(
    st.lists(st.integers(0, 9), min_size=1, max_size=6),
    st.integers(0, 3),
    st.integers(0, 3),
    st.integers(0, 3),
    st.integers(0, 4),
)
"Lengths, empty rows behind them, rows that the batch has beside, room in the longest row, padding."


class Packed:
    """Rows of 1, 2, 3 ... and NaN in the padding."""

    def __init__(self, packing: tuple[list[int], int, int, int, int]) -> None:
        self.lengths, idle, spare, room, padding = packing
        self.starts = starts_of(self.lengths, len(self.lengths) + idle)
        self.used = sum(self.lengths)
        self.size, self.rows = self.used + padding, len(self.lengths) + spare
        self.longest = max(1, max(self.lengths) + room)
        self.values = torch.arange(1.0, self.size + 1)
        self.values[self.used :] = torch.nan

    def row(self, at: int) -> torch.Tensor:
        return self.values[int(self.starts[at]) : int(self.starts[at + 1])]


@given(packings)
def test_each_row_comes_to_its_place_and_back(packing: tuple[list[int], int, int, int, int]) -> None:
    packed = Packed(packing)
    padding = Padding.of(packed.starts, packed.size, packed.rows, packed.longest)
    assert padding.lengths.tolist() == [*packed.lengths, *[0] * (packed.rows - len(packed.lengths))]
    assert padding.lengths.dtype == torch.int32
    padded = padding.pad(packed.values)
    assert padded.shape == (packed.rows, packed.longest)
    for at, length in enumerate(packed.lengths):
        assert torch.equal(padded[at, :length], packed.row(at))
        assert padded[at, length:].eq(0).all()
    assert padded[len(packed.lengths) :].eq(0).all()
    padded[~padding.inside] = torch.nan
    back = padding.pack(padded)
    assert torch.equal(back[: packed.used], packed.values[: packed.used])
    assert back[packed.used :].eq(0).all()
    assert torch.equal(padding.mask(padded), padding.pad(packed.values))


@given(packings, st.lists(st.integers(0, 12), min_size=6, max_size=6))
def test_the_last_positions_may_be_left_out(packing: tuple[list[int], int, int, int, int], shorter: list[int]) -> None:
    packed = Packed(packing)
    rows = len(packed.starts) - 1
    by = int32([*shorter, 0, 0, 0][:rows])
    padding = Padding.of(packed.starts, packed.size, packed.rows, packed.longest, shorter=by)
    left = [max(0, length - less) for length, less in zip(packed.lengths, by.tolist(), strict=False)]
    assert padding.lengths.tolist() == [*left, *[0] * (packed.rows - len(left))]
    back = padding.pack(padding.pad(packed.values))
    for at, length in enumerate(left):
        start = int(packed.starts[at])
        assert torch.equal(back[start : start + length], packed.row(at)[:length])
        assert back[start + length : int(packed.starts[at + 1])].eq(0).all()


def test_more_dimensions_and_other_dtypes() -> None:
    padding = Padding.of(starts_of([2, 0, 1]), 5, 3, 2)
    packed = torch.randn(5, 4, 3)
    padded = padding.pad(packed)
    assert padded.shape == (3, 2, 4, 3)
    assert torch.equal(padded[2, 0], packed[2])
    assert torch.equal(padding.pack(padded)[:3], packed[:3])
    assert padding.pad(torch.arange(5)).tolist() == [[0, 1], [0, 0], [2, 0]]


def test_rows_are_cut_at_the_longest() -> None:
    padding = Padding.of(starts_of([4, 1]), 5, 2, 2)
    assert padding.pad(torch.arange(1, 6)).tolist() == [[1, 2], [5, 0]]
    assert padding.pack(torch.tensor([[1, 2], [5, 7]])).tolist() == [1, 2, 0, 0, 5]


@pytest.mark.parametrize("shape", [(3,), (3, 2), (3, 2, 2)])
def test_the_first_rows_of_more_or_fewer(shape: tuple[int, ...]) -> None:
    tensor = torch.rand(shape)
    assert torch.equal(first_rows(tensor, 2), tensor[:2])
    assert torch.equal(first_rows(tensor, 3), tensor)
    more = first_rows(tensor, 5)
    assert torch.equal(more[:3], tensor)
    assert more[3:].eq(0).all()
    assert more.shape == (5, *shape[1:])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_graph_serves_any_packing() -> None:
    device = torch.device("cuda")
    starts, values = torch.zeros(5, dtype=torch.int32, device=device), torch.zeros(12, device=device)

    def move() -> tuple[torch.Tensor, torch.Tensor]:
        padding = Padding.of(starts, 12, 3, 6)
        padded = padding.pad(values)
        return padded, padding.pack(padded)

    move()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        padded, back = move()
    for lengths in ([3, 0, 6], [1, 1, 1], [0, 0, 0], [6, 5, 1]):
        values.normal_()
        starts.copy_(starts_of(lengths, 4))
        graph.replay()
        at = sum(lengths[:2])
        assert torch.equal(padded[2, : lengths[2]], values[at : at + lengths[2]])
        assert torch.equal(back[: sum(lengths)], values[: sum(lengths)])
        assert back[sum(lengths) :].eq(0).all()
