from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from tests.tts_engine.chatterbox.kernels.test_conv import bounds_of
from tests.tts_engine.chatterbox.packed_windows import starts_of
from tests.tts_engine.chatterbox.triton_interpreter import DEVICE, NEEDED

pytestmark = NEEDED


@given(st.lists(st.integers(0, 5), min_size=1, max_size=6).filter(any), st.integers(0, 3))
@settings(max_examples=15, deadline=None)
def test_frames_are_placed_with_a_slot_between_rows(frames: list[int], padding: int) -> None:
    from tts_engine.chatterbox.kernels.frames import place

    starts = starts_of(frames)
    mel = torch.randn(sum(frames) + padding, 10)
    mel[sum(frames) :] = torch.nan
    slots = len(mel) + len(frames)
    bounds, taps, packed = place(mel.to(DEVICE), starts.to(DEVICE), slots, 16, torch.float32)
    assert torch.equal(bounds, bounds_of(frames, padding))
    expected = torch.zeros(slots, 30)
    placed = torch.zeros(slots, 16)
    for row, count in enumerate(frames):
        first, slot = int(starts[row]), int(starts[row]) + row
        if count:
            own = functional.pad(mel[first : first + count], (0, 0, 1, 1))
            expected[slot : slot + count] = own.unfold(0, 3, 1).transpose(1, 2).flatten(1)
        placed[slot : slot + count, :10] = mel[first : first + count]
    assert torch.equal(taps.cpu(), expected)
    assert torch.equal(packed.cpu(), placed)


def test_neighbours_go_through_the_activation_and_stop_at_the_rows_ends() -> None:
    from tts_engine.chatterbox.kernels.frames import spread

    bounds = bounds_of([2, 0, 3])
    y = torch.full((bounds.shape[1], 12), torch.nan, device=DEVICE)
    for first, last in ((0, 2), (4, 7)):
        y[first:last] = torch.randn(last - first, 12, device=DEVICE)
    taps = spread(y, bounds).view(-1, 3, 12)
    for first, last in ((0, 2), (4, 7)):
        own = functional.pad(functional.elu(y[first:last]), (0, 0, 1, 1))
        torch.testing.assert_close(taps[first:last], own.unfold(0, 3, 1).transpose(1, 2), atol=1e-6, rtol=1e-5)
        taps[first:last] = 0
    assert not taps.any()


def test_pitch_is_a_magnitude_and_known_frames_keep_theirs() -> None:
    from tts_engine.chatterbox.kernels.frames import pitch

    bounds = bounds_of([2, 0, 3])
    y = torch.randn(bounds.shape[1], 12, device=DEVICE)
    y[[2, 3, 7, 8]] = torch.nan
    weight, bias = torch.randn(12, device=DEVICE), torch.tensor([-1.0], device=DEVICE)
    known_f0 = torch.rand(7, device=DEVICE) * 100
    known_f0[5:] = torch.nan
    known = torch.tensor([0, 4, 2], dtype=torch.int32, device=DEVICE)
    f0 = pitch(y, bounds, weight, bias, known_f0, known, 7)
    live = (functional.elu(y[[0, 1, 4, 5, 6]]) @ weight + bias).abs()
    torch.testing.assert_close(f0[[0, 1, 4]], live[[0, 1, 4]], atol=1e-5, rtol=1e-5)
    assert torch.equal(f0[2:4], known_f0[2:4])
    assert not f0[5:].any()
