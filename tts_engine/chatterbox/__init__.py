"""Chatterbox Turbo and Nano as plain PyTorch modules, weight-compatible with Resemble AI's released files.

No threads, no asyncio, no random draws of its own: what calls it decides when, where and with which noise.
"""
