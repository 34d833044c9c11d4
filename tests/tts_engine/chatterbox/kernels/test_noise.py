from __future__ import annotations

import random

import pytest
import torch

from tests.tts_engine.chatterbox.packed_windows import int32, starts_of
from tests.tts_engine.chatterbox.triton_interpreter import DEVICE, NEEDED

pytest.importorskip("triton")

from tts_engine.chatterbox.draws import plain_packed_noise
from tts_engine.chatterbox.kernels.noise import packed_noise, source_noise
from tts_engine.chatterbox.padded import plain_source_noise

pytestmark = NEEDED


@pytest.mark.parametrize("rows", [1, 5, 64])
@pytest.mark.parametrize("seed", range(2))
def test_the_noise_is_the_plain_ones(rows: int, seed: int) -> None:
    """Rows of any lengths, empty ones among them and behind, padding; up to an hour into a sequence."""
    random_ = random.Random(1000 * rows + seed)
    used = random_.randrange(rows + 1)
    prompt = [random_.choice([0, 3, 12]) for _ in range(used)]
    lengths = [tokens + random_.choice([0, 1, 7]) for tokens in prompt]
    fill = [0] * (rows - used)
    arguments = (
        torch.randint(-(2**63), 2**63 - 1, (rows,)),
        torch.randint(-(2**63), 2**63 - 1, (rows,)),
        starts_of(lengths, rows),
        int32(prompt + fill),
        int32([random_.randrange(90_000) for _ in range(used)] + fill),
    )
    size = sum(lengths) + random_.randrange(1, 30)
    noise = packed_noise(*(argument.to(DEVICE) for argument in arguments), size)
    torch.testing.assert_close(noise.cpu(), plain_packed_noise(*arguments, size), atol=2e-6, rtol=0)


def test_nothing() -> None:
    none = int32([0])
    keys = torch.zeros(1, dtype=torch.int64)
    assert packed_noise(keys, keys, starts_of([], 1), none, none, 0).shape == (0, 80)


@pytest.mark.parametrize(("rows", "frames"), [(1, 1), (3, 2), (2, 5)])
def test_the_source_s_noise_is_the_plain_one(rows: int, frames: int) -> None:
    """Up to an hour into a sequence."""
    keys, first = torch.randint(-(2**63), 2**63 - 1, (rows,)), torch.randint(0, 180_000, (rows,), dtype=torch.int32)
    noise = source_noise(keys.to(DEVICE), first.to(DEVICE), frames)
    torch.testing.assert_close(noise.cpu(), plain_source_noise(keys, first, frames), atol=2e-6, rtol=0)


def test_no_rows_no_source_noise() -> None:
    assert source_noise(torch.zeros(0, dtype=torch.int64), int32([]), 3).shape == (0, 9, 1440)
