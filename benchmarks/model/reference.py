"""Resemble AI's own package over the same checkpoint, as it ships: float32, eager, one utterance at a time."""

from __future__ import annotations

import contextlib
import importlib.machinery
import importlib.util
import io
import sys
import types
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from tts_engine.chatterbox.constants import STOP_TOKEN
from tts_engine.chatterbox.voice import Voice


def _stand_in(name: str) -> None:
    """An empty module where a package is absent that the reference imports and that nothing measured here uses."""
    with contextlib.suppress(ImportError, ValueError):
        if importlib.util.find_spec(name) is not None:
            return
    module = types.ModuleType(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None)
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, module)
    sys.modules[name] = module


class Reference:
    """T3 and S3Gen of chatterbox-tts, with what a benchmark calls of them."""

    def __init__(self, directory: Path, device: torch.device, voice: Voice) -> None:
        """Reads t3_turbo_v1.safetensors and s3gen_meanflow.safetensors; encoders keep random weights."""
        names = ("torchaudio", "torchaudio.transforms", "torchaudio.compliance", "torchaudio.compliance.kaldi", "perth")
        for name in names:
            _stand_in(name)
        from chatterbox.models.s3gen import S3Gen  # noqa: PLC0415
        from chatterbox.models.t3 import T3  # noqa: PLC0415
        from chatterbox.models.t3.llama_configs import LLAMA_CONFIGS  # noqa: PLC0415
        from chatterbox.models.t3.modules.cond_enc import T3Cond  # noqa: PLC0415
        from chatterbox.models.t3.modules.t3_config import T3Config  # noqa: PLC0415

        self.device = device
        weights = load_file(directory / "t3_turbo_v1.safetensors")
        layers = 1 + max(int(name.split(".")[2]) for name in weights if name.startswith("tfmr.h."))
        LLAMA_CONFIGS["benchmark"] = dict(LLAMA_CONFIGS["GPT2_medium"], n_layer=layers)
        hp = T3Config(text_tokens_dict_size=len(weights["text_emb.weight"]))
        hp.llama_config_name = "benchmark"
        hp.speech_tokens_dict_size = len(weights["speech_emb.weight"])
        hp.input_pos_emb = None
        hp.speech_cond_prompt_len = 375
        hp.use_perceiver_resampler = False
        hp.emotion_adv = False
        self.t3: Any = T3(hp)
        self.t3.load_state_dict(weights, strict=False)
        self.t3.to(device).eval()
        weights = load_file(directory / "s3gen_meanflow.safetensors")
        self.s3gen: Any = S3Gen(meanflow=True)
        names = [name for name in weights if name.startswith("flow.decoder.estimator.mid_blocks.")]
        del self.s3gen.flow.decoder.estimator.mid_blocks[1 + max(int(name.split(".")[4]) for name in names) :]
        self.s3gen.load_state_dict({name: tensor.float() for name, tensor in weights.items()}, strict=False)
        self.s3gen.to(device).eval()
        self._conditions = T3Cond(
            speaker_emb=voice.speaker_embedding[None].float(),
            cond_prompt_speech_tokens=voice.prompt_tokens[None],
            emotion_adv=0.5 * torch.ones(1, 1, 1),
        ).to(device=device)
        self._voice = {
            "prompt_token": voice.flow_prompt_tokens[None],
            "prompt_token_len": torch.tensor([len(voice.flow_prompt_tokens)]),
            "prompt_feat": voice.flow_prompt_mel[None].float(),
            "prompt_feat_len": None,
            "embedding": voice.x_vector[None].float(),
        }

    def speech_tokens(self, text_tokens: list[int], count: int) -> torch.Tensor:
        """(count,) speech tokens: T3's loop with its sampling, STOP made impossible."""
        with torch.no_grad():
            self.t3.speech_head.bias[STOP_TOKEN] = -1e9
        text = torch.tensor([text_tokens], device=self.device)
        with _quiet():
            tokens = self.t3.inference_turbo(self._conditions, text, max_gen_len=count - 1)
        return tokens[0].clamp(max=6560)

    def mel(self, tokens: torch.Tensor) -> torch.Tensor:
        """(n,) tokens to the mel spectrogram (1, 80, 2n) of them, the prompt decoded with them."""
        with _quiet():
            return self.s3gen.flow_inference(tokens[None], ref_dict=dict(self._voice), finalize=True, n_cfm_timesteps=2)

    def wave(self, mel: torch.Tensor) -> torch.Tensor:
        """(1, 80, T) to (1, 480 T)."""
        return self.s3gen.hift_inference(mel)[0]

    def say(self, text_tokens: list[int], count: int) -> torch.Tensor:
        """A whole utterance of `count` tokens."""
        return self.wave(self.mel(self.speech_tokens(text_tokens, count)))


@contextlib.contextmanager
def _quiet() -> Any:
    """It prints, and shows progress bars."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
