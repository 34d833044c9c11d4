"""One text spoken by the reference's `ChatterboxTurboTTS.generate` and by ours, with the same voice and draws."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch

from tests.parity.pair import Pair
from tts_engine.chatterbox.assembler import SpeechAssembler
from tts_engine.chatterbox.chunk_policy import ChunkPolicy
from tts_engine.chatterbox.constants import FRAMES_PER_TOKEN, HARMONICS, MEL_BINS, SILENCE_TOKEN
from tts_engine.chatterbox.decoder import TokenDecoder
from tts_engine.chatterbox.draws import Draws
from tts_engine.chatterbox.generation import TokenGenerator
from tts_engine.chatterbox.guards import EndReason, TokenGuard
from tts_engine.chatterbox.sampling import invert_cdf
from tts_engine.chatterbox.sampling_settings import SamplingSettings
from tts_engine.chatterbox.streaming import synthesise_chunks
from tts_engine.chatterbox.text import normalise_punctuation
from tts_engine.chatterbox.voice import Voice

WHOLE = ChunkPolicy(sizes=(10_000,))
RANDOM_PROMPT = 25
"Tokens of the flow's prompt with random weights: 1 s."


@contextmanager
def drawing(draws: Draws) -> Iterator[None]:
    """The reference takes its random numbers from `draws`, each of its position."""
    steps = itertools.count()

    def multinomial(probabilities: torch.Tensor, num_samples: int) -> torch.Tensor:
        assert (len(probabilities), num_samples) == (1, 1)
        return invert_cdf(probabilities, torch.tensor([draws.uniform(next(steps))], dtype=torch.float64))[:, None]

    real_randn = torch.randn

    def randn(*shape: int, generator: torch.Generator | None = None, **options: Any) -> torch.Tensor:
        """`flow_inference`: the noise of the new frames. With a generator it is `draws` that asks."""
        if generator is not None:
            return real_randn(*shape, generator=generator, **options)
        assert shape[:2] == (1, MEL_BINS)
        return draws.flow_noise(0, shape[2])[None]

    def randn_like(like: torch.Tensor) -> torch.Tensor:
        if like.shape[:2] == (1, MEL_BINS):  # of prompt and new frames, the latter replaced by `randn` above
            return draws.prompt_noise(like.shape[2])[None]
        if like.shape[:2] == (1, HARMONICS):
            return draws.source_noise(0, like.shape[2] // 480)[None]
        assert like.shape[::2] == (1, 1)  # a noise that nobody uses
        return torch.zeros_like(like)

    uniform = mock.Mock()
    uniform.return_value.sample.return_value = draws.phase_offsets()[None, :, None].clone()
    with (
        mock.patch.object(torch, "multinomial", multinomial),
        mock.patch.object(torch, "randn", randn),
        mock.patch.object(torch, "randn_like", randn_like),
        mock.patch("chatterbox.models.s3gen.hifigan.Uniform", uniform),
    ):
        yield


@dataclass(frozen=True)
class Speakers:
    """Both, with the same voice."""

    pair: Pair
    voice: Voice

    def reference(self, text: str, seed: int, limit: int) -> tuple[list[int], torch.Tensor, torch.Tensor]:
        """Its tokens as sampled, at most `limit`, STOP not among them; its waveform (n,); its F0 (T,) Hz."""
        sampled: list[int] = []
        heard: list[torch.Tensor] = []
        loop = self.pair.reference.t3.inference_turbo

        def spied(**arguments: Any) -> torch.Tensor:
            tokens: torch.Tensor = loop(**arguments, max_gen_len=limit - 1)
            sampled.extend(tokens[0].tolist())
            return tokens

        reference = self.pair.reference
        predictor = reference.s3gen.mel2wav.f0_predictor
        hook = predictor.register_forward_hook(lambda _, __, f0: heard.append(f0[0]))
        with (
            drawing(Draws(seed)),
            mock.patch.object(reference.t3, "inference_turbo", spied),
            mock.patch.object(reference, "conds", self._conditions()),
        ):
            wave = reference.generate(text)[0]
        hook.remove()
        return sampled, wave, heard[0]

    def _conditions(self) -> Any:
        """The reference's own, cut to the voice's prompt."""
        whole, count = self.pair.reference.conds, len(self.voice.flow_prompt_tokens)
        cut = {
            "prompt_token": whole.gen["prompt_token"][:, :count],
            "prompt_token_len": torch.tensor([count]),
            "prompt_feat": whole.gen["prompt_feat"][:, : FRAMES_PER_TOKEN * count],
        }
        return SimpleNamespace(t3=whole.t3, gen=whole.gen | cut)

    def tokens(self, text: str, draws: Draws, limit: int) -> tuple[list[int], EndReason | None]:
        model = self.pair.ours
        text_tokens = model.tokenizer.encode(normalise_punctuation(text))
        prefix = model.t3.prefix(self.voice.speaker_embedding, self.voice.prompt_tokens)
        decoder = TokenDecoder(model.t3, prefix, len(text_tokens) + 1 + limit, SamplingSettings())
        guard = TokenGuard(len(text), limit=limit, min_tokens=0)
        generator = TokenGenerator(decoder, text_tokens, draws.uniform, guard)
        return list(generator), generator.end_reason

    def speech(self, tokens: list[int], draws: Draws, policy: ChunkPolicy) -> torch.Tensor:
        assembler = SpeechAssembler(self.voice, draws, policy)
        return torch.cat(list(synthesise_chunks(self.pair.ours.flow, self.pair.ours.vocoder, assembler, tokens)))

    def speech_by_hand(self, tokens: list[int], draws: Draws, f0: torch.Tensor | None = None) -> torch.Tensor:
        """By calls of the modules alone: no assembler, no window, no fade of the head. With an F0 (T,) if given."""
        model, voice = self.pair.ours, self.voice
        said = torch.cat((voice.flow_prompt_tokens, torch.tensor([*tokens, *3 * [SILENCE_TOKEN]])))
        before = len(voice.flow_prompt_mel)
        frames = FRAMES_PER_TOKEN * len(said) - before
        noise = torch.cat((draws.prompt_noise(before), draws.flow_noise(0, frames)), dim=1)
        mel = model.flow(said[None], None, voice.flow_prompt_mel[None], None, voice.x_vector[None], noise[None])
        mel = mel[:, :, before:]
        f0 = model.vocoder.f0(mel) if f0 is None else f0[None]
        start, offsets = torch.zeros(1, HARMONICS), draws.phase_offsets()[None]
        source, _ = model.vocoder.source(f0, start, offsets, draws.source_noise(0, frames)[None])
        wave: torch.Tensor = model.vocoder.decode(mel, source)
        return wave[0]


def speakers_of(pair: Pair) -> Speakers:
    """With the built-in voice; of random weights only the start of its prompt, which saves time."""
    voice = pair.ours.default_voice
    assert voice is not None
    if not pair.released:
        tokens, mel = (
            voice.flow_prompt_tokens[:RANDOM_PROMPT],
            voice.flow_prompt_mel[: FRAMES_PER_TOKEN * RANDOM_PROMPT],
        )
        voice = replace(voice, flow_prompt_tokens=tokens, flow_prompt_mel=mel)
    return Speakers(pair, voice)
