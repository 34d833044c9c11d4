"""Resemble AI's own modules, seeded random weights, released widths; depth is cut where that proves the same."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any
from unittest import mock

import torch

from tts_engine.chatterbox import torchaudio_stand_in

torchaudio_stand_in.install()

from chatterbox.models.s3gen import S3Gen  # noqa: E402
from chatterbox.models.s3gen import s3gen as s3gen_module  # noqa: E402
from chatterbox.models.t3 import T3  # noqa: E402
from chatterbox.models.t3.llama_configs import LLAMA_CONFIGS  # noqa: E402
from chatterbox.models.t3.modules.t3_config import T3Config  # noqa: E402
from s3tokenizer.model_v2 import S3TokenizerV2  # noqa: E402

MID_BLOCKS = 2

NANO = {"n_embd": 768, "hidden_size": 768, "n_head": 12}
"What Nano's checkpoint has instead of GPT-2 medium's width; it has 12 blocks."


@contextmanager
def fewer_blocks() -> Iterator[None]:
    """S3Gens are built with MID_BLOCKS in the estimator, and one block in the speech tokenizer, which has no part."""
    decoder = s3gen_module.ConditionalDecoder
    # The one default configuration that every tokenizer is built with.
    (tokenizer,) = S3TokenizerV2.__init__.__defaults__
    with (
        mock.patch.object(
            s3gen_module, "ConditionalDecoder", lambda **sizes: decoder(**sizes | {"num_mid_blocks": MID_BLOCKS})
        ),
        mock.patch.object(tokenizer, "n_audio_layer", 1),
    ):
        yield


def _liven(module: torch.nn.Module, seed: int) -> None:
    """Norms and biases start as ones and zeros: a swapped or forgotten one would not show."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)


def reference_t3(layers: int = 4, *, nano: bool = False) -> Any:
    """T3 with GPT-2 blocks: real widths, `layers` blocks of 24 (Turbo) or 12 (Nano). float32, eval; built once."""
    return _t3(layers, nano)


@lru_cache(maxsize=2)
def _t3(layers: int, nano: bool) -> Any:
    torch.manual_seed(1)
    sizes = dict(LLAMA_CONFIGS["GPT2_medium"], **(NANO if nano else {}), n_layer=layers)
    LLAMA_CONFIGS["test"] = sizes
    hp = T3Config(text_tokens_dict_size=50276)
    hp.llama_config_name = "test"
    hp.speech_tokens_dict_size = 6563
    hp.input_pos_emb = None
    hp.speech_cond_prompt_len = 375
    hp.use_perceiver_resampler = False
    hp.emotion_adv = False
    t3 = T3(hp).eval()
    _liven(t3, 2)
    return t3


@lru_cache(maxsize=1)
def reference_s3gen() -> Any:
    """S3Gen with meanflow: whole encoder and vocoder, MID_BLOCKS of the estimator's 12. float32, eval."""
    torch.manual_seed(3)
    with fewer_blocks():
        s3gen = S3Gen(meanflow=True).eval()
    _liven(s3gen, 4)
    with torch.no_grad():
        # A random mixer and an F0 in the range of voices, partly unvoiced (below 10 Hz).
        torch.nn.init.normal_(s3gen.flow.decoder.estimator.time_embed_mixer.weight, std=0.03)
        predictor = s3gen.mel2wav.f0_predictor
        heard = predictor.condnet(torch.randn(1, 80, 200) * 2 - 4)[0].T @ predictor.classifier.weight[0]
        predictor.classifier.weight *= 40 / heard.std()
        predictor.classifier.bias.fill_(60 - 40 * heard.mean() / heard.std())
    return s3gen
