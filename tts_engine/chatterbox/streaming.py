"""One utterance, decoded chunk by chunk as its tokens come: the plain way to drive the flow and the vocoder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

import torch

from tts_engine.chatterbox.assembler import FlowInput, SpeechAssembler, VocoderInput


class FlowDecoder(Protocol):
    """`Flow`, as far as it is used here."""

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
    ) -> torch.Tensor: ...


class WaveRenderer(Protocol):
    """`Vocoder`, as far as it is used here."""

    def render(
        self,
        mel: torch.Tensor,
        phase: torch.Tensor,
        offsets: torch.Tensor,
        noise: torch.Tensor,
        *,
        known_f0: torch.Tensor,
        known: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]: ...


def decode_mel(flow: FlowDecoder, given: FlowInput) -> torch.Tensor:
    """Run the flow on one row: the new frames' mel (80, n)."""
    voice = given.voice
    device = voice.flow_prompt_mel.device
    tokens = torch.cat([voice.flow_prompt_tokens, torch.tensor(given.tokens, device=device)])
    mel = flow(
        tokens[None],
        None,  # No row is padded.
        voice.flow_prompt_mel[None],
        None,
        voice.x_vector[None],
        given.noise[None],
        look_ahead=given.look_ahead,
    )
    return mel[0, :, given.mel_frames]


def render(vocoder: WaveRenderer, given: VocoderInput) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Run the vocoder on one row: what `SpeechAssembler.take_speech` wants."""
    known = len(given.known_f0)
    known_f0 = torch.zeros(given.mel.shape[1], device=given.mel.device)
    known_f0[:known] = given.known_f0
    wave, f0, phases = vocoder.render(
        given.mel[None],
        given.phase[None],
        given.offsets[None],
        given.noise[None],
        known_f0=known_f0[None],
        known=torch.tensor([known], device=given.mel.device),
    )
    return wave[0], f0[0], phases[0]


@torch.inference_mode()
def synthesise_chunks(
    flow: FlowDecoder, vocoder: WaveRenderer, assembler: SpeechAssembler, tokens: Iterable[int]
) -> Iterator[torch.Tensor]:
    """Speech of `tokens` as they come, in chunks (n,) float32 at 24 kHz; it ends with the utterance's last sample."""
    for token in tokens:
        assembler.feed([token])
        yield from _decoded(flow, vocoder, assembler)
    assembler.finish()
    yield from _decoded(flow, vocoder, assembler)


def _decoded(flow: FlowDecoder, vocoder: WaveRenderer, assembler: SpeechAssembler) -> Iterator[torch.Tensor]:
    given = assembler.flow_input()
    if given is not None:
        yield assembler.take_speech(*render(vocoder, assembler.take_mel(decode_mel(flow, given))))
