"""Chatterbox as an engine: who speaks when, and where. No model arithmetic."""
