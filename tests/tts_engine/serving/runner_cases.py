"""Random work for the runners, on any device: sequences that join and leave at any step, chunks in any company."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from tests.tts_engine.serving.served import Pcm, pcm_array
from tts_engine.chatterbox import counter
from tts_engine.chatterbox.chunk_plan import ChunkPlanner
from tts_engine.chatterbox.chunk_policy import ChunkPolicy
from tts_engine.chatterbox.constants import SAMPLES_PER_FRAME, SILENCE_TOKEN, SPEECH_TOKENS, TRAILING_SILENCE_TOKENS
from tts_engine.chatterbox.decoder import TokenDecoder
from tts_engine.chatterbox.draws import Draws
from tts_engine.chatterbox.paged_t3 import PAGE
from tts_engine.chatterbox.sampling_settings import SamplingSettings
from tts_engine.chatterbox.t3 import T3, VoicePrefix
from tts_engine.chatterbox.voice import Voice
from tts_engine.serving.pages import PageAllocator
from tts_engine.serving.speech_rows import SpeechRow
from tts_engine.serving.speech_runner import SpeechRunner
from tts_engine.serving.t3_runner import Begin, Sampled, T3Runner


def fresh_chance() -> random.Random:
    """Other choices each time; pytest shows the seed of a failure."""
    seed = random.randrange(2**32)
    print("seed", seed)
    return random.Random(seed)


@dataclass
class Spoken:
    """A sequence of T3's and its tokens so far."""

    text: list[int]
    voice: int
    seed: int
    steps: int
    "Tokens that are wanted of it."
    forbid_until: int
    slot: int = -1
    pages: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    launched: int = 0


def random_sequences(chance: random.Random, count: int, *, voices: int, steps: int = 40) -> list[Spoken]:
    return [
        Spoken(
            text=[chance.randrange(200) for _ in range(chance.choice((1, 3, 30, 31, 32, 33, 140)))],
            voice=chance.randrange(voices),
            seed=chance.randrange(2**60),
            steps=chance.randrange(2, steps),
            forbid_until=chance.choice((0, 10, 1000)),
        )
        for _ in range(count)
    ]


def decode_together(
    runner: T3Runner, sequences: Sequence[Spoken], *, slots: int, pages: int, chance: random.Random
) -> None:
    """All of them, more than there are slots: each joins when there is one, a step is launched ahead of its results."""
    free_slots, allocator = list(range(slots)), PageAllocator(pages)
    waiting = list(sequences)
    live: dict[int, Spoken] = {}
    flying: Sampled | None = None

    def take(sampled: Sampled | None) -> None:
        for slot, (token, finite) in (sampled.wait() if sampled else {}).items():
            assert finite
            live[slot].tokens.append(token)

    while waiting or live:
        chance.shuffle(free_slots)
        begun: list[Spoken] = []
        while waiting and free_slots and len(begun) < 8 and chance.random() < 0.7:
            sequence = waiting.pop()
            sequence.slot, sequence.launched = free_slots.pop(), 1
            sequence.pages = taken(allocator, len(sequence.text) // PAGE + 1)
            live[sequence.slot] = sequence
            begun.append(sequence)
        # Results come in the order of the launches.
        take(flying)
        flying = None
        if begun:
            take(runner.begin([_begin(sequence) for sequence in begun]))
        rows, new_pages = [], []
        for sequence in live.values():
            if sequence.launched < sequence.steps and chance.random() < 0.9:
                if (place := (len(sequence.text) + sequence.launched) // PAGE) == len(sequence.pages):
                    sequence.pages += taken(allocator, 1)
                    new_pages.append((sequence.slot, place, sequence.pages[-1]))
                sequence.launched += 1
                rows.append(sequence.slot)
        chance.shuffle(rows)
        flying = runner.step(rows, new_pages) if rows else None
        for sequence in [each for each in live.values() if len(each.tokens) == each.steps]:
            allocator.give(sequence.pages)
            free_slots.append(sequence.slot)
            del live[sequence.slot]


def taken(allocator: PageAllocator, count: int) -> list[int]:
    pages = allocator.take(count)
    assert pages is not None
    return pages


def _begin(sequence: Spoken) -> Begin:
    draws = Draws(sequence.seed).uniforms(sequence.steps)
    return Begin(sequence.slot, sequence.voice, sequence.text, sequence.pages, draws, sequence.forbid_until)


def decode_alone(t3: T3, prefix: VoicePrefix, sequence: Spoken, cfg_scale: float = 0.0) -> list[int]:
    """By the plain decoder."""
    decoder = TokenDecoder(t3, prefix, len(sequence.text) + sequence.steps + 1, SamplingSettings(), cfg_scale)
    decoder.begin(sequence.text)
    draws = Draws(sequence.seed)
    return [
        decoder.next(draws.uniform(step), forbid_stop=step < sequence.forbid_until) for step in range(sequence.steps)
    ]


@dataclass
class Sounding:
    """An utterance of S3Gen's: one or more sequences of tokens that are all there already."""

    voice: int
    slot: int
    sequences: list[tuple[int, list[int], ChunkPolicy]]
    "Seed, tokens, how they are cut."
    pcm: bytes = b""
    at: int = 0
    chunks: int = 0
    samples: int = 0
    out: int = 0
    planner: ChunkPlanner | None = None


def random_soundings(
    chance: random.Random, count: int, *, voices: int, policies: Sequence[ChunkPolicy]
) -> list[Sounding]:
    return [
        Sounding(
            voice=chance.randrange(voices),
            slot=slot,
            sequences=[
                (
                    chance.randrange(2**60),
                    [chance.randrange(SPEECH_TOKENS) for _ in range(chance.choice((1, 6, 19, 20, 21, 45)))],
                    chance.choice(policies),
                )
                for _ in range(chance.choice((1, 1, 2)))
            ],
        )
        for slot in range(count)
    ]


def speak_together(
    runner: SpeechRunner, utterances: Sequence[Sounding], voices: Sequence[Voice], rate: int, chance: random.Random
) -> None:
    """In batches of whoever has a chunk left, in any order."""
    left = list(utterances)
    while left:
        batch = chance.sample(left, chance.randint(1, len(left)))
        rows = [next_row(runner, utterance, voices[utterance.voice], rate) for utterance in batch]
        spoken = runner.speak(rows, rate)
        for utterance, row, (pcm, finite) in zip(batch, rows, spoken.rows(), strict=True):
            assert finite
            assert len(pcm) == 2 * row.out
            utterance.pcm += pcm
            if row.plan.final:
                utterance.at, utterance.planner, utterance.chunks = utterance.at + 1, None, 0
        left = [utterance for utterance in left if utterance.at < len(utterance.sequences)]


def next_row(runner: SpeechRunner, utterance: Sounding, voice: Voice, rate: int) -> SpeechRow:
    seed, tokens, policy = utterance.sequences[utterance.at]
    planner = utterance.planner = utterance.planner or ChunkPlanner(policy)
    if planner.target <= len(tokens):
        plan = planner.next(planner.target, False)
    else:
        plan = planner.next(len(tokens) + TRAILING_SILENCE_TOKENS, True)
    assert plan is not None
    before, out_before = utterance.samples, utterance.out
    ends = plan.final and utterance.at == len(utterance.sequences) - 1
    utterance.samples += plan.speech_frames * SAMPLES_PER_FRAME
    utterance.out = runner.polyphase(rate).outputs(utterance.samples, ends)
    given = [*tokens, *[SILENCE_TOKEN] * TRAILING_SILENCE_TOKENS][plan.first_token : plan.tokens]
    row = SpeechRow(
        slot=utterance.slot,
        voice=utterance.voice,
        prompt=voice.flow_prompt_tokens.cpu().numpy().astype(np.int32),
        tokens=np.array(given, np.int32),
        plan=plan,
        keys=tuple(
            counter.key(seed, stream) for stream in (counter.PROMPT, counter.FLOW, counter.SOURCE, counter.PHASE)
        ),
        begins=utterance.chunks == 0,
        before=before,
        out_before=out_before,
        out=utterance.out - out_before,
    )
    utterance.chunks += 1
    return row


def pcm_of(utterance: Sounding) -> Pcm:
    return pcm_array(utterance.pcm)


def relative_error(heard: Pcm, expected: Pcm) -> float:
    """Root of the mean square, against the expected one's."""
    difference, scale = heard.astype(float) - expected, expected.astype(float)
    return float(np.sqrt((difference**2).mean() / (scale**2).mean()))


def livened(module: torch.nn.Module) -> torch.nn.Module:
    """Biases and norms that are no longer zeros and ones."""
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return module.eval()
