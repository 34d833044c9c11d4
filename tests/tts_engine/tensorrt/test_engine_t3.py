"""T3 by sessions against T3 by its own modules: the same logits, the same pages, whoever else is decoded."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.tts_engine.chatterbox.test_paged_t3 import Service, speak
from tests.tts_engine.tensorrt.t3_cases import (
    MOST_PREFIX,
    POSITIONS,
    SIZES,
    TINY,
    fresh,
    make_cache,
    make_passes,
    make_t3,
    make_voices,
)
from tts_engine.chatterbox.paged_t3 import PAGE, BatchDecoder, PagedCache, Passes, PlainPasses, StepReads
from tts_engine.chatterbox.sampling_settings import SamplingSettings
from tts_engine.chatterbox.t3 import T3
from tts_engine.tensorrt.engine_t3 import EnginePasses
from tts_engine.tensorrt.prefix_tiles import most_tiles
from tts_engine.tensorrt.session import ModuleSession
from tts_engine.tensorrt.t3_stages import prefill_stage, step_stage

SLOTS, WIDTH = 6, -(-POSITIONS // PAGE)


class Pair:
    """The same work for both; each step is of some rows, in any order, idle ones among them."""

    def __init__(self, generator: torch.Generator, t3: T3, *, twins: bool) -> None:
        self.generator, self.t3 = generator, t3
        voices = make_voices(t3, generator)
        lines = SLOTS * (2 if twins else 1)
        self.caches = []
        for _ in range(2):
            pages = torch.arange(lines * WIDTH, dtype=torch.int32).view(lines, WIDTH)
            self.caches.append(make_cache(t3, voices, pages, slots=SLOTS, twins=twins))
        self.cache = self.caches[0]
        shuffled = torch.randperm(lines * WIDTH, generator=generator).int().view(lines, WIDTH)
        voice = torch.randint(len(voices), (len(self.cache.lengths),), generator=generator, dtype=torch.int32)
        self.rows = torch.arange(len(voice), dtype=torch.int32)
        self.live = self.rows[~self.cache.is_idle(self.rows)]
        for cache in self.caches:
            cache.tables[self.live] = shuffled
            cache.voice[:] = voice
        self.passes: list[Passes] = [PlainPasses(t3, self.caches[0]), make_passes(t3, self.caches[1])]

    def some(self, tensor: Tensor, least: int = 1) -> Tensor:
        count = int(torch.randint(least, len(tensor) + 1, (), generator=self.generator))
        return tensor[torch.randperm(len(tensor), generator=self.generator)[:count]]

    def assert_alike(self, logits: list[Tensor], rows: Tensor) -> None:
        heard = ~self.cache.is_idle(rows)
        assert logits[0][heard].isfinite().all()
        torch.testing.assert_close(logits[1][heard], logits[0][heard], atol=1e-5, rtol=0)
        plain, engine = self.caches
        assert torch.equal(engine.lengths, plain.lengths)
        kept = [cache.keys_values[:, : cache.pages] for cache in self.caches]
        torch.testing.assert_close(kept[1], kept[0], atol=1e-5, rtol=0, equal_nan=True)

    def prefill(self, rows: Tensor, unconditional: Tensor | None) -> None:
        text = torch.randint(50, (len(rows), 41), generator=self.generator)
        lengths = torch.randint(42, (len(rows),), generator=self.generator, dtype=torch.int32)
        self.assert_alike([each.prefill(text, lengths, rows, unconditional) for each in self.passes], rows)

    def step(self, rows: Tensor, reads: StepReads | None) -> None:
        last = torch.randint(6561, (SLOTS + 1,), generator=self.generator, dtype=torch.int32)
        plain, engine = self.passes
        self.assert_alike([plain.step(last, rows), engine.step(last, rows, reads)], rows)

    def reads(self, rows: Tensor) -> StepReads | None:
        """As little as will do, more than that, or all."""
        own = int(self.cache.lengths[rows].clamp(max=POSITIONS - 1).max())
        kind = int(torch.randint(3, (), generator=self.generator))
        pages = min(WIDTH, max(1, -(-own // PAGE)) + kind)
        return None if kind == 2 else StepReads(pages, most_tiles(len(rows), 3) + kind)


@pytest.mark.parametrize("twins", [False, True], ids=["alone", "twins"])
@torch.inference_mode()
def test_logits_and_pages_are_those_of_the_modules(twins: bool) -> None:
    generator = fresh()
    pair = Pair(generator, make_t3(generator), twins=twins)
    idle = pair.rows[pair.cache.is_idle(pair.rows)]
    rows = torch.cat((pair.live, idle))[torch.randperm(len(pair.rows), generator=generator)]
    pair.prefill(rows, rows > SLOTS if twins else None)
    for step in range(45):
        some = torch.cat((pair.some(pair.live), idle.repeat(step % 3)))
        if step % 20 == 19:
            begun = pair.some(pair.live)
            pair.prefill(begun, begun > SLOTS if twins else None)
        pair.step(some, pair.reads(some))


@torch.inference_mode()
def test_a_row_at_its_capacity_overwrites_its_last_position() -> None:
    generator = fresh()
    pair = Pair(generator, make_t3(generator, TINY), twins=False)
    pair.prefill(pair.live, None)
    for cache in pair.caches:
        cache.keys_values.nan_to_num_()
        cache.lengths[pair.live[:3]] = POSITIONS - 1
    for _ in range(4):
        pair.step(pair.live, None)
    assert int(pair.cache.lengths.max()) == POSITIONS


@torch.inference_mode()
def test_numbers_that_are_none_stay_with_their_row() -> None:
    generator = fresh()
    pair = Pair(generator, make_t3(generator, TINY), twins=False)
    pair.prefill(pair.live, None)
    cache, passes = pair.caches[1], pair.passes[1]
    cache.keys_values[:, cache.tables[2].long()] = torch.nan
    cache.keys_values[:, cache.pages] = torch.nan
    last = torch.zeros(SLOTS + 1, dtype=torch.int32)
    finite = passes.step(last, pair.live, StepReads(WIDTH, 6)).isfinite().all(1)
    assert finite.tolist() == [True, True, False, True, True, True]


class EngineService(Service):
    """Its decoder steps through sessions."""

    def __init__(self, t3: T3, generator: torch.Generator, settings: SamplingSettings, *, cfg_scale: float) -> None:
        super().__init__(t3, generator, settings, cfg_scale=cfg_scale, slots=3)
        passes = make_passes(t3, self.cache)
        self.decoder = BatchDecoder(
            t3, self.cache, settings, cfg_scale, most_tokens=POSITIONS, fused=False, passes=passes
        )


@pytest.mark.parametrize("cfg_scale", [0.0, 0.7])
@torch.inference_mode()
def test_tokens_are_those_of_each_sequence_alone(cfg_scale: float) -> None:
    generator = fresh()
    service = EngineService(make_t3(generator, TINY), generator, SamplingSettings(top_p=0.0), cfg_scale=cfg_scale)
    ended = list(speak(service, 30))
    assert ended
    for sequence in ended:
        assert sequence.tokens == service.alone(sequence)
    service.assert_scratch_and_bank_are_whole()


def test_sessions_of_another_model_or_cache_are_refused() -> None:
    t3 = T3(TINY)
    stages = [make(t3, most_prefix=MOST_PREFIX) for make in (prefill_stage, step_stage)]
    prefill, step = (ModuleSession(stage) for stage in stages)

    def cache(sizes: object = TINY, most_prefix: int = MOST_PREFIX) -> PagedCache:
        return PagedCache(sizes, slots=1, pages=1, positions=9, voices=1, most_prefix=most_prefix)  # type: ignore[arg-type]

    assert EnginePasses(t3, cache(), prefill, step).capturable
    with pytest.raises(ValueError, match=r"engines whose prefixes are \(1, 90, 64\) .* \(1, 91, 64\)"):
        EnginePasses(t3, cache(most_prefix=91), prefill, step)
    with pytest.raises(ValueError, match="engines whose prefixes"):
        EnginePasses(t3, cache(SIZES), prefill, step)
    other = T3(replace(TINY, speech_vocabulary=6600))
    with pytest.raises(ValueError, match=r"engines whose logits are \(6563,\) for a T3 with \(6600,\)"):
        EnginePasses(other, cache(), prefill, step)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@torch.inference_mode()
def test_both_passes_are_held_by_a_graph(dtype: torch.dtype) -> None:
    """Replayed, they do what they do when called, and nothing in them waits for the device."""
    generator = fresh()
    t3 = make_t3(generator).to("cuda", dtype)
    voices = [t3.prefix(torch.randn(256, device="cuda"), torch.randint(6561, (n,), device="cuda")) for n in (5, 70, 89)]
    tables = torch.arange(SLOTS * WIDTH, dtype=torch.int32).view(SLOTS, WIDTH)
    caches = [make_cache(t3, voices, tables, slots=SLOTS, twins=False) for _ in range(2)]
    called, held = (make_passes(t3, cache) for cache in caches)
    rows = torch.tensor([0, 3, 1, 5, SLOTS, SLOTS], dtype=torch.int32, device="cuda")
    last = torch.zeros(SLOTS + 1, dtype=torch.int32, device="cuda")
    text = torch.randint(50, (len(rows), 30), generator=generator).cuda()
    lengths = torch.tensor([30, 4, 17, 1, 2, 3], dtype=torch.int32, device="cuda")
    for cache in caches:
        cache.voice[:SLOTS] = torch.arange(SLOTS, device="cuda") % 3
    reads = StepReads(3, 5)
    stream = torch.cuda.Stream()
    torch.cuda.synchronize()
    graphs: list[tuple[torch.cuda.CUDAGraph, Tensor]] = []
    with torch.cuda.stream(stream):
        for run in (
            lambda: held.prefill(text, lengths, rows, None),
            lambda: held.step(last, rows, reads),
        ):
            for _ in range(2):
                run()
            stream.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=stream):
                out = run()
            graphs.append((graph, out))
        (begin, begun), (step, stepped) = graphs
        caches[1].keys_values.fill_(torch.nan)
        begin.replay()
        torch.testing.assert_close(begun[:4], called.prefill(text, lengths, rows, None)[:4])
        for token in range(40):
            last.copy_(torch.arange(SLOTS + 1) * 31 + token)
            step.replay()
            torch.testing.assert_close(stepped[:4], called.step(last, rows, reads)[:4])
    assert torch.equal(caches[0].lengths, caches[1].lengths)
