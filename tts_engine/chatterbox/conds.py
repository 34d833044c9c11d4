"""conds.pt, the voice that comes with a model (tts_turbo.py `Conditionals`)."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from tts_engine.chatterbox.constants import (
    FRAMES_PER_TOKEN,
    MAX_FLOW_PROMPT_TOKENS,
    MAX_PROMPT_TOKENS,
    MEL_BINS,
    SPEAKER_EMBEDDING,
    SPEECH_TOKENS,
    X_VECTOR,
)
from tts_engine.chatterbox.voice import Voice


class CondsError(ValueError):
    """The file is not a voice for this model; the message begins with its name."""


def read_conds(path: Path) -> Voice:
    """The built-in voice, float32 on the CPU. Raises CondsError.

    A pickle can run code when it is read: only tensors and plain containers are let in (`weights_only`).
    """
    conds = _unpickled(path)
    try:
        t3, gen = (_group(conds, name) for name in ("t3", "gen"))
        return Voice(
            speaker_embedding=_floats(t3, "speaker_emb", (1, SPEAKER_EMBEDDING)).reshape(-1),
            prompt_tokens=_tokens(t3, "cond_prompt_speech_tokens", MAX_PROMPT_TOKENS),
            flow_prompt_tokens=(tokens := _flow_tokens(gen)),
            flow_prompt_mel=_mel(gen, FRAMES_PER_TOKEN * len(tokens)),
            x_vector=_floats(gen, "embedding", (1, X_VECTOR)).reshape(-1),
        )
    except (KeyError, TypeError):
        raise CondsError(f"{path.name} is not a Chatterbox voice: it lacks t3/gen conditioning tensors") from None
    except ValueError as error:
        raise CondsError(f"{path.name}: {error}") from None


def _unpickled(path: Path) -> Any:
    try:
        # Only the archives that torch.save writes: older formats are plain pickles, which nothing here was saved as.
        with path.open("rb") as file:
            archive = zipfile.is_zipfile(file)
        if not archive:
            raise CondsError(f"{path.name} is not a PyTorch file, or is truncated")
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise CondsError(
            f"{path.name} is refused: it holds something else than tensors, which could run code when it is read"
        ) from None
    except OSError as error:
        raise CondsError(f"{path.name} cannot be opened: {error.strerror}") from None
    except (RuntimeError, EOFError, zipfile.BadZipFile, UnicodeDecodeError) as error:
        raise CondsError(f"{path.name} is damaged ({str(error).splitlines()[0][:100]})") from None


def _group(conds: Any, name: str) -> dict[str, Any]:
    group = conds[name] if isinstance(conds, dict) else None
    if not isinstance(group, dict):
        raise TypeError(name)
    return group


def _floats(group: dict[str, Any], name: str, shape: tuple[int, ...]) -> torch.Tensor:
    tensor = _tensor(group, name)
    if not tensor.is_floating_point() or tuple(tensor.shape) != shape:
        raise ValueError(f"{name} is {tuple(tensor.shape)} {tensor.dtype}, wanted {shape} floats")
    if not bool(torch.isfinite(tensor).all()):
        raise ValueError(f"{name} holds numbers that are not finite")
    return tensor.detach().to(torch.float32).contiguous()


def _tokens(group: dict[str, Any], name: str, most: int) -> torch.Tensor:
    tensor = _tensor(group, name)
    if tensor.is_floating_point() or tensor.ndim != 2 or tensor.shape[0] != 1 or not tensor.shape[1]:
        raise ValueError(f"{name} is {tuple(tensor.shape)} {tensor.dtype}, wanted (1, tokens) integers")
    tokens = tensor[0].to(torch.int64).contiguous()
    if int(tokens.min()) < 0 or int(tokens.max()) >= SPEECH_TOKENS:
        raise ValueError(f"{name} holds ids outside 0 to {SPEECH_TOKENS - 1}: it is of another model")
    if len(tokens) > most:
        raise ValueError(f"{name} has {len(tokens)} tokens, more than {most}: it is of another model")
    return tokens


def _flow_tokens(gen: dict[str, Any]) -> torch.Tensor:
    """Prompt tokens of the flow, cut to their stated length as the reference's mask does."""
    tokens = _tokens(gen, "prompt_token", MAX_FLOW_PROMPT_TOKENS)
    length = gen.get("prompt_token_len")
    return tokens if length is None else tokens[: int(torch.as_tensor(length).reshape(-1)[0])]


def _mel(gen: dict[str, Any], frames: int) -> torch.Tensor:
    """Prompt mel; of a clip that is not whole tokens long the reference keeps one frame too many, which is cut."""
    extra = _tensor(gen, "prompt_feat").ndim == 3 and gen["prompt_feat"].shape[1] == frames + 1
    return _floats(gen, "prompt_feat", (1, frames + extra, MEL_BINS))[0, :frames].contiguous()


def _tensor(group: dict[str, Any], name: str) -> torch.Tensor:
    tensor = group[name]
    if not isinstance(tensor, torch.Tensor):
        raise TypeError(name)
    return tensor
