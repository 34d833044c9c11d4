"""One utterance's speech tokens, one after the other (reference: T3.inference_turbo)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from tts_engine.chatterbox.decoder import TokenDecoder
from tts_engine.chatterbox.guards import EndReason, TokenGuard


class TokenGenerator(Iterator[int]):
    """Iterator of an utterance's speech tokens (< 6561), each as soon as its guard lets it go.

    Tokens beyond 6560 other than STOP are fed back to the model and dropped, as the reference does. `uniforms` gives
    the draw of a step, counted from 0; with the same draws the tokens are the same. The decoder serves nobody else
    meanwhile. Raises as TokenDecoder does.
    """

    def __init__(
        self,
        decoder: TokenDecoder,
        text_tokens: Sequence[int],
        uniforms: Callable[[int], float],
        guard: TokenGuard,
    ) -> None:
        self.end_reason: EndReason | None = None
        "Why it ended; None before the end."
        self._decoder = decoder
        self._text_tokens = text_tokens
        self._uniforms = uniforms
        self._guard = guard
        self._tokens = self._generate()

    def __next__(self) -> int:
        return next(self._tokens)

    def _generate(self) -> Iterator[int]:
        self._decoder.begin(self._text_tokens)
        step = 0
        while self.end_reason is None:
            token = self._decoder.next(self._uniforms(step), forbid_stop=self._guard.forbid_stop)
            verdict = self._guard.accept(token)
            yield from verdict.tokens
            self.end_reason = verdict.end
            step += 1
