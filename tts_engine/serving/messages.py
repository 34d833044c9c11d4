"""What an engine and its workers say to each other. Plain data: a worker may be a thread or a process.

Times are of the monotonic clock, which all processes of a machine share.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tts_engine.measures import Measure
from tts_engine.serving.admission import Load


@dataclass(frozen=True, slots=True)
class Speak:
    """Begin an utterance."""

    id: int
    text: str = field(repr=False)
    voice: str
    sample_rate: int
    arrived: float
    deadline: float
    "When the listener's audio runs out; `arrived` if there is none."


@dataclass(frozen=True, slots=True)
class Deadline:
    """The listener's audio runs out at another time than it would by itself: after a pause, a clear."""

    id: int
    deadline: float


@dataclass(frozen=True, slots=True)
class Cancel:
    """Nobody listens any more."""

    id: int


@dataclass(frozen=True, slots=True)
class Stop:
    """End the worker."""


Order = Speak | Deadline | Cancel | Stop


@dataclass(frozen=True, slots=True)
class Ready:
    """The model is loaded, every graph captured."""

    built_in_voice: bool
    "Whether the model came with a voice of its own."
    summary: str
    "For the log: what runs on what."


@dataclass(frozen=True, slots=True)
class CannotStart:
    """What is missing, in words for the person who starts the server."""

    reason: str
    engines_failed: bool = False
    "TensorRT's engines have left the GPU useless for that process; another can do without them."


@dataclass(frozen=True, slots=True)
class Audio:
    """Speech of one utterance, in order: signed 16-bit little-endian mono PCM."""

    id: int
    pcm: bytes
    final: bool
    deadline: float
    "When the listener's audio runs out, this chunk included."


@dataclass(frozen=True, slots=True)
class Failed:
    """An utterance will not be finished; the others are not affected."""

    id: int
    reason: str


@dataclass(frozen=True, slots=True)
class Status:
    """A sign of life, several times a second."""

    load: Load
    measures: tuple[Measure, ...]


@dataclass(frozen=True, slots=True)
class Logged:
    """A log record of the worker's."""

    logger: str
    level: int
    message: str


Report = Ready | CannotStart | Audio | Failed | Status | Logged
