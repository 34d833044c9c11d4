"""The flow's two stages: the encoder once a batch, the estimator twice. What is between them stays in PyTorch."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from tts_engine.chatterbox.constants import FRAMES_PER_TOKEN
from tts_engine.chatterbox.estimator import STEP_TIMES, Estimator
from tts_engine.chatterbox.flow import Flow
from tts_engine.chatterbox.flow_layers import key_bias
from tts_engine.tensorrt.ports import Port, Stage


class EncoderModule(nn.Module):
    """Padded tokens to mu."""

    def __init__(self, flow: Flow) -> None:
        super().__init__()
        self.embedding, self.encoder, self.projection = flow.input_embedding, flow.encoder, flow.encoder_proj

    def forward(self, tokens: Tensor, lengths: Tensor) -> tuple[Tensor]:
        """(B, T) int64 and (B,) int32 to (B, 2T, 80) float32, meaningless at padding."""
        return (self.projection(self.encoder(self.embedding(tokens), lengths)).float(),)


class EstimatorModule(nn.Module):
    """One step's direction, frames in and out in float32 whatever the estimator computes in."""

    def __init__(self, estimator: Estimator) -> None:
        super().__init__()
        self.estimator = estimator

    def forward(self, frames: Tensor, conditions: Tensor, time: Tensor, lengths: Tensor) -> tuple[Tensor]:
        """(B, F, 80), (B, F, 240), times()[step], (B,) int32 frames, to (B, F, 80) float32, meaningless at padding."""
        dtype = self.estimator.final_proj.weight.dtype
        size = frames.shape[1]
        # ONNX Runtime's Attention wants a mask of all queries.
        bias = key_bias(lengths, size, dtype).expand(-1, -1, size, -1)
        known = torch.cat((frames, conditions), dim=-1).to(dtype)
        return (self.estimator(known, time.to(dtype), bias).float(),)


def encoder_stage(flow: Flow) -> Stage:
    """`flow_encoder`: sizes vary in `rows` and `tokens`."""
    sizes = flow.sizes

    def example(dims: Mapping[str, int], generator: torch.Generator) -> dict[str, Tensor]:
        rows, longest = dims["rows"], dims["tokens"]
        return {
            "tokens": torch.randint(sizes.vocabulary, (rows, longest), generator=generator),
            "lengths": random_lengths(rows, longest, generator),
        }

    return Stage(
        "flow_encoder",
        EncoderModule(flow).eval(),
        (Port("tokens", "int64", ("rows", "tokens")), Port("lengths", "int32", ("rows",))),
        (Port("mu", "float32", ("rows", f"{FRAMES_PER_TOKEN}*tokens", sizes.mel_bins)),),
        example,
    )


def estimator_stage(flow: Flow) -> Stage:
    """`estimator`: sizes vary in `rows` and `frames`."""
    estimator, bins = flow.decoder.estimator, flow.sizes.mel_bins
    blocks = len(estimator.mid_blocks) + 2

    def example(dims: Mapping[str, int], generator: torch.Generator) -> dict[str, Tensor]:
        rows, longest = dims["rows"], dims["frames"]
        step = int(torch.randint(len(STEP_TIMES), (), generator=generator))
        return {
            "frames": torch.randn(rows, longest, bins, generator=generator),
            "conditions": torch.randn(rows, longest, 3 * bins, generator=generator),
            "time": estimator.times()[step].detach().cpu().float(),
            "lengths": random_lengths(rows, longest, generator),
        }

    return Stage(
        "estimator",
        EstimatorModule(estimator).eval(),
        (
            Port("frames", "float32", ("rows", "frames", bins)),
            Port("conditions", "float32", ("rows", "frames", 3 * bins)),
            Port("time", "float32", (blocks, flow.sizes.channels)),
            Port("lengths", "int32", ("rows",)),
        ),
        (Port("change", "float32", ("rows", "frames", bins)),),
        example,
    )


def random_lengths(rows: int, longest: int, generator: torch.Generator) -> Tensor:
    """(rows,) int32 of 1 to `longest`, the first row being as long as can be."""
    lengths = torch.randint(1, longest + 1, (rows,), generator=generator, dtype=torch.int32)
    lengths[0] = longest
    return lengths
