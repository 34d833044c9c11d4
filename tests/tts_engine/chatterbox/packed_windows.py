"""Batches of windows for tests, packed as the runner packs them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tts_engine.chatterbox.chunk_plan import ChunkPlan
from tts_engine.chatterbox.windows import Windows


def int32(numbers: Sequence[int]) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.int32)


def starts_of(lengths: Sequence[int], rows: int = 0) -> torch.Tensor:
    """(R + 1,): where rows of these lengths lie; up to `rows` of them, those not given being empty."""
    return torch.tensor([0, *lengths, *[0] * (rows - len(lengths))]).cumsum(0).int()


def windows(
    plans: Sequence[ChunkPlan],
    slots: Sequence[int],
    flow_at: Sequence[int],
    begins: Sequence[bool],
    rows: int,
    idle: int,
) -> Windows:
    """The windows of a batch of `rows` rows; those not given are unused."""
    unused = [0] * (rows - len(plans))

    def column(name: str) -> torch.Tensor:
        return int32([*[getattr(plan, name) for plan in plans], *unused])

    return Windows(
        slot=int32([*slots, *[idle] * len(unused)]),
        base=column("base"),
        spoken=column("spoken"),
        known=column("known"),
        until=column("until"),
        next_base=column("next_base"),
        fade=column("fade"),
        flow_at=int32([*flow_at, *unused]),
        begins=int32([*map(int, begins), *unused]),
        starts=starts_of([plan.window_frames for plan in plans], rows),
    )
