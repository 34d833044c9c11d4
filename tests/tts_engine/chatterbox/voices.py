"""A plausible voice, quickly made."""

from __future__ import annotations

import torch

from tts_engine.chatterbox.voice import Voice


def make_voice(prompt_tokens: int = 375, flow_tokens: int = 250, seed: int = 0) -> Voice:
    generator = torch.Generator().manual_seed(seed)
    return Voice(
        speaker_embedding=torch.randn(256, generator=generator),
        prompt_tokens=torch.randint(0, 6561, (prompt_tokens,), generator=generator),
        flow_prompt_tokens=torch.randint(0, 6561, (flow_tokens,), generator=generator),
        flow_prompt_mel=torch.randn(2 * flow_tokens, 80, generator=generator),
        x_vector=torch.randn(192, generator=generator),
    )
