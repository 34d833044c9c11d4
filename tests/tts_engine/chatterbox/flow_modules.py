"""Small flow modules with seeded weights and a fixture, for the tests of the flow and of its parts."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

from tts_engine.chatterbox.flow import Flow, FlowSizes

Module = TypeVar("Module", bound=nn.Module)

SMALL = FlowSizes(
    vocabulary=50,
    x_vector=12,
    mel_bins=6,
    width=32,
    heads=4,
    feed_forward=48,
    layers=2,
    up_layers=1,
    look_ahead=3,
    channels=24,
    time_width=40,
    estimator_heads=2,
    estimator_feed_forward=40,
    mid_blocks=2,
    transformers=2,
)


def liven(module: Module, seed: int = 1) -> Module:
    """Every weight random, so that a swapped or forgotten one shows; products keep their size."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            spread = parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.2
            parameter.copy_(spread * torch.randn(parameter.shape, generator=generator))
        for part in module.modules():
            if isinstance(part, nn.LayerNorm):
                part.weight += 1
    return module.eval()


def random(*shape: int, seed: int = 5) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def small_flow(seed: int = 1) -> Flow:
    return liven(Flow(SMALL), seed)
