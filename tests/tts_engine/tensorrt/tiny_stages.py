"""Stages of the real names whose modules are trivial: for what only looks for engines, loads them and asks them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from tts_engine.tensorrt.ports import Port, Stage
from tts_engine.tensorrt.profiles import PROFILES


class Sum(nn.Module):
    def forward(self, *inputs: Tensor) -> tuple[Tensor]:
        return (torch.stack([x.float().flatten(1).sum(1) for x in inputs]).sum(0),)


def tiny_stages() -> list[Stage]:
    """An input for each size that varies, rows first."""
    return [_stage(name, [dim for dim in profiles[0].dims if dim != "rows"]) for name, profiles in PROFILES.items()]


def _stage(name: str, varying: list[str]) -> Stage:
    inputs = tuple(Port(f"in_{dim}", "half", ("rows", dim)) for dim in varying)

    def example(dims: Mapping[str, int], generator: torch.Generator) -> dict[str, Tensor]:
        return {port.name: torch.randn(port.sizes(dims), generator=generator) for port in inputs}

    return Stage(name, Sum(), inputs, (Port("sum", "float32", ("rows",)),), example)
