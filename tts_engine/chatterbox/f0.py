"""Fundamental frequency from the mel spectrogram: five convolutions and a linear layer (f0_predictor.py)."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from tts_engine.chatterbox.constants import MEL_BINS

LAYERS = 5
F0_REACH_FRAMES = LAYERS
"The F0 of a frame reads this many frames before and after it: one a layer."


class F0Predictor(nn.Module):
    """F0 of each frame. It runs in float32 in half models too: an error of F0 adds up in the phase."""

    def __init__(self, width: int = 512) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for at in range(LAYERS):
            layers += [nn.Conv1d(width if at else MEL_BINS, width, 3, padding=1), nn.ELU()]
        self.condnet = nn.Sequential(*layers)
        self.classifier = nn.Linear(width, 1)

    def forward(self, mel: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """From mel (B, 80, T) and mask (B, 1, T) of ones and zeros to (B, T) float32 Hz, zero where the mask is."""
        x = mel.float()
        if mask is not None:
            x = torch.where(mask > 0, x, 0.0)  # Padding may hold anything, NaN too.
        for layer in self.condnet:
            x = layer(x)
            if mask is not None and isinstance(layer, nn.ELU):
                x = x * mask
        f0 = functional.linear(x.transpose(1, 2), self.classifier.weight, self.classifier.bias).squeeze(-1).abs()
        return f0 if mask is None else f0 * mask[:, 0]
