from __future__ import annotations

import math

import torch

from tests.tts_engine.chatterbox.kernels.test_conv import bounds_of
from tests.tts_engine.chatterbox.packed_windows import starts_of
from tests.tts_engine.chatterbox.triton_interpreter import DEVICE, NEEDED
from tts_engine.chatterbox import counter, source

pytestmark = NEEDED

HARMONICS, FRAME = 9, 480


def test_phases_are_the_plain_modules_to_the_bit() -> None:
    """Rows longer than a block, of one frame, and none; what is beyond them is zero."""
    from tts_engine.chatterbox.kernels.source import frame_phases

    frames = [150, 0, 1, 64, 65]
    starts = starts_of(frames)
    f0 = torch.rand(sum(frames) + 3) * 500
    f0[::7] = 0.0
    f0[sum(frames) :] = torch.nan
    phase = torch.rand(len(frames), HARMONICS)
    phase[0] = torch.arange(HARMONICS) * 2.0**-25  # halves of a tick are rounded to even
    phases = frame_phases(f0.to(DEVICE), starts.to(DEVICE), phase.to(DEVICE)).cpu()
    for row, count in enumerate(frames):
        span = slice(int(starts[row]), int(starts[row]) + count)
        expected = source.frame_phases(f0[None, span], phase[row : row + 1])[0, :, :count].T
        assert torch.equal(phases[span], expected)
    assert not phases[sum(frames) :].any()


def test_phases_run_on_from_chunk_to_chunk() -> None:
    from tts_engine.chatterbox.kernels.source import frame_phases

    f0 = torch.rand(100, device=DEVICE) * 400
    zero = torch.zeros(1, HARMONICS, device=DEVICE)
    whole = frame_phases(f0, starts_of([100]).to(DEVICE), zero)
    later = frame_phases(f0[37:].contiguous(), starts_of([63]).to(DEVICE), whole[37:38].contiguous())
    assert torch.equal(later, whole[37:])


@torch.inference_mode()
def test_excitation_is_the_plain_modules_with_the_counters_noise() -> None:
    from tts_engine.chatterbox.kernels.source import excitation

    frames = [2, 0, 3]
    starts, bounds = starts_of(frames), bounds_of(frames)
    f0 = 80 + 300 * torch.rand(5)
    f0[3] = 9.0  # unvoiced
    phases = torch.rand(5, HARMONICS)
    offsets = (2 * torch.rand(3, HARMONICS) - 1) * math.pi
    keys = torch.tensor([counter.key(seed, counter.SOURCE) for seed in (1, 2, 3)])
    first = torch.tensor([0, 5, 40_000], dtype=torch.int32)  # more samples in than 2^24
    plain = source.HarmonicSource()
    torch.nn.init.normal_(plain.l_linear.weight)
    mixer, bias = plain.l_linear.weight[0].contiguous(), plain.l_linear.bias
    given = (f0, phases, offsets, keys, first, bounds, mixer, bias)
    heard = excitation(*(x.to(DEVICE) for x in given)).cpu().view(-1, FRAME)
    for row, count in enumerate(frames):
        if not count:
            continue
        span = slice(int(starts[row]), int(starts[row + 1]))
        sample = FRAME * int(first[row]) + torch.arange(FRAME * count)
        noise = counter.normal(int(keys[row]), sample * HARMONICS + torch.arange(HARMONICS)[:, None])
        expected = plain(f0[None, span], phases[span].T.contiguous()[None], offsets[row : row + 1], noise[None])[0, 0]
        slot = int(starts[row]) + row
        assert heard[slot : slot + count].flatten().sub(expected).abs().max() < 5e-5
        assert expected.std() > 0.01
