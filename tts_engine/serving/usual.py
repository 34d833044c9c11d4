"""What things take on this device lately: running means, from which admission predicts."""

from __future__ import annotations

from dataclasses import dataclass

_WEIGHT = 0.1
"Of the newest."


@dataclass
class Usual:
    """Until something was measured: what an H100 takes."""

    tokens: float = 150.0
    "Positions of a sequence at its end, text and speech."
    prefill_seconds: float = 0.002
    step_seconds: float = 0.002
    token_seconds: float = 8e-6
    "Of S3Gen, for each token of a batch, prompts included."
    fixed_seconds: float = 0.004
    "Of a batch of S3Gen, whatever its size: taken as half of what the smallest lately took."

    def prefilled(self, seconds: float) -> None:
        self.prefill_seconds += _WEIGHT * (seconds - self.prefill_seconds)

    def stepped(self, seconds: float) -> None:
        self.step_seconds += _WEIGHT * (seconds - self.step_seconds)

    def decoded(self, seconds: float, tokens: int) -> None:
        self.token_seconds += _WEIGHT * (seconds / tokens - self.token_seconds)
        half = seconds / 2
        # Down at once, up slowly.
        self.fixed_seconds = min(half, self.fixed_seconds + _WEIGHT * _WEIGHT * (half - self.fixed_seconds))

    def ended(self, positions: int) -> None:
        self.tokens += _WEIGHT * (positions - self.tokens)
