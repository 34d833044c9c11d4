"""The engine `chatterbox-onnx`: its configuration, [tts.onnx], and making it."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from tts_engine.engine import Engine
from tts_engine.errors import EngineError

NEEDED = ("onnxruntime", "tokenizers", "soundfile")
"What it imports beside what is always there; torch is not among it."

Precision = Literal["fp32", "fp16", "q8", "q4", "q4f16"]
Part = Literal["speech_encoder", "embed_tokens", "language_model", "conditional_decoder"]


class OnnxConfig(BaseModel):
    """[tts.onnx]: see docs/onnx-bundle.md."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: Annotated[str, Field(min_length=1)] = "ResembleAI/chatterbox-turbo-ONNX"
    precision: Precision = "q4"
    part_precision: dict[Part, Precision] = Field(default_factory=dict)
    providers: tuple[str, ...] = ()
    workers: Annotated[int, Field(ge=1, le=64)] = 1
    threads: Annotated[int, Field(ge=0, le=256)] = 0
    max_streams: Annotated[int, Field(ge=1, le=1000)] = 2
    max_first_audio_ms: Annotated[int, Field(ge=0, le=60_000)] = 3000
    voices: dict[Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")], Path] = Field(default_factory=dict)
    default_voice: str = "default"
    prompt_seconds: Annotated[float, Field(ge=1, le=10)] = 10.0
    chunk_tokens: Literal["auto"] | tuple[Annotated[int, Field(ge=1, le=1000)], ...] = "auto"
    telephone_reading: bool = True
    max_segment_chars: Annotated[int, Field(ge=60, le=400)] = 300
    temperature: Annotated[float, Field(gt=0, le=2)] = 0.8
    top_k: Annotated[int, Field(ge=0, le=6563)] = 1000
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95
    repetition_penalty: Annotated[float, Field(ge=1, le=2)] = 1.2


def missing_packages() -> list[str]:
    """Those of NEEDED that are not installed."""
    return [name for name in NEEDED if importlib.util.find_spec(name) is None]


def make_onnx_engine(
    config: OnnxConfig, *, seed: int, max_streams: int, max_text_chars: int, voice_cache: Path | None
) -> Engine:
    """The engine that [tts.onnx] describes. Raises EngineError if it cannot be had.

    `voice_cache`: a directory for enrolled voices, made when the first one is kept.
    """
    absent = missing_packages()
    if absent:
        raise EngineError(f"engine chatterbox-onnx needs {', '.join(absent)}: pip install 'chatterline[onnx]'")
    # Imported here: only this engine needs it.
    from tts_engine.chatterbox.sampling_settings import SamplingSettings  # noqa: PLC0415
    from tts_engine.onnx_bundle.engine import OnnxBundleEngine  # noqa: PLC0415
    from tts_engine.onnx_bundle.files import fetch_command  # noqa: PLC0415
    from tts_engine.onnx_bundle.hub import find_bundle  # noqa: PLC0415
    from tts_engine.onnx_bundle.settings import OnnxBundleSettings  # noqa: PLC0415

    parts = {str(part): str(precision) for part, precision in config.part_precision.items()}
    directory = find_bundle(config.model, config.precision, parts)
    if directory is None and _is_path(config.model):
        raise EngineError(
            f"[tts.onnx] model: the directory {config.model} does not exist; "
            f"`{fetch_command(config.precision, parts)} --to {config.model}` fetches the ONNX bundle to it"
        )
    if directory is None:
        raise EngineError(
            f"the ONNX bundle {config.model} is not here in precision {_precisions(config.precision, parts)}: "
            f"`{fetch_command(config.precision, parts)}` fetches it"
        )
    settings = OnnxBundleSettings(
        directory=directory,
        precision=config.precision,
        part_precision=parts,
        providers=config.providers,
        workers=config.workers,
        max_first_audio_ms=config.max_first_audio_ms,
        threads=config.threads,
        voices={name: path.expanduser() for name, path in config.voices.items()},
        default_voice=config.default_voice,
        voice_cache=voice_cache,
        prompt_seconds=config.prompt_seconds,
        chunk_tokens=None if config.chunk_tokens == "auto" else config.chunk_tokens,
        telephone_reading=config.telephone_reading,
        max_segment_chars=config.max_segment_chars,
        sampling=SamplingSettings(config.temperature, config.top_k, config.top_p, config.repetition_penalty),
        seed=seed,
    )
    return OnnxBundleEngine(settings, max_streams=min(max_streams, config.max_streams), max_text_chars=max_text_chars)


def _is_path(model: str) -> bool:
    """Whether that can only mean a directory; OWNER/NAME may be either."""
    return model.startswith(("/", ".", "~")) or model.count("/") != 1 or model.endswith("/")


def _precisions(precision: str, parts: Mapping[str, str]) -> str:
    return ", ".join([precision, *(f"{part} {chosen}" for part, chosen in parts.items())])
