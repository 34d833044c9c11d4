"""The reference's vocoder, with weights that make it lively, its draws given, and ours with the same weights."""

from __future__ import annotations

import copy
from functools import lru_cache
from typing import Any
from unittest import mock

import torch

from tests.parity.reference import reference_s3gen
from tts_engine.chatterbox.vocoder import Vocoder, VocoderSizes, fold_weight_norm


@lru_cache(maxsize=1)
@torch.inference_mode(False)
def reference_vocoder() -> Any:
    """HiFTGenerator at real size. As it is initialised (deviation 0.01) its output hardly depends on its input."""
    vocoder = copy.deepcopy(reference_s3gen().mel2wav)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in vocoder.named_parameters():
            if name.endswith("alpha"):
                parameter.copy_(0.5 + 1.5 * torch.rand(parameter.shape, generator=generator))
            if name.endswith("original0") and not name.startswith("f0_predictor"):
                # Weight norm: the length of the vectors below. So that each layer keeps the size of its input.
                vectors = vocoder.get_parameter(name[:-1] + "1").shape
                stride = {16: 8, 11: 5, 7: 3}[vectors[2]] if name.startswith("ups") else 0
                parameter.fill_((vectors[1] * stride / vectors[0]) ** 0.5 if stride else 1.0)
                if "resblocks" in name:
                    parameter.fill_(0.5)
    return vocoder


@lru_cache(maxsize=1)
@torch.inference_mode(False)
def our_vocoder() -> Vocoder:
    reference = reference_vocoder().state_dict()
    folded = {}
    for name, value in reference.items():
        if name.endswith(".original0"):
            layer = name.removesuffix(".parametrizations.weight.original0")
            folded[f"{layer}.weight"] = fold_weight_norm(value, reference[name[:-1] + "1"])
        elif not name.endswith(".original1"):
            folded[name] = value
    with torch.device("meta"):
        vocoder = Vocoder(VocoderSizes.from_shapes({name: tuple(value.shape) for name, value in folded.items()}))
    vocoder.load_state_dict(folded, assign=True)
    return vocoder.eval()


def run_reference(mel: torch.Tensor, offsets: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Waveform (B, 480 T) and source (B, 1, 480 T), with phases (B, 9) and noise (B, 9, 480 T) for its own draws."""

    def normal(like: torch.Tensor) -> torch.Tensor:
        # It draws a second time, for a noise that nobody uses.
        return noise if like.shape == noise.shape else torch.zeros_like(like)

    uniform = mock.Mock()
    uniform.return_value.sample.return_value = offsets[..., None].clone()
    module = "chatterbox.models.s3gen.hifigan"
    with mock.patch(f"{module}.Uniform", uniform), mock.patch(f"{module}.torch.randn_like", normal):
        wave, source = reference_vocoder().inference(mel)
    return wave, source
