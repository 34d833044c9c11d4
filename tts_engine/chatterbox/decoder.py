"""One sequence's T3 loop, a token a call: prefill, then step, process, pick.

All that changes between two steps lies in tensors of the decoder's own, so that a step can be captured in a CUDA
graph (serving/graphs.py); the chosen token is the one thing that crosses to the host.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tts_engine.chatterbox.sampling import first_seen, forbid_stop, guide, pick, process, see
from tts_engine.chatterbox.sampling_settings import SamplingSettings
from tts_engine.chatterbox.t3 import T3, VoicePrefix
from tts_engine.errors import SynthesisError


class TokenDecoder:
    """Speech tokens of one sequence after the other; `capacity` bounds text, START and speech of each."""

    def __init__(
        self, t3: T3, prefix: VoicePrefix, capacity: int, settings: SamplingSettings, cfg_scale: float = 0.0
    ) -> None:
        """`cfg_scale` above 0 runs a second row, without the text."""
        self._t3 = t3
        self._settings = settings
        self._cfg_scale = cfg_scale
        self._rows = 2 if cfg_scale else 1
        device = prefix.keys.device
        with torch.inference_mode():
            self._cache = t3.new_cache(prefix, self._rows, capacity)
            self._unconditional = torch.arange(self._rows, device=device) > 0
            self._seen = first_seen(1, t3.sizes.speech_vocabulary, device)
            self._draw = torch.zeros(1, dtype=torch.float64, device=device)
            self._forbid_stop = torch.zeros(1, dtype=torch.bool, device=device)
            self._chosen = torch.zeros(2, dtype=torch.int64, device=device)
        self._logits: Tensor | None = None
        self._span = 0

    @property
    def capacity(self) -> int:
        """Own positions of a sequence."""
        return self._cache.capacity

    @torch.inference_mode()
    def begin(self, text_tokens: Sequence[int]) -> None:
        """A new sequence; the one before is forgotten. ValueError if the text does not fit."""
        device = self._draw.device
        text = torch.tensor([list(text_tokens)], dtype=torch.int64, device=device).expand(self._rows, -1)
        self._seen.copy_(first_seen(1, self._seen.shape[-1], device))
        self._logits = self._prefill(text)
        self._span = len(text_tokens) + 1

    @torch.inference_mode()
    def next(self, draw: float, *, forbid_stop: bool = False) -> int:
        """The next token as sampled, STOP included, with a uniform draw in [0, 1).

        SynthesisError if the model's numbers overflow, or the sequence outgrows the capacity.
        """
        self._draw.fill_(draw)
        self._forbid_stop.fill_(forbid_stop)
        if self._logits is not None:
            self._choose(self._logits, first=True)
            self._logits = None
        else:
            self._span += 1
            if self._span > self.capacity:
                raise SynthesisError(f"the utterance is over {self.capacity} positions")
            self._advance()
        token, finite = self._chosen.tolist()
        if not finite:
            raise SynthesisError("the model's numbers overflowed; try another dtype (bfloat16 or float32)")
        return int(token)

    def _prefill(self, text: Tensor) -> Tensor:
        """(rows, T) text tokens to the first logits (rows, V)."""
        lengths = torch.full((self._rows,), text.shape[1], dtype=torch.int64, device=text.device)
        return self._t3.prefill(text, lengths, self._cache, unconditional=self._unconditional)

    def _advance(self) -> None:
        """One step with the token chosen last."""
        self._step(self._span)

    def _step(self, span: int | None) -> None:
        logits = self._t3.step(self._chosen[:1].expand(self._rows), self._cache, span)
        self._choose(logits, first=False)

    def _choose(self, logits: Tensor, *, first: bool) -> None:
        """Logits (1 or 2, V) to the token chosen and whether all logits were numbers."""
        if self._cfg_scale:
            logits = guide(logits, self._cfg_scale)
        # All of them: a single NaN makes every probability one.
        finite = torch.isfinite(logits).all(-1)
        processed = process(forbid_stop(logits, self._forbid_stop), self._seen, self._settings)
        token = pick(processed, self._draw)
        # The penalty counts START at the first step only (T3.inference_turbo).
        see(self._seen, token, first=first)
        self._chosen.copy_(torch.cat((token, finite.to(torch.int64))))
