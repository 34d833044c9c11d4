"""Sequences in slots and pages against the same sequences, each alone, in T3's own cache."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import Tensor

from tests.tts_engine.chatterbox.triton_interpreter import DEVICE, NEEDED
from tts_engine.chatterbox.constants import STOP_TOKEN
from tts_engine.chatterbox.decoder import TokenDecoder
from tts_engine.chatterbox.paged_t3 import PAGE, BatchDecoder, PagedCache
from tts_engine.chatterbox.sampling_settings import SamplingSettings
from tts_engine.chatterbox.step_attention import fused_fault
from tts_engine.chatterbox.t3 import T3, T3Sizes, VoicePrefix

SMALL = T3Sizes(layers=2, width=128, heads=2, positions=400, text_vocabulary=50, speech_vocabulary=6563)
TINY = replace(SMALL, width=64, heads=1)
HALF = torch.bfloat16 if DEVICE == "cuda" else torch.float16
"The interpreter takes bfloat16's bits for integers in products."
POSITIONS, MOST_PREFIX, VOICES = 3 * PAGE + 5, 90, 3
POISON = 1e4
"What unused pages hold: finite, since whoever reads it is to be seen, not to fail."


def fresh() -> torch.Generator:
    """Other numbers each time; pytest shows the seed of a failure."""
    generator = torch.Generator()
    print("seed", generator.seed())
    return generator


def model(generator: torch.Generator, sizes: T3Sizes = SMALL) -> T3:
    t3 = T3(sizes).eval()
    for parameter in t3.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * (0.3 if parameter.dim() == 1 else 0.15))
    return t3.to(DEVICE)


def voice(t3: T3, prompt: int, generator: torch.Generator) -> VoicePrefix:
    tokens = torch.randint(6561, (prompt,), generator=generator)
    return t3.prefix(torch.randn(256, generator=generator).to(DEVICE), tokens.to(DEVICE))


def ints(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int32, device=DEVICE)


@dataclass
class Sequence:
    slot: int
    voice: int
    text: list[int]
    draws: Tensor
    pages: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    length: int = 0


class Service:
    """Hands out slots and pages at random, as a scheduler would; what is free is poisoned."""

    def __init__(
        self,
        t3: T3,
        generator: torch.Generator,
        settings: SamplingSettings,
        *,
        cfg_scale: float = 0.0,
        slots: int = 4,
        fused: bool = False,
    ) -> None:
        self.generator, self.settings, self.cfg_scale, self.t3 = generator, settings, cfg_scale, t3
        lines = 2 if cfg_scale else 1
        dtype = t3.speech_head.weight.dtype
        self.cache = PagedCache(
            t3.sizes,
            slots=slots,
            pages=slots * lines * 4 + 3,
            positions=POSITIONS,
            voices=VOICES,
            most_prefix=MOST_PREFIX,
            dtype=dtype,
            device=DEVICE,
            twins=bool(cfg_scale),
        )
        self.cache.keys_values.fill_(POISON)
        self.voices = [voice(t3, prompt, generator) for prompt in (5, 70, MOST_PREFIX - 1)]
        for index, prefix in enumerate(self.voices):
            self.cache.set_voice(index, prefix)
        self.decoder = BatchDecoder(t3, self.cache, settings, cfg_scale, most_tokens=POSITIONS, fused=fused)
        self.free_slots = list(range(slots))
        self.free_pages = list(range(self.cache.pages))
        self.speaking: list[Sequence] = []

    def any_of(self, things: list[int]) -> int:
        return things.pop(int(torch.randint(len(things), (), generator=self.generator)))

    def new(self, text: int) -> Sequence:
        sequence = Sequence(
            self.any_of(self.free_slots),
            int(torch.randint(VOICES, (), generator=self.generator)),
            torch.randint(50, (text,), generator=self.generator).tolist(),
            torch.rand(POSITIONS, generator=self.generator),
        )
        self.cache.voice[sequence.slot] = sequence.voice
        self.decoder.draws[sequence.slot] = sequence.draws.to(DEVICE)
        self.decoder.forbid_until[sequence.slot] = 10**6  # STOP would end too many
        for line in self.lines(sequence):
            self.cache.tables[line] = self.cache.pages
        self.grow(sequence, text + 1)
        return sequence

    def lines(self, sequence: Sequence) -> list[int]:
        return [sequence.slot] + ([sequence.slot + self.cache.slots + 1] if self.cfg_scale else [])

    def grow(self, sequence: Sequence, length: int) -> None:
        """Pages for so many positions."""
        sequence.length = length
        lines = self.lines(sequence)
        while len(sequence.pages) // len(lines) * PAGE < length:
            index = len(sequence.pages) // len(lines)
            for line in lines:
                page = self.any_of(self.free_pages)
                self.cache.tables[line, index] = page
                sequence.pages.append(page)

    def begin(self, texts: list[int], padding: int = 0) -> list[Sequence]:
        begun = [self.new(text) for text in texts]
        text = torch.randint(50, (len(begun) + padding, max(texts) + 2), generator=self.generator)
        for row, sequence in enumerate(begun):
            text[row, : len(sequence.text)] = torch.tensor(sequence.text)
        lengths = ints(*texts, *[0] * padding)
        slots = ints(*[sequence.slot for sequence in begun], *[self.cache.slots] * padding)
        self.record(begun, self.decoder.prefill(text.to(DEVICE), lengths, slots))
        self.speaking += begun
        return begun

    def step(self, chosen: list[Sequence], padding: int = 0) -> None:
        for sequence in chosen:
            self.grow(sequence, min(sequence.length + 1, POSITIONS))
        self.record(
            chosen,
            self.decoder.step(ints(*[sequence.slot for sequence in chosen], *[self.cache.slots] * padding)),
        )

    def record(self, sequences: list[Sequence], out: Tensor) -> None:
        for sequence, (token, finite) in zip(sequences, out.tolist(), strict=False):
            assert finite == 1
            sequence.tokens.append(token)

    def end(self, sequence: Sequence) -> None:
        self.speaking.remove(sequence)
        self.free_slots.append(sequence.slot)
        self.free_pages += sequence.pages
        self.cache.keys_values[:, sequence.pages] = POISON

    def alone(self, sequence: Sequence) -> list[int]:
        """The same by T3, KVCache, process and pick: TokenDecoder."""
        decoder = TokenDecoder(self.t3, self.voices[sequence.voice], POSITIONS, self.settings, self.cfg_scale)
        decoder.begin(sequence.text)
        return [decoder.next(float(draw), forbid_stop=True) for draw in sequence.draws[: len(sequence.tokens)]]

    def assert_scratch_and_bank_are_whole(self) -> None:
        free = self.cache.keys_values[:, self.free_pages]
        assert (free == POISON).all()
        for index, prefix in enumerate(self.voices):
            assert torch.equal(self.cache.prefixes[index, :, 0, :, : prefix.length], prefix.keys)
            assert not self.cache.prefixes[index, :, :, :, prefix.length :].any()


def speak(service: Service, rounds: int) -> Iterator[Sequence]:
    """Rows join and leave at any step; what ended comes out."""
    generator = service.generator
    for _ in range(rounds):
        if service.free_slots and torch.rand((), generator=generator) < 0.3:
            count = int(torch.randint(1, len(service.free_slots) + 1, (), generator=generator))
            texts = torch.randint(0, 40, (count,), generator=generator).tolist()
            service.begin(texts, padding=int(torch.randint(3, (), generator=generator)))
        for sequence in service.speaking.copy():
            if sequence.length >= POSITIONS or torch.rand((), generator=generator) < 0.02:
                service.end(sequence)
                yield sequence
        order = torch.randperm(len(service.speaking), generator=generator).tolist()
        # Who is held back is not stepped.
        chosen = [service.speaking[i] for i in order if torch.rand((), generator=generator) < 0.9]
        if chosen:
            service.step(chosen, padding=int(torch.randint(3, (), generator=generator)))
    yield from service.speaking


SETTINGS = {"greedy": SamplingSettings(top_p=0.0), "sampled": SamplingSettings()}


@pytest.mark.parametrize("kind", SETTINGS)
def test_tokens_are_those_of_each_sequence_alone(kind: str) -> None:
    generator = fresh()
    service = Service(model(generator), generator, SETTINGS[kind])
    ended = list(speak(service, 110))
    assert len(ended) > 3
    assert all(STOP_TOKEN not in sequence.tokens for sequence in ended)
    others = [sequence for sequence in ended if sequence.tokens != service.alone(sequence)]
    # A draw may lie on the border of two of a thousand tokens, where rounding decides; then all that follows differs.
    assert len(others) <= (len(ended) // 10 + 1 if kind == "sampled" else 0)
    service.assert_scratch_and_bank_are_whole()


def test_a_hundred_steps_of_one_sequence_through_all_its_pages() -> None:
    generator = fresh()
    service = Service(model(generator), generator, SamplingSettings(top_k=3))
    (sequence,) = service.begin([0])
    while sequence.length < POSITIONS:
        service.step([sequence])
    assert len(sequence.tokens) == POSITIONS > 100
    assert sequence.tokens == service.alone(sequence)


def test_guidance_has_a_twin_of_each_row() -> None:
    generator = fresh()
    service = Service(model(generator), generator, SamplingSettings(top_k=3), cfg_scale=0.7)
    ended = list(speak(service, 25))
    assert ended
    for sequence in ended:
        assert sequence.tokens == service.alone(sequence)
    unguided = Service(service.t3, generator, SamplingSettings(top_k=3))
    assert any(unguided.alone(sequence) != sequence.tokens for sequence in ended)


def test_what_a_failed_sequence_left_harms_nobody() -> None:
    generator = fresh()
    service = Service(model(generator), generator, SamplingSettings())
    service.cache.keys_values.fill_(torch.nan)
    (sequence,) = service.begin([7])
    for _ in range(40):
        service.step([sequence], padding=1)
    assert sequence.tokens == service.alone(sequence)


def test_a_full_row_overwrites_its_last_position_and_harms_no_other() -> None:
    generator = fresh()
    service = Service(model(generator), generator, SamplingSettings())
    full, other = service.begin([30, 4])
    while full.length < POSITIONS:
        service.step([full])
    for _ in range(9):
        service.step([full, other])
    assert int(service.cache.lengths[full.slot]) == POSITIONS
    assert other.tokens == service.alone(other)


def test_the_idle_slot_stays_empty() -> None:
    generator = fresh()
    service = Service(model(generator), generator, SamplingSettings(), cfg_scale=0.5)
    idle = service.cache.slots
    (sequence,) = service.begin([3], padding=2)
    for _ in range(3):
        service.step([sequence], padding=3)
    assert service.cache.lengths[[idle, 2 * idle + 1]].tolist() == [0, 0]
    assert int(service.decoder.steps[idle]) == 0
    assert service.cache.tables[idle].tolist() == [service.cache.pages] * service.cache.tables.shape[1]
    assert sequence.tokens == service.alone(sequence)


def test_numbers_that_are_none_are_reported_of_their_row_only() -> None:
    generator = fresh()
    service = Service(model(generator), generator, SamplingSettings())
    bad, good = service.begin([3, 5])
    service.cache.keys_values[:, bad.pages] = torch.nan
    for sequence in (bad, good):
        service.grow(sequence, sequence.length + 1)
    out = service.decoder.step(ints(bad.slot, good.slot))
    assert out[:, 1].tolist() == [0, 1]
    assert out.dtype == torch.int32


def test_stop_may_come_from_its_step_on() -> None:
    generator = fresh()
    t3 = model(generator)
    t3.speech_head.bias[STOP_TOKEN] = 500.0
    service = Service(t3, generator, SamplingSettings())
    (sequence,) = service.begin([3])
    service.decoder.forbid_until[sequence.slot] = 3
    for _ in range(3):
        service.step([sequence])
    assert [token == STOP_TOKEN for token in sequence.tokens] == [False, False, False, True]


def test_text_that_does_not_fit_is_refused() -> None:
    generator = fresh()
    service = Service(model(generator), generator, SamplingSettings())
    with pytest.raises(ValueError, match=f"{POSITIONS} text tokens and START do not fit a cache of {POSITIONS}"):
        service.decoder.prefill(torch.zeros(1, POSITIONS, dtype=torch.int64, device=DEVICE), ints(3), ints(0))


def test_what_does_not_fit_the_model_or_the_bank_is_refused() -> None:
    with pytest.raises(ValueError, match="a prefix of 376 and 25 positions more are over the model's 400"):
        PagedCache(SMALL, slots=1, pages=1, positions=25, voices=1)
    generator = fresh()
    t3 = model(generator)
    cache = PagedCache(SMALL, slots=1, pages=1, positions=25, voices=1, most_prefix=9, device=DEVICE)
    with pytest.raises(ValueError, match="a voice prefix of 11 positions is over the 9"):
        cache.set_voice(0, voice(t3, 10, generator))
    with pytest.raises(ValueError, match="twins"):
        BatchDecoder(t3, cache, SamplingSettings(), 0.5)


def test_a_shorter_voice_leaves_nothing_of_the_one_before() -> None:
    generator = fresh()
    t3 = model(generator)
    cache = PagedCache(SMALL, slots=1, pages=1, positions=25, voices=2, most_prefix=50, device=DEVICE)
    cache.set_voice(1, voice(t3, 40, generator))
    short = voice(t3, 3, generator)
    cache.set_voice(1, short)
    assert cache.prefix_lengths.tolist() == [0, 4]
    assert torch.equal(cache.prefixes[1, :, 1, :, :4], short.values)
    assert not cache.prefixes[1, :, :, :, 4:].any()


@pytest.fixture
def few_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter runs programs one after the other."""
    if DEVICE == "cpu":
        monkeypatch.setattr("tts_engine.chatterbox.kernels.step_attention._MOST_PARTS", 2)
        monkeypatch.setattr("tts_engine.chatterbox.kernels.step_attention._PREFIX_PROGRAMS", 2)


def assert_alike(fused: Service, plain: Service, rounds: int, atol: float) -> None:
    """The model's logits and the cache, kernels against modules, fed the same tokens."""
    texts = [5, 0, 14]
    logits: list[Tensor] = []
    for service in (fused, plain):
        slots = [service.new(text) for text in texts]
        text = torch.full((4, 16), 3)
        for row, sequence in enumerate(slots):
            text[row, : texts[row]] = torch.tensor(sequence.text)
        idle = service.cache.slots
        rows = ints(*[sequence.slot for sequence in slots], idle)
        with torch.inference_mode():
            passes = service.decoder._passes
            out = [passes.prefill(text.to(DEVICE), ints(*texts, 6), rows, None)[:3, : SMALL.speech_vocabulary]]
            for step in range(rounds):
                service.decoder.last[:] = torch.arange(len(service.decoder.last), device=DEVICE) + 7 * step
                for sequence in slots:
                    service.grow(sequence, sequence.length + 1)
                out.append(passes.step(service.decoder.last, rows)[:3, : SMALL.speech_vocabulary])
        logits.append(torch.stack(out).float())
    assert torch.equal(fused.cache.lengths, plain.cache.lengths)
    torch.testing.assert_close(logits[0], logits[1], atol=atol * float(logits[1].std()), rtol=0)
    scratch = fused.cache.pages
    torch.testing.assert_close(
        fused.cache.keys_values[:, :scratch],
        plain.cache.keys_values[:, :scratch],
        atol=atol * float(plain.voices[0].keys.std()),
        rtol=0.02 if atol > 1e-3 else 1e-5,
    )


@pytest.mark.usefixtures("few_parts")
class TestKernels:
    pytestmark = NEEDED

    @pytest.mark.parametrize(
        ("dtype", "atol", "rounds"), [(torch.float32, 2e-4, 2), (HALF, 0.06, 1)], ids=["float32", "half"]
    )
    def test_the_kernels_compute_what_the_modules_do(self, dtype: torch.dtype, atol: float, rounds: int) -> None:
        seed = fresh().seed()
        generator = torch.Generator().manual_seed(seed)
        t3 = model(generator, TINY).to(dtype)
        services = [
            Service(t3, torch.Generator().manual_seed(seed), SamplingSettings(), slots=5, fused=fused)
            for fused in (True, False)
        ]
        assert_alike(services[0], services[1], rounds, atol)

    def test_tokens_of_the_kernels_are_those_of_each_sequence_alone(self) -> None:
        generator = fresh()
        service = Service(model(generator, TINY), generator, SamplingSettings(), slots=3, fused=True)
        rounds = 130 if DEVICE == "cuda" else 1
        service.begin([9, 2])
        ended = list(speak(service, rounds))
        for sequence in ended:
            assert sequence.tokens == service.alone(sequence)
        service.assert_scratch_and_bank_are_whole()

    def test_guidance_by_the_kernels(self) -> None:
        generator = fresh()
        service = Service(model(generator, TINY), generator, SamplingSettings(), slots=2, cfg_scale=0.7, fused=True)
        (sequence,) = service.begin([9], padding=1)
        for _ in range(40 if DEVICE == "cuda" else 1):
            service.step([sequence])
        assert sequence.tokens == service.alone(sequence)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_kernels_can_be_used_here() -> None:
    assert fused_fault() is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("fused", [True, False])
def test_a_step_is_captured_in_a_graph(fused: bool) -> None:
    generator = fresh()
    service = Service(model(generator), generator, SamplingSettings(), fused=fused)
    sequences = service.begin([9, 20])
    slots = ints(*[sequence.slot for sequence in sequences], service.cache.slots)
    for sequence in sequences:  # pages for all that comes
        service.grow(sequence, POSITIONS)
    warm = torch.cuda.Stream()
    warm.wait_stream(torch.cuda.current_stream())
    idle = ints(*[service.cache.slots] * 3)
    with torch.cuda.stream(warm):
        for _ in range(2):
            service.decoder.step(idle)
    torch.cuda.current_stream().wait_stream(warm)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = service.decoder.step(slots)
    for _ in range(60):
        with torch.inference_mode():
            out.fill_(-1)
        graph.replay()
        service.record(sequences, out)
    for sequence in sequences:
        assert sequence.tokens == service.alone(sequence)
