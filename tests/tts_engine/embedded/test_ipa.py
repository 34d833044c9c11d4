"""IPA in the symbols of hibari's voices."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tts_engine.embedded.ipa import MAX_CHARS, to_alphabet

AMERICAN = frozenset("AIOWYbdfhijklmnpstuvwzæðŋɐɑɔəɛɜɡɪɹʃʊʌʒʤʧθᵊᵻTˈˌ ")
BRITISH = frozenset("AIQWYabdfhijklmnpstuvwzðŋɐɑɒɔəɛɜɡɪɹʃʊʌʒʤʧθᵊːˈˌ ")
"What the voices of each accent were trained on."

SYMBOLS = "pbtdkɡgfvθðszʃʒhmnŋlrɹjwiɪeɛæaɑɒɔʊuʌəɜɝɚɾʔxoɐˈˌː.:' \u0329\u0361/[]ʰQßø"


@pytest.mark.parametrize(
    ("ipa", "american", "british"),
    [
        ("təˈmeɪtoʊ", "təmˈATO", "təmˈAtQ"),
        ("ˈbɔɪ", "bˈY", "bˈY"),
        ("ˈtʃɛr", "ʧˈɛɹ", "ʧˈɛɹ"),
        ("ˈt͡ʃɛɹ", "ʧˈɛɹ", "ʧˈɛɹ"),
        ("ˈd\u0361ʒʌdʒ", "ʤˈʌʤ", "ʤˈʌʤ"),
        ("bɝd", "bɜɹd", "bɜːd"),
        ("bɜːrd", "bɜɹd", "bɜːɹd"),
        ("nɜːs", "nɜɹs", "nɜːs"),
        ("ˈlɛtɚ", "lˈɛtəɹ", "lˈɛtə"),
        ("ˈbʌtn̩", "bˈʌtᵊn", "bˈʌtᵊn"),
        ("ˈlɪtl̩", "lˈɪtᵊl", "lˈɪtᵊl"),
        ("ˈhæpi", "hˈæpi", "hˈapi"),
        ("fuːd", "fud", "fuːd"),
        ("ˈfɑːðə", "fˈɑðə", "fˈɑːðə"),
        ("hɒt", "hɑt", "hɒt"),
        ("tʃɛə", "ʧɛə", "ʧɛː"),
        ("ˌkriːm ˈeɪ aɪ", "kɹˌim ˈA I", "kɹˌiːm ˈA I"),
        ("/pɪˈkɑːn/", "pɪkˈɑn", "pɪkˈɑːn"),
        ("[ˈpiː.kæn]", "pˈikæn", "pˈiːkan"),
        ("strɛŋθs", "stɹɛŋθs", "stɹɛŋθs"),
        ("ˈstrɛŋθ", "stɹˈɛŋθ", "stɹˈɛŋθ"),
        ("gəʊ", "ɡO", "ɡQ"),
        ("ˈpʰiː", "pˈi", "pˈiː"),
        ("m", "m", "m"),
        ("kætˈ", "kæt", "kat"),
    ],
)
def test_words(ipa: str, american: str, british: str) -> None:
    assert to_alphabet(ipa, british=True) == british
    assert to_alphabet(ipa, british=False) == american.replace("T", "t"), "a flap only where one is written"


def test_a_flap() -> None:
    assert to_alphabet("ˈbɑɾəl", british=False) == "bˈɑTəl"
    assert to_alphabet("ˈbɒɾəl", british=True) == "bˈɒtəl"


@pytest.mark.parametrize(
    "ipa",
    ["", " ", "ˈ", "ˈ ˌ", "ː", "/ /", "tomato!", "øre", "ɬan", "k4t", "kætz\u0303", "\u0329n", "ǃa", "\ud800", "K{t"],
)
def test_what_is_no_english_ipa_is_refused(ipa: str) -> None:
    assert to_alphabet(ipa, british=False) is None
    assert to_alphabet(ipa, british=True) is None


def test_a_monstrous_one_is_refused() -> None:
    assert to_alphabet("a" * MAX_CHARS, british=False) is not None
    assert to_alphabet("a" * (MAX_CHARS + 1), british=False) is None


@given(st.text(SYMBOLS, max_size=12), st.booleans())
def test_nothing_comes_out_that_the_voice_was_not_trained_on(ipa: str, british: bool) -> None:
    spoken = to_alphabet(ipa, british=british)
    if spoken is not None:
        assert set(spoken) <= (BRITISH if british else AMERICAN)
        assert spoken.strip() == spoken
        assert spoken.strip("ˈˌ ")


@given(st.text(max_size=8), st.booleans())
def test_any_text_is_taken_or_refused(ipa: str, british: bool) -> None:
    to_alphabet(ipa, british=british)
