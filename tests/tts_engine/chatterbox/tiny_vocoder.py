"""A HiFT of the real shape (kernels, rates, reach) and a few channels, with weights that make it lively."""

from __future__ import annotations

from functools import lru_cache

import torch

from tts_engine.chatterbox.vocoder import Vocoder, VocoderSizes


@lru_cache(maxsize=1)
@torch.inference_mode(False)  # Not inference tensors, whoever asks first.
def tiny_vocoder() -> Vocoder:
    """float32, eval. F0 of about 50 to 400 Hz, some of it unvoiced, for a mel of unit variance."""
    vocoder = Vocoder(VocoderSizes(width=16, f0_width=8)).eval()
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for name, parameter in vocoder.named_parameters():
            if name.endswith("alpha"):
                parameter.copy_(0.5 + 1.5 * torch.rand(parameter.shape, generator=generator))
            elif parameter.ndim == 1:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
            else:
                fan_in = parameter[0].numel() if not name.startswith("ups") else 2 * parameter.shape[0]
                gain = 0.5 if "resblocks" in name else 1.0
                parameter.copy_(gain * torch.randn(parameter.shape, generator=generator) / fan_in**0.5)
        vocoder.f0_predictor.classifier.weight *= 250.0
        vocoder.f0_predictor.classifier.bias.fill_(120.0)
        vocoder.m_source.l_linear.weight *= 2.0
    return vocoder
