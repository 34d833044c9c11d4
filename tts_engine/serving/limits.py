"""What one GPU's sequences may take at once."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Limits:
    """Sizes of the device's memory and of its batches. ValueError for what is not positive."""

    slots: int
    "Sequences that T3 decodes at once."
    pages: int
    "Of the KV cache."
    page: int
    "Positions of one."
    positions: int
    "Own positions of a slot, at most: text, START, speech."
    prefill_rows: int
    step_rows: int
    chunk_rows: int
    chunk_tokens: int
    "Of a batch of chunks for the flow, prompts included."
    urgent_tokens: int
    "The same while somebody is urgent: such a batch is small, so as to be done soon."
    urgent_seconds: float
    "Who holds less audio than this is urgent."
    window_frames: int
    "Sum of the vocoder's windows in a batch."
    ahead_seconds: float
    "T3 rests for a sequence whose listener holds more than this: played out, decoded and undecoded together."

    def __post_init__(self) -> None:
        for each in fields(self):
            if getattr(self, each.name) <= 0:
                raise ValueError(f"{each.name} must be positive, not {getattr(self, each.name)}")
