"""What a Chatterbox engine and its workers are to be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tts_engine.chatterbox.guards import TokenGuard
from tts_engine.chatterbox.sampling_settings import SamplingSettings
from tts_engine.chatterbox.voice_store import BUILT_IN_VOICE
from tts_engine.serving.utterance import Guard
from tts_engine.tensorrt.selection import Backend

Precision = Literal["auto", "float32", "bfloat16", "float16"]
Isolation = Literal["auto", "process", "thread"]


@dataclass(frozen=True)
class ChatterboxSettings:
    """An engine."""

    model: str
    "A directory in the released layout, or a repository that was fetched."
    voices_dir: Path
    devices: tuple[str, ...] = ()
    "A worker each; none: every GPU there is, or the CPU."
    backend: Backend = "auto"
    engines_dir: Path | None = None
    "Where `chatterline engine build` puts plans; None: there are none."
    precision: Precision = "auto"
    isolation: Isolation = "auto"
    "Where workers run: a process of its own for each GPU, and a thread for a CPU."
    default_voice: str = BUILT_IN_VOICE
    telephone_reading: bool = True
    max_segment_chars: int = 300
    watermark: bool = False
    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    seed: int = 0
    kv_memory_mb: int = 2048
    "Of each device, for keys and values of T3."
    voices: int = 16
    "Held on each device at once."
    ahead_seconds: float = 12.0
    "No more is generated for a listener who holds as much."
    max_first_audio_seconds: float = 1.0
    "A further stream is refused if it would wait longer for its first sound; 0: no such limit."
    guard: Callable[[str], Guard] = TokenGuard.for_text
    "What ends a segment of this text besides STOP."


@dataclass(frozen=True)
class WorkerSettings:
    """One worker of it."""

    engine: ChatterboxSettings
    device: str
    cfg_scale: float
    streams: int
    engines_failed: str = ""
    "What came of TensorRT's engines in a process before: they are not tried again. Empty: nothing bad."
