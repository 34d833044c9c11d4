"""What the flow is told of each voice, on its device, where rows of a batch look it up by the voice's number."""

from __future__ import annotations

import torch
from torch.nn import functional as F  # noqa: N812

from tts_engine.chatterbox.constants import FRAMES_PER_TOKEN, MAX_FLOW_PROMPT_TOKENS
from tts_engine.chatterbox.flow import Flow
from tts_engine.chatterbox.voice import Voice

MOST_PROMPT_FRAMES = FRAMES_PER_TOKEN * MAX_FLOW_PROMPT_TOKENS


class FlowVoices:
    """A bank of so many voices (V). What nobody has set is zero."""

    def __init__(self, flow: Flow, *, voices: int, most_prompt_frames: int, dtype: torch.dtype) -> None:
        """All that it holds is in `dtype`, on the flow's device."""
        self._speaker = flow.spk_embed_affine_layer
        bins, device = flow.sizes.mel_bins, self._speaker.weight.device
        self.prompts = torch.zeros(voices, most_prompt_frames, bins, dtype=dtype, device=device)
        "(V, most frames, 80): zero where a prompt has ended."
        self.prompt_frames = torch.zeros(voices, dtype=torch.int32, device=device)
        "(V,)."
        self.speakers = torch.zeros(voices, bins, dtype=dtype, device=device)
        "(V, 80): the speaker's direction, projected."

    @torch.no_grad()
    def set(self, index: int, voice: Voice) -> None:
        """Put a voice (of any dtype and device) into the bank. Raises ValueError if it has no room there."""
        frames, (voices, most, _) = len(voice.flow_prompt_mel), self.prompts.shape
        if not 0 <= index < voices:
            raise ValueError(f"voice {index} of a bank of {voices}")
        if frames > most:
            raise ValueError(f"the voice's prompt has {frames} frames, the bank's have up to {most}")
        bank, layer = self.speakers, self._speaker
        direction = F.normalize(voice.x_vector.to(bank.device).float(), dim=0).to(bank.dtype)
        bank[index] = F.linear(direction, layer.weight.to(bank.dtype), layer.bias.to(bank.dtype))
        self.prompts[index, :frames] = voice.flow_prompt_mel.to(self.prompts)
        self.prompts[index, frames:] = 0
        self.prompt_frames[index].fill_(frames)
