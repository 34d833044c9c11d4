"""Chatterbox's stages as TensorRT engines: exported, built, kept, found again and run."""
