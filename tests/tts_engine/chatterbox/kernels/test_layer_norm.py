"""Residual add and LayerNorm, and the beginning of a step, against PyTorch's own."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from tests.tts_engine.chatterbox.triton_interpreter import DEVICE, NEEDED

pytest.importorskip("triton")

from tts_engine.chatterbox.kernels.layer_norm import begin_step, layer_norm

pytestmark = NEEDED
HALF = torch.bfloat16 if DEVICE == "cuda" else torch.float16
"The interpreter cuts bfloat16 off where the GPU rounds."
ERROR = {torch.float32: 1e-5, HALF: 0.04}


def draw(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, device=DEVICE).to(dtype)


@pytest.mark.parametrize("width", [64, 768, 1024])
@pytest.mark.parametrize("dtype", ERROR)
def test_it_is_layer_norm(width: int, dtype: torch.dtype) -> None:
    x, weight, bias = 3 * draw(5, width, dtype=dtype) + 1, draw(width, dtype=dtype), draw(width, dtype=dtype)
    before = x.clone()
    got = layer_norm(x, weight, bias)
    expected = F.layer_norm(x.float(), (width,), weight.float(), bias.float())
    torch.testing.assert_close(got.float(), expected, atol=ERROR[dtype], rtol=0.01)
    assert got.dtype == dtype
    assert torch.equal(x, before)


@pytest.mark.parametrize("dtype", ERROR)
def test_what_is_added_is_added_in_place_first(dtype: torch.dtype) -> None:
    x, added = draw(4, 192, dtype=dtype), draw(4, 192, dtype=dtype)
    weight, bias = draw(192, dtype=dtype), draw(192, dtype=dtype)
    total = x + added
    got = layer_norm(x, weight, bias, added)
    assert torch.equal(x, total)
    expected = F.layer_norm(total.float(), (192,), weight.float(), bias.float())
    torch.testing.assert_close(got.float(), expected, atol=ERROR[dtype], rtol=0.01)


def test_a_large_mean_does_not_hide_the_variance() -> None:
    x = draw(3, 256) + 1000
    got = layer_norm(x, torch.ones(256, device=DEVICE), torch.zeros(256, device=DEVICE))
    torch.testing.assert_close(got, F.layer_norm(x.double(), (256,)).float(), atol=1e-3, rtol=0)


@pytest.mark.parametrize("dtype", ERROR)
def test_a_step_begins_with_its_tokens_at_their_positions(dtype: torch.dtype) -> None:
    """Slots 0..4 and the idle one, twins after them; rows in any order, the idle one twice."""
    slots, width, positions = 6, 128, 20

    def ints(*values: int) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int32, device=DEVICE)

    lengths = ints(3, 0, 19, 20, 7, 0, *[1] * slots)
    lengths[2 * slots - 1] = 0
    before = lengths.tolist()
    voice, prefixes = torch.randint(3, (2 * slots,), dtype=torch.int32, device=DEVICE), ints(4, 0, 9)
    last = torch.randint(30, (slots,), dtype=torch.int32, device=DEVICE)
    speech, places = draw(30, width, dtype=dtype), draw(29, width, dtype=dtype)
    weight, bias = draw(width, dtype=dtype), draw(width, dtype=dtype)
    order = [4, 5, 2, 5, 3, 6, 2 * slots - 1]
    step = begin_step(ints(*order), last, lengths, voice, prefixes, speech, places, weight, bias, positions)
    for index, row in enumerate(order):
        at = min(before[row], positions - 1)
        assert int(step.at[index]) == at
        assert int(step.voice[index]) == int(voice[row])
        expected = speech[int(last[row % slots])] + places[at + int(prefixes[int(voice[row])])]
        assert torch.equal(step.hidden[index], expected)
        normed = F.layer_norm(expected.float(), (width,), weight.float(), bias.float())
        torch.testing.assert_close(step.normed[index].float(), normed, atol=ERROR[dtype], rtol=0.01)
        before[row] = 0 if row % slots == slots - 1 else at + 1
    assert lengths.tolist() == before
