"""Layers that the flow's encoder and estimator share.

Activations are (B, T, C) throughout: attention and LayerNorm want them so, and a convolution over few taps is one
matrix product over the frames laid side by side. Weights that are used together are kept together; the state dict
has the released names and shapes all the same, in and out.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

MASKED = -30000.0
"Added to the scores of padding: exp() of it is 0 in every dtype, and it does not overflow float16 as -1e10 does."

_ALIGNED = 16  # elements: what CUDA's masked attention kernels want of a mask's rows, or they copy it


def within(lengths: torch.Tensor, size: int) -> torch.Tensor:
    """(B,) to (B, size) bool: True where a row has something, computed on its device."""
    return torch.arange(size, device=lengths.device) < lengths[:, None]


def key_bias(lengths: torch.Tensor, size: int, dtype: torch.dtype) -> torch.Tensor:
    """(B,) to (B, 1, 1, size): what to add to attention scores so that padding is not read.

    Finite, so a row of length 0 (a free slot of a batch) gives meaningless numbers, but no NaN.
    """
    # Rows that begin aligned. (Rounding `size` up would do, but ties an exported graph to one remainder.)
    bias = (~within(lengths, _ALIGNED * size)).to(dtype) * MASKED
    return bias[:, None, None, :size]


def stack_projections(module: nn.Module, parts: tuple[str, ...], whole: str) -> None:
    """Let `module.whole`, one nn.Linear, stand for the nn.Linears `parts` of the state dict, whose rows it stacks."""
    module.register_load_state_dict_pre_hook(partial(_stack, parts, whole))  # type: ignore[no-untyped-call]
    module.register_state_dict_post_hook(partial(_unstack, parts, whole))  # type: ignore[no-untyped-call]


def _stack(parts: tuple[str, ...], whole: str, _: nn.Module, state: dict[str, Any], prefix: str, *__: Any) -> None:
    for kind in ("weight", "bias"):
        names = [f"{prefix}{part}.{kind}" for part in parts]
        if all(name in state for name in names):
            state[f"{prefix}{whole}.{kind}"] = torch.cat([state.pop(name) for name in names])


def _unstack(parts: tuple[str, ...], whole: str, _: nn.Module, state: dict[str, Any], prefix: str, __: Any) -> None:
    for kind in ("weight", "bias"):
        stacked = state.pop(f"{prefix}{whole}.{kind}", None)
        if stacked is not None:
            for part, rows in zip(parts, stacked.chunk(len(parts)), strict=True):
                state[f"{prefix}{part}.{kind}"] = rows


class FrameConv(nn.Linear):
    """Convolution over time of (B, T, in) to (B, T, out), stride 1, zeros outside.

    Reads `kernel - 1 - ahead` frames of the past and `ahead` of the future. The state dict's weight is
    nn.Conv1d's (out, in, kernel), ours (out, kernel * in).
    """

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, *, ahead: int = 0) -> None:
        super().__init__(kernel * inputs, outputs)
        self.kernel = kernel
        self.ahead = ahead
        self.register_load_state_dict_pre_hook(_taps_to_columns)  # type: ignore[no-untyped-call]
        self.register_state_dict_post_hook(_columns_to_taps)  # type: ignore[no-untyped-call]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.kernel > 1:
            frames = x.shape[1]
            padded = F.pad(x, (0, 0, self.kernel - 1 - self.ahead, self.ahead))
            x = torch.cat([padded[:, tap : tap + frames] for tap in range(self.kernel)], dim=-1)
        return super().forward(x)


def _taps_to_columns(_: nn.Module, state: dict[str, Any], prefix: str, *__: Any) -> None:
    weight = state.get(f"{prefix}weight")
    if weight is not None and weight.ndim == 3:
        state[f"{prefix}weight"] = weight.transpose(1, 2).flatten(1)


def _columns_to_taps(module: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    if isinstance(module, FrameConv):
        weight = state[f"{prefix}weight"]
        state[f"{prefix}weight"] = weight.unflatten(1, (module.kernel, -1)).transpose(1, 2)
