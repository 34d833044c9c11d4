"""From logits to a speech token, as chatterbox.sampling does it, in numpy and for one row.

The processors and their order are the reference's: temperature, top-k, top-p, repetition penalty; the draw is by the
inverse of the cumulative distribution.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tts_engine.chatterbox.constants import START_TOKEN, STOP_TOKEN
from tts_engine.chatterbox.sampling_settings import SamplingSettings
from tts_engine.errors import SynthesisError

Logits = npt.NDArray[np.float64]
Seen = npt.NDArray[np.bool_]


def process(logits: Logits, seen: Seen, settings: SamplingSettings) -> Logits:
    """(V,) logits and which tokens count as chosen, to (V,) logits, -inf where a token is cut."""
    logits = logits / settings.temperature
    if 0 < settings.top_k < len(logits):
        least = np.partition(logits, -settings.top_k)[-settings.top_k]
        logits = np.where(logits < least, -np.inf, logits)
    if settings.top_p < 1.0:
        # Only what top-k left: a sort of all 6563 tokens would be most of the work.
        kept = np.flatnonzero(logits > -np.inf)
        order = kept[np.argsort(logits[kept], kind="stable")]
        unlikely = np.cumsum(_softmax(logits[order])) <= 1 - settings.top_p
        unlikely[-1:] = False  # one token always stays
        logits = logits.copy()
        logits[order[unlikely]] = -np.inf
    penalty = settings.repetition_penalty
    if penalty != 1.0:
        logits = np.where(seen, np.where(logits < 0, logits * penalty, logits / penalty), logits)
    return logits


def pick(processed: Logits, draw: float) -> int:
    """The first token whose cumulative probability is above the draw, from [0, 1); never one of probability 0."""
    cumulative = np.cumsum(_softmax(processed))
    total = cumulative[-1]
    # A draw next to 1 may round to the total, which no entry is above.
    target = min(draw * total, float(np.nextafter(total, 0.0)))
    return int(np.searchsorted(cumulative, target, side="right"))


def _softmax(logits: Logits) -> Logits:
    raised: Logits = np.exp(logits - logits.max())
    raised /= raised.sum()
    return raised


class TokenSampler:
    """Chooses one segment's tokens. The same seed and logits give the same tokens."""

    def __init__(self, settings: SamplingSettings, seed: int) -> None:
        self._settings = settings
        self._random = np.random.default_rng(seed)
        self._seen: Seen | None = None

    def __call__(self, logits: npt.NDArray[np.floating], *, forbid_stop: bool = False) -> int:
        """(V,) logits to a token. Raises SynthesisError where they are no numbers."""
        exact = logits.astype(np.float64)
        if not np.isfinite(exact).all():
            raise SynthesisError("the language model's numbers overflowed; try another precision (fp32 or q4)")
        first = self._seen is None
        if self._seen is None:
            # The penalty counts START at the first step, and at that one only (T3.inference_turbo).
            self._seen = np.zeros(len(exact), np.bool_)
            self._seen[START_TOKEN] = True
        if forbid_stop:
            exact[STOP_TOKEN] = -np.inf
        token = pick(process(exact, self._seen, self._settings), self._random.random())
        if first:
            self._seen[:] = False
        self._seen[token] = True
        return token
