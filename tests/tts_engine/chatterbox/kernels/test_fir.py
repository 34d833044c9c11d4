"""The filter's kernel against soxr and against the plain path."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from tests.tts_engine.chatterbox.spoken_signals import Batch, Utterance, batches, due, poisoned_state, signals
from tests.tts_engine.chatterbox.triton_interpreter import DEVICE, NEEDED

pytest.importorskip("triton")

from tts_engine.chatterbox.kernels import fir
from tts_engine.chatterbox.polyphase import RATES, Polyphase
from tts_engine.chatterbox.windows import SpeechState
from tts_engine.resample import to_pcm16

pytestmark = NEEDED
FRAMES = 60 if torch.cuda.is_available() else 4
FILTERS = {rate: Polyphase(rate, DEVICE) for rate in RATES}


def kernel(batch: Batch, state: SpeechState, rate: int) -> torch.Tensor:
    w = type(batch.w)(**{name: tensor.to(DEVICE) for name, tensor in vars(batch.w).items()})
    arguments = [tensor.to(DEVICE) for tensor in (batch.before, batch.out_before, batch.out_starts)]
    tail = state.tail.to(DEVICE)
    return fir.polyphase(batch.wave.to(DEVICE), w, tail, *arguments, batch.size, FILTERS[rate]).cpu()


@pytest.mark.parametrize("rate", RATES)
def test_within_a_step_of_soxr_and_of_the_plain_path(rate: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if not torch.cuda.is_available():  # what the interpreter costs is a matter of programs and steps, not of numbers
        monkeypatch.setattr(fir, "_BLOCK", 256)
        monkeypatch.setattr(fir, "_STEP", 128)
    random_, state, plain = random.Random(rate), poisoned_state(), Polyphase(rate)
    utterances = [Utterance(slot, signal) for slot, signal in enumerate(signals(FRAMES, seed=2).values())]
    for batch in batches(utterances, plain, random_, FRAMES // 2):
        fused = kernel(batch, state, rate)  # before the plain path, which moves the tail on
        pcm, _ = plain(batch.wave, batch.w, state, batch.before, batch.out_before, batch.out_starts, batch.size)
        assert (pcm.int() - fused.int()).abs().max() <= (0 if rate == 24000 else 1)
        batch.take(fused)
    for utterance in utterances:
        expected = due(utterance.signal, rate)
        assert len(utterance.pcm) == len(expected)
        assert (utterance.pcm.int() - expected.int()).abs().max() <= (0 if rate == 24000 else 1)


def test_rounding_is_that_of_the_cpu() -> None:
    """To the nearest, ties to even, clipped; what is not a number is silence."""
    generator = np.random.default_rng(1)
    steps = np.concatenate([generator.integers(-32769, 32768, 470) + 0.5, [40000, -40000, 1e9, -1e9, np.inf, -np.inf]])
    signal = (np.resize(steps, 480) / 32767).astype(np.float32)
    batch = next(batches([Utterance(0, signal)], FILTERS[24000], random.Random(0), 1))
    expected = np.frombuffer(to_pcm16(signal), np.int16)
    assert np.array_equal(kernel(batch, poisoned_state(), 24000).numpy()[:480], expected)
    batch.wave.fill_(torch.nan)
    assert (kernel(batch, poisoned_state(), 24000) == 0).all()
