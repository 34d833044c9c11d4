"""T3 over a paged cache with Triton's kernels between cuBLAS's products.

Eight kernels a layer and step: four products, attention in two, two LayerNorms; prefill's attention is one. The same
parameters and the same rounding points as T3's modules, but that LayerNorm and attention accumulate and mix in float32.
Only where there is Triton.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from tts_engine.chatterbox.kernels.layer_norm import begin_step, layer_norm
from tts_engine.chatterbox.kernels.prefill_attention import attend_prefill
from tts_engine.chatterbox.kernels.step_attention import attend_step
from tts_engine.chatterbox.paged_t3 import PagedCache, StepReads
from tts_engine.chatterbox.t3 import T3, AttentionCall, Block, Projection

_LOGITS_MULTIPLE = 128
"Rows of the head are padded up to it: cuBLAS is slow where rows of its output are not aligned."


def _project(x: Tensor, projection: Projection) -> Tensor:
    return torch.addmm(projection.bias, x, projection.weight)


def _widen(x: Tensor, projection: Projection) -> Tensor:
    """Projection and gelu_new, on CUDA in one kernel: cuBLAS's GELU is the tanh form."""
    if x.is_cuda:
        return torch._addmm_activation(projection.bias, x, projection.weight, use_gelu=True)
    return F.gelu(_project(x, projection), approximate="tanh")


class FusedPasses:
    """See paged_t3.PlainPasses. Logits have more columns than the vocabulary; what they hold means nothing."""

    def __init__(self, t3: T3, cache: PagedCache) -> None:
        self._t3 = t3
        self._cache = cache
        self._blocks: list[Block] = t3.tfmr.blocks()
        head = t3.speech_head
        padding = -len(head.weight) % _LOGITS_MULTIPLE
        with torch.inference_mode():
            self._head = F.pad(head.weight, (0, 0, 0, padding)).t()
            self._head_bias = F.pad(head.bias, (0, padding))

    def prefill(self, text: Tensor, lengths: Tensor, rows: Tensor, unconditional: Tensor | None) -> Tensor:
        """See PlainPasses."""
        cache = self._cache
        batch, length = len(rows), text.shape[1] + 1
        voice = cache.voice[rows]
        positions = torch.arange(length, device=rows.device) + cache.prefix_lengths[voice][:, None]
        hidden = self._t3.embed_text(text, lengths, positions, unconditional).flatten(0, 1)

        def attention(layer: int, projected: Tensor) -> Tensor:
            attended: Tensor = attend_prefill(
                projected.view(batch, length, -1),
                rows,
                lengths,
                voice,
                cache.tables,
                cache.keys_values[layer],
                cache.prefixes[:, layer],
                cache.prefix_lengths,
            )
            return attended.flatten(0, 1)

        norm = self._blocks[0].ln_1
        added = self._run(hidden, layer_norm(hidden, norm.weight, norm.bias), attention)
        cache.lengths[rows] = (lengths + 1).to(torch.int32).masked_fill(cache.is_idle(rows), 0)
        last = torch.arange(batch, device=rows.device) * length + lengths
        return self._logits(hidden[last], added[last])

    def step(self, last: Tensor, rows: Tensor, reads: StepReads | None = None) -> Tensor:
        """See PlainPasses."""
        cache, norm = self._cache, self._blocks[0].ln_1
        begun = begin_step(
            rows,
            last,
            cache.lengths,
            cache.voice,
            cache.prefix_lengths,
            self._t3.speech_emb.weight,
            self._t3.tfmr.wpe.weight,
            norm.weight,
            norm.bias,
            cache.positions,
        )

        def attention(layer: int, projected: Tensor) -> Tensor:
            attended: Tensor = attend_step(
                projected,
                rows,
                begun.at,
                begun.voice,
                cache.tables,
                cache.keys_values[layer],
                cache.prefixes[:, layer],
                cache.prefix_lengths,
            )
            return attended

        return self._logits(begun.hidden, self._run(begun.hidden, begun.normed, attention))

    def _run(self, hidden: Tensor, normed: Tensor, attention: AttentionCall) -> Tensor:
        """All blocks over the stream `hidden` (N, width), changed in place; `normed`: the first LN of it.

        Returns what the last block has still to add: its caller's LN does that.
        """
        following = [block.ln_1 for block in self._blocks[1:]]
        for layer, block in enumerate(self._blocks):
            attended = _project(attention(layer, _project(normed, block.attn.c_attn)), block.attn.c_proj)
            normed = layer_norm(hidden, block.ln_2.weight, block.ln_2.bias, attended)
            added = _project(_widen(normed, block.mlp.c_fc), block.mlp.c_proj)
            if layer < len(following):
                normed = layer_norm(hidden, following[layer].weight, following[layer].bias, added)
        return added

    def _logits(self, hidden: Tensor, added: Tensor) -> Tensor:
        norm = self._t3.tfmr.ln_f
        return torch.addmm(self._head_bias, layer_norm(hidden, norm.weight, norm.bias, added), self._head)
