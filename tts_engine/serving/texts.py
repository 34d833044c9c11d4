"""From a request's text to segments of tokens."""

from __future__ import annotations

from dataclasses import dataclass

from tts_engine.chatterbox.text import prepare
from tts_engine.chatterbox.tokenizer import TextTokenizer
from tts_engine.chatterbox.watermark import Watermarker
from tts_engine.serving.messages import Speak
from tts_engine.serving.settings import WorkerSettings
from tts_engine.serving.utterance import Finish, Segment, cut_to_fit, segment_seed


@dataclass(frozen=True)
class Prepared:
    """An utterance as the synthesiser takes it; no segments: there is nothing speakable in the text."""

    order: Speak
    segments: list[Segment]
    finish: Finish


class Texts:
    """Cleans, cuts and tokenises."""

    def __init__(self, tokenizer: TextTokenizer, settings: WorkerSettings, watermarker: Watermarker | None) -> None:
        self._tokenizer = tokenizer
        self._settings = settings.engine
        self._watermarker = watermarker

    def prepare(self, order: Speak) -> Prepared:
        """Takes milliseconds for a long text."""
        settings = self._settings
        spoken = prepare(order.text, telephone_reading=settings.telephone_reading, max_chars=settings.max_segment_chars)
        fitting = [part for segment in spoken for part in cut_to_fit(segment, self._tokenizer.encode)]
        segments = [
            Segment(tokens, segment_seed(settings.seed, text, number), settings.guard(text))
            for number, (text, tokens) in enumerate(fitting)
        ]
        watermark = self._watermarker.stream() if self._watermarker else None
        return Prepared(order, segments, Finish(order.sample_rate, watermark))
