"""What an operator may choose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tts_engine.chatterbox.sampling_settings import SamplingSettings

GPU_CHUNKS = (24, 50, 100)
"""New tokens (of 40 ms) of the first, second, ... chunk where a GPU decodes; the last repeats."""

FULL_PROMPT_SECONDS = 10.0


@dataclass(frozen=True)
class OnnxBundleSettings:
    """Raises ValueError for what would mean nothing."""

    directory: Path
    "Of the bundle: tokenizer.json, and the graphs in onnx/."
    precision: str = "q4"
    "One of files.SUFFIXES."
    part_precision: Mapping[str, str] = field(default_factory=dict)
    "Of single parts, where it is another."
    providers: tuple[str, ...] = ()
    "ONNX Runtime's execution providers, best first; the CPU comes last always. Empty: CUDA if it is there."
    workers: int = 1
    "Utterances worked at at once."
    max_first_audio_ms: int = 3000
    "Milliseconds from a text to its first sound, above which no further call is taken; 0: no such limit."
    threads: int = 0
    "Of each of them, on the CPU; 0: the cores divided by `workers`."
    voices: Mapping[str, Path] = field(default_factory=dict)
    "Recordings by name; the bundle's default_voice.wav, if there is one, is 'default'."
    default_voice: str = "default"
    voice_cache: Path | None = None
    "Directory for enrolled voices; None: enrolled at each start."
    prompt_seconds: float = FULL_PROMPT_SECONDS
    "Of the voice that the decoder is prompted with: each decode pays for it. At most 10."
    chunk_tokens: tuple[int, ...] | None = None
    "See GPU_CHUNKS. Empty: segments are decoded whole. None: whole on a CPU, GPU_CHUNKS elsewhere."
    telephone_reading: bool = True
    max_segment_chars: int = 300
    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ValueError(f"workers is {self.workers}; it must be 1 or more")
        if self.max_first_audio_ms < 0:
            raise ValueError(f"max_first_audio_ms is {self.max_first_audio_ms}; it must be 0 (no limit) or more")
        if self.threads < 0:
            raise ValueError(f"threads is {self.threads}; it must be 0 (as many as there are cores) or more")
        if not 1 <= self.prompt_seconds <= FULL_PROMPT_SECONDS:
            raise ValueError(f"prompt_seconds is {self.prompt_seconds:g}; it must be from 1 to {FULL_PROMPT_SECONDS:g}")
        if self.chunk_tokens and min(self.chunk_tokens) < 1:
            raise ValueError(f"chunk_tokens are {self.chunk_tokens}; each must be 1 or more")
