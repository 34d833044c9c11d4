from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.tts_engine.chatterbox.packed_windows import starts_of
from tts_engine.chatterbox.packing import Packing, pack, row_of


def packed(lengths: list[int], padding: int = 0, most: int | None = None) -> Packing:
    return pack(starts_of(lengths), sum(lengths) + padding, max(lengths) if most is None else most)


lengths_and_padding = st.tuples(
    st.lists(st.integers(0, 7), min_size=1, max_size=8).filter(lambda lengths: sum(lengths) > 0), st.integers(0, 9)
)


@given(st.lists(st.integers(0, 7), min_size=1, max_size=9), st.integers(0, 9), st.integers(0, 5))
def test_each_position_belongs_to_the_row_that_it_lies_in(lengths: list[int], unused: int, padding: int) -> None:
    rows = len(lengths) + unused
    expected = [row for row, length in enumerate(lengths) for _ in range(length)] + [rows] * padding
    assert row_of(starts_of(lengths, rows), sum(lengths) + padding).tolist() == expected


def test_starts_may_lie_in_a_wider_tensor() -> None:
    table = torch.tensor([[0, 9], [2, 9], [5, 9]], dtype=torch.int32)
    assert row_of(table[:, 0], 6).tolist() == [0, 0, 1, 1, 1, 2]


@given(lengths_and_padding)
def test_row_position_and_what_is_left(case: tuple[list[int], int]) -> None:
    lengths, padding = case
    packing = packed(lengths, padding)
    index = 0
    for row, length in enumerate(lengths):
        for position in range(length):
            assert packing.row[index] == row
            assert packing.position[index] == position
            assert packing.left[index] == length - position - 1
            assert packing.inside[index]
            index += 1
    assert len(packing) == index + padding
    assert packing.position[index:].tolist() == list(range(padding))
    assert packing.left[index:].tolist() == list(range(padding))[::-1]
    assert not packing.inside[index:].any()
    assert packing.row[index:].eq(len(lengths) - 1).all()  # an index that may be read with


@given(lengths_and_padding, st.data())
def test_shortened(case: tuple[list[int], int], data: st.DataObject) -> None:
    lengths, padding = case
    by = data.draw(st.lists(st.integers(0, 9), min_size=len(lengths), max_size=len(lengths)))
    packing = packed(lengths, padding)
    shorter = packing.shortened(torch.tensor(by, dtype=torch.int32))
    assert shorter.lengths.tolist() == [max(0, length - less) for length, less in zip(lengths, by, strict=True)]
    inside = [p < n - less for n, less in zip(lengths, by, strict=True) for p in range(n)]
    assert shorter.inside.tolist() == inside + [False] * padding
    assert shorter.position is packing.position  # rows stay where they are, with all their positions
    assert shorter.left is packing.left


def test_dtypes() -> None:
    packing = packed([3, 0, 2], 4)
    assert packing.row.dtype == torch.int64
    assert packing.position.dtype == packing.left.dtype == packing.lengths.dtype == torch.int32
    assert packing.shortened(torch.tensor([1, 1, 1])).lengths.dtype == torch.int32


def test_no_row_is_longer_than_the_most() -> None:
    packing = packed([3, 9], most=5)
    assert packing.lengths.tolist() == [3, 5]
    assert packing.inside.tolist() == [True] * 8 + [False] * 4


def test_all_rows_empty() -> None:
    packing = pack(torch.zeros(4, dtype=torch.int32), 6, 5)
    assert packing.lengths.tolist() == [0, 0, 0]
    assert not packing.inside.any()
    assert packing.position.tolist() == list(range(6))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_in_a_graph() -> None:
    starts = starts_of([4, 2]).cuda()
    pack(starts, 9, 8)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        packing = pack(starts, 9, 8)
    starts.copy_(starts_of([1, 7]))
    graph.replay()
    assert packing.row.tolist() == [0, 1, 1, 1, 1, 1, 1, 1, 1]
    assert packing.position.tolist() == [0, 0, 1, 2, 3, 4, 5, 6, 0]
