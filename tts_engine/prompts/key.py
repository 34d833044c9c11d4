"""What makes two requests the same prompt."""

from __future__ import annotations

import hashlib

KEY_BYTES = 32


def prompt_key(identity: str, voice: str, sample_rate: int, text: str) -> bytes:
    """SHA-256 over everything that decides the sound: 32 bytes. The text cannot be read from it.

    `identity`: of the engine with this voice (see engine.Identity). `sample_rate`: Hz. The text counts to the letter:
    an engine may speak "OK" and "ok" differently.
    """
    digest = hashlib.sha256()
    for part in (identity, voice, str(sample_rate), text):
        # A lone surrogate is no UTF-8, and may come from a JSON escape.
        data = part.encode("utf-8", "surrogatepass")
        # Lengths first: ("a", "bc") is not ("ab", "c").
        digest.update(b"%d:" % len(data))
        digest.update(data)
    return digest.digest()
