"""Streaming at real sizes: exact with the mel given; with the flow, how far it is from the full decode, as a figure."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.parity import figures
from tests.parity.flow_reference import Utterance, our_flow
from tests.parity.vocoder_reference import our_vocoder, run_reference
from tests.tts_engine.chatterbox.tiny_vocoder import tiny_vocoder
from tts_engine.chatterbox.assembler import SpeechAssembler
from tts_engine.chatterbox.chunk_policy import ChunkPolicy
from tts_engine.chatterbox.constants import SAMPLES_PER_FRAME
from tts_engine.chatterbox.draws import Draws
from tts_engine.chatterbox.streaming import decode_mel, render, synthesise_chunks
from tts_engine.chatterbox.voice import Voice

PROMPT = 4
HEAD = 960  # samples of silence and fade


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


def _voice(row: Utterance) -> Voice:
    nothing = torch.zeros(0, dtype=torch.int64)
    return Voice(torch.zeros(256), nothing, row.prompt_tokens, row.prompt_mel, row.x_vector)


@pytest.mark.parametrize("right_context", [20, 14])
def test_chunks_joined_are_the_reference_s_waveform(right_context: int, record_property: figures.Record) -> None:
    """Mel given; 14 frames are the least that a policy may have, and not quite exact."""
    count, row = 17, Utterance(PROMPT, 20)
    mel = torch.randn(80, 2 * (count + 3), generator=torch.Generator().manual_seed(3)) * 2 - 4
    policy = ChunkPolicy(sizes=(15, 25), right_context_frames=right_context)
    assembler, waves, given = SpeechAssembler(_voice(row), Draws(1), policy), [], 0
    for tokens in (15, count - 15):
        assembler.feed([5] * tokens)
        if tokens != 15:
            assembler.finish()
        flow_input = assembler.flow_input()
        assert flow_input is not None
        frames = flow_input.mel_frames.stop - 2 * PROMPT
        waves.append(assembler.take_speech(*render(our_vocoder(), assembler.take_mel(mel[:, :frames]))))
        given += len(waves[-1])
    draws = Draws(1)
    noise = draws.source_noise(0, 2 * (count + 3))[None]
    expected, _ = run_reference(mel[None], draws.phase_offsets()[None], noise)
    assert given == expected.shape[1] == (count + 3) * 960
    wave = torch.cat(waves)[HEAD:]
    figures.error(record_property, f"streaming, mel given, right context {right_context}", wave, expected[0, HEAD:])
    assert policy.exact_joints == (right_context == 20)
    assert wave.sub(expected[0, HEAD:]).abs().max() <= 1e-4


def test_the_last_chunk_s_mel_is_the_full_decode_s() -> None:
    """The approximation is where it is said to be (test_streaming_sound.py has its size)."""
    row = Utterance(PROMPT, 60, seed=2)
    spoken: list[torch.Tensor] = []
    assembler = SpeechAssembler(_voice(row), Draws(1), ChunkPolicy())
    for token in row.new_tokens.tolist():
        assembler.feed([token])
        if len(spoken) == 1 and assembler.tokens_wanted == 0:
            break
        _speak(assembler, spoken)
    assembler.finish()
    _speak(assembler, spoken)
    streamed = torch.cat(spoken, dim=1)

    whole = SpeechAssembler(_voice(row), Draws(1))
    count = assembler.samples_spoken // 960 - 3
    whole.feed(row.new_tokens[:count].tolist())
    whole.finish()
    last = whole.flow_input()
    assert last is not None
    full = decode_mel(our_flow(), last)
    assert streamed.shape == full.shape
    deviation = streamed.sub(full).square().mean(0).sqrt() / full.std()
    first = spoken[0].shape[1]
    joint = ChunkPolicy().crossfade_frames
    assert deviation[:first].max() > 0
    assert deviation[first + joint :].max() < 1e-4, "the last decode is the full one"


def _speak(assembler: SpeechAssembler, spoken: list[torch.Tensor]) -> None:
    """One cycle, if there is one; keeps the mel (80, n) that was spoken with."""
    given = assembler.flow_input()
    if given is None:
        return
    window = assembler.take_mel(decode_mel(our_flow(), given))
    first = assembler.samples_spoken // SAMPLES_PER_FRAME - window.first_frame
    samples = assembler.take_speech(*render(tiny_vocoder(), window))
    spoken.append(window.mel[:, first : first + len(samples) // SAMPLES_PER_FRAME])


def test_the_driver_with_flow_and_vocoder() -> None:
    """Two runs are the same to the bit; every sample is there, finite and within the limit."""
    row = Utterance(PROMPT, 22, seed=5)

    def run(seed: int) -> torch.Tensor:
        assembler = SpeechAssembler(_voice(row), Draws(seed))
        return torch.cat(list(synthesise_chunks(our_flow(), tiny_vocoder(), assembler, row.new_tokens.tolist())))

    wave = run(1)
    assert wave.shape == (25 * 960,)
    assert wave.abs().max() <= 0.99
    assert wave.std() > 0
    assert torch.equal(wave, run(1))
    assert not torch.allclose(wave, run(2), atol=1e-3)
