"""From speech tokens to a mel spectrogram in the voice's timbre: encoder, then two steps of meanflow.

s3gen/flow.py and s3gen/flow_matching.py, batched. The prompt, the voice's own tokens and frames, goes before the new
tokens of every call; the result has its frames too, which the caller drops.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from tts_engine.chatterbox.constants import FRAMES_PER_TOKEN
from tts_engine.chatterbox.encoder import Encoder
from tts_engine.chatterbox.estimator import STEP_TIMES, Estimator
from tts_engine.chatterbox.flow_layers import key_bias, within

_ESTIMATOR_HEAD = 64  # the one size that no tensor shows


@dataclass(frozen=True)
class FlowSizes:
    """Widths and depths; the defaults are those of the released models."""

    vocabulary: int = 6561
    x_vector: int = 192
    mel_bins: int = 80
    width: int = 512
    heads: int = 8
    feed_forward: int = 2048
    layers: int = 6
    up_layers: int = 4
    look_ahead: int = 3
    channels: int = 256
    time_width: int = 1024
    estimator_heads: int = 8
    estimator_feed_forward: int = 1024
    mid_blocks: int = 12
    transformers: int = 4

    @classmethod
    def from_shapes(cls, shapes: Mapping[str, tuple[int, ...]]) -> FlowSizes:
        """Of a checkpoint's tensors, by their names below (or with) `flow.`. Raises ValueError saying what is wrong."""
        shapes = {name.removeprefix("flow."): tuple(shape) for name, shape in shapes.items()}
        estimator, block = "decoder.estimator", "decoder.estimator.mid_blocks.0.1"
        if f"{estimator}.time_embed_mixer.weight" not in shapes:
            raise ValueError("the flow has no time_embed_mixer: it is not a meanflow model, which Turbo's decoder is")
        for ends in ("down_blocks", "up_blocks"):
            if (count := _count(shapes, f"{estimator}.{ends}")) != 1:
                raise ValueError(f"the flow's estimator has {count} {ends}, this engine knows one")
        try:
            vocabulary, width = shapes["input_embedding.weight"]
            mel_bins, x_vector = shapes["spk_embed_affine_layer.weight"]
            inner, channels = shapes[f"{block}.0.attn1.to_q.weight"]
            sizes = cls(
                vocabulary=vocabulary,
                x_vector=x_vector,
                mel_bins=mel_bins,
                width=width,
                heads=shapes["encoder.encoders.0.self_attn.pos_bias_u"][0],
                feed_forward=shapes["encoder.encoders.0.feed_forward.w_1.weight"][0],
                layers=_count(shapes, "encoder.encoders"),
                up_layers=_count(shapes, "encoder.up_encoders"),
                look_ahead=shapes["encoder.pre_lookahead_layer.conv1.weight"][2] - 1,
                channels=channels,
                time_width=shapes[f"{estimator}.time_mlp.linear_1.weight"][0],
                estimator_heads=inner // _ESTIMATOR_HEAD,
                estimator_feed_forward=shapes[f"{block}.0.ff.net.0.proj.weight"][0],
                mid_blocks=_count(shapes, f"{estimator}.mid_blocks"),
                transformers=_count(shapes, block),
            )
        except KeyError as error:
            raise ValueError(f"the flow has no tensor {error.args[0]}") from None
        if inner % _ESTIMATOR_HEAD:
            raise ValueError(f"{inner} is no whole number of attention heads of {_ESTIMATOR_HEAD} in the estimator")
        return sizes


def _count(shapes: Mapping[str, tuple[int, ...]], prefix: str) -> int:
    """How many modules are numbered below a name: the highest plus one, so that a gap shows as missing tensors."""
    numbered = re.compile(re.escape(prefix) + r"\.(\d+)\.")
    return max((int(found[1]) + 1 for name in shapes if (found := numbered.match(name))), default=0)


class MeanFlow(nn.Module):
    """Names below `flow.decoder.`: steps from noise to frames."""

    def __init__(self, estimator: Estimator) -> None:
        super().__init__()
        self.estimator = estimator

    def forward(self, noise: torch.Tensor, conditions: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """(B, F, 80) noise and (B, F, 240) [mu | speaker | prompt], key_bias or None, to frames (B, F, 80) float32.

        The frames are carried in float32: what is rounded is only what the estimator reads and says.
        """
        frames = noise.float()
        for (start, end), time in zip(STEP_TIMES, self.estimator.times(), strict=True):
            known = torch.cat((frames.to(conditions.dtype), conditions), dim=-1)
            frames = frames + (end - start) * self.estimator(known, time, bias)
        return frames


class Flow(nn.Module):
    """Names below `flow.` in s3gen_meanflow.safetensors."""

    def __init__(self, sizes: FlowSizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.input_embedding = nn.Embedding(sizes.vocabulary, sizes.width)
        self.spk_embed_affine_layer = nn.Linear(sizes.x_vector, sizes.mel_bins)
        self.encoder = Encoder(
            sizes.width, sizes.heads, sizes.feed_forward, sizes.layers, sizes.up_layers, sizes.look_ahead
        )
        self.encoder_proj = nn.Linear(sizes.width, sizes.mel_bins)
        estimator = Estimator(
            4 * sizes.mel_bins,
            sizes.mel_bins,
            channels=sizes.channels,
            time_width=sizes.time_width,
            heads=sizes.estimator_heads,
            inner=sizes.estimator_heads * _ESTIMATOR_HEAD,
            hidden=sizes.estimator_feed_forward,
            mid_blocks=sizes.mid_blocks,
            transformers=sizes.transformers,
        )
        self.decoder = MeanFlow(estimator)

    def encode(self, tokens: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        """(B, T) tokens below 6561, right-padded with any of them, to mu (B, 2T, 80); meaningless at padding."""
        mu: torch.Tensor = self.encoder_proj(self.encoder(self.input_embedding(tokens), lengths))
        return mu

    def forward(
        self,
        tokens: torch.Tensor,
        lengths: torch.Tensor | None,
        prompt_mel: torch.Tensor,
        prompt_frames: torch.Tensor | None,
        x_vector: torch.Tensor,
        noise: torch.Tensor,
        *,
        look_ahead: int | torch.Tensor = 0,
    ) -> torch.Tensor:
        """Mel spectrogram (B, 80, 2 (T - look_ahead)) of [prompt | new] tokens, in the dtype of `noise`.

        tokens (B, T): right-padded; lengths (B,) or None: none is padded, which is faster.
        prompt_mel (B, P, 80): right-padded; prompt_frames (B,) or None: all P.
        x_vector (B, 192): not normalised.
        noise (B, 80, 2T): column f belongs to frame f, whatever the chunk. It may be longer.
        look_ahead: last tokens of each row that are heard by the others but not rendered: 3 while more are to come. As
        a tensor, () or (B,), with lengths: the result is (B, 80, 2T) then, for graphs that serve any look-ahead.

        Frames beyond a row's 2 (length - look_ahead) are 0; a row gives the same in any batch.
        """
        count = FRAMES_PER_TOKEN * (tokens.shape[1] - (look_ahead if isinstance(look_ahead, int) else 0))
        conditions = self._conditions(self.encode(tokens, lengths)[:, :count], prompt_mel, prompt_frames, x_vector)
        start = noise[:, :, :count].transpose(1, 2)
        if lengths is None:
            whole: torch.Tensor = self.decoder(start, conditions, None)
            return whole.to(noise.dtype).transpose(1, 2)

        frames = FRAMES_PER_TOKEN * (lengths - look_ahead)
        padding = ~within(frames, count)[..., None]
        bias = key_bias(frames, count, conditions.dtype)
        mel: torch.Tensor = self.decoder(start.masked_fill(padding, 0), conditions.masked_fill(padding, 0), bias)
        return mel.masked_fill(padding, 0).to(noise.dtype).transpose(1, 2)

    def _conditions(
        self, mu: torch.Tensor, prompt_mel: torch.Tensor, prompt_frames: torch.Tensor | None, x_vector: torch.Tensor
    ) -> torch.Tensor:
        """(B, F, 240): [mu | speaker | prompt], the prompt being 0 where it has ended."""
        count = mu.shape[1]
        prompt = prompt_mel[:, :count].to(mu.dtype)
        if prompt_frames is not None:
            prompt = prompt.masked_fill(~within(prompt_frames, prompt.shape[1])[..., None], 0)
        prompt = F.pad(prompt, (0, 0, 0, count - prompt.shape[1]))
        speaker = self.spk_embed_affine_layer(F.normalize(x_vector.float(), dim=1).to(mu.dtype))
        return torch.cat((mu, speaker[:, None].expand(-1, count, -1), prompt), dim=-1)
