"""T3: text tokens to speech tokens, a GPT-2 with its key/value cache made explicit (reference: models/t3/t3.py).

A sequence is [speaker 1 | voice prompt P | text T | START | speech ...]. Its first P + 1 positions are the same for
all that a voice says: `VoicePrefix` holds their keys and values once, and every sequence attends to them in place.
What follows is the sequence's own, in a row of `KVCache`. Positions count on through all parts.

Parameters carry the released names; linear weights are stored (in, out), as GPT-2's are. Parameters take no gradient.
Nothing here waits for the device, so that `step` can be captured in a CUDA graph over a static cache.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from tts_engine.chatterbox.constants import SPEAKER_EMBEDDING, START_TOKEN
from tts_engine.chatterbox.step_attention import HEAD, attend, hidden_where, merge_heads, split_heads

AttentionCall = Callable[[int, Tensor], Tensor]
"A layer's number and projections (B, Q, 3 heads 64) to what its attention gives, (B, Q, heads 64)."


@dataclass(frozen=True)
class T3Sizes:
    """Turbo: 24 layers x 1024, 16 heads. Nano: 12 x 768, 12 heads."""

    layers: int
    width: int
    heads: int
    positions: int = 8196
    text_vocabulary: int = 50276
    speech_vocabulary: int = 6563

    @classmethod
    def from_shapes(cls, shapes: Mapping[str, tuple[int, ...]]) -> T3Sizes:
        """Read them off a checkpoint's tensor shapes; ValueError if these are not a T3's."""
        found = {int(match[1]) for name in shapes if (match := re.match(r"tfmr\.h\.(\d+)\.", name))}
        if not found or found != set(range(len(found))):
            raise ValueError(f"not a T3 checkpoint: its blocks tfmr.h.N are numbered {sorted(found)}")
        tables = [_table(shapes, name) for name in ("tfmr.wpe.weight", "text_emb.weight", "speech_emb.weight")]
        widths = {width for _, width in tables}
        width = widths.pop()
        if widths or width == 0 or width % HEAD:
            raise ValueError(
                f"not a T3 checkpoint: embedding widths {sorted({*widths, width})} should be one, N x {HEAD}"
            )
        (positions, _), (text, _), (speech, _) = tables
        if speech <= START_TOKEN:
            raise ValueError(f"not a Turbo checkpoint: {speech} speech tokens do not include START ({START_TOKEN})")
        return cls(len(found), width, width // HEAD, positions, text, speech)


def _table(shapes: Mapping[str, tuple[int, ...]], name: str) -> tuple[int, int]:
    shape = tuple(shapes.get(name, ()))
    if len(shape) != 2:
        raise ValueError(f"not a T3 checkpoint: {name} is {'missing' if name not in shapes else f'of shape {shape}'}")
    return shape[0], shape[1]


@dataclass(frozen=True)
class VoicePrefix:
    """Keys and values of [speaker | prompt], each (layers, heads, P + 1, 64); shared by all sequences of a voice."""

    keys: Tensor
    values: Tensor

    @property
    def length(self) -> int:
        """Positions: P + 1."""
        return self.keys.shape[2]


class KVCache:
    """What a batch of sequences has said after the prefix, one row each; a row may be begun again at any time.

    `keys` and `values` (layers, B, heads, capacity, 64) are views of one tensor, so that a step writes both at once.
    `lengths` (B,) int64 are the positions filled, without the prefix; `T3.prefill` sets them, `T3.step` counts them up
    in place and stops at the capacity: an idle row of a captured batch may be stepped for ever.
    """

    def __init__(self, keys_values: Tensor, lengths: Tensor, prefix: VoicePrefix) -> None:
        """`keys_values` is (layers, 2, B, heads, capacity, 64)."""
        self.keys_values = keys_values
        self.lengths = lengths
        self.prefix = prefix
        self.rows = torch.arange(self.batch, device=lengths.device)
        self.positions = torch.arange(self.capacity, device=lengths.device)

    @property
    def keys(self) -> Tensor:
        """(layers, B, heads, capacity, 64)."""
        return self.keys_values[:, 0]

    @property
    def values(self) -> Tensor:
        """(layers, B, heads, capacity, 64)."""
        return self.keys_values[:, 1]

    @property
    def batch(self) -> int:
        """Rows."""
        return self.keys_values.shape[2]

    @property
    def capacity(self) -> int:
        """Own positions that a row can hold: text, START and speech."""
        return self.keys_values.shape[4]

    def prefix_of(self, layer: int) -> tuple[Tensor, Tensor]:
        """One layer's keys and values of the voice, each (heads, P, 64)."""
        return self.prefix.keys[layer], self.prefix.values[layer]


class Projection(nn.Module):
    """GPT-2's Conv1D: a linear layer with its weight stored (in, out)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(inputs, outputs).normal_(std=0.02))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) to (..., out)."""
        return torch.addmm(self.bias, x.flatten(0, -2), self.weight).view(*x.shape[:-1], -1)


class Attention(nn.Module):
    """The projections on both sides; what lies between depends on the cache."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_attn = Projection(width, 3 * width)
        self.c_proj = Projection(width, width)


class MLP(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_fc = Projection(width, 4 * width)
        self.c_proj = Projection(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) to the same; `gelu_new` is the tanh form."""
        projected: Tensor = self.c_proj(F.gelu(self.c_fc(x), approximate="tanh"))
        return projected


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width, eps=1e-5)
        self.attn = Attention(width)
        self.ln_2 = nn.LayerNorm(width, eps=1e-5)
        self.mlp = MLP(width)

    def project(self, hidden: Tensor) -> Tensor:
        """(B, Q, width) to (B, Q, 3 heads 64): queries, keys, values."""
        projected: Tensor = self.attn.c_attn(self.ln_1(hidden))
        return projected

    def finish(self, hidden: Tensor, attended: Tensor) -> Tensor:
        """Residual stream (B, T, width) and what attention gave, of the same shape, to the next block's input."""
        hidden = hidden + self.attn.c_proj(attended)
        widened: Tensor = self.mlp(self.ln_2(hidden))
        return hidden + widened


class Backbone(nn.Module):
    def __init__(self, sizes: T3Sizes) -> None:
        super().__init__()
        self.wpe = nn.Embedding(sizes.positions, sizes.width)
        self.h = nn.ModuleList(Block(sizes.width) for _ in range(sizes.layers))
        self.ln_f = nn.LayerNorm(sizes.width, eps=1e-5)

    def blocks(self) -> list[Block]:
        """The blocks in order."""
        return [block for block in self.h if isinstance(block, Block)]


class Conditioning(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.spkr_enc = nn.Linear(SPEAKER_EMBEDDING, width)


class T3(nn.Module):
    """[prefix | text | START | speech so far] to the logits of the next speech token, for a batch."""

    def __init__(self, sizes: T3Sizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.tfmr = Backbone(sizes)
        self.cond_enc = Conditioning(sizes.width)
        self.text_emb = nn.Embedding(sizes.text_vocabulary, sizes.width)
        self.speech_emb = nn.Embedding(sizes.speech_vocabulary, sizes.width)
        self.speech_head = nn.Linear(sizes.width, sizes.speech_vocabulary)
        self.requires_grad_(False)

    def prefix(self, speaker_embedding: Tensor, prompt_tokens: Tensor) -> VoicePrefix:
        """Once for a voice: speaker embedding (256,), prompt tokens (P,) int64."""
        speaker = self.cond_enc.spkr_enc(speaker_embedding.to(self.speech_head.weight.dtype))
        embedded = torch.cat((speaker[None], self.speech_emb(prompt_tokens)))
        keys, values = [], []

        def attention(_: int, projected: Tensor) -> Tensor:
            query, key, value = split_heads(projected).unbind()
            keys.append(key[0])
            values.append(value[0])
            return merge_heads(F.scaled_dot_product_attention(query, key, value, is_causal=True))

        self.run_blocks((embedded + self.tfmr.wpe.weight[: len(embedded)])[None], attention)
        return VoicePrefix(torch.stack(keys), torch.stack(values))

    def run_blocks(self, hidden: Tensor, attention: AttentionCall) -> Tensor:
        """The residual stream (B, Q, width) through all blocks."""
        for layer, block in enumerate(self.tfmr.blocks()):
            hidden = block.finish(hidden, attention(layer, block.project(hidden)))
        return hidden

    def new_cache(self, prefix: VoicePrefix, batch: int, capacity: int) -> KVCache:
        """Empty, in the prefix's dtype and on its device. ValueError if the model has not that many positions."""
        if prefix.length + capacity > self.sizes.positions:
            raise ValueError(
                f"a prefix of {prefix.length} and {capacity} positions more are over the model's {self.sizes.positions}"
            )
        # Zeros, not what memory held: a weight of 0 times NaN would be NaN.
        keys_values = prefix.keys.new_zeros(self.sizes.layers, 2, batch, self.sizes.heads, capacity, HEAD)
        return KVCache(keys_values, torch.zeros(batch, dtype=torch.int64, device=prefix.keys.device), prefix)

    def prefill(
        self,
        text_tokens: Tensor,
        text_lengths: Tensor,
        cache: KVCache,
        *,
        unconditional: Tensor | None = None,
        rows: Tensor | None = None,
    ) -> Tensor:
        """Begin sequences: logits (B, V) float32 of each one's first speech token, after [prefix | text | START].

        `text_tokens` (B, T) int64, right-padded with any valid token; `text_lengths` (B,). `unconditional` (B,) bool:
        these rows have their text embedding zeroed, positions stay (CFG). `rows` (B,): the cache's rows to begin in,
        whatever the others are doing; default: all of them, in order. ValueError if T + 1 is over the capacity.
        """
        batch, longest = text_tokens.shape
        length = longest + 1
        if length > cache.capacity:
            raise ValueError(f"{longest} text tokens and START do not fit a cache of {cache.capacity} positions")
        rows = cache.rows if rows is None else rows
        positions = cache.positions[:length]
        hidden = self.embed_text(text_tokens, text_lengths, positions + cache.prefix.length, unconditional)
        later = hidden_where(positions > positions[:, None], hidden.dtype)

        def attention(layer: int, projected: Tensor) -> Tensor:
            query, *own = split_heads(projected).unbind()
            cache.keys_values[layer][:, rows, :, :length] = torch.stack(own)
            return merge_heads(attend(query, (own[0], own[1]), later, cache.prefix_of(layer)))

        hidden = self.run_blocks(hidden, attention)
        cache.lengths[rows] = text_lengths + 1
        return self.logits(hidden[torch.arange(batch, device=rows.device), text_lengths])

    def embed_text(
        self, text_tokens: Tensor, text_lengths: Tensor, positions: Tensor, unconditional: Tensor | None = None
    ) -> Tensor:
        """[text | START] (B, T + 1, width); `positions` (T + 1,) or (B, T + 1), counted with the prefix.

        START stands right after each row's text; what follows it means nothing.
        """
        text = self.text_emb(text_tokens)
        if unconditional is not None:
            text = text.masked_fill(unconditional[:, None, None], 0)
        is_start = torch.arange(text.shape[1] + 1, device=text.device) == text_lengths[:, None]
        hidden = torch.where(is_start[..., None], self.speech_emb.weight[START_TOKEN], F.pad(text, (0, 0, 0, 1)))
        embedded: Tensor = hidden + self.tfmr.wpe(positions)
        return embedded

    def step(self, tokens: Tensor, cache: KVCache, span: int | None = None) -> Tensor:
        """Speech tokens (B,) int64 just chosen, to logits (B, V) float32 of the next; `cache.lengths` counts up.

        `span`: own positions that attention reads, at least the longest length + 1; default the capacity. A row that
        is full overwrites its last position: callers size the capacity so that this happens to idle rows only.
        """
        span = cache.capacity if span is None else span
        at = cache.lengths.clamp(max=cache.capacity - 1)
        hidden = (self.speech_emb(tokens) + self.tfmr.wpe(at + cache.prefix.length))[:, None]
        unfilled = hidden_where(cache.positions[:span] > at[:, None], hidden.dtype)[:, None, None]

        def attention(layer: int, projected: Tensor) -> Tensor:
            query, *new = split_heads(projected).unbind()
            own = cache.keys_values[layer]
            # Indexed dimensions come first.
            own[:, cache.rows, :, at] = torch.stack([part[:, :, 0] for part in new], 1)
            keys, values = own[..., :span, :].unbind()
            return merge_heads(attend(query, (keys, values), unfilled, cache.prefix_of(layer)))

        hidden = self.run_blocks(hidden, attention)
        cache.lengths.copy_(at + 1)
        return self.logits(hidden[:, 0])

    def logits(self, hidden: Tensor) -> Tensor:
        """The residual stream's end (B, width) to (B, V) float32."""
        logits: Tensor = self.speech_head(self.tfmr.ln_f(hidden))
        return logits.float()
