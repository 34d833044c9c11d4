"""Chatterline's modules over a checkpoint, with what a benchmark calls of them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import torch

from tts_engine.chatterbox.assembler import FlowInput, SpeechAssembler, VocoderInput
from tts_engine.chatterbox.chunk_policy import ChunkPolicy
from tts_engine.chatterbox.constants import FRAMES_PER_TOKEN, HARMONICS, SAMPLES_PER_FRAME
from tts_engine.chatterbox.decoder import TokenDecoder
from tts_engine.chatterbox.draws import Draws
from tts_engine.chatterbox.model import load
from tts_engine.chatterbox.sampling_settings import SamplingSettings
from tts_engine.chatterbox.streaming import decode_mel, render, synthesise_chunks
from tts_engine.serving.device import make_exact

CAPACITY = 1401
"Own positions of a sequence: text, START, speech."

WHOLE = ChunkPolicy(sizes=(10_000,))
"One chunk, at the end: what the reference does."


class Ours:
    """T3, flow and vocoder in one dtype."""

    def __init__(self, directory: Path, device: torch.device, dtype: torch.dtype) -> None:
        self.device = device
        make_exact()
        self.model = load(directory, device=device, dtype=dtype)
        if self.model.default_voice is None:
            raise SystemExit(f"{directory} has no conds.pt")
        self.voice = self.model.default_voice.to(device, dtype)
        with torch.inference_mode():
            self.prefix = self.model.t3.prefix(self.voice.speaker_embedding, self.voice.prompt_tokens)
        self._decoder = TokenDecoder(self.model.t3, self.prefix, CAPACITY, SamplingSettings())
        self._flow = self.model.flow
        self._vocoder = self.model.vocoder

    def speech_tokens(self, text_tokens: list[int], count: int, draws: Draws | None = None) -> Iterator[int]:
        """`count` speech tokens, STOP made impossible; what is no sound is replaced, so that all are decoded."""
        draws = draws or Draws(0)
        self._decoder.begin(text_tokens)
        for step in range(count):
            yield min(self._decoder.next(draws.uniform(step), forbid_stop=True), 6560)

    @torch.inference_mode()
    def mel(self, tokens: torch.Tensor) -> torch.Tensor:
        """(n,) tokens to the mel spectrogram (80, 2n) of them, the prompt decoded with them."""
        frames = FRAMES_PER_TOKEN * (len(self.voice.flow_prompt_tokens) + len(tokens))
        noise = torch.randn(80, frames, device=self.device)
        return decode_mel(self._flow, FlowInput(self.voice, tuple(tokens.tolist()), noise, 0, final=True))

    @torch.inference_mode()
    def wave(self, mel: torch.Tensor) -> torch.Tensor:
        """(1, 80, T) to (480 T,)."""
        with torch.device(self.device):
            zeros, noise = torch.zeros(HARMONICS), torch.randn(HARMONICS, SAMPLES_PER_FRAME * mel.shape[-1])
            given = VocoderInput(mel[0], zeros, zeros, noise, torch.zeros(0), 0)
        return render(self._vocoder, given)[0]

    def say(self, text_tokens: list[int], count: int, policy: ChunkPolicy) -> tuple[float, float, int]:
        """An utterance of `count` tokens: milliseconds to its first samples on the host, to its end, and samples."""
        start = time.perf_counter()
        draws = Draws(0, self.device)
        tokens = self.speech_tokens(text_tokens, count, draws)
        assembler = SpeechAssembler(self.voice, draws, policy)
        first, samples = 0.0, 0
        for chunk in synthesise_chunks(self._flow, self._vocoder, assembler, tokens):
            samples += len(chunk.cpu())
            first = first or time.perf_counter() - start
        return 1000 * first, 1000 * (time.perf_counter() - start), samples
