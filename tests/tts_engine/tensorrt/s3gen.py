"""A small S3Gen for the tests of its stages: released shapes where they are fixed, small widths elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy

import torch
from torch import Tensor

from tests.tts_engine.chatterbox.flow_modules import liven
from tests.tts_engine.chatterbox.voices import make_voice
from tts_engine.chatterbox.flow import Flow, FlowSizes
from tts_engine.chatterbox.vocoder import ResBlock, Vocoder
from tts_engine.chatterbox.voice import Voice
from tts_engine.tensorrt.ports import Stage
from tts_engine.tensorrt.session import ModuleSession

SIZES = FlowSizes(
    vocabulary=50,
    width=32,
    heads=2,
    feed_forward=48,
    layers=1,
    up_layers=1,
    channels=32,
    time_width=32,
    estimator_heads=1,
    estimator_feed_forward=32,
    mid_blocks=1,
    transformers=1,
)
PROMPTS = (2, 5, 11)


def small_flow(sizes: FlowSizes = SIZES) -> Flow:
    return liven(Flow(sizes)).requires_grad_(False)


def voices(prompts: tuple[int, ...] = PROMPTS) -> list[Voice]:
    return [make_voice(1, prompt, seed) for seed, prompt in enumerate(prompts)]


def generator() -> torch.Generator:
    """Seeded afresh; pytest shows the seed of a failure."""
    made = torch.Generator()
    print("seed", made.seed())
    return made


class PoisonedSession(ModuleSession):
    """A module's session that checks what it is given, and gives NaN where a row has ended, as an engine may.

    `along`: of each output, the dimension in which the rows' positions lie, and how many a position of `lengths` makes.
    """

    def __init__(self, stage: Stage, along: Mapping[str, tuple[int, int]]) -> None:
        super().__init__(stage)
        self._along = along
        self.shapes: list[tuple[int, ...]] = []
        "Of the first input of each call."

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        dims: dict[str, int] = {}
        for port in self.inputs:
            tensor = inputs[port.name]
            assert tensor.dtype == port.dtype(torch.float32), port.name
            assert tensor.is_contiguous(), port.name
            assert tensor.isfinite().all(), port.name
            for axis, size in zip(port.shape, tensor.shape, strict=True):
                if isinstance(axis, str) and "*" not in axis:
                    assert dims.setdefault(axis, size) == size, port.name
            assert tuple(tensor.shape) == port.sizes(dims), port.name
        self.shapes.append(tuple(inputs[self.inputs[0].name].shape))
        outputs = super().run(inputs)
        for name, (dimension, each) in self._along.items():
            outputs[name] = poisoned(outputs[name], dimension, each * inputs["lengths"])
        return outputs


def poisoned(padded: Tensor, dimension: int, lengths: Tensor) -> Tensor:
    """(rows, ...) with NaN from each row's length on."""
    moved = padded.movedim(dimension, 1)
    inside = torch.arange(moved.shape[1]) < lengths[:, None]
    inside = inside.view(*inside.shape, *[1] * (moved.ndim - 2))
    return torch.where(inside, moved, torch.nan).movedim(1, dimension).contiguous()


def shallow(vocoder: Vocoder) -> Vocoder:
    """A copy with one pair of convolutions in place of thirty-six: the same kinds of operators, exported in seconds."""
    vocoder = deepcopy(vocoder).requires_grad_(False)
    for at, block in enumerate((*vocoder.resblocks, *vocoder.source_resblocks)):
        assert isinstance(block, ResBlock)
        for layers in (block.convs1, block.convs2, block.activations1, block.activations2):
            del layers[0 if at else 1 :]
    return vocoder
