"""T3 for many sequences at once: their keys and values in pages, the prefix of each voice stored once for all.

A sequence has a slot, and a line of the page table of its own; it joins with a prefill and leaves by not being stepped
any more. The arithmetic is T3's, the choice sampling's: where Triton runs, both are done by the kernels of `fused_t3`,
else by plain PyTorch. Nothing depends on what the device holds, so that on a GPU each call can be captured in a graph.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from tts_engine.chatterbox.sampling import first_seen, forbid_stop, guide, pick, process, see
from tts_engine.chatterbox.sampling_settings import SamplingSettings
from tts_engine.chatterbox.step_attention import HEAD, fused_fault, merge_heads, split_heads
from tts_engine.chatterbox.t3 import T3, T3Sizes, VoicePrefix

PAGE = 32
"Positions of a page."

MOST_PREFIX = 376
"Speaker and 375 prompt tokens: 15 s, the longest prompt that enrolment makes."


class PagedCache:
    """Keys and values of all slots. Rows are slots + 1; the last is idle: padded batches point there, it stays empty.

    With `twins` (guidance) there are as many rows again: row s + slots + 1 is the twin, without text, of row s. The
    caller writes `tables` (of twins too), `voice` and, through `set_voice`, the prefixes; prefill and step the rest.

    - `keys_values` (layers, pages + 1, 2, heads, PAGE, 64); page number `pages` is the scratch page.
    - `tables` (rows, ceil(positions / PAGE)) int32: each row's pages in order, at first all scratch.
    - `lengths` (rows,) int32: own positions filled (text, START, speech).
    - `voice` (rows,) int32: index into the bank below; a twin's is set by prefill.
    - `prefixes` (voices, layers, 2, heads, most_prefix, 64), zeros beyond `prefix_lengths` (voices,) int32.
    """

    def __init__(
        self,
        sizes: T3Sizes,
        *,
        slots: int,
        pages: int,
        positions: int,
        voices: int,
        most_prefix: int = MOST_PREFIX,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        twins: bool = False,
    ) -> None:
        """`positions`: own positions that a row can have. ValueError if the model has not that many."""
        if most_prefix + positions > sizes.positions:
            raise ValueError(
                f"a prefix of {most_prefix} and {positions} positions more are over the model's {sizes.positions}"
            )
        self.slots, self.pages, self.positions = slots, pages, positions
        rows = (slots + 1) * (2 if twins else 1)
        with torch.device(device):
            # Zeros, not what memory held: a weight of 0 times NaN would be NaN.
            self.keys_values = torch.zeros(sizes.layers, pages + 1, 2, sizes.heads, PAGE, HEAD, dtype=dtype)
            self.tables = torch.full((rows, -(-positions // PAGE)), pages, dtype=torch.int32)
            self.lengths = torch.zeros(rows, dtype=torch.int32)
            self.voice = torch.zeros(rows, dtype=torch.int32)
            self.prefixes = torch.zeros(voices, sizes.layers, 2, sizes.heads, most_prefix, HEAD, dtype=dtype)
            self.prefix_lengths = torch.zeros(voices, dtype=torch.int32)

    @property
    def twins(self) -> bool:
        """Whether each row has a twin for guidance."""
        return len(self.lengths) > self.slots + 1

    def is_idle(self, rows: Tensor) -> Tensor:
        """Which of these are the idle row, or its twin."""
        return rows % (self.slots + 1) == self.slots

    @torch.inference_mode()
    def set_voice(self, index: int, prefix: VoicePrefix) -> None:
        """Put a voice into the bank; no sequence may be speaking with the one that is there. ValueError if too long."""
        most = self.prefixes.shape[4]
        if prefix.length > most:
            raise ValueError(f"a voice prefix of {prefix.length} positions is over the {most} that fit the cache")
        both = torch.stack((prefix.keys, prefix.values), 1)
        self.prefixes[index] = F.pad(both, (0, 0, 0, most - prefix.length))
        self.prefix_lengths[index] = prefix.length


class StepReads(NamedTuple):
    """How much a step reads where that is a shape, as an engine's is: at least what its rows need."""

    pages: int
    "Of each row, from its first on: all that hold positions before the one that is computed."
    tiles: int
    "Of 16 rows that share a voice: see tensorrt.prefix_tiles."


class Passes(Protocol):
    """The model over the cache; all rows are lines of its tables."""

    def prefill(self, text: Tensor, lengths: Tensor, rows: Tensor, unconditional: Tensor | None) -> Tensor:
        """(B, T) and (B,) to logits (B, V or more) after START; the rows' lengths are set."""

    def step(self, last: Tensor, rows: Tensor, reads: StepReads | None = None) -> Tensor:
        """Logits (B, V or more) after the tokens last[row % len(last)]; the rows' lengths count up.

        `reads` None: all that any row could need. Passes that follow each row's length take no notice of it.
        """


class PlainPasses:
    """By T3's own modules: any device, any dtype."""

    def __init__(self, t3: T3, cache: PagedCache) -> None:
        self._t3 = t3
        self._cache = cache

    def prefill(self, text: Tensor, lengths: Tensor, rows: Tensor, unconditional: Tensor | None) -> Tensor:
        """See Passes."""
        cache, batch = self._cache, len(rows)
        own = torch.arange(text.shape[1] + 1, device=rows.device).expand(batch, -1)
        hidden = self._t3.embed_text(text, lengths, own + self._prefix_lengths(rows)[:, None], unconditional)
        # Padding is not written: there need not be a page for it.
        page = cache.tables[rows[:, None], own // PAGE].masked_fill(own > lengths[:, None], cache.pages)
        hidden = self._run(hidden, rows, own, lengths, page)
        cache.lengths[rows] = (lengths + 1).to(torch.int32).masked_fill(cache.is_idle(rows), 0)
        return self._t3.logits(hidden[torch.arange(batch, device=rows.device), lengths])

    def step(self, last: Tensor, rows: Tensor, reads: StepReads | None = None) -> Tensor:
        """See Passes."""
        cache = self._cache
        at = cache.lengths[rows].clamp(max=cache.positions - 1)
        tokens = last[rows % len(last)]
        hidden = self._t3.speech_emb(tokens) + self._t3.tfmr.wpe(at + self._prefix_lengths(rows))
        own = at[:, None]
        hidden = self._run(hidden[:, None], rows, own, at, cache.tables[rows[:, None], own // PAGE])
        cache.lengths[rows] = (at + 1).masked_fill(cache.is_idle(rows), 0)
        return self._t3.logits(hidden[:, 0])

    def _prefix_lengths(self, rows: Tensor) -> Tensor:
        return self._cache.prefix_lengths[self._cache.voice[rows]]

    def _run(self, hidden: Tensor, rows: Tensor, own: Tensor, final: Tensor, page: Tensor) -> Tensor:
        """All blocks; `own` (B, Q): the positions of `hidden` (B, Q, width), which go into the pages `page` (B, Q);
        `final` (B,): the last position of each row, what follows is padding.
        """
        cache = self._cache
        voice = cache.voice[rows]
        table = cache.tables[rows, : self._pages_read(own)]
        prefix_places = torch.arange(cache.prefixes.shape[4], device=rows.device)
        own_places = torch.arange(table.shape[1] * PAGE, device=rows.device)
        in_prefix = (prefix_places < cache.prefix_lengths[voice][:, None])[:, None].expand(-1, own.shape[1], -1)
        visible = torch.cat((in_prefix, own_places <= own.minimum(final[:, None])[..., None]), -1)[:, None]
        # Keys and values that no query sees may be anything, NaN too, and 0 times NaN is NaN.
        unseen = ~visible.any(2)[..., None]

        def attention(layer: int, projected: Tensor) -> Tensor:
            query, *new = split_heads(projected).unbind()
            pages = cache.keys_values[layer]
            for kind, part in enumerate(new):
                pages[page, kind, :, own % PAGE] = part.transpose(1, 2)
            # (B, pages, 2, heads, PAGE, 64) to (2, B, heads, positions, 64)
            mine = pages[table].permute(2, 0, 3, 1, 4, 5).flatten(3, 4)
            prefix = cache.prefixes[voice, layer].transpose(0, 1)
            keys, values = torch.cat((prefix, mine), 3).masked_fill(unseen, 0).unbind()
            return merge_heads(F.scaled_dot_product_attention(query, keys, values, attn_mask=visible))

        return self._t3.run_blocks(hidden, attention)

    def _pages_read(self, own: Tensor) -> int:
        """Pages of the longest row; on a GPU all that a row can have, since a graph's shapes are fixed."""
        return self._cache.tables.shape[1] if own.is_cuda else int(own.max()) // PAGE + 1


class BatchDecoder:
    """Sequences of T3 in the slots of a cache: `prefill` begins some, `step` gives each of some its next token.

    The caller writes `draws` (slots + 1, most_tokens) float32, uniforms in [0, 1), of which step n of a sequence uses
    draws[slot, n] (from the last one on: the last), and `forbid_until` (slots + 1,) int32: STOP is impossible at steps
    before it. Results are (B, 2) int32: the token as sampled, STOP included, and 1 if all logits were finite; where
    they were not, the token means nothing. A slot may occur once in a batch; the idle slot as often as wanted.

    Of its own it keeps for each slot the token chosen `last`, `steps`: how many were chosen, and `seen` (V,).
    """

    def __init__(
        self,
        t3: T3,
        cache: PagedCache,
        settings: SamplingSettings,
        cfg_scale: float = 0.0,
        *,
        most_tokens: int = 1000,
        fused: bool | None = None,
        passes: Passes | None = None,
    ) -> None:
        """`cfg_scale` above 0 wants a cache with twins (ValueError). `fused`: with the kernels; None: if they run.

        `passes` over the same cache take the place of the model's own; then `fused` is of the sampling alone.
        """
        if bool(cfg_scale) != cache.twins:
            raise ValueError("guidance takes a cache with twins, and nothing else does")
        device = cache.lengths.device
        self._cache = cache
        self._settings = settings
        self._cfg_scale = cfg_scale
        self._vocabulary = t3.sizes.speech_vocabulary
        slots = cache.slots + 1
        with torch.device(device):
            self.draws = torch.zeros(slots, most_tokens)
            self.forbid_until = torch.zeros(slots, dtype=torch.int32)
            self.last = torch.zeros(slots, dtype=torch.int32)
            self.steps = torch.zeros(slots, dtype=torch.int32)
            self.seen = torch.zeros(slots, self._vocabulary, dtype=torch.bool)
        self.fused = device.type == "cuda" and fused_fault() is None if fused is None else fused
        self._passes = self._make_passes(t3) if passes is None else passes

    def _make_passes(self, t3: T3) -> Passes:
        if not self.fused:
            return PlainPasses(t3, self._cache)
        from tts_engine.chatterbox.fused_t3 import FusedPasses  # noqa: PLC0415  only where there is Triton

        return FusedPasses(t3, self._cache)

    @torch.inference_mode()
    def prefill(self, text: Tensor, lengths: Tensor, slots: Tensor) -> Tensor:
        """Begin sequences: text (B, T) int64, right-padded with any valid token, lengths (B,) int32, slots (B,) int32.

        Returns each one's first token. ValueError if T + 1 is over the cache's positions.
        """
        if text.shape[1] + 1 > self._cache.positions:
            raise ValueError(
                f"{text.shape[1]} text tokens and START do not fit a cache of {self._cache.positions} positions"
            )
        rows, unconditional = self._rows(slots), None
        if self._cfg_scale:
            text, lengths = text.repeat(2, 1), lengths.repeat(2)
            unconditional = torch.arange(len(rows), device=rows.device) >= len(slots)
            self._cache.voice[rows] = self._cache.voice[slots].repeat(2)
        return self._choose(self._passes.prefill(text, lengths, rows, unconditional), slots, first=True)

    @torch.inference_mode()
    def step(self, slots: Tensor, reads: StepReads | None = None) -> Tensor:
        """The next token of the sequences in these slots, (B,) int32. A row at its capacity overwrites its last
        position. `reads`: see Passes; with guidance the rows are twice the slots.
        """
        return self._choose(self._passes.step(self.last, self._rows(slots), reads), slots, first=False)

    def _rows(self, slots: Tensor) -> Tensor:
        """The cache's rows: the slots, and then their twins."""
        return torch.cat((slots, slots + self._cache.slots + 1)) if self._cfg_scale else slots

    def _choose(self, logits: Tensor, slots: Tensor, *, first: bool) -> Tensor:
        if self._cfg_scale:
            logits = guide(logits.float(), self._cfg_scale)
        if not self.fused:
            return self._choose_plainly(logits[:, : self._vocabulary], slots, first=first)
        from tts_engine.chatterbox.kernels import sampler  # noqa: PLC0415  only where there is Triton

        state = sampler.SamplerState(self.draws, self.forbid_until, self.last, self.steps, self.seen)
        chosen: Tensor = sampler.sample(logits, slots, state, self._settings, first=first)
        return chosen

    def _choose_plainly(self, logits: Tensor, slots: Tensor, *, first: bool) -> Tensor:
        """As TokenDecoder does it for one."""
        steps = torch.zeros_like(slots) if first else self.steps[slots]
        seen = first_seen(len(slots), self._vocabulary, slots.device) if first else self.seen[slots]
        # All of them: a single NaN makes every probability one.
        finite = torch.isfinite(logits).all(-1)
        barred = forbid_stop(logits, steps < self.forbid_until[slots])
        draws = self.draws[slots, steps.clamp(max=self.draws.shape[1] - 1)]
        tokens = pick(process(barred, seen, self._settings), draws)
        # The penalty counts START at the first step only (T3.inference_turbo).
        see(seen, tokens, first=first)
        self.seen[slots] = seen
        self.last[slots] = tokens.to(torch.int32)
        self.steps[slots] = (steps + 1).masked_fill(self._cache.is_idle(slots), 0)
        return torch.stack((tokens, finite), 1).to(torch.int32)
