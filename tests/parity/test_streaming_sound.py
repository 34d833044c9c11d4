"""What a listener gets of streaming: chunks against the full decode of the same tokens with the same draws.

The flow is at released widths; with random weights the figures are of that flow and no more. With CHATTERBOX_WEIGHTS
they are Turbo's.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import torch

from tests.parity import figures
from tests.parity.speakers import WHOLE, Speakers
from tts_engine.chatterbox.assembler import SpeechAssembler
from tts_engine.chatterbox.chunk_policy import ChunkPolicy
from tts_engine.chatterbox.constants import SAMPLES_PER_FRAME, SAMPLES_PER_TOKEN
from tts_engine.chatterbox.draws import Draws
from tts_engine.chatterbox.streaming import decode_mel, render

SEED, TOKENS = 7, 60

POLICIES = {
    "default": ChunkPolicy(),
    "no crossfade": ChunkPolicy(crossfade_frames=0),
    "right context 14": ChunkPolicy(right_context_frames=14),
    "first chunk of 15": ChunkPolicy(sizes=(15, 25, 50)),
    "16 tokens of context": ChunkPolicy(max_context_tokens=16),
}

pytestmark = pytest.mark.timeout(600)  # released weights on a CPU


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


@dataclass(frozen=True)
class Speech:
    mel: torch.Tensor
    "(80, T) that was spoken."
    wave: torch.Tensor
    chunks: list[int]
    "Samples of each."

    @property
    def joints(self) -> list[int]:
        """The first sample of each chunk but the first."""
        return torch.tensor(self.chunks).cumsum(0)[:-1].tolist()


def spoken(speakers: Speakers, tokens: list[int], policy: ChunkPolicy, mel: torch.Tensor | None = None) -> Speech:
    """Fed as a runner does, no more tokens than wanted; with `mel` (80, T) in place of what the flow would give."""
    model, assembler = speakers.pair.ours, SpeechAssembler(speakers.voice, Draws(SEED), policy)
    rest, mels, waves = list(tokens), [], []
    while not assembler.done:
        wanted = assembler.tokens_wanted
        assembler.feed(rest[:wanted])
        if len(rest) < wanted:
            assembler.finish()
        del rest[:wanted]
        given = assembler.flow_input()
        assert given is not None
        known = given.mel_frames.stop - given.mel_frames.start
        assert mel is None or policy.max_context_tokens is None
        window = assembler.take_mel(decode_mel(model.flow, given) if mel is None else mel[:, :known])
        start = assembler.samples_spoken // SAMPLES_PER_FRAME - window.first_frame
        waves.append(assembler.take_speech(*render(model.vocoder, window)))
        mels.append(window.mel[:, start : start + len(waves[-1]) // SAMPLES_PER_FRAME])
    return Speech(torch.cat(mels, 1), torch.cat(waves), [len(wave) for wave in waves])


@pytest.fixture(scope="module")
def tokens(speakers: Speakers) -> list[int]:
    if speakers.pair.released:
        text = "I have your booking here, and I can move it to Thursday afternoon if you like."
        with torch.inference_mode():
            return speakers.tokens(text, Draws(SEED), 1000)[0]
    return torch.randint(6561, (TOKENS,), generator=torch.Generator().manual_seed(SEED)).tolist()


@pytest.fixture(scope="module")
def full(speakers: Speakers, tokens: list[int]) -> Speech:
    with torch.inference_mode():
        return spoken(speakers, tokens, WHOLE)


def jump(wave: torch.Tensor, joint: int) -> float:
    """The step from the sample before a joint to the one after, over the RMS of 5 ms on both sides."""
    near = wave[joint - 120 : joint + 120]
    return float((wave[joint] - wave[joint - 1]).abs() / near.square().mean().sqrt())


def exact_f0(predictor: torch.nn.Module) -> Callable[..., torch.Tensor]:
    """F0 computed in float64: the same in a window as in the whole."""
    double = copy.deepcopy(predictor).double()

    def f0(mel: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        assert lengths is None
        hertz: torch.Tensor = double.classifier(double.condnet(mel.double()).mT)[..., 0].abs()
        return hertz.float()

    return f0


@pytest.mark.parametrize(("precision", "bound"), [("float64", 1e-4), ("float32", 1e-3)])
def test_with_the_flow_given_joints_have_no_jump(
    precision: str,
    bound: float,
    speakers: Speakers,
    tokens: list[int],
    full: Speech,
    record_property: figures.Record,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In float32 F0 is rounded otherwise in a window than in the whole, by 3e-4 Hz, and the phase sums that up."""
    vocoder = speakers.pair.ours.vocoder
    if precision == "float64":
        with torch.inference_mode(False):
            monkeypatch.setattr(vocoder, "f0", exact_f0(vocoder.f0_predictor))
    tokens = tokens[:45]
    mel = full.mel[:, : 2 * (len(tokens) + 3)]
    speech, whole = (spoken(speakers, tokens, policy, mel) for policy in (ChunkPolicy(), WHOLE))
    assert len(speech.joints) == 2
    jumps = [(jump(speech.wave, joint), jump(whole.wave, joint)) for joint in speech.joints]
    figures.error(record_property, f"streaming, mel given, F0 in {precision}", speech.wave, whole.wave)
    found = ", ".join(f"{one:.3f} ({other:.3f})" for one, other in jumps)
    figures.note(record_property, "streaming, mel given: jumps (full decode)", torch.float32, found)
    assert all(one <= 1.1 * other + 1e-3 for one, other in jumps)
    assert (speech.wave - whole.wave).abs().max() <= bound


@pytest.mark.parametrize("name", POLICIES)
def test_chunks_against_the_full_decode(
    name: str, speakers: Speakers, tokens: list[int], full: Speech, record_property: figures.Record
) -> None:
    policy = POLICIES[name]
    speech = spoken(speakers, tokens, policy)
    assert len(full.wave) == len(speech.wave) == (len(tokens) + 3) * SAMPLES_PER_TOKEN
    assert speech.chunks[0] == policy.speakable_frames(policy.sizes[0]) * SAMPLES_PER_FRAME
    assert speech.wave.abs().max() <= 0.99

    mel = (speech.mel - full.mel).square().mean().sqrt() / full.mel.std()
    wave = (speech.wave - full.wave).square().mean().sqrt() / full.wave.std()
    steps = speech.wave.diff().abs()
    # A click would stand out from the steps of the 20 ms around it.
    worst = max(
        float(steps[joint - 1] / torch.cat((steps[joint - 481 : joint - 1], steps[joint : joint + 480])).max())
        for joint in speech.joints
    )
    figures.note(
        record_property,
        f"streaming, {name}",
        torch.float32,
        f"first chunk {speech.chunks[0] / 24:.0f} ms; mel {mel:.2f}, waveform {wave:.2f} of the spread; "
        f"step at a joint {worst:.2f} of the largest near it",
    )
    assert 0 < mel < 1
    assert worst <= 1.1
