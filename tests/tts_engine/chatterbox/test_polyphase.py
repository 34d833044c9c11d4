from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.tts_engine.chatterbox.packed_windows import int32, starts_of
from tests.tts_engine.chatterbox.spoken_signals import (
    ROWS,
    SLOTS,
    Utterance,
    batches,
    due,
    next_batch,
    poisoned_state,
    signals,
)
from tts_engine.chatterbox.polyphase import RATES, TAIL_SAMPLES, Polyphase, impulse_response
from tts_engine.resample import Resampler, to_pcm16

FILTERS = {rate: Polyphase(rate) for rate in RATES}


@pytest.mark.parametrize(("rate", "taps"), [(8000, 525), (16000, 269)])
def test_what_is_cut_off_is_under_half_a_step(rate: int, taps: int) -> None:
    first, kept = impulse_response(rate)
    assert abs(kept.shape[1] - taps) <= 16  # of another soxr's filter a few more or less
    # The whole filter: answers to impulses at places that the taps were not taken from, the far reaches included.
    up, down = (1, 3) if rate == 8000 else (2, 3)
    lost = np.zeros(up)
    for at in range(5001, 5001 + down):
        impulse = np.zeros(10000, np.float32)
        impulse[at] = 1
        for m, value in enumerate(Resampler(24000, rate).process(impulse, final=True)):
            tap = at - m * down // up - first
            inside = 0 <= tap < kept.shape[1]
            lost[m % up] += abs(float(value) - (kept[m % up, tap] if inside else 0))
    assert lost.max() * 32767 < 0.5


@pytest.mark.parametrize("rate", RATES)
def test_a_constant_stays_and_nothing_is_shifted(rate: int) -> None:
    first, taps = impulse_response(rate)
    assert taps.sum(1) == pytest.approx(1, abs=1e-5)
    delays = (taps * (first + np.arange(taps.shape[1]))).sum(1)
    assert delays == pytest.approx([phase * 24000 / rate % 1 for phase in range(len(taps))], abs=1e-2)


@pytest.mark.parametrize("rate", RATES)
@given(pieces=st.lists(st.integers(0, 3000), max_size=12))
def test_outputs(rate: int, pieces: list[int]) -> None:
    """What exists has all its inputs; what does not exist yet lacks one; the past that it needs is kept."""
    filter_ = FILTERS[rate]
    samples = made = 0
    for piece in pieces:
        samples += piece
        now = filter_.outputs(samples, final=False)
        assert now >= made
        if now:
            assert (now - 1) * filter_.down // filter_.up + filter_.ahead < samples
        assert now * filter_.down // filter_.up + filter_.ahead >= samples
        oldest = now * filter_.down // filter_.up + filter_.first
        assert samples - oldest <= filter_.history <= TAIL_SAMPLES
        made = now
    assert filter_.outputs(samples, final=True) >= made
    total = filter_.outputs(samples, final=True)
    assert total == len(Resampler(24000, rate).process(np.zeros(samples, np.float32), final=True))


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize(("frames", "most"), [(25, 4), (120, 60), (1, 1)])
def test_pieces_in_any_company_give_what_soxr_gives_of_the_whole(rate: int, frames: int, most: int) -> None:
    """Within one step of 16 bits, one after another in the same slots; 24 kHz to the bit."""
    random_, state = random.Random(rate + frames), poisoned_state()
    waiting = [signal for name, signal in signals(frames, seed=frames).items()]
    names = list(signals(1, 0))
    for turn in range(2):
        order = random_.sample(range(len(waiting)), SLOTS)
        utterances = [Utterance(slot, waiting[which]) for slot, which in enumerate(order)]
        for batch in batches(utterances, FILTERS[rate], random_, most):
            others = [slot for slot in range(SLOTS) if slot not in [u.slot for u in batch.utterances]]
            kept = state.tail[others].clone()
            pcm, broken = FILTERS[rate](
                batch.wave, batch.w, state, batch.before, batch.out_before, batch.out_starts, batch.size
            )
            batch.take(pcm)
            assert pcm.dtype == torch.int16
            assert broken.tolist() == [0] * ROWS
            torch.testing.assert_close(state.tail[others], kept, rtol=0, atol=0, equal_nan=True)
        for utterance, which in zip(utterances, order, strict=True):
            expected = due(utterance.signal, rate)
            assert len(utterance.pcm) == len(expected)
            error = (utterance.pcm.int() - expected.int()).abs().max()
            assert error <= (0 if rate == 24000 else 1), (turn, names[which])


@pytest.mark.parametrize("rate", RATES)
def test_how_it_is_cut_changes_next_to_nothing(rate: int) -> None:
    """Batches of other sizes may add up in another order: a rounding may fall otherwise, rarely."""
    signal, heard = signals(60, 3)["noise"], []
    for seed, most in ((1, 60), (2, 3), (3, 11)):
        random_, state, utterance = random.Random(seed), poisoned_state(), Utterance(1, signal)
        for batch in batches([utterance], FILTERS[rate], random_, most):
            arguments = (batch.before, batch.out_before, batch.out_starts, batch.size)
            batch.take(FILTERS[rate](batch.wave, batch.w, state, *arguments)[0])
        heard.append(utterance.pcm)
    for other in heard[1:]:
        assert (other.int() - heard[0].int()).abs().max() <= 1
        assert (other != heard[0]).float().mean() < 1e-3


@pytest.mark.parametrize("rate", RATES)
def test_a_row_that_is_not_a_number_is_named_and_harms_no_other(rate: int) -> None:
    random_, filter_ = random.Random(4), FILTERS[rate]
    for poison in (torch.nan, torch.inf, -torch.inf) * 3:
        utterances = [Utterance(slot, signals(9, slot)["noise"]) for slot in range(4)]
        state = poisoned_state()
        for batch in batches(utterances, filter_, random_, 3):
            sick = [row for row, utterance in enumerate(batch.utterances) if utterance.slot == 2]
            for row in sick:
                first = int(batch.w.starts[row] + batch.w.spoken[row] - batch.w.base[row]) * 480
                batch.wave[first + random_.randrange(480)] = poison
            arguments = (batch.before, batch.out_before, batch.out_starts, batch.size)
            pcm, broken = filter_(batch.wave, batch.w, state, *arguments)
            batch.take(pcm)
            assert broken.tolist() == [int(row in sick) for row in range(ROWS)]
        for slot in (0, 1, 3):
            assert (utterances[slot].pcm.int() - due(utterances[slot].signal, rate).int()).abs().max() <= 1


def test_nobody_speaks() -> None:
    """As graphs are captured: no rows, all padding."""
    state = poisoned_state()
    batch = next_batch([Utterance(0, signals(3, 1)["noise"])], FILTERS[8000], random.Random(1), 3)
    idle = {name: torch.zeros_like(tensor) for name, tensor in vars(batch.w).items()}
    idle["slot"] += SLOTS
    w = type(batch.w)(**idle)
    zeros = int32([0] * ROWS)
    for size in (0, 70):
        pcm, broken = FILTERS[8000](batch.wave, w, state, zeros, zeros, starts_of([], ROWS), size)
        assert pcm.tolist() == [0] * size
        assert broken.tolist() == [0] * ROWS
    assert state.tail[:SLOTS].isnan().all()


def test_rounding_is_that_of_the_cpu() -> None:
    """To the nearest, ties to even, clipped: where nothing is filtered the samples are the same to the bit."""
    steps = np.arange(-32768 - 40, 32767 + 40, dtype=np.float64)
    halves = np.concatenate([steps + 0.5, [3e4, -3e4, 40000, -40000]])
    signal = (np.resize(halves, 480 * 137) / 32767).astype(np.float32)
    utterance = Utterance(0, signal)
    for batch in batches([utterance], FILTERS[24000], random.Random(0), 137):
        arguments = (batch.before, batch.out_before, batch.out_starts, batch.size)
        batch.take(FILTERS[24000](batch.wave, batch.w, poisoned_state(), *arguments)[0])
    expected = np.frombuffer(to_pcm16(signal), np.int16)
    assert np.array_equal(utterance.pcm.numpy(), expected)


def test_a_rate_that_nobody_speaks_at() -> None:
    with pytest.raises(ValueError, match="not at 11025"):
        Polyphase(11025)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("rate", RATES)
def test_on_a_gpu(rate: int) -> None:
    random_, state, filter_ = random.Random(rate), poisoned_state(), Polyphase(rate, "cuda")
    state.tail = state.tail.cuda()
    utterances = [Utterance(slot, signal) for slot, signal in enumerate(signals(60, 5).values())]
    for batch in batches(utterances, filter_, random_, 20):
        w = type(batch.w)(**{name: tensor.cuda() for name, tensor in vars(batch.w).items()})
        arguments = [tensor.cuda() for tensor in (batch.before, batch.out_before, batch.out_starts)]
        pcm, broken = filter_(batch.wave.cuda(), w, state, *arguments, batch.size)
        batch.take(pcm.cpu())
        assert broken.tolist() == [0] * ROWS
    for utterance in utterances:
        error = (utterance.pcm.int() - due(utterance.signal, rate).int()).abs().max()
        assert error <= (0 if rate == 24000 else 1)
