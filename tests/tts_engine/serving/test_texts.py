from __future__ import annotations

from pathlib import Path

import pytest

from tests.tts_engine.serving.served import settings_for
from tts_engine.chatterbox.guards import TokenGuard
from tts_engine.chatterbox.model import Chatterbox
from tts_engine.chatterbox.text import prepare
from tts_engine.chatterbox.watermark import Watermarker
from tts_engine.serving.messages import Speak
from tts_engine.serving.settings import WorkerSettings
from tts_engine.serving.texts import Texts
from tts_engine.serving.utterance import MOST_TEXT_TOKENS, segment_seed

LONG = (
    "Good morning, and thank you for calling Harbour Bank today. Your appointment with the doctor is on Monday "
    "afternoon, and the address is three hundred and twelve Mill Street. Please bring your card, your prescription "
    "and the letter that we have sent to you by email last week. Would you like me to connect you to an agent now?"
)


def order(text: str, sample_rate: int = 8000) -> Speak:
    return Speak(1, text, "anna", sample_rate, 0.0, 0.0)


def texts_of(model: Chatterbox, watermarker: Watermarker | None = None, **changes: object) -> Texts:
    settings = settings_for(Path("model"), Path("voices"), **changes)
    return Texts(model.tokenizer, WorkerSettings(settings, "cpu", 0.0, 4), watermarker)


def test_segments_are_those_of_the_text_each_with_a_seed_of_its_own(loaded: Chatterbox) -> None:
    prepared = texts_of(loaded, seed=3).prepare(order(LONG))
    spoken = prepare(LONG)
    assert len(spoken) > 2
    assert [segment.text_tokens for segment in prepared.segments] == [loaded.tokenizer.encode(text) for text in spoken]
    assert [segment.seed for segment in prepared.segments] == [
        segment_seed(3, text, number) for number, text in enumerate(spoken)
    ]
    assert [segment.guard.limit for segment in prepared.segments] == [len(text) for text in spoken]
    assert prepared.order == order(LONG)


def test_settings_of_the_text_are_heeded(loaded: Chatterbox) -> None:
    assert len(texts_of(loaded, max_segment_chars=60).prepare(order(LONG)).segments) > len(prepare(LONG))
    read = [
        texts_of(loaded, telephone_reading=reading).prepare(order("Call 020 7946 0958.")).segments[0].text_tokens
        for reading in (True, False)
    ]
    assert read[0] != read[1]
    guard = texts_of(loaded, guard=TokenGuard.for_text).prepare(order("Hello there.")).segments[0].guard
    assert isinstance(guard, TokenGuard)


@pytest.mark.parametrize("text", ["", " \n\t ", "...", "🙂", "🙂 👍🏽 ❤️", "\ud83d", "\udc00\ud83d", "\x00\x07\x1b"])
def test_nothing_to_say(loaded: Chatterbox, text: str) -> None:
    assert texts_of(loaded).prepare(order(text)).segments == []


@pytest.mark.parametrize(
    "text",
    [
        "[laugh]",
        "[sigh] [LAUGH]",
        "a",
        "Hi\x00\x07\x1b[31m there",
        "Hello \ud83d",
        "\udc00Hello",
        "\u202eHello\u200b",
        "日本語" * 99,
        "ﷺ" * 250,
        "é" * 200,
        "[unknown tag]",
        "<|endoftext|>",
        "9" * 50,
        ("a word, " * 600 + "[laugh]" * 500 + "a" * 10_000)[:10_000],
    ],
)
def test_odd_ones_fit_a_sequence(loaded: Chatterbox, text: str) -> None:
    segments = texts_of(loaded).prepare(order(text)).segments
    assert segments
    assert all(0 < len(segment.text_tokens) <= MOST_TEXT_TOKENS for segment in segments)


def test_how_the_gpu_s_sound_is_finished(loaded: Chatterbox) -> None:
    assert texts_of(loaded).prepare(order("Hello.", 16_000)).finish.gpu_rate == 16_000
    assert texts_of(loaded, Watermarker()).prepare(order("Hello.", 16_000)).finish.gpu_rate == 24_000
