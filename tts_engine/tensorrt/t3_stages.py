"""T3's two stages: `t3_prefill` begins sequences, `t3_step` gives each its next token's logits.

The arithmetic is T3's, with the residual stream, LayerNorm and softmax in float32 and products in the module's dtype.
The KV cache goes in as it lies (see paged_t3.PagedCache) but for its first axes, which are one: TensorRT would copy it
whole to do that. New keys and values come out: the caller writes them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from tts_engine.chatterbox.constants import SPEAKER_EMBEDDING, START_TOKEN
from tts_engine.chatterbox.paged_t3 import MOST_PREFIX, PAGE
from tts_engine.chatterbox.step_attention import HEAD, merge_heads, split_heads
from tts_engine.chatterbox.t3 import T3, AttentionCall, VoicePrefix
from tts_engine.tensorrt.ports import Port, Stage
from tts_engine.tensorrt.prefix_tiles import most_tiles, prefix_tiles
from tts_engine.tensorrt.profiles import PREFIX_TILE


def prefill_stage(t3: T3, voices_example: Sequence[VoicePrefix] = (), *, most_prefix: int = MOST_PREFIX) -> Stage:
    """`most_prefix`: as in the cache. Examples speak with `voices_example`, else with voices made up by the model."""
    sizes = t3.sizes
    return Stage(
        "t3_prefill",
        PrefillModule(t3).eval(),
        (
            Port("text", "int64", ("rows", "text")),
            Port("lengths", "int32", ("rows",)),
            Port("unconditional", "bool", ("rows",)),
            Port("voice", "int32", ("rows",)),
            *_bank_ports(t3, most_prefix),
        ),
        (
            Port("logits", "float32", ("rows", sizes.speech_vocabulary)),
            Port("keys_values", "half", (sizes.layers, 2, "rows", sizes.heads, "positions", HEAD)),
        ),
        _PrefillExample(t3, voices_example, most_prefix),
    )


def step_stage(t3: T3, voices_example: Sequence[VoicePrefix] = (), *, most_prefix: int = MOST_PREFIX) -> Stage:
    """As prefill_stage."""
    sizes = t3.sizes
    return Stage(
        "t3_step",
        StepModule(t3).eval(),
        (
            Port("tokens", "int32", ("rows",)),
            Port("own", "int32", ("rows",)),
            Port("voice", "int32", ("rows",)),
            *_bank_ports(t3, most_prefix),
            Port("tile_rows", "int32", ("tiles", PREFIX_TILE)),
            Port("tile_voice", "int32", ("tiles",)),
            Port("place", "int32", ("rows",)),
            Port("tables", "int32", ("rows", "pages")),
            *(Port(f"pages_{layer}", "half", ("2*pool", sizes.heads, PAGE, HEAD)) for layer in range(sizes.layers)),
        ),
        (
            Port("logits", "float32", ("rows", sizes.speech_vocabulary)),
            Port("keys_values", "half", (sizes.layers, 2, "rows", sizes.heads, HEAD)),
        ),
        _StepExample(t3, voices_example, most_prefix),
    )


def _bank_ports(t3: T3, most_prefix: int) -> tuple[Port, Port]:
    sizes = t3.sizes
    return (
        Port("prefix_lengths", "int32", ("voices",)),
        Port("prefixes", "half", (f"{2 * sizes.layers}*voices", sizes.heads, most_prefix, HEAD)),
    )


class PrefillModule(nn.Module):
    """[text | START] of each row, after the prefix of its voice."""

    def __init__(self, t3: T3) -> None:
        super().__init__()
        self.t3 = t3

    def forward(
        self,
        text: Tensor,
        lengths: Tensor,
        unconditional: Tensor,
        voice: Tensor,
        prefix_lengths: Tensor,
        prefixes: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """See prefill_stage. What stands after START means nothing, in the keys and values too."""
        t3, device, voice = self.t3, text.device, voice.long()
        reach = prefix_lengths[voice][:, None]
        own = torch.arange(text.shape[1] + 1, device=device)
        embedded = t3.text_emb(text).float().masked_fill(unconditional[:, None, None], 0)
        is_start = (own == lengths[:, None])[..., None]
        hidden = torch.where(is_start, t3.speech_emb.weight[START_TOKEN].float(), F.pad(embedded, (0, 0, 0, 1)))
        hidden = hidden + t3.tfmr.wpe(own + reach).float()
        in_prefix = (torch.arange(prefixes.shape[2], device=device) < reach)[:, None].expand(-1, own.shape[0], -1)
        not_later = (own <= own[:, None]).expand(in_prefix.shape[0], -1, -1)
        # Every query has a row of its own: ONNX's Attention is not trusted to broadcast that axis.
        visible = torch.cat((in_prefix, not_later), 2)[:, None]
        kept: list[Tensor] = []

        def attention(layer: int, projected: Tensor) -> Tensor:
            query, *new = split_heads(projected).unbind()
            kept.append(torch.stack(new))
            spoken = _not_before(query, voice)
            keys, values = (
                torch.cat((prefixes[_in_bank(t3, spoken, layer, kind)], part), 2) for kind, part in enumerate(new)
            )
            return merge_heads(F.scaled_dot_product_attention(query, keys, values, attn_mask=visible))

        hidden = _run_blocks(t3, hidden, attention)
        at_start = lengths.long()[:, None, None].expand(-1, -1, hidden.shape[2])
        return _logits(t3, hidden.gather(1, at_start)[:, 0]), torch.stack(kept)


class StepModule(nn.Module):
    """One token for each row."""

    def __init__(self, t3: T3) -> None:
        super().__init__()
        self.t3 = t3

    def forward(
        self,
        tokens: Tensor,
        own: Tensor,
        voice: Tensor,
        prefix_lengths: Tensor,
        prefixes: Tensor,
        tile_rows: Tensor,
        tile_voice: Tensor,
        place: Tensor,
        tables: Tensor,
        *pages: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """See step_stage. Own positions before `own` are read from the pages, this token's come from itself."""
        t3, most_prefix, device = self.t3, prefixes.shape[2], tokens.device
        # ONNX's GatherND takes no other.
        voice, tile_rows, tile_voice, place, tables = (
            index.long() for index in (voice, tile_rows, tile_voice, place, tables)
        )
        reach = prefix_lengths[voice]
        hidden = t3.speech_emb(tokens).float() + t3.tfmr.wpe(own + reach).float()
        in_prefix = torch.arange(most_prefix, device=device) < reach[:, None]
        filled = torch.arange(PAGE * tables.shape[1], device=device) < own[:, None]
        visible = torch.cat((in_prefix, filled, torch.ones_like(own, dtype=torch.bool)[:, None]), 1)[:, None]
        # A page's rest may be anything, NaN too, and 0 times NaN is NaN.
        unfilled = ~filled.view(-1, tables.shape[1], 1, PAGE, 1)
        kept: list[Tensor] = []

        def attention(layer: int, projected: Tensor) -> Tensor:
            query, key, value = split_heads(projected[:, None])[..., 0, :].unbind()  # each (rows, heads, 64)
            kept.append(torch.stack((key, value)))
            query = query * HEAD**-0.5  # a power of two: exact
            # Each is gathered by itself: a slice of what was gathered would be one copy more.
            kinds, read, spoken = pages[layer], _not_before(query, tables), _not_before(query, tile_voice)
            own_keys, own_values = kinds[2 * read], kinds[2 * read + 1]  # (rows, pages, heads, PAGE, 64)
            prefix_keys, prefix_values = (prefixes[_in_bank(t3, spoken, layer, kind)] for kind in (0, 1))
            # Keys on the left: transposed, they would be copied (a single query on the right would be padded).
            to_prefix = _by_row((prefix_keys @ _by_tile(query, tile_rows).mT).mT, place)
            to_own = _by_position((query[:, None, :, None] @ own_keys.mT)[..., 0, :])
            to_self = (query * key).sum(-1, keepdim=True)
            scores = torch.cat((to_prefix, to_own, to_self), 2).float().masked_fill(~visible, -torch.inf)
            weights = scores.softmax(2).to(value.dtype)
            of_prefix, of_own, of_self = weights.tensor_split((most_prefix, weights.shape[2] - 1), 2)
            from_prefix = _by_row(_by_tile(of_prefix, tile_rows) @ prefix_values, place)
            from_own = _by_page(of_own, tables.shape[1]) @ own_values.masked_fill(unfilled, 0)
            return (from_prefix + from_own.sum(1)[:, :, 0] + of_self * value).flatten(1)

        hidden = _run_blocks(t3, hidden, attention)
        return _logits(t3, hidden), torch.stack(kept)


def _not_before(query: Tensor, index: Tensor) -> Tensor:
    """The index as it is, but known only when the query is.

    What a layer gathers depends on nothing that the layers before compute: TensorRT would gather for all of them at
    once, and hold 24 times what one needs. No number's magnitude is below zero, nor is NaN's.
    """
    return index + (query.flatten()[:1].abs() < 0).to(index.dtype)


def _in_bank(t3: T3, voice: Tensor, layer: int, kind: int) -> Tensor:
    """Where in the flat bank the keys (0) or values (1) of these voices lie."""
    return (voice * t3.sizes.layers + layer) * 2 + kind


def _by_tile(by_row: Tensor, tile_rows: Tensor) -> Tensor:
    """(rows, heads, N) to (tiles, heads, 16, N)."""
    return by_row[tile_rows].transpose(1, 2)


def _by_row(by_tile: Tensor, place: Tensor) -> Tensor:
    """(tiles, heads, 16, N) to (rows, heads, N)."""
    return by_tile.transpose(1, 2).flatten(0, 1)[place]


def _by_position(by_page: Tensor) -> Tensor:
    """(rows, pages, heads, PAGE) to (rows, heads, pages PAGE)."""
    return by_page.transpose(1, 2).flatten(2)


def _by_page(by_position: Tensor, pages: int) -> Tensor:
    """(rows, heads, pages PAGE) to (rows, pages, heads, 1, PAGE)."""
    return by_position.view(*by_position.shape[:2], pages, PAGE).transpose(1, 2)[..., None, :]


def _run_blocks(t3: T3, hidden: Tensor, attention: AttentionCall) -> Tensor:
    """T3.run_blocks with the stream `hidden` (..., width) in float32."""
    for layer, block in enumerate(t3.tfmr.blocks()):
        attended = attention(layer, block.attn.c_attn(_norm(block.ln_1, hidden)))
        hidden = hidden + block.attn.c_proj(attended).float()
        hidden = hidden + block.mlp(_norm(block.ln_2, hidden)).float()
    return hidden


def _norm(norm: nn.LayerNorm, hidden: Tensor) -> Tensor:
    """In float32, then of the weights' dtype."""
    weight, bias = norm.weight.float(), norm.bias.float()
    return F.layer_norm(hidden, norm.normalized_shape, weight, bias, norm.eps).to(norm.weight.dtype)


def _logits(t3: T3, hidden: Tensor) -> Tensor:
    """(rows, width) to (rows, V) float32."""
    logits: Tensor = t3.speech_head(_norm(t3.tfmr.ln_f, hidden))
    return logits.float()


class _Example:
    """What both stages' examples have in common: voices as the model makes them, so that ranges are true."""

    def __init__(self, t3: T3, voices: Sequence[VoicePrefix], most_prefix: int) -> None:
        self._t3, self._voices, self._most_prefix = t3, voices, most_prefix

    def _bank(self, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        """`prefix_lengths` and `prefixes` of so many voices; no more than two of them differ."""
        voices = list(self._voices[:count]) or [self._voice(generator) for _ in range(min(count, 2))]
        bank = [
            F.pad(torch.stack((voice.keys, voice.values), 1), (0, 0, 0, self._most_prefix - voice.length))
            for voice in voices
        ]
        turns = [index % len(voices) for index in range(count)]
        return {
            "prefix_lengths": torch.tensor([voices[turn].length for turn in turns], dtype=torch.int32),
            "prefixes": torch.stack([bank[turn].float().cpu() for turn in turns]).flatten(0, 2),
        }

    @torch.inference_mode()
    def _voice(self, generator: torch.Generator) -> VoicePrefix:
        device = self._t3.speech_head.weight.device
        prompt = torch.randint(START_TOKEN, (_random(self._most_prefix, generator),), generator=generator)
        speaker = F.normalize(torch.randn(SPEAKER_EMBEDDING, generator=generator), dim=0)
        return self._t3.prefix(speaker.to(device), prompt.to(device))


class _PrefillExample(_Example):
    def __call__(self, dims: Mapping[str, int], generator: torch.Generator) -> dict[str, Tensor]:
        """See Stage."""
        rows, text = dims["rows"], dims["text"]
        words = self._t3.sizes.text_vocabulary
        lengths = torch.randint(text + 1, (rows,), generator=generator, dtype=torch.int32)
        lengths[0] = text
        return {
            "text": torch.randint(words, (rows, text), generator=generator),
            "lengths": lengths,
            "unconditional": torch.rand(rows, generator=generator) < 0.2,
            "voice": torch.randint(dims["voices"], (rows,), generator=generator, dtype=torch.int32),
            **self._bank(dims["voices"], generator),
        }


class _StepExample(_Example):
    def __call__(self, dims: Mapping[str, int], generator: torch.Generator) -> dict[str, Tensor]:
        """See Stage. ValueError if the rows do not fit the tiles even with a single voice."""
        rows, pages, pool, voices, sizes = dims["rows"], dims["pages"], dims["pool"], dims["voices"], self._t3.sizes
        fitting = [count for count in range(1, voices + 1) if most_tiles(rows, count) <= dims["tiles"]]
        if not fitting:
            raise ValueError(f"{rows} rows do not fit {dims['tiles']} tiles")
        voice = torch.randint(fitting[-1], (rows,), generator=generator, dtype=torch.int32)
        tiles = prefix_tiles(voice, voices, dims["tiles"])
        own = torch.randint(min(pages * PAGE, sizes.positions - self._most_prefix), (rows,), generator=generator)
        bank = self._bank(voices, generator)
        return {
            "tokens": torch.randint(START_TOKEN, (rows,), generator=generator, dtype=torch.int32),
            "own": own.int(),
            "voice": voice,
            **bank,
            "tile_rows": tiles.rows,
            "tile_voice": tiles.voice,
            "place": tiles.place,
            "tables": torch.randint(pool, (rows, pages), generator=generator, dtype=torch.int32),
            **self._pool(bank, pool, generator),
        }

    def _pool(self, bank: dict[str, Tensor], pool: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Each layer's pages, filled with what voices left at positions drawn at random."""
        of_one = 2 * self._t3.sizes.layers
        one = bank["prefixes"][:of_one].view(-1, 2, *bank["prefixes"].shape[1:])
        filled = one[:, :, :, : int(bank["prefix_lengths"][0])]
        drawn = torch.randint(filled.shape[3], (pool, PAGE), generator=generator)
        return {
            f"pages_{layer}": of_layer[:, :, drawn].permute(2, 0, 1, 3, 4).flatten(0, 1)
            for layer, of_layer in enumerate(filled)
        }


def _random(below: int, generator: torch.Generator) -> int:
    return int(torch.randint(below, (), generator=generator))
