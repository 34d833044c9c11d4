"""T3 over a paged cache by two engines, which compute, while PyTorch writes what they give into its pages."""

from __future__ import annotations

import torch
from torch import Tensor

from tts_engine.chatterbox.paged_t3 import PAGE, PagedCache, StepReads
from tts_engine.chatterbox.t3 import T3
from tts_engine.tensorrt.prefix_tiles import most_tiles, prefix_tiles
from tts_engine.tensorrt.session import Session


class EnginePasses:
    """See paged_t3.Passes. An engine gathers whole pages, as many of each row: `step` has to be told how many.

    Nothing depends on what the device holds, so that CUDA graphs can hold the calls if they can hold the sessions'.
    """

    def __init__(self, t3: T3, cache: PagedCache, prefill: Session, step: Session) -> None:
        """ValueError if the engines were made for a model of other sizes, or for a cache of other prefixes."""
        for session in (prefill, step):
            _check(t3, cache, session)
        self._cache = cache
        self._prefill = prefill
        self._step = step
        self._prefixes = cache.prefixes.flatten(0, 2)
        self._layers = {f"pages_{layer}": pages for layer, pages in enumerate(cache.keys_values.flatten(1, 2))}

    @property
    def capturable(self) -> bool:
        """Whether CUDA graphs can hold both passes."""
        return self._prefill.capturable and self._step.capturable

    @torch.inference_mode()
    def prefill(self, text: Tensor, lengths: Tensor, rows: Tensor, unconditional: Tensor | None) -> Tensor:
        """See Passes."""
        cache = self._cache
        voice = cache.voice[rows]
        if unconditional is None:
            unconditional = torch.zeros_like(rows, dtype=torch.bool)
        given = self._prefill.run(
            {
                "text": text,
                "lengths": lengths,
                "unconditional": unconditional,
                "voice": voice,
                "prefix_lengths": cache.prefix_lengths,
                "prefixes": self._prefixes,
            }
        )
        own = torch.arange(text.shape[1] + 1, device=rows.device).expand(len(rows), -1)
        # Padding is not written: there need not be a page for it.
        page = cache.tables[rows[:, None], own // PAGE].masked_fill(own > lengths[:, None], cache.pages)
        # (layers, 2, rows, heads, positions, 64); indexed dimensions come first.
        cache.keys_values[:, page, :, :, own % PAGE] = given["keys_values"].permute(2, 4, 0, 1, 3, 5)
        cache.lengths[rows] = (lengths + 1).to(torch.int32).masked_fill(cache.is_idle(rows), 0)
        return given["logits"]

    @torch.inference_mode()
    def step(self, last: Tensor, rows: Tensor, reads: StepReads | None = None) -> Tensor:
        """See Passes."""
        cache, voices = self._cache, len(self._cache.prefix_lengths)
        pages, tiles = reads or StepReads(cache.tables.shape[1], most_tiles(len(rows), voices))
        at = cache.lengths[rows].clamp(max=cache.positions - 1)
        voice = cache.voice[rows]
        tiling = prefix_tiles(voice, voices, tiles)
        tables = cache.tables[rows]
        given = self._step.run(
            {
                "tokens": last[rows % len(last)],
                "own": at,
                "voice": voice,
                "prefix_lengths": cache.prefix_lengths,
                "prefixes": self._prefixes,
                "tile_rows": tiling.rows,
                "tile_voice": tiling.voice,
                "place": tiling.place,
                "tables": tables[:, :pages].contiguous(),
                **self._layers,
            }
        )
        page = tables.gather(1, (at // PAGE).long()[:, None])[:, 0]
        # (layers, 2, rows, heads, 64); indexed dimensions come first.
        cache.keys_values[:, page, :, :, at % PAGE] = given["keys_values"].permute(2, 0, 1, 3, 4)
        cache.lengths[rows] = (at + 1).masked_fill(cache.is_idle(rows), 0)
        return given["logits"]


def _check(t3: T3, cache: PagedCache, session: Session) -> None:
    bank = cache.prefixes
    # The bank's first axes are one.
    expected = {"prefixes": tuple(bank.shape[3:]), "logits": (t3.sizes.speech_vocabulary,)}
    for port in (*session.inputs, *session.outputs):
        if port.shape[1:] != expected.get(port.name, port.shape[1:]):
            raise ValueError(f"engines whose {port.name} are {port.shape[1:]} for a T3 with {expected[port.name]}")
