"""Whether a stranger on the telephone understands the voice: a recogniser listens to its G.711."""

from __future__ import annotations

import audioop

from tests.recogniser import Recogniser, overall_word_error_rate, word_error_rate
from tests.sentences import TELEPHONE_SENTENCES
from tts_engine.embedded.model import VoiceModel, speak

MAX_WORD_ERROR_RATE = 0.15


def telephone(pcm: bytes) -> bytes:
    """What is left after mu-law."""
    return audioop.ulaw2lin(audioop.lin2ulaw(pcm, 2), 2)


def test_telephone_sentences_are_understood(heart: VoiceModel, recogniser: Recogniser) -> None:
    heard = []
    for sentence in TELEPHONE_SENTENCES:
        pcm = b"".join(piece.pcm for piece in speak(heart, sentence, 1.0, 8000, 0))
        heard.append(recogniser.transcribe(telephone(pcm), 8000))
        print(f"{word_error_rate(sentence, heard[-1]):5.1%} {sentence!r} heard as {heard[-1]!r}")
    rate = overall_word_error_rate(list(TELEPHONE_SENTENCES), heard)
    print(f"word error rate {rate:.1%}")
    assert rate <= MAX_WORD_ERROR_RATE


def test_the_recogniser_hears_what_is_missing(heart: VoiceModel, recogniser: Recogniser) -> None:
    # The check of the check: half a sentence does not pass for the whole.
    sentence = TELEPHONE_SENTENCES[0]
    pcm = b"".join(piece.pcm for piece in speak(heart, sentence, 1.0, 8000, 0))
    assert word_error_rate(sentence, recogniser.transcribe(pcm[: len(pcm) // 4 * 2], 8000)) > 0.3
    assert word_error_rate(sentence, recogniser.transcribe(b"", 8000)) == 1.0
