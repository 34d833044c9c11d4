"""How tokens are sampled. Without torch: who has none samples by the same settings."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class SamplingSettings:
    """The reference's, with its defaults; ValueError for what would mean nothing."""

    temperature: float = 0.8
    top_k: int = 1000
    "Of equal logits at the boundary all stay. 0: no limit."
    top_p: float = 0.95
    "1: no limit."
    repetition_penalty: float = 1.2
    "Divides positive logits of tokens already chosen, multiplies negative ones. 1: none."

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise ValueError(f"temperature is {self.temperature}; it must be above 0")
        if self.top_k < 0:
            raise ValueError(f"top_k is {self.top_k}; it must be 0 (no limit) or more")
        if not 0 <= self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}; it must be from 0 to 1")
        if not (math.isfinite(self.repetition_penalty) and self.repetition_penalty > 0):
            raise ValueError(f"repetition_penalty is {self.repetition_penalty}; it must be above 0")
