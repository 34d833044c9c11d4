"""Attention of one decoding step: new key and value into the cache, then one query over [prefix | own positions]."""

from __future__ import annotations

import importlib.util
from functools import cache

import torch
from torch import Tensor

HEAD = 64
"Width of an attention head, in every GPT-2."


@cache
def fused_fault() -> str | None:
    """Why the fused kernels cannot be used here; None if they can: they run once, on a few numbers.

    Triton comes with PyTorch's CUDA builds, but compiles at first use, with a C compiler and Python's headers.
    """
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    from tts_engine.chatterbox import triton_attention  # noqa: PLC0415  only where there is Triton

    with torch.device("cuda"):
        projected, own = torch.ones(1, 1, 3 * HEAD), torch.ones(2, 1, 1, 4, HEAD)
        at, prefix = torch.tensor([2]), torch.ones(1, 3, HEAD)
    try:
        mixed = triton_attention.attend_step(projected, own, at, prefix, prefix)
        works = bool(torch.allclose(mixed, torch.ones_like(mixed)))
    except Exception as error:  # noqa: BLE001 - compiler, driver and Triton each raise their own
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200] if str(error).strip() else ''}"
    return None if works else "they give wrong numbers"


def attend(query: Tensor, own: tuple[Tensor, Tensor], bias: Tensor, prefix: tuple[Tensor, Tensor]) -> Tensor:
    """Attention over the shared prefix and a sequence's own positions under one softmax.

    `query` (B, heads, Q, 64); `own` keys and values (B, heads, S, 64); `bias`, broadcast to (B, heads, Q, S), is -inf
    where own keys are hidden; `prefix` keys and values (heads, P, 64), all visible. Returns (B, heads, Q, 64).

    The batch is folded into the prefix's queries: one product reads the prefix once for all of them. Products and
    softmax accumulate in float32 whatever the dtype.
    """
    batch, heads, count, size = query.shape
    reach = prefix[0].shape[1]
    query = query * size**-0.5  # a power of two: exact
    to_prefix = torch.bmm(query.transpose(0, 1).flatten(1, 2), prefix[0].mT).view(heads, batch, count, reach)
    to_own = torch.matmul(query, own[0].mT) + bias
    weights = torch.softmax(torch.cat((to_prefix.transpose(0, 1), to_own), -1), -1)
    from_prefix = torch.bmm(weights[..., :reach].transpose(0, 1).flatten(1, 2), prefix[1])
    from_own = torch.matmul(weights[..., reach:], own[1])
    return from_own + from_prefix.view(heads, batch, count, size).transpose(0, 1)


class StepAttention:
    """What all layers of one step share: where each row stands, and which kernels are used."""

    def __init__(self, rows: Tensor, positions: Tensor, at: Tensor, span: int, dtype: torch.dtype) -> None:
        """`rows` (B,) 0, 1, ..; `positions` 0, 1, .. of the capacity; `at` (B,): the position of this step in each row;
        `span`: own positions read, above every `at`.
        """
        self._rows = rows
        self._at = at
        self._span = span
        self._fused = at.is_cuda and fused_fault() is None
        self._unfilled: Tensor | None = None
        if not self._fused:
            hidden = positions[:span] > at[:, None]
            self._unfilled = torch.zeros(hidden.shape, dtype=dtype, device=at.device).masked_fill(hidden, -torch.inf)

    def __call__(self, projected: Tensor, own: Tensor, prefix_keys: Tensor, prefix_values: Tensor) -> Tensor:
        """`projected` (B, 1, 3 heads 64): query, key, value; `own` (2, B, heads, capacity, 64), written in place;
        prefix keys and values (heads, P, 64). Returns (B, 1, heads 64).
        """
        if self._unfilled is None:
            from tts_engine.chatterbox import triton_attention  # noqa: PLC0415  only where there is Triton

            fused: Tensor = triton_attention.attend_step(projected, own, self._at, prefix_keys, prefix_values)
            return fused
        query, key, value = projected.view(len(projected), 1, 3, -1, HEAD).permute(2, 0, 3, 1, 4).unbind()
        # Indexed dimensions come first.
        own[:, self._rows, :, self._at] = torch.stack((key[:, :, 0], value[:, :, 0]), 1)
        span = slice(None, self._span)
        visible = own[0, :, :, span], own[1, :, :, span]
        mixed = attend(query, visible, self._unfilled[:, None, None], (prefix_keys, prefix_values))
        return mixed.transpose(1, 2).flatten(2)
