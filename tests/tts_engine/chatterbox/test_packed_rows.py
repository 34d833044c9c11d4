from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.tts_engine.chatterbox.packed_windows import starts_of
from tts_engine.chatterbox.packed_rows import row_of


@given(st.lists(st.integers(0, 7), min_size=1, max_size=9), st.integers(0, 9), st.integers(0, 5))
def test_each_position_belongs_to_the_row_that_it_lies_in(lengths: list[int], unused: int, padding: int) -> None:
    rows = len(lengths) + unused
    expected = [row for row, length in enumerate(lengths) for _ in range(length)] + [rows] * padding
    assert row_of(starts_of(lengths, rows), sum(lengths) + padding).tolist() == expected


def test_starts_may_lie_in_a_wider_tensor() -> None:
    table = torch.tensor([[0, 9], [2, 9], [5, 9]], dtype=torch.int32)
    assert row_of(table[:, 0], 6).tolist() == [0, 0, 1, 1, 1, 2]
