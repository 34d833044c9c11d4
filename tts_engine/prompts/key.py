"""What makes two requests the same prompt."""

from __future__ import annotations

import hashlib

KEY_BYTES = 32


def prompt_key(
    identity: str, voice: str, sample_rate: int, text: str, rate: float = 1.0, phonemes: str | None = None
) -> bytes:
    """SHA-256 over everything that decides the sound: 32 bytes. The text cannot be read from it.

    `identity`: of the engine with this voice (see engine.Identity). `sample_rate`: Hz. The text counts to the letter:
    an engine may speak "OK" and "ok" differently. `rate`, `phonemes`: as the engine does them.
    """
    digest = hashlib.sha256()
    parts = [identity, voice, str(sample_rate), text]
    # Only where it matters: keys of what was stored before there were these fields stay the same.
    if rate != 1.0 or phonemes is not None:
        parts += [repr(float(rate)), "" if phonemes is None else f"={phonemes}"]
    for part in parts:
        # A lone surrogate is no UTF-8, and may come from a JSON escape.
        data = part.encode("utf-8", "surrogatepass")
        # Lengths first: ("a", "bc") is not ("ab", "c").
        digest.update(b"%d:" % len(data))
        digest.update(data)
    return digest.digest()
