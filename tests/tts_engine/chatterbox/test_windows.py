"""The packed moves of many slots at once, against SpeechAssembler, which does one utterance at a time."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from tests.tts_engine.chatterbox.packed_windows import windows
from tts_engine.chatterbox.assembler import SpeechAssembler
from tts_engine.chatterbox.chunk_plan import ChunkPlan, ChunkPlanner
from tts_engine.chatterbox.chunk_policy import ChunkPolicy
from tts_engine.chatterbox.constants import HARMONICS, MEL_BINS, SAMPLES_PER_FRAME, TRAILING_SILENCE_TOKENS
from tts_engine.chatterbox.draws import Draws
from tts_engine.chatterbox.source import frame_phases
from tts_engine.chatterbox.voice import Voice
from tts_engine.chatterbox.windows import SpeechState, Windows, fade_head

VOICE = Voice(
    speaker_embedding=torch.zeros(256),
    prompt_tokens=torch.zeros(0, dtype=torch.int64),
    flow_prompt_tokens=torch.zeros(4, dtype=torch.int64),
    flow_prompt_mel=torch.zeros(8, MEL_BINS),
    x_vector=torch.zeros(192),
)
ROWS = 6
SLOTS = 7


@dataclass(frozen=True)
class Chunk:
    """What SpeechAssembler asked for and gave."""

    plan: ChunkPlan
    begins: bool
    flow: Tensor
    "(n, 80): the flow's mel of the tokens it was given, no prompt."
    mel: Tensor
    "(T, 80)"
    known_f0: Tensor
    phase: Tensor
    samples: Tensor


def vocode(mel: Tensor, known_f0: Tensor, phase: Tensor, first_frame: int) -> tuple[Tensor, Tensor, Tensor]:
    """In a vocoder's place, one row: mel (T, 80) to wave (480 T,), F0 (T,), phases (9, T), local."""
    f0 = 150 + 100 * torch.sin(mel[:, 0] + mel[:, 1].roll(1, 0))
    f0[: len(known_f0)] = known_f0
    phases = frame_phases(f0[None], phase[None])[0, :, :-1]
    near = mel + 0.5 * mel.roll(2, 0) + 0.25 * mel.roll(-3, 0) + (f0 / 300 + phases[3])[:, None]
    wave = near.repeat(1, SAMPLES_PER_FRAME // MEL_BINS) + torch.arange(first_frame, first_frame + len(mel))[:, None]
    return wave.flatten(), f0, phases


def speak_alone(policy: ChunkPolicy, tokens: int, generator: torch.Generator) -> Iterator[Chunk]:
    """All chunks of a sequence; the flow says something else of every frame each time."""
    assembler, planner, given = SpeechAssembler(VOICE, Draws(1), policy), ChunkPlanner(policy), 0
    while not assembler.done:
        count = min(assembler.tokens_wanted, tokens - given)
        assembler.feed([1] * count)
        given += count
        finished = given == tokens
        if finished:
            assembler.finish()
        flow_input = assembler.flow_input()
        if flow_input is None:
            continue
        plan = planner.next(given + TRAILING_SILENCE_TOKENS * finished, finished)
        assert plan is not None
        flow = torch.randn(plan.known - 2 * plan.first_token, MEL_BINS, generator=generator)
        window = assembler.take_mel(flow.T)
        wave = vocode(window.mel.T, window.known_f0, window.phase, window.first_frame)
        begins = window.first_frame == 0 and len(window.known_f0) == 0
        samples = assembler.take_speech(*wave)
        yield Chunk(plan, begins, flow, window.mel.T, window.known_f0, window.phase, samples)


def pack_flow(chunks: list[Chunk], random_: random.Random) -> tuple[Tensor, list[int]]:
    """The flow's packed mel, prompts and padding poisoned, and where each row's first frame to be spoken is."""
    parts, flow_at, at = [], [], 0
    for chunk in chunks:
        prompt, look_ahead = random_.randrange(9), random_.randrange(7)
        poison = [torch.full((frames, MEL_BINS), torch.nan) for frames in (prompt, look_ahead)]
        parts += [poison[0], chunk.flow, poison[1]]
        flow_at.append(at + prompt + chunk.plan.spoken - 2 * chunk.plan.first_token)
        at += prompt + len(chunk.flow) + look_ahead
    return torch.cat([*parts, torch.full((random_.randrange(1, 20), MEL_BINS), torch.nan)]), flow_at


def run_vocoder(w: Windows, gathered: tuple[Tensor, ...], size: int) -> tuple[Tensor, Tensor, Tensor]:
    """`vocode` row by row, as PackedVocoder gives it; the padding is poisoned."""
    mel, known_f0, known, phase = gathered
    wave, f0 = torch.full((size * SAMPLES_PER_FRAME,), torch.nan), torch.full((size,), torch.nan)
    phases = torch.full((size, HARMONICS), torch.nan)
    for row, (first, last) in enumerate(zip(w.starts[:-1].tolist(), w.starts[1:].tolist(), strict=True)):
        if last > first:
            frames, samples = slice(first, last), slice(first * SAMPLES_PER_FRAME, last * SAMPLES_PER_FRAME)
            spoken = known_f0[first : first + int(known[row])]
            wave[samples], f0[frames], row_phases = vocode(mel[frames], spoken, phase[row], int(w.base[row]))
            phases[frames] = row_phases.T
    return wave, f0, phases


def speak_together(batch: list[tuple[int, Chunk]], state: SpeechState, random_: random.Random) -> list[Tensor]:
    """One packed batch; what is gathered is compared on the way. Gives each row's new speech."""
    chunks = [chunk for _, chunk in batch]
    flow_mel, flow_at = pack_flow(chunks, random_)
    slots = [slot for slot, _ in batch]
    w = windows([c.plan for c in chunks], slots, flow_at, [c.begins for c in chunks], ROWS, state.slots)
    total = int(w.starts[-1])
    size = total + random_.randrange(30)
    others = [slot for slot in range(SLOTS) if slot not in slots]
    before = [held[others].clone() for held in (state.mel, state.f0, state.phase, state.tail)]

    gathered = state.gather(flow_mel, w, size)
    mel, known_f0, known, phase = gathered
    for row, chunk in enumerate(chunks):
        first, frames = int(w.starts[row]), chunk.plan.window_frames
        assert torch.equal(mel[first : first + frames], chunk.mel)
        assert int(known[row]) == len(chunk.known_f0)
        assert torch.equal(known_f0[first : first + len(chunk.known_f0)], chunk.known_f0)
        assert torch.equal(phase[row], chunk.phase)
    assert (mel[total:] == 0).all()
    assert (known_f0[total:] == 0).all()
    assert (known[len(batch) :] == 0).all()
    assert (phase[len(batch) :] == 0).all()

    wave, f0, phases = run_vocoder(w, gathered, size)
    state.keep(w, mel, f0, phases)
    for held, was in zip((state.mel, state.f0, state.phase, state.tail), before, strict=True):
        torch.testing.assert_close(held[others], was, rtol=0, atol=0, equal_nan=True)
    unfaded = wave.clone()
    wave = fade_head(wave, w)
    torch.testing.assert_close(unfaded[total * SAMPLES_PER_FRAME :], wave[total * SAMPLES_PER_FRAME :], equal_nan=True)
    spans = [(int(w.starts[row]) - c.plan.base + c.plan.spoken, c.plan.speech_frames) for row, c in enumerate(chunks)]
    return [wave[at * SAMPLES_PER_FRAME : (at + n) * SAMPLES_PER_FRAME] for at, n in spans]


POLICIES = (
    ChunkPolicy(),
    ChunkPolicy(sizes=(14, 1, 3)),
    ChunkPolicy(sizes=(20, 5, 40), crossfade_frames=0),
    ChunkPolicy(sizes=(17,), max_context_tokens=6, left_context_frames=14, right_context_frames=14),
    ChunkPolicy(sizes=(500,)),
)
WIDEST = ChunkPolicy(crossfade_frames=8)


@pytest.mark.parametrize("seed", range(4))
def test_a_batch_gives_each_slot_what_it_gets_alone(seed: int) -> None:
    """To the last bit, with batches of any composition, one sequence after another in a slot, all else poisoned."""
    random_, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    state = SpeechState(SLOTS, WIDEST)
    for held in (state.mel, state.f0, state.phase, state.tail):
        held.fill_(torch.nan)
    waiting = {
        slot: [
            chunk
            for _ in range(random_.randrange(1, 4))
            for chunk in speak_alone(random_.choice(POLICIES), random_.randrange(0, 90), generator)
        ]
        for slot in range(SLOTS - 1)  # one slot is never used
    }
    while any(waiting.values()):
        speakers = [slot for slot, chunks in waiting.items() if chunks]
        slots = random_.sample(speakers, random_.randrange(1, min(len(speakers), ROWS) + 1))
        batch = [(slot, waiting[slot].pop(0)) for slot in slots]
        for spoken, (_, chunk) in zip(speak_together(batch, state, random_), batch, strict=True):
            assert torch.equal(spoken, chunk.samples)


def test_a_batch_of_nobody_disturbs_nobody() -> None:
    """As the graphs are captured."""
    state = SpeechState(SLOTS, WIDEST)
    state.mel.normal_()
    kept = state.mel[:SLOTS].clone()
    w = windows([], [], [], [], ROWS, SLOTS)
    mel, known_f0, known, phase = state.gather(torch.full((10, MEL_BINS), torch.nan), w, 5)
    for tensor in (mel, known_f0, known, phase):
        assert (tensor == 0).all()
    state.keep(w, torch.full((5, MEL_BINS), torch.nan), torch.full((5,), torch.nan), torch.full((5, 9), torch.nan))
    assert torch.equal(state.mel[:SLOTS], kept)
    # What the idle slot holds by now reaches nobody either.
    assert all((tensor == 0).all() for tensor in state.gather(torch.full((10, MEL_BINS), torch.nan), w, 5))


def test_the_head_fades_in_by_its_place_in_the_sequence() -> None:
    plans = [
        ChunkPlan(0, 9, 0, True, base=base, spoken=base, known=base + 4, until=base + 4, next_base=base, fade=0)
        for base in (0, 1, 2, 30)
    ]
    w = windows(plans, [0, 1, 2, 3], [0] * 4, [True] * 4, ROWS, SLOTS)
    wave = torch.ones(18 * SAMPLES_PER_FRAME)
    faded = fade_head(wave, w).view(18, SAMPLES_PER_FRAME)
    assert (wave == 1).all()
    rise = torch.tensor([(1 - math.cos(math.pi * at / 479)) / 2 for at in range(480)])
    assert (faded[0] == 0).all()
    for frame in (1, 4):
        torch.testing.assert_close(faded[frame], rise, atol=1e-6, rtol=0)
    assert (faded[[at for at in range(18) if at not in (0, 1, 4)]] == 1).all()


def test_clear() -> None:
    state = SpeechState(3, WIDEST)
    tensors = (state.mel, state.f0, state.phase, state.tail)
    for held in tensors:
        held.fill_(torch.nan)
    state.clear(1)
    for held in tensors:
        assert (held[1] == 0).all()
        assert held[[0, 2, 3]].isnan().all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_moves_can_be_captured() -> None:
    """A graph replayed with other numbers in its inputs gives what a direct call on the CPU gives."""
    generator = torch.Generator().manual_seed(1)
    chunks = list(speak_alone(ChunkPolicy(), 60, generator))[:2]
    on_host, on_device = SpeechState(SLOTS, WIDEST), SpeechState(SLOTS, WIDEST, "cuda")
    size = 200
    flow_mel = torch.zeros(300, MEL_BINS, device="cuda")
    idle = windows([], [], [], [], ROWS, SLOTS)
    w = Windows(**{name: tensor.cuda() for name, tensor in vars(idle).items()})
    mel_size = torch.randn(size, generator=generator)

    def moves(flow: Tensor, rows: Windows, state: SpeechState, f0: Tensor) -> tuple[Tensor, ...]:
        gathered = state.gather(flow, rows, size)
        state.keep(rows, gathered[0], f0, f0[:, None].expand(-1, HARMONICS))
        return (*gathered, fade_head(f0.repeat_interleave(SAMPLES_PER_FRAME), rows))

    f0 = mel_size.cuda()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        moves(flow_mel, w, on_device, f0)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            results = moves(flow_mel, w, on_device, f0)
    for chunk in chunks:
        packed, flow_at = pack_flow([chunk], random.Random(1))
        rows = windows([chunk.plan], [2], flow_at, [chunk.begins], ROWS, SLOTS)
        flow_mel[: len(packed)] = packed.cuda()
        for name, tensor in vars(rows).items():
            getattr(w, name).copy_(tensor)
        graph.replay()
        torch.cuda.synchronize()
        for got, expected in zip(results, moves(packed, rows, on_host, mel_size), strict=True):
            torch.testing.assert_close(got.cpu(), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(on_device.mel[2].cpu(), on_host.mel[2], rtol=1e-6, atol=1e-6)
