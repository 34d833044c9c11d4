"""With the mel given, the chunks joined are the full decode."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.tts_engine.chatterbox.test_assembler import PROMPT, VOICE
from tests.tts_engine.chatterbox.tiny_vocoder import tiny_vocoder
from tts_engine.chatterbox.assembler import SpeechAssembler
from tts_engine.chatterbox.chunk_policy import ChunkPolicy
from tts_engine.chatterbox.constants import HARMONICS, MEL_BINS, SAMPLES_PER_FRAME
from tts_engine.chatterbox.draws import Draws
from tts_engine.chatterbox.streaming import decode_mel, render, synthesise_chunks

COUNTS = (1, 2, 15, 16, 17, 40, 115)
MEL = torch.randn(MEL_BINS, 1000, generator=torch.Generator().manual_seed(0))


class FixedFlow:
    """A flow whose mel of a frame is always the same, wherever the utterance ends: `mel(total)` gives (80, n)."""

    def __init__(self, mel: Callable[[int], torch.Tensor] = lambda frames: MEL[:, :frames]) -> None:
        self._mel = mel
        self.tokens_given: list[int] = []

    def __call__(
        self,
        tokens: torch.Tensor,
        lengths: torch.Tensor | None,
        prompt_mel: torch.Tensor,
        prompt_frames: torch.Tensor | None,
        x_vector: torch.Tensor,
        noise: torch.Tensor,
        *,
        look_ahead: int = 0,
    ) -> torch.Tensor:
        assert lengths is None
        assert prompt_frames is None
        assert noise.shape == (1, MEL_BINS, 2 * tokens.shape[1])
        assert prompt_mel.shape == (1, 2 * PROMPT, MEL_BINS)
        assert x_vector.shape == (1, 192)
        self.tokens_given.append(tokens.shape[1] - PROMPT)
        frames = 2 * (tokens.shape[1] - PROMPT - look_ahead)
        return torch.cat([torch.full((MEL_BINS, 2 * PROMPT), torch.nan), self._mel(frames)], dim=1)[None]


def _streamed(count: int, policy: ChunkPolicy, flow: FixedFlow | None = None) -> list[torch.Tensor]:
    assembler = SpeechAssembler(VOICE, Draws(1), policy)
    return list(synthesise_chunks(flow or FixedFlow(), tiny_vocoder(), assembler, [5] * count))


@torch.inference_mode()
def _full(mel: torch.Tensor, f0: torch.Tensor | None = None) -> torch.Tensor:
    """One decode of the whole mel (80, T), with `f0` (T,) for its own if it is given."""
    draws, frames = Draws(1), mel.shape[1]
    known = (None, None) if f0 is None else (f0[None], torch.tensor([frames]))
    offsets, noise = draws.phase_offsets()[None], draws.source_noise(0, frames)[None]
    wave = tiny_vocoder().render(mel[None], torch.zeros(1, HARMONICS), offsets, noise, None, *known)[0][0]
    wave[:480] = 0
    wave[480:960] *= (1 - torch.cos(torch.linspace(0, torch.pi, 480))) / 2
    return wave


@lru_cache(maxsize=16)
def _reference(count: int) -> torch.Tensor:
    return _full(MEL[:, : 2 * (count + 3)])


def _jump(wave: torch.Tensor, seam: int) -> float:
    """The step at a seam over the RMS of the 20 ms around it."""
    around = wave[seam - 240 : seam + 240]
    return float((wave[seam] - wave[seam - 1]).abs() / around.square().mean().sqrt())


POLICIES = [
    ChunkPolicy(),
    ChunkPolicy(crossfade_frames=0),
    ChunkPolicy(sizes=(20, 30), left_context_frames=18, right_context_frames=25, crossfade_frames=25),
    ChunkPolicy(sizes=(14, 1, 2, 30)),
]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("count", COUNTS)
def test_chunks_joined_are_the_full_decode(policy: ChunkPolicy, count: int) -> None:
    chunks, full = _streamed(count, policy), _reference(count)
    wave = torch.cat(chunks)
    assert wave.shape == ((count + 3) * 960,)
    assert all(len(chunk) for chunk in chunks)
    # F0 of a window is rounded otherwise than that of the whole, and the phase adds it up: up to 1.2e-4 here.
    assert wave.sub(full).abs().max() < 3e-4
    seam = 0
    for chunk in chunks[:-1]:
        seam += len(chunk)
        assert _jump(wave, seam) <= 1.1 * _jump(full, seam) + 1e-4


@given(
    count=st.integers(0, 150),
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=5),
    contexts=st.tuples(st.integers(15, 22), st.integers(20, 30), st.integers(0, 20)),
)
@example(count=150, sizes=[14, 1], contexts=(15, 20, 8))
@settings(max_examples=12, deadline=None)
def test_exact_to_rounding_whatever_the_chunks_with_the_same_f0(
    count: int, sizes: list[int], contexts: tuple[int, int, int]
) -> None:
    """The full decode is given the F0 of the chunks: then all that is left is the last bits of float32."""
    left, right, crossfade = contexts
    sizes[0] = max(sizes[0], 4 + right // 2)
    policy = ChunkPolicy(tuple(sizes), 3, left, right, crossfade)
    assembler, flow = SpeechAssembler(VOICE, Draws(1), policy), FixedFlow()
    waves, f0s = [], []
    with torch.inference_mode():
        for at in range(count + 1):
            if at < count:
                assembler.feed([5])
            else:
                assembler.finish()
            flow_input = assembler.flow_input()
            if flow_input is None:
                continue
            window = assembler.take_mel(decode_mel(flow, flow_input))
            answer = render(tiny_vocoder(), window)
            first = assembler.samples_spoken // SAMPLES_PER_FRAME - window.first_frame
            waves.append(assembler.take_speech(*answer))
            f0s.append(answer[1][first : first + len(waves[-1]) // SAMPLES_PER_FRAME])
    frames = 2 * (count + 3)
    f0 = torch.cat(f0s)
    assert len(f0) == frames
    assert torch.cat(waves).sub(_full(MEL[:, :frames], f0)).abs().max() < 1e-5
    with torch.inference_mode():
        assert f0.sub(tiny_vocoder().f0(MEL[None, :, :frames])[0]).abs().max() < 1e-3  # Hz, of 400


def test_less_context_is_close_but_not_exact() -> None:
    """What ChunkPolicy calls not exact is not: or the exactness above would prove nothing."""
    policy = ChunkPolicy(left_context_frames=14, right_context_frames=14)
    assert not policy.exact_joints
    worst = torch.cat(_streamed(40, policy)).sub(_reference(40)).abs().max()
    exact = torch.cat(_streamed(40, ChunkPolicy())).sub(_reference(40)).abs().max()
    assert exact < worst < 1e-3


def test_the_flow_is_given_all_tokens_so_far() -> None:
    flow = FixedFlow()
    chunks = _streamed(115, ChunkPolicy(), flow)
    assert flow.tokens_given == [20, 45, 95, 118]
    assert [len(chunk) // SAMPLES_PER_FRAME for chunk in chunks] == [14, 50, 100, 72]


def test_a_chunk_is_spoken_before_the_next_token_is_asked_for() -> None:
    asked = 0

    def tokens() -> object:
        nonlocal asked
        for _ in range(25):
            asked += 1
            yield 5

    assembler = SpeechAssembler(VOICE, Draws(1), ChunkPolicy())
    speech = synthesise_chunks(FixedFlow(), tiny_vocoder(), assembler, tokens())  # type: ignore[arg-type]
    next(speech)
    assert asked == 20
    assert len(list(speech)) == 1
    assert assembler.done


def _restless(strength: float) -> Callable[[int], torch.Tensor]:
    """A mel that changes as tokens are added, the more the nearer a frame is to the end, as the flow's does."""
    other = torch.randn(MEL_BINS, 40, generator=torch.Generator().manual_seed(9))

    def mel(frames: int) -> torch.Tensor:
        tail = min(frames, 40)
        weight = strength * torch.linspace(0, 1, 40)[-tail:]
        return torch.cat([MEL[:, : frames - tail], MEL[:, frames - tail : frames] + weight * other[:, -tail:]], dim=1)

    return mel


def test_a_mel_that_changes_leaves_no_step_at_the_joint() -> None:
    """Two tenths of the mel's own spread at the end. A joint is a sample like others: no larger step than nearby."""
    policy = ChunkPolicy(sizes=(20, 20))
    chunks = _streamed(200, policy, FixedFlow(_restless(0.2)))
    wave, seam = torch.cat(chunks), 0
    assert wave.sub(_reference(200)).abs().max() > 0.05  # It did change.
    for chunk in chunks[:-1]:
        seam += len(chunk)
        nearby = wave[seam - 480 : seam + 480].diff().abs()
        assert (wave[seam] - wave[seam - 1]).abs() <= 1.1 * nearby[:479].max()


def test_a_bounded_context_is_exact_too_where_the_flow_is() -> None:
    """The vocoder does not mind what the flow was given: its frames are numbered in the utterance."""
    policy = ChunkPolicy(sizes=(20, 30), max_context_tokens=5)
    flow = FixedFlow()
    total = 120
    starts: list[int] = []

    def mel(frames: int) -> torch.Tensor:
        # `frames` counts from the first token given; the end tells where that was.
        end = 2 * (targets[len(starts)])
        starts.append(end - frames)
        return MEL[:, end - frames : end]

    targets = [17, 47, 77, 107, total + 3]
    flow = FixedFlow(mel)
    wave = torch.cat(_streamed(total, policy, flow))
    assert starts[-1] > 0
    assert max(flow.tokens_given) < 60
    assert wave.sub(_reference(total)).abs().max() < 3e-4
