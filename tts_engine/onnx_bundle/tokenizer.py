"""The bundle's text tokenizer: tokenizer.json as it is, its post-processor included.

The post-processor is part of the interface. It ends every text with two <|endoftext|>, and the graph `embed_tokens`
takes the last two ids of what it is given for speech tokens, <|endoftext|> for START (6561): so texts and speech
tokens share one input, and no id is offset.
"""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer

from tts_engine.onnx_bundle.faults import BundleError

END_OF_TEXT = "<|endoftext|>"
END_IDS = 2
"How many of them embed_tokens wants."


class BundleTokenizer:
    """Reads a tokenizer.json. Raises BundleError."""

    def __init__(self, path: Path) -> None:
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises nothing narrower
            raise BundleError(f"{path} cannot be read: {error}") from error
        end = self._tokenizer.token_to_id(END_OF_TEXT)
        if end is None:
            raise BundleError(f"{path} has no token {END_OF_TEXT}: it is another model's")
        self._end = [int(end)] * END_IDS
        # transformers leaves its last call's settings in the file.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def encode(self, text: str) -> list[int]:
        """What embed_tokens takes: the text's ids and the end. Raises ValueError for half a surrogate."""
        try:
            ids = list(self._tokenizer.encode(text, add_special_tokens=False).ids)
        except TypeError:
            raise ValueError("the text holds half a surrogate pair") from None
        # Not left to the post-processor: a file saved again without it would cost the last two words, unnoticed.
        return ids + self._end
