"""What a voice is to the model: the conditioning that enrolment leaves and synthesis needs."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from tts_engine.chatterbox.constants import TOKEN_RATE


@dataclass(frozen=True)
class Voice:
    """Conditioning tensors of one voice (tts_turbo.py `Conditionals`), without batch dimensions."""

    speaker_embedding: torch.Tensor
    "(256,) float: the voice encoder's embedding, for T3."
    prompt_tokens: torch.Tensor
    "(P,) int64, P <= 375: speech tokens that T3 is prompted with."
    flow_prompt_tokens: torch.Tensor
    "(N,) int64: speech tokens that the flow is prompted with."
    flow_prompt_mel: torch.Tensor
    "(2 N, 80) float: their log-mel spectrogram, 50 frames a second."
    x_vector: torch.Tensor
    "(192,) float: CAMPPlus's embedding, for the flow; not normalised."

    @property
    def prompt_seconds(self) -> float:
        """Length of the flow's prompt; every chunk that is decoded costs that much more."""
        return len(self.flow_prompt_tokens) / TOKEN_RATE

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Voice:
        """On another device, floats in another dtype."""
        return Voice(
            self.speaker_embedding.to(device, dtype),
            self.prompt_tokens.to(device),
            self.flow_prompt_tokens.to(device),
            self.flow_prompt_mel.to(device, dtype),
            self.x_vector.to(device, dtype),
        )
