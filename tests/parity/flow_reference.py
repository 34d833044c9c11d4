"""The reference's flow, called as its own `flow_inference` calls it but with given noise, and ours with its weights."""

from __future__ import annotations

import copy
from functools import lru_cache
from typing import Any
from unittest import mock

import torch

from tests.parity.reference import reference_s3gen
from tts_engine.chatterbox.flow import Flow, FlowSizes


def reference_flow() -> Any:
    return reference_s3gen().flow


@lru_cache(maxsize=1)
def our_flow() -> Flow:
    """Made from the shapes alone, on the meta device, as from a checkpoint."""
    state = reference_flow().state_dict()
    with torch.device("meta"):
        flow = Flow(FlowSizes.from_shapes({name: tuple(tensor.shape) for name, tensor in state.items()}))
    flow.load_state_dict(state, strict=True, assign=True)
    return flow.eval()


def half_flow(dtype: torch.dtype) -> Flow:
    """Ours rounded to another dtype."""
    return copy.deepcopy(our_flow()).to(dtype)


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Utterance:
    """One row: prompt and new tokens, prompt frames like a log-mel's, speaker, noise for all frames."""

    def __init__(self, prompt: int, new: int, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.prompt_tokens = torch.randint(0, 6561, (prompt,), generator=generator)
        self.new_tokens = torch.randint(0, 6561, (new,), generator=generator)
        self.prompt_mel = 2 * torch.randn(2 * prompt, 80, generator=generator) - 5
        self.x_vector = 3 * torch.randn(192, generator=generator)
        self.noise = torch.randn(80, 2 * (prompt + new), generator=generator)

    @property
    def tokens(self) -> torch.Tensor:
        return torch.cat((self.prompt_tokens, self.new_tokens))

    @lru_cache(maxsize=8)  # noqa: B019
    def reference_mel(self, *, finalize: bool = True) -> torch.Tensor:
        """(80, new frames). The reference draws the prompt's noise itself and takes the rest as an argument."""
        flow, held_back = reference_flow(), 0 if finalize else 6
        frames = self.noise.shape[1] - held_back
        decode = flow.decoder.forward

        def decode_with_mask_that_fits(mu: torch.Tensor, mask: torch.Tensor, **others: Any) -> Any:
            # With finalize=False the reference makes its mask for all frames and fails on its shape.
            return decode(mu=mu, mask=mask[:, :, : mu.shape[2]], **others)

        with (
            mock.patch.object(torch, "randn_like", lambda like: self.noise[None, :, : like.shape[2]].clone()),
            mock.patch.object(flow.decoder, "forward", decode_with_mask_that_fits),
        ):
            mel, _ = flow.inference(
                token=self.new_tokens[None],
                token_len=torch.tensor([len(self.new_tokens)]),
                prompt_token=self.prompt_tokens[None],
                prompt_token_len=torch.tensor([len(self.prompt_tokens)]),
                prompt_feat=self.prompt_mel[None],
                prompt_feat_len=None,
                embedding=self.x_vector[None],
                finalize=finalize,
                n_timesteps=2,
                noised_mels=self.noise[None, :, len(self.prompt_mel) : frames],
                meanflow=True,
            )
        assert isinstance(mel, torch.Tensor)
        return mel[0]

    def our_mel(self, flow: Flow, look_ahead: int = 0) -> torch.Tensor:
        """(80, new frames)."""
        mel: torch.Tensor = flow(
            self.tokens[None],
            None,
            self.prompt_mel[None],
            None,
            self.x_vector[None],
            self.noise[None],
            look_ahead=look_ahead,
        )
        return mel[0, :, len(self.prompt_mel) :]
