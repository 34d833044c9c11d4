"""The planning alone: what is asked of the flow and the vocoder, and what is kept. No module runs here."""

from __future__ import annotations

import math

import pytest
import torch

from tts_engine.chatterbox.assembler import SpeechAssembler
from tts_engine.chatterbox.chunk_policy import ChunkPolicy
from tts_engine.chatterbox.constants import HARMONICS, MEL_BINS, SAMPLES_PER_FRAME, SILENCE_TOKEN
from tts_engine.chatterbox.draws import Draws
from tts_engine.chatterbox.voice import Voice

PROMPT = 4
VOICE = Voice(
    speaker_embedding=torch.zeros(256),
    prompt_tokens=torch.zeros(0, dtype=torch.int64),
    flow_prompt_tokens=torch.arange(PROMPT),
    flow_prompt_mel=torch.zeros(2 * PROMPT, MEL_BINS),
    x_vector=torch.zeros(192),
)


def _assembler(policy: ChunkPolicy | None = None) -> SpeechAssembler:
    return SpeechAssembler(VOICE, Draws(1), policy)


def _answer(frames: int, level: float = 1.0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A vocoder's: a constant wave, F0 and phases that number the frames of the window."""
    phases = (torch.arange(frames) / 1024).expand(HARMONICS, -1)
    return torch.full((frames * SAMPLES_PER_FRAME,), level), torch.arange(frames, dtype=torch.float32), phases


def test_nothing_can_be_decoded_before_the_first_target() -> None:
    assembler = _assembler()
    assert assembler.tokens_wanted == 20
    assembler.feed([1] * 19)
    assert assembler.tokens_wanted == 1
    assert assembler.flow_input() is None
    assembler.feed([2])
    given = assembler.flow_input()
    assert given is not None
    assert given.tokens == (1,) * 19 + (2,)
    assert (given.look_ahead, given.final) == (3, False)
    assert given.mel_frames == slice(8, 42)
    assert torch.equal(given.noise, torch.cat([Draws(1).prompt_noise(8), Draws(1).flow_noise(0, 40)], dim=1))


def test_one_chunk_is_under_way_at_a_time() -> None:
    assembler = _assembler()
    assembler.feed([1] * 60)
    assert assembler.flow_input() is not None
    assert assembler.flow_input() is None
    assembler.take_mel(torch.zeros(MEL_BINS, 114))
    assert assembler.flow_input() is None
    assert len(assembler.take_speech(*_answer(114))) == 94 * SAMPLES_PER_FRAME
    assert assembler.tokens_wanted == 25
    assert assembler.flow_input() is None
    assembler.feed([1] * 25)
    assert assembler.flow_input() is not None


def test_the_window_keeps_what_was_spoken_and_carries_f0_and_phase() -> None:
    assembler = _assembler(ChunkPolicy(crossfade_frames=0))
    assembler.feed([1] * 30)
    assembler.flow_input()
    first = assembler.take_mel(torch.full((MEL_BINS, 54), 1.0))
    assert (first.first_frame, len(first.known_f0), first.mel.shape[1]) == (0, 0, 54)
    assert (first.phase == 0).all()
    assembler.take_speech(*_answer(54))  # 34 frames are spoken
    assembler.feed([1] * 25)
    assembler.flow_input()
    second = assembler.take_mel(torch.full((MEL_BINS, 104), 2.0))
    assert second.first_frame == 34 - 15
    assert torch.equal(second.known_f0, torch.arange(19.0, 34.0))
    assert (second.phase == 19 / 1024).all()
    assert (second.mel[:, :15] == 1).all()
    assert (second.mel[:, 15:] == 2).all()
    assert second.mel.shape[1] == 104 - 19
    assert torch.equal(second.noise, Draws(1).source_noise(19, 104))
    assert torch.equal(second.offsets, Draws(1).phase_offsets())


def test_a_newer_mel_is_faded_in_after_the_joint() -> None:
    assembler = _assembler(ChunkPolicy(crossfade_frames=3))
    assembler.feed([1] * 30)
    assembler.flow_input()
    assembler.take_mel(torch.zeros(MEL_BINS, 54))
    assembler.take_speech(*_answer(54))
    assembler.feed([1] * 25)
    assembler.flow_input()
    mel = assembler.take_mel(torch.full((MEL_BINS, 104), 8.0)).mel
    assert mel[0, 13:20].tolist() == [0, 0, 2, 4, 6, 8, 8]


def test_finish_appends_silence_and_speaks_to_the_end() -> None:
    assembler = _assembler()
    assembler.feed([7, 8])
    assembler.finish()
    assembler.finish()
    given = assembler.flow_input()
    assert given is not None
    assert given.tokens == (7, 8, *[SILENCE_TOKEN] * 3)
    assert (given.look_ahead, given.final) == (0, True)
    assert given.mel_frames == slice(8, 18)
    assembler.take_mel(torch.zeros(MEL_BINS, 10))
    assert not assembler.done
    assert len(assembler.take_speech(*_answer(10))) == 4800
    assert assembler.done
    assert assembler.samples_spoken == 4800
    assert assembler.flow_input() is None


def test_finish_while_a_chunk_is_under_way_leaves_the_chunk_alone() -> None:
    assembler = _assembler(ChunkPolicy(sizes=(15,)))
    assembler.feed([1] * 15)
    assembler.flow_input()
    assembler.finish()
    window = assembler.take_mel(torch.zeros(MEL_BINS, 24))
    assert window.mel.shape[1] == 24
    assert len(assembler.take_speech(*_answer(24))) == 4 * SAMPLES_PER_FRAME
    assert not assembler.done
    last = assembler.flow_input()
    assert last is not None
    assert len(last.tokens) == 18
    assembler.take_mel(torch.zeros(MEL_BINS, 36))
    assert len(assembler.take_speech(*_answer(36))) == 32 * SAMPLES_PER_FRAME


def test_an_utterance_without_tokens_is_three_tokens_of_silence() -> None:
    assembler = _assembler()
    assembler.finish()
    assert assembler.flow_input() is not None
    assembler.take_mel(torch.zeros(MEL_BINS, 6))
    assert len(assembler.take_speech(*_answer(6))) == 2880


@pytest.mark.parametrize("context", [10, 0])
def test_a_bounded_context_bounds_what_the_flow_is_given(context: int) -> None:
    assembler = _assembler(ChunkPolicy(sizes=(20,), max_context_tokens=context))
    sizes = []
    for chunk in range(1, 12):
        assembler.feed(range(20 * (chunk - 1), 20 * chunk))
        given = assembler.flow_input()
        assert given is not None
        first = given.tokens[0]
        assert given.tokens == tuple(range(first, 20 * chunk))
        assert torch.equal(given.noise[:, 2 * PROMPT :], Draws(1).flow_noise(2 * first, 40 * chunk))
        mel = torch.arange(2 * first, 2 * (20 * chunk - 3)).expand(MEL_BINS, -1)  # each frame holds its number
        window = assembler.take_mel(mel)
        known = window.first_frame + window.mel.shape[1]
        assert torch.equal(window.mel[0], torch.arange(window.first_frame, known, dtype=torch.float32))
        assembler.take_speech(*_answer(window.mel.shape[1]))
        sizes.append(len(given.tokens))
    # Beside the context: a chunk, the look-ahead and the vocoder's right context of ten tokens.
    assert max(sizes) == context + 20 + 3 + 10


def test_the_head_fades_in_once() -> None:
    """480 samples of silence and 480 of a raised cosine, across a joint too."""
    assembler = _assembler(ChunkPolicy(sizes=(14, 1)))
    spoken = []
    for count in (14, 1, 1):
        assembler.feed([1] * count)
        assembler.flow_input()
        frames = assembler.take_mel(torch.zeros(MEL_BINS, 2 * (14 + len(spoken) - 3))).mel.shape[1]
        spoken.append(assembler.take_speech(*_answer(frames)))
    wave = torch.cat(spoken)
    assert (wave[:480] == 0).all()
    expected = [(1 - math.cos(math.pi * at / 479)) / 2 for at in range(480)]
    assert wave[480:960].tolist() == pytest.approx(expected, abs=1e-6)
    assert (wave[960:] == 1).all()


def test_what_is_taken_is_copied() -> None:
    """A captured graph writes its next answer where the last one was."""
    assembler = _assembler(ChunkPolicy(crossfade_frames=0))
    assembler.feed([1] * 30)
    assembler.flow_input()
    mel, (wave, f0, phases) = torch.ones(MEL_BINS, 54), _answer(54)
    phases = phases.clone()
    assembler.take_mel(mel)
    mel.fill_(torch.nan)
    samples = assembler.take_speech(wave, f0, phases)
    for tensor in (wave, f0, phases):
        tensor.fill_(torch.nan)
    assembler.feed([1] * 25)
    assembler.flow_input()
    window = assembler.take_mel(torch.ones(MEL_BINS, 104))
    for tensor in (samples, window.mel, window.known_f0, window.phase):
        assert tensor.isfinite().all()


def test_the_window_does_not_grow() -> None:
    assembler = _assembler(ChunkPolicy(sizes=(20,)))
    for chunk in range(1, 30):
        assembler.feed([1] * 20)
        assembler.flow_input()
        window = assembler.take_mel(torch.zeros(MEL_BINS, 2 * (20 * chunk - 3)))
        assembler.take_speech(*_answer(window.mel.shape[1]))
        assert window.mel.shape[1] <= 40 + 15 + 20


def test_misuse_says_what_is_wrong() -> None:
    assembler = _assembler()
    with pytest.raises(ValueError, match="no chunk is with the flow"):
        assembler.take_mel(torch.zeros(MEL_BINS, 6))
    with pytest.raises(ValueError, match="no chunk is with the vocoder"):
        assembler.take_speech(*_answer(6))
    for token in (6561, -1):
        with pytest.raises(ValueError, match=f"speech token {token} is not in 0 to 6560"):
            assembler.feed([token])
    assembler.finish()
    with pytest.raises(ValueError, match="takes no more tokens"):
        assembler.feed([1])
    assembler.flow_input()
    with pytest.raises(ValueError, match=r"mel is to be \(80, 6\), not \(80, 7\)"):
        assembler.take_mel(torch.zeros(MEL_BINS, 7))
    assembler.take_mel(torch.zeros(MEL_BINS, 6))
    with pytest.raises(ValueError, match="of 6 frames"):
        assembler.take_speech(*_answer(7))
