from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from tests.tts_engine.chatterbox import triton_interpreter
from tests.tts_engine.chatterbox.test_packing import packed
from tests.tts_engine.chatterbox.triton_interpreter import DEVICE, ROUNDING
from tts_engine.chatterbox.flow_layers import FrameConv

pytestmark = triton_interpreter.NEEDED
pytest.importorskip("triton")

from tts_engine.chatterbox.kernels.flow_taps import gather_taps  # noqa: E402


def gather(
    x: torch.Tensor,
    shift: torch.Tensor,
    lengths: list[int],
    *,
    taps: int = 3,
    ahead: int = 0,
    out: torch.Tensor | None = None,
    column: int = 0,
) -> torch.Tensor:
    packing = packed(lengths, len(x) - sum(lengths))
    if out is None:
        out = torch.full((len(x), taps * x.shape[1]), torch.nan, device=DEVICE, dtype=x.dtype)
    position, left = packing.position.to(DEVICE), packing.left.to(DEVICE)
    return gather_taps(x, shift, position, left, out, taps=taps, ahead=ahead, column=column)


@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.too_slow])
@given(
    lengths=st.lists(st.integers(0, 40), min_size=1, max_size=5).filter(lambda lengths: sum(lengths) > 0),
    kernel=st.sampled_from([(3, 0), (4, 3), (1, 0), (3, 1)]),
    padding=st.integers(0, 5),
)
def test_a_convolution_of_each_row(lengths: list[int], kernel: tuple[int, int], padding: int) -> None:
    taps, ahead = kernel
    conv = FrameConv(24, 8, taps, ahead=ahead).to(DEVICE)
    x, shift = torch.randn(sum(lengths) + padding, 24, device=DEVICE), torch.randn(24, device=DEVICE)
    x[sum(lengths) :] = torch.nan
    with torch.no_grad():
        out = F.linear(gather(x, shift, lengths, taps=taps, ahead=ahead), conv.weight, conv.bias)
        start = 0
        for length in lengths:
            rows = slice(start, start + length)
            if length:
                torch.testing.assert_close(out[rows], conv((x[rows] + shift)[None])[0], atol=1e-5, rtol=1e-5)
            start += length


def test_two_sources_side_by_side() -> None:
    lengths = [5, 1, 3]
    first, second = torch.randn(9, 16, device=DEVICE), torch.randn(9, 80, device=DEVICE)
    zeros = torch.zeros(96, device=DEVICE)
    out = torch.full((9, 3 * 96), torch.nan, device=DEVICE)
    gather(first, zeros, lengths, out=out)
    gather(second, zeros, lengths, out=out, column=16)
    assert torch.equal(out, gather(torch.cat((first, second), 1), zeros, lengths))


def test_the_shift_is_not_added_where_no_frame_is() -> None:
    out = gather(torch.zeros(4, 16, device=DEVICE), torch.ones(16, device=DEVICE), [1, 3])
    taps = out.view(4, 3, 16)[..., 0]
    assert taps.tolist() == [[0, 0, 1], [0, 0, 1], [0, 1, 1], [1, 1, 1]]


def test_float32_is_rounded_to_the_buffer() -> None:
    x = torch.randn(6, 80, device=DEVICE)
    out = torch.full((6, 240), torch.nan, device=DEVICE, dtype=torch.bfloat16)
    gather(x, torch.zeros(80, device=DEVICE), [6], out=out)
    torch.testing.assert_close(out[:, 160:].float(), x, atol=0, rtol=2**-8 * ROUNDING)
    assert torch.equal(out[2:, :80], out[:4, 160:])
