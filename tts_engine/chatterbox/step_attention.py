"""Attention of T3 in plain PyTorch, over the shared prefix and a sequence's own positions; and whether kernels run."""

from __future__ import annotations

import importlib.util
from functools import cache

import torch
from torch import Tensor

HEAD = 64
"Width of an attention head, in every GPT-2."


@cache
def fused_fault() -> str | None:
    """Why the fused kernels cannot be used here; None if they can: one runs, on a few numbers.

    Triton comes with PyTorch's CUDA builds, but compiles at first use, with a C compiler and Python's headers.
    """
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    try:
        from tts_engine.chatterbox.kernels.layer_norm import layer_norm  # noqa: PLC0415  only where there is Triton

        with torch.device("cuda"):
            x = torch.arange(384.0).sin().view(3, 128)
            weight, bias = x[0] + 2, x[1].clone()
        normed = layer_norm(x, weight, bias)
        works = bool(torch.allclose(normed, torch.nn.functional.layer_norm(x, (128,), weight, bias), atol=1e-4))
    except Exception as error:  # noqa: BLE001 - compiler, driver and Triton each raise their own
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200] if str(error).strip() else ''}"
    return None if works else "they give wrong numbers"


def split_heads(projected: Tensor) -> Tensor:
    """(B, Q, 3 heads 64) to (3, B, heads, Q, 64): queries, keys, values."""
    return projected.view(*projected.shape[:2], 3, -1, HEAD).permute(2, 0, 3, 1, 4)


def merge_heads(attended: Tensor) -> Tensor:
    """(B, heads, Q, 64) to (B, Q, heads 64)."""
    return attended.transpose(1, 2).flatten(2)


def hidden_where(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """-inf where `mask`, else 0."""
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(mask, -torch.inf)


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
