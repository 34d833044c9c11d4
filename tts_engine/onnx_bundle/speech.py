"""An utterance, step by step: a few tokens, or one decode, and what sound came of it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

from tts_engine.chatterbox.constants import SILENCE_TOKEN, TRAILING_SILENCE_TOKENS
from tts_engine.chatterbox.guards import TokenGuard
from tts_engine.chatterbox.text import normalise_punctuation, prepare
from tts_engine.onnx_bundle.bundle import Bundle, Speaker
from tts_engine.onnx_bundle.joints import HELD_TOKENS, ChunkJoiner, speakable_samples
from tts_engine.onnx_bundle.sampling import TokenSampler
from tts_engine.onnx_bundle.sessions import run_options
from tts_engine.onnx_bundle.settings import OnnxBundleSettings
from tts_engine.pooled_engine import Stop
from tts_engine.pooled_stream import Piece
from tts_engine.resample import Resampler, Samples, to_pcm16
from tts_engine.text.sentences import MAX_CHARS, split
from tts_engine.text.speakable import has_speech

MODEL_RATE = 24000  # Hz

STEP_TOKENS = 5
"""Of one step: 0.2 s of speech. Between steps a worker may turn to an utterance that is more urgent."""

FIRST_CLAUSE_CHARS = 20
"Of a first segment that is decoded whole, against 40 as prepare() cuts it."

_NOTHING_YET = Piece(b"", final=False)


def speak(
    bundle: Bundle, voice: str, text: str, settings: OnnxBundleSettings, sample_rate: int, stopped: Stop
) -> Iterator[Piece]:
    """Speak a text, segment by segment; a piece without sound is a step that gave none yet.

    Once `stopped` is set a step, also one under way, raises what ONNX Runtime raises.
    """
    options = run_options(stopped)
    segments = prepare(text, telephone_reading=settings.telephone_reading, max_chars=settings.max_segment_chars)
    if segments and not bundle.chunk_tokens:
        # Nothing is heard before all of the first segment is decoded.
        segments[:1] = early(segments[0])
    resampler = Resampler(MODEL_RATE, sample_rate)
    for number, segment in enumerate(segments):
        last = number == len(segments) - 1
        seed = segment_seed(settings.seed, segment, number)
        for wave, ended in SegmentSpeech(bundle, bundle.speakers[voice], segment, settings, seed, options):
            if wave is None:
                yield _NOTHING_YET
            else:
                final = last and ended
                yield Piece(to_pcm16(resampler.process(wave, final=final)), final)


def early(segment: str) -> list[str]:
    """A first segment, cut once more after a shorter clause, if it has one."""
    pieces = split(segment, max(len(segment), MAX_CHARS), first_clause_chars=FIRST_CLAUSE_CHARS)
    return [normalise_punctuation(piece.rstrip(";: ")) for piece in pieces if has_speech(piece)]


def segment_seed(seed: int, text: str, number: int) -> int:
    """Another for each segment, and the same whenever the text is said again."""
    digest = hashlib.blake2b(f"{seed}/{number}/{text}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


class SegmentSpeech:
    """Iterates over (samples, whether they are the last) of one segment; (None, False) after a step without sound."""

    def __init__(
        self,
        bundle: Bundle,
        speaker: Speaker,
        text: str,
        settings: OnnxBundleSettings,
        seed: int,
        options: Any = None,
    ) -> None:
        self._bundle = bundle
        self._speaker = speaker
        self._text = text
        self._options = options
        self._sampler = TokenSampler(settings.sampling, seed)
        self._guard = TokenGuard.for_text(text)
        self._joiner = ChunkJoiner()
        self._tokens: list[int] = []
        self._chunks = 0
        self._decoded = 0

    def __iter__(self) -> Iterator[tuple[Samples | None, bool]]:
        since = 0
        for _ in self._generate():
            since += 1
            if self._due():
                yield self._decode(ended=False), False
                since = 0
            elif since >= STEP_TOKENS:
                yield None, False
                since = 0
        self._tokens += [SILENCE_TOKEN] * TRAILING_SILENCE_TOKENS
        yield self._decode(ended=True), True

    def _generate(self) -> Iterator[None]:
        """Add to the tokens; yields after each run of the language model."""
        model, guard = self._bundle.model, self._guard
        logits, cache = model.begin(self._speaker.prefix, self._bundle.tokenizer.encode(self._text), self._options)
        while True:
            token = self._sampler(logits, forbid_stop=guard.forbid_stop)
            verdict = guard.accept(token)
            self._tokens += verdict.tokens
            if verdict.end is not None:
                return
            yield
            logits, cache = model.step(token, cache, self._options)

    def _due(self) -> bool:
        """Whether there are tokens for another chunk."""
        sizes = self._bundle.chunk_tokens
        if not sizes:
            return False
        wanted = self._decoded + sizes[min(self._chunks, len(sizes) - 1)]
        return len(self._tokens) >= max(wanted, HELD_TOKENS + 1)

    def _decode(self, *, ended: bool) -> Samples:
        """All tokens so far again: the decoder's attention sees them all."""
        wave = self._bundle.decoder(self._speaker.voice, self._tokens, self._options)
        self._chunks += 1
        self._decoded = len(self._tokens)
        return self._joiner.take(wave, len(wave) if ended else speakable_samples(len(self._tokens)))
