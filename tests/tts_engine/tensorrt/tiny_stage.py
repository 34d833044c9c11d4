"""A stage of a few thousand parameters that has what the real ones have: attention over padded rows with heads of 64,
LayerNorm, products with and without bias, convolutions, Mish, a cumulative sum in integers, and a float32 corner.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tts_engine.chatterbox.flow_layers import FrameConv, key_bias
from tts_engine.tensorrt.ports import Port, Stage

WIDTH, HEADS, HEAD, KEPT, TICKS = 64, 2, 64, 3, 1 << 16


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(WIDTH)
        self.qkv = nn.Linear(WIDTH, 3 * HEADS * HEAD, bias=False)
        self.out = nn.Linear(HEADS * HEAD, WIDTH)
        self.norm2 = nn.LayerNorm(WIDTH)
        self.wide = nn.Linear(WIDTH, 2 * WIDTH)
        self.narrow = nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        qkv = self.qkv(self.norm1(x)).unflatten(-1, (3, HEADS, HEAD)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2], attn_mask=bias)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        out: Tensor = x + self.narrow(F.gelu(self.wide(self.norm2(x))))
        return out


class F0Predictor(nn.Module):
    """What stays in float32 whole, products too."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(WIDTH, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        f0: Tensor = self.conv(x.float().transpose(1, 2))[:, 0].abs()
        return f0


class Tiny(nn.Module):
    FLOAT32_PREFIXES = ("f0_predictor.",)

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(200, WIDTH)
        self.taps = FrameConv(WIDTH, WIDTH, 3)
        self.norm = nn.LayerNorm(WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.up = nn.ConvTranspose1d(WIDTH, 8, 4, 2, padding=1)
        self.f0_predictor = F0Predictor()

    def forward(self, tokens: Tensor, lengths: Tensor, kept: Tensor, *scales: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        dtype = self.taps.weight.dtype
        size = tokens.shape[1]
        x = self.table(tokens)
        for scale in scales:
            x = x * scale[:, None, :].to(dtype)
        x = x + F.mish(self.norm(self.taps(x)))
        bias = key_bias(lengths, size, dtype).expand(-1, 1, size, -1)
        for block in self.blocks:
            x = block(x, bias)
        f0 = self.f0_predictor(x)
        ticks = torch.cumsum((f0 * TICKS).round().long(), -1)
        phase = torch.remainder(ticks, 1 << 40).float() / TICKS
        wave = self.up(x.transpose(1, 2)).float().transpose(1, 2)
        kept = torch.cat((kept, x[:, None, :KEPT].to(kept.dtype)), 1)
        return wave, phase, kept


INPUTS = (
    Port("tokens", "int64", ("rows", "tokens")),
    Port("lengths", "int32", ("rows",)),
    Port("kept", "half", ("rows", "past", KEPT, WIDTH)),
    Port("scale_0", "float32", ("rows", WIDTH)),
    Port("scale_1", "float32", ("rows", WIDTH)),
)
OUTPUTS = (
    Port("wave", "float32", ("rows", "2*tokens", 8)),
    Port("phase", "float32", ("rows", "tokens")),
    Port("kept_on", "half", ("rows", "past_on", KEPT, WIDTH)),
)


def example(dims: Mapping[str, int], generator: torch.Generator) -> dict[str, Tensor]:
    rows, tokens, past = dims["rows"], dims["tokens"], dims["past"]
    return {
        "tokens": torch.randint(0, 200, (rows, tokens), generator=generator),
        "lengths": torch.randint(min(4, tokens), tokens + 1, (rows,), generator=generator, dtype=torch.int32),
        "kept": torch.randn(rows, past, KEPT, WIDTH, generator=generator),
        "scale_0": 1 + torch.rand(rows, WIDTH, generator=generator),
        "scale_1": 1 + torch.rand(rows, WIDTH, generator=generator),
    }


def tiny_stage(seed: int = 0) -> Stage:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        module = Tiny().eval().requires_grad_(False)
    return Stage("tiny", module, INPUTS, OUTPUTS, example)
