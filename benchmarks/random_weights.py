"""Seeded random weights for the released layout, scaled so that the model behaves like one.

T3 says a few seconds of changing tokens and stops, F0 is that of voices and partly unvoiced, the vocoder can be
heard. What it says is noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tts_engine.chatterbox.constants import (
    FRAMES_PER_TOKEN,
    MAX_PROMPT_TOKENS,
    MEL_BINS,
    SPEAKER_EMBEDDING,
    SPEECH_TOKENS,
    START_TOKEN,
    STOP_TOKEN,
    X_VECTOR,
)
from tts_engine.chatterbox.f0 import F0Predictor
from tts_engine.chatterbox.flow import Flow, FlowSizes
from tts_engine.chatterbox.model import FLOW, VOCODER
from tts_engine.chatterbox.t3 import T3, T3Sizes
from tts_engine.chatterbox.vocoder import Vocoder, VocoderSizes
from tts_engine.chatterbox.weights import WEIGHT_NORM

MEL_MEAN, MEL_STD = -5.0, 2.5
"Of log-mel spectrograms of speech, roughly; the flow's output is made to match."

F0_MEAN, F0_STD = 140.0, 150.0
"Hz, of a mel that is white noise; the flow's is smoother, which leaves a deviation of about 60."

LOGIT_STD = 2.0
STOP_BIAS = 5.8
"Against logits of LOGIT_STD and with the default sampling, STOP comes about once in 100 tokens."

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Tensor:
    """One to be written: its values are drawn when it is its turn."""

    name: str
    shape: Shape
    draw: Callable[[], torch.Tensor]
    dtype: torch.dtype | None = None
    "Its own, if it is not to have the file's."


def t3_tensors(sizes: T3Sizes, generator: torch.Generator, dtype: torch.dtype, *, unread: bool) -> Iterator[Tensor]:
    """All of t3_*.safetensors; `unread`: with the two tables that inference does not use."""
    with torch.device("meta"):
        shapes = _shapes(T3(sizes))
    if unread:
        table = (sizes.text_vocabulary, sizes.width)
        shapes |= {"tfmr.wte.weight": table, "text_head.weight": table}
    deep = 0.02 / math.sqrt(2 * sizes.layers)
    for name, shape in shapes.items():
        mean, std = _norm_or_bias(name, shape) or (0.0, deep if name.endswith("c_proj.weight") else 0.02)
        if name == "speech_head.weight":
            std = LOGIT_STD / math.sqrt(sizes.width)
        elif name == "cond_enc.spkr_enc.weight":
            std = 0.1
        yield _tensor(name, shape, mean, std, generator, dtype, _ending if name.startswith("speech_head.") else None)


def _ending(weights: torch.Tensor) -> torch.Tensor:
    """STOP is as likely at any time, START never comes."""
    weights[[START_TOKEN, STOP_TOKEN]] = 0
    if weights.ndim == 1:
        weights[START_TOKEN], weights[STOP_TOKEN] = -20.0, STOP_BIAS
    return weights


def s3gen_tensors(
    flow: FlowSizes, vocoder: VocoderSizes, generator: torch.Generator, dtype: torch.dtype
) -> Iterator[Tensor]:
    """What s3gen_meanflow.safetensors has of the flow and the vocoder."""
    with torch.device("meta"):
        shapes = {FLOW: _shapes(Flow(flow)), VOCODER: _weight_normed(_shapes(Vocoder(vocoder)))}
    for name, shape in shapes[FLOW].items():
        mean, std = _norm_or_bias(name, shape) or (0.0, 1 / math.sqrt(math.prod(shape[1:])))
        if name == "input_embedding.weight":
            std = 1.0
        elif name == "decoder.estimator.final_proj.weight":
            std *= MEL_STD
        elif name == "decoder.estimator.final_proj.bias":
            mean = MEL_MEAN
        yield _tensor(FLOW + name, shape, mean, std, generator, dtype)
    f0 = _f0_predictor(vocoder, generator)
    for name, shape in shapes[VOCODER].items():
        if name.startswith("f0_predictor."):
            yield Tensor(VOCODER + name, shape, lambda name=name: f0[name.removeprefix("f0_predictor.")].to(dtype))
        else:
            yield _tensor(VOCODER + name, shape, *_vocoder_scale(name, shape), generator, dtype, _quiet(name))


def _vocoder_scale(name: str, shape: Shape) -> tuple[float, float]:
    """Mean and standard deviation of a tensor of the vocoder."""
    if name.endswith(WEIGHT_NORM[0]):  # lengths of directions; residual branches are halved, mel is large
        length = 0.2 if name.startswith("conv_pre.") else 0.5 if "resblocks" in name else 1.0
        return length, 0.05 * length
    if name.endswith("alpha"):
        return 1.0, 0.1
    if name == "m_source.l_linear.weight":
        return 1.0, 0.2
    return _norm_or_bias(name, shape) or (0.0, 1 / math.sqrt(math.prod(shape[1:])))


def _quiet(name: str) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """The first half of the last convolution's outputs are log magnitudes: exp(-1) is at a good level."""

    def lower(bias: torch.Tensor) -> torch.Tensor:
        bias[: len(bias) // 2] -= 1.0
        return bias

    return lower if name == "conv_post.bias" else None


def _f0_predictor(sizes: VocoderSizes, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Its tensors, weight norm split, with the last layer set so that a random mel gives F0_MEAN and F0_STD."""
    predictor = F0Predictor(sizes.f0_width).requires_grad_(False)
    for layer in predictor.condnet:
        if isinstance(layer, nn.Conv1d):
            layer.weight.normal_(generator=generator).mul_(layer.weight[0].numel() ** -0.5)
            layer.bias.normal_(std=0.02, generator=generator)
    predictor.condnet[0].weight.mul_(0.5)  # type: ignore[operator]  # mel is large
    mel = MEL_MEAN + MEL_STD * torch.randn(1, MEL_BINS, 1000, generator=generator)
    heard = predictor.condnet(mel)[0, :, 10:-10].mT
    last = predictor.classifier
    last.weight.normal_(generator=generator)
    spoken = heard @ last.weight[0]
    last.weight.mul_(F0_STD / spoken.std())
    last.bias.copy_(F0_MEAN - (heard @ last.weight[0]).mean())
    tensors = dict(predictor.state_dict())
    for name in [name for name, tensor in tensors.items() if tensor.ndim == 3]:
        direction = tensors.pop(name)
        pair = (torch.linalg.vector_norm(direction, dim=(1, 2), keepdim=True), direction)
        tensors |= {name.removesuffix(".weight") + half: part for half, part in zip(WEIGHT_NORM, pair, strict=True)}
    return tensors


def random_conditionals(generator: torch.Generator) -> dict[str, Any]:
    """What conds.pt holds, of a voice with 15 s of prompt for T3 and 10 s for the flow."""

    def randn(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    tokens = 250
    # The voice encoder ends with a ReLU and a normalisation.
    speaker = nn.functional.normalize(randn(1, SPEAKER_EMBEDDING).relu(), dim=1)
    envelope = nn.functional.avg_pool1d(randn(1, MEL_BINS, FRAMES_PER_TOKEN * tokens + 8), 9, 1).mT
    return {
        "t3": {
            "speaker_emb": speaker,
            "clap_emb": None,
            "cond_prompt_speech_tokens": torch.randint(SPEECH_TOKENS, (1, MAX_PROMPT_TOKENS), generator=generator),
            "cond_prompt_speech_emb": None,
            "emotion_adv": 0.5 * torch.ones(1, 1, 1),
        },
        "gen": {
            "prompt_token": torch.randint(SPEECH_TOKENS, (1, tokens), generator=generator),
            "prompt_token_len": torch.tensor([tokens]),
            "prompt_feat": MEL_MEAN + 3 * MEL_STD * envelope,
            "prompt_feat_len": None,
            "embedding": randn(1, X_VECTOR),
        },
    }


def _tensor(
    name: str,
    shape: Shape,
    mean: float,
    std: float,
    generator: torch.Generator,
    dtype: torch.dtype,
    change: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> Tensor:
    def draw() -> torch.Tensor:
        values = torch.empty(shape, dtype=dtype).normal_(mean, std, generator=generator)
        return change(values) if change else values

    return Tensor(name, shape, draw)


def _norm_or_bias(name: str, shape: Shape) -> tuple[float, float] | None:
    """Mean and standard deviation of what every module has: norms near 1, biases near 0."""
    if len(shape) > 1:
        return None
    return (1.0, 0.05) if name.endswith(".weight") else (0.0, 0.02)


def _shapes(module: nn.Module) -> dict[str, Shape]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def _weight_normed(shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    """The vocoder's shapes as they are saved: all its convolutions but those of the source carry weight norm."""
    saved: dict[str, Shape] = {}
    for name, shape in shapes.items():
        if len(shape) == 3 and not name.startswith("source_downs."):
            stem = name.removesuffix(".weight")
            saved |= {stem + WEIGHT_NORM[0]: (shape[0], 1, 1), stem + WEIGHT_NORM[1]: shape}
        else:
            saved[name] = shape
    return saved
