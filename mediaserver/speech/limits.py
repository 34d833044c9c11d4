"""What one call may ask of its speech queue, and what is counted of it."""

from __future__ import annotations

from dataclasses import dataclass

MAX_UTTERANCES = 100
"Not yet played to their end, in one call; short texts too take up room."
MAX_PARTS = 1000
"Of all these utterances: words, pauses, sounds and marks not yet heard."


class QueueFullError(Exception):
    """The call has as much waiting to be said as it may."""


class TurnOpenError(QueueFullError):
    """An utterance is still being written: none can be opened behind it."""


@dataclass(slots=True)
class SpeechCounters:
    """Totals of one call."""

    utterances: int = 0
    played: int = 0
    "To their end."
    cleared: int = 0
    failed: int = 0
    "Utterances of which something was not said for an error of the engine's."
    unspeakable: int = 0
    "Utterances in whose text there was nothing to speak."
    waited: int = 0
    "Texts that the engine had no room for at first."
    sounds_failed: int = 0
    "Recorded sounds ended early by an error."
    synthesised_s: float = 0.0
    underruns_engine: int = 0
    "Gaps in the middle of speech by cause: see speech_underruns."
    underruns_engine_busy: int = 0
    underruns_event_loop: int = 0
    underruns_sound: int = 0


@dataclass(frozen=True, slots=True)
class SpeechLimits:
    """What one call may ask of its queue."""

    max_queued_chars: int
    "Of text that waits."
    wait_s: float = 0.0
    "How long a text waits for an engine that is busy or not ready."
