"""Enrolment: a clip of speech becomes a voice, with the reference package's own encoders.

What tts_turbo.py `prepare_conditionals` and s3gen.py `embed_ref` of chatterbox-tts 0.1.7 do, without building the
T3, the flow and the vocoder that they do not use. The package is imported when the first voice is enrolled.
"""

from __future__ import annotations

import hashlib
import importlib
import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from tts_engine.chatterbox.checkpoint import S3GEN_FILE, VOICE_ENCODER_FILE
from tts_engine.chatterbox.constants import FRAMES_PER_TOKEN, MAX_PROMPT_TOKENS, SAMPLE_RATE, TOKEN_RATE
from tts_engine.chatterbox.voice import Voice
from tts_engine.errors import EngineError
from tts_engine.resample import Samples

ENCODER_RATE = 16_000
TARGET_LUFS = -27.0
T3_PROMPT_S = MAX_PROMPT_TOKENS / TOKEN_RATE
MIN_PROMPT_S, MAX_PROMPT_S = 2.0, 10.0

HOW_TO_INSTALL = (
    "enrolment needs Resemble AI's own package: pip install -r requirements/reference-needs.txt and "
    "pip install --no-deps -r requirements/reference.txt"
)

# Work to decode 11 s, which are 1 s of speech behind a prompt of 10 s: encoder, and two estimator steps.
_FLOW_GFLOP = (44 + 2 * 134) / 11
_VOCODER_GFLOP = 31.0  # for 1 s; the vocoder does not decode the prompt


class EnrolmentError(EngineError):
    """A voice cannot be made here; the message says what is missing."""


@dataclass(frozen=True)
class Encoders:
    """The three networks that listen to a clip, on the CPU in float32."""

    voice_encoder: Any
    speech_tokenizer: Any
    x_vector_encoder: Any
    sha256: str
    "Of all their weights: two voices are comparable if it is the same."


@dataclass(frozen=True)
class Enrolment:
    """A voice, and what its clip was like."""

    voice: Voice
    loudness: float
    "Integrated loudness of the clip in LUFS, before it was brought to -27; -inf if it is too short or quiet."


def chunk_gflop(prompt_seconds: float, speech_seconds: float = 1.0) -> float:
    """Work to decode a chunk of speech behind a prompt: the flow goes through the prompt every time."""
    return _FLOW_GFLOP * (prompt_seconds + speech_seconds) + _VOCODER_GFLOP * speech_seconds


def load_encoders(directory: Path) -> Encoders:
    """Read the encoders out of a model's directory; the flow and the vocoder are not read. Raises EnrolmentError."""
    reference = _reference()
    voice_weights = dict(_read(directory / VOICE_ENCODER_FILE, ""))
    tokenizer_weights = dict(_read(directory / S3GEN_FILE, "tokenizer."))
    x_vector_weights = dict(_read(directory / S3GEN_FILE, "speaker_encoder."))
    digest = hashlib.sha256()
    for weights in (voice_weights, tokenizer_weights, x_vector_weights):
        _update(digest, weights)
    return Encoders(
        _loaded(reference.voice_encoder.VoiceEncoder(), voice_weights, directory / VOICE_ENCODER_FILE),
        # The mel filters and the window are made with the module; older files do not hold them.
        _loaded(
            reference.s3tokenizer.S3Tokenizer("speech_tokenizer_v2_25hz"),
            tokenizer_weights,
            directory / S3GEN_FILE,
            optional={"_mel_filters", "window"},
        ),
        _loaded(reference.xvector.CAMPPlus(memory_efficient=False), x_vector_weights, directory / S3GEN_FILE),
        digest.hexdigest(),
    )


def enrol(samples: Samples, encoders: Encoders, prompt_seconds: float = MAX_PROMPT_S) -> Enrolment:
    """Make a voice of a clip: (n,) float32 at 24 kHz, at least 5 s of speech (clip.py checks that).

    `prompt_seconds`, 2 to 10, shortens the flow's prompt only. T3's prompt is of 15 s at most, and both speaker
    embeddings hear as much of the clip as the reference gives them. Raises EnrolmentError.
    """
    if not MIN_PROMPT_S <= prompt_seconds <= MAX_PROMPT_S:
        raise EnrolmentError(
            f"a prompt of {prompt_seconds:g} s is outside {MIN_PROMPT_S:g} to {MAX_PROMPT_S:g} s: shorter is cheaper, "
            "longer is closer to the speaker"
        )
    reference = _reference()
    clip, loudness = _normalised(samples, reference.pyloudnorm)
    clip_16k = reference.librosa.resample(clip, orig_sr=SAMPLE_RATE, target_sr=ENCODER_RATE)
    with torch.inference_mode():
        tokens, mel, x_vector = _flow_conditioning(clip, encoders, reference, prompt_seconds)
        t3_prompt = torch.from_numpy(clip_16k[: int(T3_PROMPT_S * ENCODER_RATE)])[None]
        prompt_tokens, _ = encoders.speech_tokenizer(t3_prompt, max_len=MAX_PROMPT_TOKENS)
    embedding = encoders.voice_encoder.embeds_from_wavs([clip_16k], sample_rate=ENCODER_RATE).mean(axis=0)
    voice = Voice(
        speaker_embedding=torch.from_numpy(np.asarray(embedding, np.float32)),
        prompt_tokens=prompt_tokens[0].clone(),
        flow_prompt_tokens=tokens.clone(),
        flow_prompt_mel=mel.clone(),
        x_vector=x_vector.clone(),
    )
    return Enrolment(voice, loudness)


def _normalised(samples: Samples, pyloudnorm: Any) -> tuple[Samples, float]:
    """The clip at -27 LUFS (ITU-R BS.1770), or as it is where no loudness can be measured."""
    try:
        loudness = float(pyloudnorm.Meter(SAMPLE_RATE).integrated_loudness(samples))
    except ValueError:  # shorter than one gating block
        return samples, -math.inf
    # A Python float: a NumPy scalar would turn the clip, and with it the tokenizer's input, into float64.
    gain = 10.0 ** ((TARGET_LUFS - loudness) / 20.0) if math.isfinite(loudness) else 1.0
    return samples * gain, loudness


def _flow_conditioning(
    clip: Samples, encoders: Encoders, reference: _Reference, prompt_seconds: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tokens (N,), mel (2 N, 80) and x-vector (192,) of the clip's first seconds."""
    heard = torch.from_numpy(clip[: int(MAX_PROMPT_S * SAMPLE_RATE)])[None]
    # Whole tokens; of a shorter clip all.
    length = min(heard.shape[1], round(prompt_seconds * TOKEN_RATE) * SAMPLE_RATE // TOKEN_RATE)
    prompt = heard[:, :length]
    # embed_ref() resamples with torchaudio where prepare_conditionals() takes soxr: kept, token for token.
    resample = reference.s3gen.get_resampler(SAMPLE_RATE, ENCODER_RATE, "cpu")
    mel = reference.mel.mel_spectrogram(prompt)[0].T
    tokens, _ = encoders.speech_tokenizer(resample(prompt))
    x_vector = encoders.x_vector_encoder.inference(resample(heard))[0]
    # A clip that is no whole number of tokens leaves a token, or half of one, over.
    count = min(tokens.shape[1], len(mel) // FRAMES_PER_TOKEN)
    return tokens[0, :count], mel[: FRAMES_PER_TOKEN * count], x_vector


@dataclass(frozen=True)
class _Reference:
    """The modules of the reference package, and of what it stands on."""

    voice_encoder: Any
    s3tokenizer: Any
    xvector: Any
    mel: Any
    s3gen: Any
    librosa: Any
    pyloudnorm: Any


def _reference() -> _Reference:
    try:
        _provide_torchaudio()
        return _Reference(
            voice_encoder=importlib.import_module("chatterbox.models.voice_encoder"),
            s3tokenizer=importlib.import_module("chatterbox.models.s3tokenizer"),
            xvector=importlib.import_module("chatterbox.models.s3gen.xvector"),
            mel=importlib.import_module("chatterbox.models.s3gen.utils.mel"),
            s3gen=importlib.import_module("chatterbox.models.s3gen.s3gen"),
            librosa=importlib.import_module("librosa"),
            pyloudnorm=importlib.import_module("pyloudnorm"),
        )
    except ImportError as error:
        raise EnrolmentError(f"{HOW_TO_INSTALL} ({error})") from None


def _provide_torchaudio() -> None:
    """Its own, if it can be imported; one that was built for another torch fails when its library is loaded."""
    try:
        importlib.import_module("torchaudio.compliance.kaldi")
    except (ImportError, OSError, RuntimeError):
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchaudio"]:
            del sys.modules[name]
        importlib.import_module("tts_engine.chatterbox.torchaudio_stand_in").install()


def _read(path: Path, prefix: str) -> Iterator[tuple[str, torch.Tensor]]:
    """Tensors below a prefix, without it, one by one: the file's other gigabyte is not touched."""
    if not path.is_file():
        raise EnrolmentError(f"{path} is missing: enrolment needs it; `chatterline fetch-model` gets the whole model")
    try:
        with safe_open(path, "pt") as file:
            for name in sorted(file.keys()):
                if name.startswith(prefix):
                    yield name.removeprefix(prefix), file.get_tensor(name)
    except (SafetensorError, OSError) as error:
        raise EnrolmentError(
            f"{path} cannot be read as safetensors: {error}; `chatterline fetch-model` fetches it again"
        ) from None


def _update(digest: Any, weights: Mapping[str, torch.Tensor]) -> None:
    for name in sorted(weights):
        tensor = weights[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)};".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())


def _loaded(
    module: Any, weights: dict[str, torch.Tensor], path: Path, optional: frozenset[str] | set[str] = frozenset()
) -> Any:
    expected = module.state_dict()
    missing = sorted(expected.keys() - weights.keys() - optional)
    unexpected = sorted(weights.keys() - expected.keys())
    misshapen = sorted(
        name for name, tensor in weights.items() if name in expected and tensor.shape != expected[name].shape
    )
    kinds = (("missing", missing), ("unexpected", unexpected), ("of another shape", misshapen))
    problems = [f"{len(names)} tensors {kind} ({', '.join(names[:3])}...)" for kind, names in kinds if names]
    if problems:
        raise EnrolmentError(f"{path} does not hold the encoders of Chatterbox Turbo or Nano: {'; '.join(problems)}")
    module.load_state_dict(weights, strict=False)
    return module.float().eval()
