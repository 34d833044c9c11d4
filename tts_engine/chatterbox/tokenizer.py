"""The text tokenizer of Chatterbox Turbo: GPT-2's byte-level BPE and a token for each paralinguistic tag.

Equal to `AutoTokenizer.from_pretrained(directory)(text, truncation=True).input_ids` (transformers 5.2), without
transformers. Files as save_pretrained writes them: vocab.json and merges.txt, or tokenizer.json, which then goes first;
tags from tokenizer_config.json's added_tokens_decoder, else from added_tokens.json.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, pre_tokenizers
from tokenizers.models import BPE

from tts_engine.errors import EngineError

SIZE = 50276
"Tokens of the released models: 50257 of GPT-2 and 19 tags."

MAX_TOKENS = 1024
"Longer texts are cut where tokenizer_config.json sets no model_max_length."

VOCABULARY = "vocab.json"
MERGES = "merges.txt"
ADDED = "added_tokens.json"
SPECIALS = "special_tokens_map.json"
CONFIG = "tokenizer_config.json"
ALL_IN_ONE = "tokenizer.json"

_END_OF_TEXT = "<|endoftext|>"
_SPECIAL_ROLES = {"bos_token": _END_OF_TEXT, "eos_token": _END_OF_TEXT, "unk_token": _END_OF_TEXT, "pad_token": None}
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


class TokenizerError(EngineError):
    """A tokenizer file is missing, damaged, or of another model; the message names it."""


class TextTokenizer:
    """Reads the tokenizer in `directory`. Raises TokenizerError, also where it has not `size` tokens."""

    def __init__(self, directory: Path, *, size: int = SIZE) -> None:
        config = _read_json(directory / CONFIG) if (directory / CONFIG).exists() else {}
        self._tokenizer = Tokenizer(_model(directory))
        self._tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=bool(config.get("add_prefix_space")))
        _add_tokens(self._tokenizer, directory, config)
        if config.get("add_bos_token"):
            raise TokenizerError(f"{directory / CONFIG} asks for add_bos_token, which Chatterbox was not trained with")
        if len(self) != size:
            raise TokenizerError(f"the tokenizer in {directory} has {len(self)} tokens, but the model has {size}")
        self._max_tokens = _max_tokens(config)
        self._tokenizer.enable_truncation(self._max_tokens)

    def __len__(self) -> int:
        return int(self._tokenizer.get_vocab_size(with_added_tokens=True))

    def encode(self, text: str) -> list[int]:
        """Ids of the text's tokens, at most 1024 (or model_max_length). Raises ValueError for half a surrogate."""
        try:
            return list(self._tokenizer.encode(text).ids)
        except TypeError:
            raise ValueError("the text holds half a surrogate pair") from None


def _model(directory: Path) -> BPE:
    if (directory / ALL_IN_ONE).exists():
        source = directory / ALL_IN_ONE
        model = _part(_read_json(source), "model", dict, source)
        vocabulary = _part(model, "vocab", dict, source)
        pairs = _part(model, "merges", list, source)
        merges = [tuple(pair.split(" ") if isinstance(pair, str) else pair) for pair in pairs]
    else:
        source = directory / MERGES
        vocabulary = _read_json(directory / VOCABULARY)
        merges = [tuple(line.split(" ")) for line in _lines(source) if line and not line.startswith("#version")]
    if not all(type(index) is int and index >= 0 for index in vocabulary.values()):
        raise TokenizerError(f"{directory / VOCABULARY} is damaged: a token's id is no number")
    if bad := next((pair for pair in merges if len(pair) != 2), None):
        raise TokenizerError(f"{source} is damaged: {' '.join(map(str, bad))[:40]!r} is no pair of tokens")
    try:
        return BPE(vocab=vocabulary, merges=merges)
    except Exception as error:  # the library raises nothing narrower
        raise TokenizerError(f"{source} is damaged: {error}") from error


def _add_tokens(tokenizer: Tokenizer, directory: Path, config: dict[str, Any]) -> None:
    """The tags, with the ids that the files give them, and the special tokens (<|endoftext|>)."""
    source, added = _added_tokens(directory, config)
    specials = _special_tokens(directory, config)
    for index, token in sorted(added.items()):
        token.special = token.special or token.content in specials
        tokenizer.add_tokens([token])
        if tokenizer.token_to_id(token.content) != index:
            raise TokenizerError(f"{source} gives {token.content!r} id {index}, which is not the next that is free")
    tokenizer.add_special_tokens([token for content, token in specials.items() if content not in _contents(added)])


def _contents(added: dict[int, AddedToken]) -> set[str]:
    return {token.content for token in added.values()}


def _added_tokens(directory: Path, config: dict[str, Any]) -> tuple[Path, dict[int, AddedToken]]:
    """The file they come from, and the tokens by id."""
    source = directory / CONFIG
    try:
        if "added_tokens_decoder" in config:
            return source, {int(index): _token(flags) for index, flags in config["added_tokens_decoder"].items()}
        added: dict[int, AddedToken] = {}
        if (directory / ADDED).exists():
            source = directory / ADDED
            added = {int(index): AddedToken(content, special=False) for content, index in _read_json(source).items()}
        if (directory / ALL_IN_ONE).exists():
            source = directory / ALL_IN_ONE
            added |= {int(flags["id"]): _token(flags) for flags in _read_json(source).get("added_tokens", [])}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise TokenizerError(f"{source} is damaged: its added tokens cannot be read") from error
    return source, added


def _special_tokens(directory: Path, config: dict[str, Any]) -> dict[str, AddedToken]:
    written = dict(config)
    if "added_tokens_decoder" not in config and (directory / SPECIALS).exists():
        written |= _read_json(directory / SPECIALS)
    values = [written.get(role, default) for role, default in _SPECIAL_ROLES.items()]
    tokens = [
        _token(value) if isinstance(value, dict) else AddedToken(value, special=True, normalized=False)
        for value in values
        if value is not None
    ]
    return {token.content: token for token in tokens}


def _token(flags: dict[str, Any]) -> AddedToken:
    return AddedToken(flags["content"], **{name: bool(flags[name]) for name in _FLAGS if name in flags})


def _max_tokens(config: dict[str, Any]) -> int:
    """Without an end (transformers writes 10^30), or further than T3 has positions: ours."""
    length = config.get("model_max_length")
    return int(length) if isinstance(length, int | float) and 0 < length < 4 * MAX_TOKENS else MAX_TOKENS


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        raise TokenizerError(f"{path} is missing") from None
    except (OSError, UnicodeDecodeError) as error:
        raise TokenizerError(f"{path} cannot be read: {error}") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads("\n".join(_lines(path)))
    except (json.JSONDecodeError, RecursionError) as error:
        raise TokenizerError(f"{path} is damaged: {error}") from error
    if not isinstance(content, dict):
        raise TokenizerError(f"{path} is damaged: it holds no JSON object")
    return content


def _part(content: dict[str, Any], key: str, kind: type, source: Path) -> Any:
    part = content.get(key)
    if not isinstance(part, kind):
        raise TokenizerError(f"{source} is damaged: it has no {key!r}")
    return part
