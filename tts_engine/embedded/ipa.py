"""From the International Phonetic Alphabet to the symbols that hibari's voices were trained on.

Those are the phonemes of General American and of Southern British English: a symbol for each diphthong and affricate,
stress written before the vowel instead of before the syllable, length only in British English.
"""

from __future__ import annotations

import re
import unicodedata

MAX_CHARS = 1000

_SAME = "bdfhjklmnpstvwzðŋɡɹʃʒθʤʧɪʊʌəɐᵊˈˌ "
_BOTH = {
    **{symbol: symbol for symbol in _SAME},
    "g": "ɡ",
    "r": "ɹ",
    "ɻ": "ɹ",
    "ɫ": "l",
    "ʍ": "w",
    "x": "k",
    "ʔ": "t",  # as hibari has it in "button"
    "tʃ": "ʧ",
    "dʒ": "ʤ",
    "e": "ɛ",
    "ɛ": "ɛ",
    "eɪ": "A",
    "ei": "A",
    "aɪ": "I",
    "ai": "I",
    "aʊ": "W",
    "au": "W",
    "ɔɪ": "Y",
    "ɔi": "Y",
    "'": "ˈ",
}
_AMERICAN = {
    **_BOTH,
    "i": "i",
    "iː": "i",
    "ɨ": "ᵻ",
    "ᵻ": "ᵻ",
    "æ": "æ",
    "a": "æ",
    "ɑ": "ɑ",
    "ɑː": "ɑ",
    "aː": "ɑ",
    "ɒ": "ɑ",
    "ɔ": "ɔ",
    "ɔː": "ɔ",
    "u": "u",
    "uː": "u",
    "oʊ": "O",
    "ou": "O",
    "əʊ": "O",
    "o": "O",
    "oː": "O",
    "ɜ": "ɜɹ",
    "ɜː": "ɜɹ",
    "ɝ": "ɜɹ",
    "ɝː": "ɜɹ",
    "ɚ": "əɹ",
    "ɾ": "T",
}
_BRITISH = {
    **_BOTH,
    "i": "i",
    "iː": "iː",
    "ɨ": "ɪ",
    "ᵻ": "ɪ",
    "æ": "a",
    "a": "a",
    "ɑ": "ɑː",
    "ɑː": "ɑː",
    "aː": "ɑː",
    "ɒ": "ɒ",
    "ɔ": "ɔː",
    "ɔː": "ɔː",
    "u": "uː",
    "uː": "uː",
    "oʊ": "Q",
    "ou": "Q",
    "əʊ": "Q",
    "o": "Q",
    "oː": "Q",
    "eə": "ɛː",
    "ɛə": "ɛː",
    "ɛː": "ɛː",
    "ɜ": "ɜː",
    "ɜː": "ɜː",
    "ɝ": "ɜː",
    "ɝː": "ɜː",
    "ɚ": "ə",
    "ɾ": "t",
}
_IGNORED = dict.fromkeys(map(ord, ".ˑ‿ʰ\u0361\u035c\u032f\u032a\u031a"))
"Syllable breaks, links and tie bars, aspiration and other detail that English does not tell words apart by."
_SYLLABIC = "\u0329"
_DELIMITERS = "/[]"
_VOWELS = "AIOQWYaiuæɑɒɔəɛɜɪʊʌᵊᵻɐ"
_STRESS = re.compile(rf"([ˈˌ])([^{_VOWELS}ˈˌ ]*)(?=([{_VOWELS}])?)")


def to_alphabet(ipa: str, *, british: bool) -> str | None:
    """The same in hibari's symbols; None for what is no English IPA, or longer than MAX_CHARS, or without a sound."""
    if len(ipa) > MAX_CHARS:
        return None
    plain = unicodedata.normalize("NFD", ipa).strip().strip(_DELIMITERS).replace(":", "ː").translate(_IGNORED)
    table = _BRITISH if british else _AMERICAN
    symbols: list[str] = []
    at = 0
    while at < len(plain):
        if plain[at] == _SYLLABIC and symbols and symbols[-1] in "lmnɹ":
            symbols.insert(-1, "ᵊ")
            at += 1
            continue
        if plain[at].isspace():
            symbols.append(" ")
            at += 1
            continue
        found = next((size for size in (2, 1) if plain[at : at + size] in table), 0)
        if found:
            symbols.append(table[plain[at : at + found]])
            at += found
        elif plain[at] == "ː" and symbols and symbols[-1] in _VOWELS:
            at += 1  # a length that the accent does not tell words apart by
        else:
            return None
    spoken = _STRESS.sub(_before_vowel, "".join(symbols).replace("ɹɹ", "ɹ")).strip()
    return spoken if any(symbol not in " ˈˌ" for symbol in spoken) else None


def _before_vowel(match: re.Match[str]) -> str:
    mark, consonants, vowel = match.groups()
    return consonants + mark if vowel else consonants
