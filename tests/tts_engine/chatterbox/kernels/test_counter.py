"""The counter's Triton twin draws what chatterbox/counter.py draws."""

from __future__ import annotations

import pytest
import torch

from tests.tts_engine.chatterbox.triton_interpreter import DEVICE, NEEDED

triton = pytest.importorskip("triton")
tl = triton.language

from tts_engine.chatterbox import counter  # noqa: E402
from tts_engine.chatterbox.kernels.counter import counter_bits, counter_normal  # noqa: E402

pytestmark = NEEDED
COUNT = 4096


@triton.jit
def _draw(keys, indices, words, normals, count, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    within = at < count
    key = tl.load(keys + at, mask=within, other=0)
    index = tl.load(indices + at, mask=within, other=0)
    tl.store(words + at, counter_bits(key, index).to(tl.int64, bitcast=True), mask=within)
    tl.store(normals + at, counter_normal(key, index), mask=within)


def draw(keys: torch.Tensor, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    words = torch.full_like(indices, -1)
    normals = torch.full(indices.shape, torch.nan, device=indices.device)
    _draw[(triton.cdiv(len(indices), 1024),)](keys, indices, words, normals, len(indices), BLOCK=1024)
    return words, normals


@pytest.mark.parametrize("first", [0, 80 * 5000, 9 * 24000 * 3600, 1 << 40, -5])
def test_the_same_numbers(first: int) -> None:
    indices = torch.arange(first, first + COUNT)
    keys = torch.randint(-(2**63), 2**63 - 1, (COUNT,))
    words, normals = draw(keys.to(DEVICE), indices.to(DEVICE))
    assert torch.equal(words.cpu(), counter.bits(keys, indices))
    torch.testing.assert_close(normals.cpu(), counter.normal(keys, indices), atol=2e-6, rtol=0)


def test_one_key_and_neighbouring_keys() -> None:
    for by in (0, 1, -1):
        key = counter.key(11, counter.SOURCE) + by
        words, normals = draw(torch.full((COUNT,), key, device=DEVICE), torch.arange(COUNT, device=DEVICE))
        assert torch.equal(words.cpu(), counter.bits(key, torch.arange(COUNT)))
        assert abs(float(normals.mean())) < 5 / COUNT**0.5
        assert abs(float(normals.std()) - 1) < 5 / (2 * COUNT) ** 0.5
