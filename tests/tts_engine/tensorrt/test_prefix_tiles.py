"""Every row in exactly one tile of its voice, in no more tiles than there can be."""

from __future__ import annotations

import random
from collections import Counter

import torch
from hypothesis import given
from hypothesis import strategies as st

from tts_engine.tensorrt.prefix_tiles import most_tiles, prefix_tiles
from tts_engine.tensorrt.profiles import PREFIX_TILE

voices_of_rows = st.integers(1, 64).flatmap(
    lambda voices: st.tuples(
        st.just(voices),
        st.one_of(
            st.lists(st.integers(0, voices - 1), min_size=1, max_size=60),
            st.builds(lambda count, voice: [voice] * count, st.integers(1, 260), st.integers(0, voices - 1)),
        ),
    )
)


@given(voices_of_rows, st.integers(0, 3))
def test_every_row_is_in_one_tile_of_its_voice(case: tuple[int, list[int]], spare: int) -> None:
    voices, rows = case
    count = most_tiles(len(rows), voices) + spare
    tiles = prefix_tiles(torch.tensor(rows, dtype=torch.int32), voices, count)
    assert [tensor.dtype for tensor in tiles] == [torch.int32] * 3
    assert (tiles.rows.shape, tiles.voice.shape) == ((count, PREFIX_TILE), (count,))
    assert len(set(tiles.place.tolist())) == len(rows)
    for row, place in enumerate(tiles.place.tolist()):
        tile, within = divmod(place, PREFIX_TILE)
        assert tiles.rows[tile, within] == row
        assert tiles.voice[tile] == rows[row]
    assert 0 <= int(tiles.rows.min()) <= int(tiles.rows.max()) < len(rows)
    assert 0 <= int(tiles.voice.min()) <= int(tiles.voice.max()) < voices


@given(voices_of_rows)
def test_what_rows_need_is_within_the_bound(case: tuple[int, list[int]]) -> None:
    voices, rows = case
    needed = sum(-(-count // PREFIX_TILE) for count in Counter(rows).values())
    assert needed <= most_tiles(len(rows), voices) <= -(-len(rows) // PREFIX_TILE) + voices
    tiles = prefix_tiles(torch.tensor(rows), voices, needed)
    assert int(tiles.place.max()) // PREFIX_TILE + 1 == needed, "no tile is skipped"


@given(st.integers(1, 600), st.integers(1, 64))
def test_the_bound_is_reached(rows: int, voices: int) -> None:
    """One row of each voice but of one, which has all others: no way of dealing them out takes more."""
    alone = min(voices, rows) - 1
    dealt = [rows - alone] + [1] * alone
    assert most_tiles(rows, voices) == sum(-(-count // PREFIX_TILE) for count in dealt)
    others = random.choices(range(voices), k=rows)
    assert sum(-(-count // PREFIX_TILE) for count in Counter(others).values()) <= most_tiles(rows, voices)
