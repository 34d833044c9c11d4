"""Writes a tokenizer in the released layout and size whose merges are made up: GPT-2's vocabulary is not at hand
everywhere.

Common words are one token each, as in GPT-2; a text has about one and a half times as many tokens as with the real
vocabulary. The other merges are drawn from a seed, and rarely occur.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

from tts_engine.text.tags import TAGS

END_OF_TEXT = "<|endoftext|>"
MERGES = 50_000

_TEXT = """
the of and to a in is you that it he was for on are as with his they I at be this have from or one had by word but not
what all were we when your can said there use an each which she do how their if will up other about out many then them
these so some her would make like him into time has look two more write go see number no way could people my than first
water been call who oil its now find long down day did get come made may part over new sound take only little work know
place year live me back give most very after thing our just name good sentence man think say great where help through
much before line right too mean old any same tell boy follow came want show also around form three small set put end
does another well large must big even such because turn here why ask went men read need land different home us move try
kind hand picture again change off play spell air away animal house point page letter mother answer found study still
learn should world thank calling bank today please hold account card balance payment order delivery appointment doctor
press confirm code phone service customer minutes hours morning afternoon evening tomorrow Monday Tuesday Wednesday
Thursday Friday Saturday Sunday January February March April May June July August September October November December
zero four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen
twenty thirty forty fifty sixty seventy eighty ninety hundred thousand million dollars cents percent AM PM Hello Yes No
Thanks Sorry sure okay Your The You We It This connect agent transfer available speak moment reminder prescription
pharmacy refill arrive package driver address street city confirm cancel schedule receive send message email text
"""
_WORDS = tuple(_TEXT.split())


def write_tokenizer(directory: Path, *, seed: int = 0) -> None:
    """vocab.json, merges.txt, added_tokens.json, special_tokens_map.json and tokenizer_config.json: 50276 tokens."""
    directory.mkdir(parents=True, exist_ok=True)
    alphabet = byte_characters()
    merges = _merges(alphabet, random.Random(seed))
    tokens = [*alphabet, *(left + right for left, right in merges), END_OF_TEXT]
    files = {
        "vocab.json": {token: index for index, token in enumerate(tokens)},
        "added_tokens.json": {tag: len(tokens) + index for index, tag in enumerate(TAGS)},
        "special_tokens_map.json": dict.fromkeys(("bos_token", "eos_token", "unk_token"), END_OF_TEXT),
        "tokenizer_config.json": {
            "add_bos_token": False,
            "add_prefix_space": False,
            "added_tokens_decoder": {
                str(len(tokens) - 1 + index): {
                    "content": content,
                    "lstrip": False,
                    "normalized": True,
                    "rstrip": False,
                    "single_word": False,
                    "special": content == END_OF_TEXT,
                }
                for index, content in enumerate([END_OF_TEXT, *TAGS])
            },
            "bos_token": END_OF_TEXT,
            "eos_token": END_OF_TEXT,
            "unk_token": END_OF_TEXT,
            "errors": "replace",
            "model_max_length": 1024,
            "tokenizer_class": "GPT2Tokenizer",
        },
    }
    for name, content in files.items():
        (directory / name).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    lines = [f"{left} {right}\n" for left, right in merges]
    (directory / "merges.txt").write_text("#version: 0.2\n" + "".join(lines), encoding="utf-8")


def byte_characters() -> list[str]:
    """The printable characters that byte-level BPE writes for the 256 bytes, in the order of their token ids."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = len(set(range(256)) - set(printable))
    return [chr(code) for code in printable] + [chr(256 + index) for index in range(others)]


def _merges(alphabet: list[str], draw: random.Random) -> list[tuple[str, str]]:
    """Distinct pairs of earlier tokens; those that build the common words come first, and
    among them those of words after a space: they begin at it, so that no other merge breaks their way.
    """
    space = alphabet[188 + ord(" ")]  # "Ġ": bytes 0 to 32 follow the 188 printable ones
    merges: dict[str, tuple[str, str]] = {}
    for spelling in [*(space + word for word in _WORDS), *_WORDS]:
        token = spelling[0]
        for character in spelling[1:]:
            merges.setdefault(token + character, (token, character))
            token += character
    known = [*"etaoinshrdlucmfwypvbgk", *(token for token in merges if len(token) <= 8)]
    seen = {*alphabet, *merges}
    while len(merges) < MERGES:
        left, right = draw.choice(known), draw.choice(known)
        token = left + right
        if token not in seen and not right.startswith(space):
            merges[token] = (left, right)
            seen.add(token)
    return list(merges.values())
