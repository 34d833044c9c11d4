"""The plain modules behind the packed calls: each row as if it were alone."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from tests.tts_engine.chatterbox.packed_windows import int32, starts_of
from tests.tts_engine.chatterbox.tiny_vocoder import tiny_vocoder
from tests.tts_engine.chatterbox.voices import make_voice
from tts_engine.chatterbox.constants import HARMONICS, MEL_BINS, SAMPLES_PER_FRAME
from tts_engine.chatterbox.counter import SOURCE, key
from tts_engine.chatterbox.draws import Draws
from tts_engine.chatterbox.flow import Flow, FlowSizes
from tts_engine.chatterbox.packing import BatchShape
from tts_engine.chatterbox.padded import PaddedFlow, PaddedVocoder, source_noise

ROWS, VOICES = 5, 3
SIZES = FlowSizes(
    width=32,
    heads=2,
    feed_forward=48,
    layers=1,
    up_layers=1,
    channels=32,
    time_width=32,
    estimator_heads=2,
    estimator_feed_forward=32,
    mid_blocks=1,
    transformers=1,
)
PROMPTS = (2, 5, 11)
SHAPE = BatchShape(0, 0, 0)
"Of no use to the plain modules."


@pytest.fixture(scope="module")
def flow() -> Flow:
    return Flow(SIZES).eval()


def padded_flow(flow: Flow) -> PaddedFlow:
    padded = PaddedFlow(flow, voices=VOICES + 1)
    for index, prompt in enumerate(PROMPTS):
        padded.set_voice(index, make_voice(1, prompt, index))
    return padded


@torch.inference_mode()
def test_rows_of_the_flow_are_as_if_alone(flow: Flow) -> None:
    chance = random.Random(torch.seed())
    voices = [chance.randrange(VOICES) for _ in range(ROWS)]
    new = [chance.randrange(4, 30) for _ in range(ROWS - 2)] + [0, 6]
    lengths = [PROMPTS[voice] + count if count else 0 for voice, count in zip(voices, new, strict=True)]
    look_ahead = [chance.choice((0, 3)) for _ in range(ROWS)]
    padding = chance.randrange(4)
    starts, size = starts_of(lengths, ROWS + 2), sum(lengths) + padding
    tokens, noise = torch.randint(0, 6561, (size,)), torch.randn(2 * size, MEL_BINS)
    noise[2 * sum(lengths) :] = torch.nan

    mel = padded_flow(flow)(tokens, starts, int32([*look_ahead, 0, 0]), int32([*voices, 0, 0]), noise, SHAPE)

    assert mel.shape == (2 * size, MEL_BINS)
    assert mel.dtype == torch.float32
    for row, length in enumerate(lengths):
        if not length:
            continue
        first = int(starts[row])
        voice = make_voice(1, PROMPTS[voices[row]], voices[row])
        alone = flow(
            tokens[None, first : first + length],
            None,
            voice.flow_prompt_mel[None],
            None,
            voice.x_vector[None],
            noise[None, 2 * first : 2 * (first + length)].transpose(1, 2),
            look_ahead=look_ahead[row],
        )[0].T
        frames = mel[2 * first : 2 * (first + length)]
        torch.testing.assert_close(frames[: len(alone)], alone, atol=1e-4, rtol=1e-3)
        assert (frames[2 * (length - look_ahead[row]) :] == 0).all()
    assert (mel[2 * sum(lengths) :] == 0).all()


def test_no_rows_no_mel(flow: Flow) -> None:
    none = int32([0])
    mel = padded_flow(flow)(torch.zeros(4).long(), int32([0, 0]), none, none, torch.zeros(8, MEL_BINS), SHAPE)
    assert mel.eq(0).all()


def test_a_voice_that_nobody_set(flow: Flow) -> None:
    with pytest.raises(ValueError, match="voice 3 has not been set"):
        padded_flow(flow)(
            torch.zeros(4).long(), int32([0, 4]), int32([0]), int32([VOICES]), torch.zeros(8, MEL_BINS), SHAPE
        )


@torch.inference_mode()
def test_rows_of_the_vocoder_are_as_if_alone() -> None:
    vocoder = tiny_vocoder()
    chance = random.Random(torch.seed())
    lengths = [chance.randrange(1, 25), 0, 30, chance.randrange(16, 25)]
    known = [0, 0, 15, chance.randrange(16)]
    seeds = [chance.randrange(2**60) for _ in lengths]
    first_frame = [0, 0, chance.randrange(500), 7]
    rows = len(lengths) + 1
    starts, size = starts_of(lengths, rows), sum(lengths) + 3
    mel, known_f0 = torch.randn(size, MEL_BINS), 80 + 200 * torch.rand(size)
    mel[sum(lengths) :] = torch.nan
    phase, offsets = torch.rand(rows, HARMONICS), torch.rand(rows, HARMONICS)

    def call() -> tuple[Tensor, Tensor, Tensor]:
        return PaddedVocoder(vocoder)(
            mel,
            starts,
            phase,
            offsets,
            known_f0,
            int32([*known, 0]),
            torch.tensor([*[key(seed, SOURCE) for seed in seeds], 0]),
            int32([*first_frame, 0]),
            SHAPE,
        )

    wave, f0, phases = call()
    assert (wave.shape, f0.shape, phases.shape) == ((SAMPLES_PER_FRAME * size,), (size,), (size, HARMONICS))
    for row, length in enumerate(lengths):
        if not length:
            continue
        first = int(starts[row])
        noise = Draws(seeds[row]).source_noise(first_frame[row], first_frame[row] + length)
        expected_wave, expected_f0, expected_phases = vocoder.render(
            mel[None, first : first + length].transpose(1, 2),
            phase[row, None],
            offsets[row, None],
            noise[None],
            known_f0=known_f0[None, first : first + length],
            known=torch.tensor([known[row]]),
        )
        samples = slice(first * SAMPLES_PER_FRAME, (first + length) * SAMPLES_PER_FRAME)
        torch.testing.assert_close(wave[samples], expected_wave[0], atol=2e-3, rtol=1e-3)
        torch.testing.assert_close(f0[first : first + length], expected_f0[0], atol=1e-2, rtol=1e-4)
        torch.testing.assert_close(phases[first : first + length], expected_phases[0].T, atol=1e-3, rtol=1e-4)
    for output in (wave[SAMPLES_PER_FRAME * sum(lengths) :], f0[sum(lengths) :], phases[sum(lengths) :]):
        assert output.isfinite().all()


def test_nothing_to_render() -> None:
    wave, f0, phases = PaddedVocoder(tiny_vocoder())(
        torch.full((3, MEL_BINS), torch.nan),
        int32([0, 0]),
        torch.zeros(1, HARMONICS),
        torch.zeros(1, HARMONICS),
        torch.zeros(3),
        int32([0]),
        torch.zeros(1).long(),
        int32([0]),
        SHAPE,
    )
    assert all(output.eq(0).all() for output in (wave, f0, phases))


def test_the_source_s_noise_is_that_of_the_row_s_own_frames() -> None:
    seeds, first_frame = [3, 2**60 + 5], [0, 1000]
    noise = source_noise(torch.tensor([key(seed, SOURCE) for seed in seeds]), int32(first_frame), 4)
    for row, (seed, first) in enumerate(zip(seeds, first_frame, strict=True)):
        assert torch.equal(noise[row], Draws(seed).source_noise(first, first + 4))


def test_noise_without_kernels_that_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton may be installed where it cannot compile."""
    from tts_engine.chatterbox import padded

    monkeypatch.setattr(padded, "fused_fault", lambda: "there is no C compiler")
    monkeypatch.setattr(padded, "plain_source_noise", lambda *_: "plain")
    assert padded.source_noise(SimpleNamespace(is_cuda=True), None, 3) == "plain"  # type: ignore[arg-type,comparison-overlap]
