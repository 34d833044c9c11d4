import pytest
from hypothesis import given
from hypothesis import strategies as st

from tts_engine.text.speakable import Cleaner, clean, has_speech

ANY_TEXT = st.text(st.characters() | st.characters(categories=["Cs", "So", "Cf", "Cc"]))


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("Hello, world.", "Hello, world."),
        ("hel\x00lo\x07", "hello"),
        ("a\tb\r\nc", "a b \nc"),
        ("a\u2028b\x85c", "a\nb\nc"),
        ("zero\u200bwidth\ufeff so\u00adft", "zerowidth soft"),
        ("\u202eright to left", "right to left"),
        ("a\u00a0b\u3000c", "a b c"),
        ("half \ud83d of it \ude00", "half  of it "),
        ("whole \ud83d\ude00.", "whole  ."),
        ("20 °C, ©, ™", "20 °C, ©, ™"),
        ("press 1\ufe0f\u20e3", "press 1"),
        ("é, ñ, 中文, हिन्दी", "é, ñ, 中文, हिन्दी"),
    ],
)
def test_what_is_left(text, cleaned):
    assert clean(text) == cleaned


@pytest.mark.parametrize("emoji", ["😀", "👍🏽", "👨‍👩‍👧", "🇺🇸", "❤️", "☎", "→"])
def test_emoji_are_no_words(emoji):
    assert clean(f"a{emoji}b").split() == ["a", "b"]


@given(ANY_TEXT)
def test_what_is_left_can_be_encoded_and_is_stable(text):
    cleaned = clean(text)
    cleaned.encode()
    assert clean(cleaned) == cleaned
    assert not any(ord(character) < 32 and character != "\n" for character in cleaned)


@given(ANY_TEXT, st.data())
def test_fragments_make_no_difference(text, data):
    at = data.draw(st.integers(0, len(text)))
    cleaner = Cleaner()
    assert cleaner.feed(text[:at]) + cleaner.feed(text[at:]) == clean(text)


@pytest.mark.parametrize("text", ["", " \n", "...!?", "-- *** --", "😀", "$%&"])
def test_nothing_to_say(text):
    assert not has_speech(clean(text))


@pytest.mark.parametrize("text", ["a", "7", "[laugh]", "...no...", "中"])
def test_something_to_say(text):
    assert has_speech(clean(text))
