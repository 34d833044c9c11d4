"""Rows of a T3 step in tiles that share a voice, so that a voice's prefix is read once for 16 of them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tts_engine.tensorrt.profiles import PREFIX_TILE


class PrefixTiles(NamedTuple):
    """All int32. Row r is entry place[r] of `rows` laid flat; entries that are nobody's place hold row 0."""

    rows: Tensor
    "(tiles, 16)"
    voice: Tensor
    "(tiles,)"
    place: Tensor
    "(rows,)"


def most_tiles(rows: int, voices: int) -> int:
    """Tiles that so many rows of so many voices can take: each voice has at most one that is not full."""
    return rows if rows <= voices else voices + (rows - voices) // PREFIX_TILE


def prefix_tiles(voice: Tensor, voices: int, tiles: int) -> PrefixTiles:
    """`voice` (rows,), numbers below `voices`, to `tiles` tiles, which must be enough (see most_tiles).

    On the tensor's device, without waiting for it, in whatever order the rows come.
    """
    rows = torch.arange(len(voice), device=voice.device)
    voice = voice.long()
    # (rows, rows): cheaper than a sort for some hundred rows.
    rank = ((voice[:, None] == voice) & (rows < rows[:, None])).sum(1)
    counts = (voice[:, None] == torch.arange(voices, device=voice.device)).sum(0)
    used = (counts + PREFIX_TILE - 1) // PREFIX_TILE
    first = used.cumsum(0) - used
    place = first[voice] * PREFIX_TILE + rank
    tile_rows = rows.new_zeros(tiles * PREFIX_TILE).scatter(0, place, rows)
    tile_voice = voice.new_zeros(tiles).scatter(0, place // PREFIX_TILE, voice)
    return PrefixTiles(tile_rows.view(tiles, PREFIX_TILE).int(), tile_voice.int(), place.int())
