"""Prompts: speech that is synthesised once and played many times."""

from tts_engine.prompts.engine import CachedEngine, Identity, key_of
from tts_engine.prompts.key import prompt_key
from tts_engine.prompts.store import PromptStore, StoredPrompt, StoreError

__all__ = [
    "CachedEngine",
    "Identity",
    "PromptStore",
    "StoreError",
    "StoredPrompt",
    "key_of",
    "prompt_key",
]
