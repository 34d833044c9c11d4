"""Chatterline's modules over a checkpoint, with what a benchmark calls of them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import torch

from tts_engine.chatterbox.assembler import SpeechAssembler
from tts_engine.chatterbox.chunk_policy import ChunkPolicy
from tts_engine.chatterbox.constants import FRAMES_PER_TOKEN, HARMONICS, SAMPLES_PER_FRAME
from tts_engine.chatterbox.decoder import TokenDecoder
from tts_engine.chatterbox.draws import Draws
from tts_engine.chatterbox.model import load
from tts_engine.chatterbox.sampling import SamplingSettings
from tts_engine.chatterbox.streaming import synthesise_chunks
from tts_engine.serving.decoders import CAPACITY
from tts_engine.serving.graphs import GraphDecoder

WHOLE = ChunkPolicy(sizes=(10_000,))
"One chunk, at the end: what the reference does."


class Ours:
    """T3, flow and vocoder in one dtype."""

    def __init__(self, directory: Path, device: torch.device, dtype: torch.dtype) -> None:
        self.device = device
        self.model = load(directory, device=device, dtype=dtype)
        if self.model.default_voice is None:
            raise SystemExit(f"{directory} has no conds.pt")
        self.voice = self.model.default_voice.to(device, dtype)
        with torch.inference_mode():
            self.prefix = self.model.t3.prefix(self.voice.speaker_embedding, self.voice.prompt_tokens)
        self._decoder: TokenDecoder | None = None

    def use_decoder(self, *, graph: bool) -> None:
        """Eager steps, or replays of a CUDA graph, from now on."""
        kind = GraphDecoder if graph else TokenDecoder
        self._decoder = kind(self.model.t3, self.prefix, CAPACITY, SamplingSettings())

    def speech_tokens(self, text_tokens: list[int], count: int, draws: Draws | None = None) -> Iterator[int]:
        """`count` speech tokens, STOP made impossible; what is no sound is replaced, so that all are decoded."""
        assert self._decoder is not None
        draws = draws or Draws(0)
        self._decoder.begin(text_tokens)
        for step in range(count):
            yield min(self._decoder.next(draws.uniform(step), forbid_stop=True), 6560)

    @torch.inference_mode()
    def mel(self, tokens: torch.Tensor) -> torch.Tensor:
        """(n,) tokens to the mel spectrogram (1, 80, 2n) of them, the prompt decoded with them."""
        voice = self.voice
        together = torch.cat((voice.flow_prompt_tokens, tokens))[None]
        noise = torch.randn(1, 80, FRAMES_PER_TOKEN * together.shape[1], device=self.device)
        mel = self.model.flow(together, None, voice.flow_prompt_mel[None], None, voice.x_vector[None], noise)
        return mel[:, :, FRAMES_PER_TOKEN * len(voice.flow_prompt_tokens) :]

    @torch.inference_mode()
    def wave(self, mel: torch.Tensor) -> torch.Tensor:
        """(1, 80, T) to (1, 480 T)."""
        zeros = torch.zeros(1, HARMONICS, device=self.device)
        noise = torch.randn(1, HARMONICS, SAMPLES_PER_FRAME * mel.shape[-1], device=self.device)
        return self.model.vocoder(mel, zeros, zeros, noise)

    def say(self, text_tokens: list[int], count: int, policy: ChunkPolicy) -> tuple[float, float, int]:
        """An utterance of `count` tokens: milliseconds to its first samples on the host, to its end, and samples."""
        start = time.perf_counter()
        draws = Draws(0, self.device)
        tokens = self.speech_tokens(text_tokens, count, draws)
        assembler = SpeechAssembler(self.voice, draws, policy)
        first, samples = 0.0, 0
        for chunk in synthesise_chunks(self.model.flow, self.model.vocoder, assembler, tokens):
            samples += len(chunk.cpu())
            first = first or time.perf_counter() - start
        return 1000 * first, 1000 * (time.perf_counter() - start), samples
