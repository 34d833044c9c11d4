"""The bank of voices on the device: what Flow makes of a voice, by its number."""

from __future__ import annotations

import pytest
import torch

from tests.tts_engine.chatterbox.flow_modules import SMALL, liven, random
from tts_engine.chatterbox.flow import Flow
from tts_engine.chatterbox.flow_voices import MOST_PROMPT_FRAMES, FlowVoices
from tts_engine.chatterbox.voice import Voice


def voice(frames: int, seed: int) -> Voice:
    none = torch.zeros(0, dtype=torch.int64)
    return Voice(torch.zeros(256), none, none, random(frames, SMALL.mel_bins, seed=seed), random(12, seed=seed + 1))


def bank(dtype: torch.dtype = torch.float32) -> tuple[Flow, FlowVoices]:
    flow = liven(Flow(SMALL)).to(dtype)
    return flow, FlowVoices(flow, voices=3, most_prompt_frames=10, dtype=torch.float32)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-6)])
def test_the_same_conditions_as_the_flow_s(dtype: torch.dtype, bound: float) -> None:
    flow, voices = bank(dtype)
    exact = liven(Flow(SMALL))
    exact.load_state_dict({name: tensor.float() for name, tensor in flow.state_dict().items()})
    one = voice(6, seed=3)
    voices.set(1, one)
    mu = torch.zeros(1, 10, SMALL.mel_bins)
    with torch.no_grad():
        expected = exact._conditions(mu, one.flow_prompt_mel[None], None, one.x_vector[None])[0]
    bins = SMALL.mel_bins
    torch.testing.assert_close(voices.speakers[1], expected[0, bins : 2 * bins], atol=bound, rtol=bound)
    torch.testing.assert_close(voices.prompts[1], expected[:, 2 * bins :], atol=0, rtol=0)
    assert voices.prompt_frames.tolist() == [0, 6, 0]
    assert voices.speakers[[0, 2]].eq(0).all()


def test_a_voice_is_replaced_whole() -> None:
    _, voices = bank()
    voices.set(2, voice(10, seed=3))
    second = voice(4, seed=9)
    voices.set(2, second)
    assert torch.equal(voices.prompts[2, :4], second.flow_prompt_mel)
    assert voices.prompts[2, 4:].eq(0).all()
    assert voices.prompt_frames[2] == 4


def test_what_does_not_fit() -> None:
    _, voices = bank()
    for index in (-1, 3):
        with pytest.raises(ValueError, match=f"voice {index} of a bank of 3"):
            voices.set(index, voice(2, seed=1))
    with pytest.raises(ValueError, match="11 frames, the bank's have up to 10"):
        voices.set(0, voice(11, seed=1))
    assert voices.prompts.eq(0).all()


def test_there_is_room_for_the_longest_prompt_that_a_voice_may_have() -> None:
    assert MOST_PROMPT_FRAMES == 500
