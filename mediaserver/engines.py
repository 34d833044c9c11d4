"""Which speech engine the configuration means, and making it."""

from __future__ import annotations

import ctypes
import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mediaserver.config import ChatterboxConfig, TtsConfig
from mediaserver.onnx_engine import make_onnx_engine
from tts_engine.engine import Engine
from tts_engine.errors import EngineError

# Before torch is loaded: its threads wait for one another spinning, which takes the cores from the pacer, and on shared
# cores costs up to ten times what they do.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

NEEDED = ("torch", "safetensors", "tokenizers", "huggingface_hub")
"Of the extra `chatterbox`: what synthesis imports."

Kind = Literal["embedded", "chatterbox", "chatterbox-nano", "chatterbox-onnx"]


@dataclass(frozen=True)
class Choice:
    """The engine taken, and why, in words for the log."""

    kind: Kind
    reason: str


def choose(config: TtsConfig) -> Choice:
    """The engine that `[tts] engine` means on this machine."""
    if config.engine != "auto":
        return Choice(config.engine, "configured")
    missing = _why_not_chatterbox(config.chatterbox)
    if missing:
        return Choice("embedded", f"auto: {missing}")
    return Choice("chatterbox", "auto: a GPU and the weights are here")


def _why_not_chatterbox(config: ChatterboxConfig) -> str:
    """What `auto` lacks for Chatterbox, "" if nothing; the dear question, torch, comes last."""
    if config.devices == ("cpu",) or not _has_nvidia_driver():
        return "no GPU"
    absent = missing_packages()
    if absent:
        return f"{', '.join(absent)} not installed (extra chatterbox)"
    from tts_engine.chatterbox.hub import find_model  # noqa: PLC0415

    if find_model(config.model) is None:
        return f"the weights of {config.model} are not here (chatterline fetch-model)"
    import torch  # noqa: PLC0415

    return "" if torch.cuda.is_available() else "torch finds no GPU"


def _has_nvidia_driver() -> bool:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def missing_packages() -> list[str]:
    """Those of NEEDED that are not installed."""
    return [name for name in NEEDED if importlib.util.find_spec(name) is None]


def make_engine(config: TtsConfig, max_streams: int, max_text_chars: int, choice: Choice | None = None) -> Engine:
    """The engine that the configuration names, or `choice`. Raises EngineError if it cannot be had."""
    kind = (choice or choose(config)).kind
    if kind == "embedded":
        return _embedded(config, max_streams, max_text_chars)
    if kind == "chatterbox-onnx":
        # A directory of its own below the voices': what lies there is no voice of the other engines.
        cache = voices_directory(config) / "onnx"
        return make_onnx_engine(
            config.onnx, seed=config.seed, max_streams=max_streams, max_text_chars=max_text_chars, voice_cache=cache
        )
    absent = missing_packages()
    if absent:
        raise EngineError(f"engine {kind} needs {', '.join(absent)}: pip install 'chatterline[chatterbox]'")
    return _chatterbox(config, kind, max_streams, max_text_chars)


def make_overflow_engine(config: TtsConfig, kind: Kind, max_text_chars: int) -> Engine | None:
    """The engine for calls that the one of that kind has no room for, if one is configured. Raises EngineError."""
    if config.overflow in {"refuse", kind}:
        return None
    return _embedded(config, config.overflow_max_streams, max_text_chars)


def voices_directory(config: TtsConfig) -> Path:
    """Where voices lie: as configured, else below data_directory()."""
    return Path(config.chatterbox.voices_dir or data_directory() / "voices").expanduser()


def engines_directory(config: TtsConfig) -> Path:
    """Where TensorRT's plans lie: as configured, else below data_directory()."""
    return Path(config.chatterbox.engines_dir or data_directory() / "engines").expanduser()


def data_directory() -> Path:
    """Systemd's StateDirectory, else our part of the user's data directory (XDG)."""
    # systemd joins several directories with colons; the first is the unit's main one.
    state = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
    if state:
        return Path(state)
    data = os.environ.get("XDG_DATA_HOME", "")
    # The specification has relative paths ignored.
    base = Path(data) if data and Path(data).is_absolute() else Path.home() / ".local" / "share"
    return base / "chatterline"


def _embedded(config: TtsConfig, max_streams: int, max_text_chars: int) -> Engine:
    # Here: it brings scipy, half a second of every command's start, also of those that speak nothing.
    from tts_engine.embedded import EmbeddedEngine, EmbeddedVoice  # noqa: PLC0415

    voices = {name: EmbeddedVoice(voice.model, voice.speed) for name, voice in config.voices.items()}
    return EmbeddedEngine(
        voices,
        config.default_voice,
        workers=config.workers,
        max_streams=max_streams,
        max_text_chars=max_text_chars,
        seed=config.seed,
    )


def _chatterbox(config: TtsConfig, kind: Kind, max_streams: int, max_text_chars: int) -> Engine:
    # Imported here: torch takes seconds and a quarter of a gigabyte that the embedded voice does not need.
    from tts_engine.chatterbox.sampling_settings import SamplingSettings  # noqa: PLC0415
    from tts_engine.serving.engine import ChatterboxEngine  # noqa: PLC0415
    from tts_engine.serving.settings import ChatterboxSettings  # noqa: PLC0415

    given = config.chatterbox
    settings = ChatterboxSettings(
        model=given.model if kind == "chatterbox" else given.nano_model,
        devices=() if given.devices == "auto" else given.devices,
        backend=given.backend,
        engines_dir=engines_directory(config),
        precision=given.precision,
        kv_memory_mb=given.kv_memory_mb,
        ahead_seconds=given.ahead_s,
        voices=given.voices_at_once,
        max_first_audio_seconds=given.max_first_audio_ms / 1000,
        voices_dir=voices_directory(config),
        default_voice=given.default_voice,
        telephone_reading=given.telephone_reading,
        max_segment_chars=given.max_segment_chars,
        watermark=given.watermark,
        sampling=SamplingSettings(given.temperature, given.top_k, given.top_p, given.repetition_penalty),
        seed=config.seed,
    )
    return ChatterboxEngine(kind, settings, min(max_streams, given.max_streams), max_text_chars)
