"""A T3 of any size whose numbers are alive, in a cache whose pages are poisoned."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from tts_engine.chatterbox.paged_t3 import PAGE, PagedCache
from tts_engine.chatterbox.t3 import T3, T3Sizes, VoicePrefix
from tts_engine.tensorrt.engine_t3 import EnginePasses
from tts_engine.tensorrt.session import ModuleSession
from tts_engine.tensorrt.t3_stages import prefill_stage, step_stage

SIZES = T3Sizes(layers=2, width=128, heads=2, positions=400, text_vocabulary=50, speech_vocabulary=6563)
TINY = replace(SIZES, width=64, heads=1)
MOST_PREFIX = 90
POSITIONS = 3 * PAGE + 5


def fresh() -> torch.Generator:
    """Other numbers each time; pytest shows the seed of a failure."""
    generator = torch.Generator()
    print("seed", generator.seed())
    return generator


def make_t3(generator: torch.Generator, sizes: T3Sizes = SIZES) -> T3:
    t3 = T3(sizes).eval()
    for parameter in t3.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * (0.3 if parameter.dim() == 1 else 0.15))
    return t3


def make_voices(t3: T3, generator: torch.Generator, prompts: tuple[int, ...] = (5, 70, 89)) -> list[VoicePrefix]:
    return [
        t3.prefix(torch.randn(256, generator=generator), torch.randint(6561, (prompt,), generator=generator))
        for prompt in prompts
    ]


def make_cache(t3: T3, voices: list[VoicePrefix], tables: Tensor, *, slots: int, twins: bool) -> PagedCache:
    """`tables`: of all rows but the idle ones. What nobody has written is NaN."""
    weight = t3.speech_head.weight
    cache = PagedCache(
        t3.sizes,
        slots=slots,
        pages=int(tables.max()) + 1,
        positions=POSITIONS,
        voices=len(voices),
        most_prefix=MOST_PREFIX,
        dtype=weight.dtype,
        device=weight.device,
        twins=twins,
    )
    cache.keys_values.fill_(torch.nan)
    for index, voice in enumerate(voices):
        cache.set_voice(index, voice)
    rows = torch.arange(len(cache.lengths), device=weight.device)
    cache.tables[~cache.is_idle(rows)] = tables.to(weight.device)
    return cache


def make_passes(t3: T3, cache: PagedCache) -> EnginePasses:
    """By the stages' own modules."""
    prefill, step = (make(t3, most_prefix=cache.prefixes.shape[4]) for make in (prefill_stage, step_stage))
    return EnginePasses(t3, cache, ModuleSession(prefill), ModuleSession(step))
