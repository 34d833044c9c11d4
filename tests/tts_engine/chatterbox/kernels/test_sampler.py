"""The sampler against sampling.process and sampling.pick: what is kept, what is chosen, what is remembered."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.tts_engine.chatterbox.triton_interpreter import DEVICE, NEEDED

pytest.importorskip("triton")

from tts_engine.chatterbox.constants import START_TOKEN, STOP_TOKEN
from tts_engine.chatterbox.kernels.sampler import SamplerState, sample
from tts_engine.chatterbox.sampling import first_seen, forbid_stop, process
from tts_engine.chatterbox.sampling_settings import SamplingSettings

V = 6563
MOST = 7
pytestmark = NEEDED
MANY = DEVICE == "cuda"
"The interpreter takes a tenth of a second a row."


def fresh() -> torch.Generator:
    """Other numbers each time; pytest shows the seed of a failure."""
    generator = torch.Generator()
    print("seed", generator.seed())
    return generator


def state(slots: int, generator: torch.Generator, steps: int = 3) -> SamplerState:
    return SamplerState(
        draws=torch.rand(slots, MOST, generator=generator).to(DEVICE),
        forbid_until=torch.zeros(slots, dtype=torch.int32, device=DEVICE),
        last=torch.full((slots,), -7, dtype=torch.int32, device=DEVICE),
        steps=torch.full((slots,), steps, dtype=torch.int32, device=DEVICE),
        seen=(torch.rand(slots, V, generator=generator) < 0.02).to(DEVICE),
    )


def some_logits(kind: str, rows: int, generator: torch.Generator) -> Tensor:
    x = torch.randn(rows, V, generator=generator)
    if kind == "sharp":
        return x * torch.tensor([3.0, 8.0, 30.0])[torch.arange(rows) % 3, None]
    if kind == "flat":
        return x * 0.02
    if kind == "tied":  # a handful of values, of both signs
        return (x * 2).round() / 2
    if kind == "half":  # bfloat16 has ties of its own
        return (3 * x).to(torch.bfloat16)
    if kind == "constant":
        return torch.full((rows, V), -1.5)
    return 2 * x - 1


def kept_stably(logits: Tensor, settings: SamplingSettings) -> Tensor:
    """As `process`, in float64 and by a stable sort: of equal logits the first go."""
    x = logits.float() / settings.temperature
    if 0 < settings.top_k < V:
        x = x.masked_fill(x < torch.topk(x, settings.top_k).values[:, -1, None], -torch.inf)
    kept = x > -torch.inf
    if settings.top_p < 1:
        ascending, order = torch.sort(x, stable=True)
        unlikely = ascending.double().softmax(-1).cumsum(-1) <= 1 - settings.top_p
        unlikely[:, -1] = False
        kept &= ~torch.empty_like(unlikely).scatter(1, order, unlikely)
    return kept


def chosen_by_all_draws(logits: Tensor, settings: SamplingSettings, count: int) -> Tensor:
    """Tokens of `count` draws, evenly spread, for each row: (rows, count). Step 0, nothing seen but START."""
    rows = len(logits)
    spread = (torch.arange(count) / count).to(DEVICE)
    state = SamplerState(
        draws=spread.repeat(rows)[:, None].contiguous(),
        forbid_until=torch.zeros(rows * count, dtype=torch.int32, device=DEVICE),
        last=torch.zeros(rows * count, dtype=torch.int32, device=DEVICE),
        steps=torch.zeros(rows * count, dtype=torch.int32, device=DEVICE),
        seen=torch.zeros(rows * count, V, dtype=torch.bool, device=DEVICE),
    )
    slots = torch.arange(rows * count, dtype=torch.int32, device=DEVICE)
    many = logits.to(DEVICE).repeat_interleave(count, 0)
    return sample(many, slots, state, settings, first=True)[:, 0].view(rows, count).cpu()


SETTINGS = {
    "reference": SamplingSettings(),
    "top-k": SamplingSettings(top_p=1.0, top_k=5, repetition_penalty=1.0),
    "top-p": SamplingSettings(top_k=0, top_p=0.6, repetition_penalty=1.0),
    "narrow": SamplingSettings(temperature=1.3, top_k=40, top_p=0.2),
    "open": SamplingSettings(temperature=1.0, top_k=0, top_p=1.0, repetition_penalty=1.0),
    "greedy": SamplingSettings(top_p=0.0),
    "lenient": SamplingSettings(top_k=V + 1, repetition_penalty=0.7),
}


def expected_row(logits: Tensor, seen: Tensor, settings: SamplingSettings) -> Tensor:
    """Probabilities (B, V) float64 as they should be; ties at top-p's boundary as the kernel has them."""
    plain = SamplingSettings(settings.temperature, 0, 1.0, settings.repetition_penalty)
    processed = process(logits.float(), seen, plain)
    return processed.masked_fill(~kept_stably(logits, settings), -torch.inf).double().softmax(-1)


def assert_fits(tokens: Tensor, probabilities: Tensor, draws: Tensor) -> None:
    """Each token's share of the cumulative distribution holds its draw, to float32's rounding."""
    at = tokens.long()[:, None]
    cumulative = probabilities.cumsum(-1)
    above = cumulative.gather(1, at)[:, 0]
    below = above - probabilities.gather(1, at)[:, 0]
    # What rounding moves across top-p's boundary is one token's probability, and that of the least likely.
    least = probabilities.masked_fill(probabilities == 0, 1).amin(-1)
    assert (below - 2e-6 - least <= draws).all()
    assert (draws <= above + 2e-6 + least).all()


@pytest.mark.parametrize("name", SETTINGS)
def test_tokens_are_those_of_the_plain_functions(name: str) -> None:
    generator, settings = fresh(), SETTINGS[name]
    kinds = ["usual", "sharp", "flat", "tied", "half", "constant"]
    chosen = range(6) if MANY else torch.randperm(6, generator=generator)[:3].tolist()
    logits = torch.cat([some_logits(kinds[kind], 64 if MANY else 1, generator).float() for kind in chosen])
    rows = len(logits)
    own = state(rows + 2, generator)
    slots = torch.randperm(rows + 1, generator=generator)[:rows]
    seen, draws = own.seen[slots.to(DEVICE)].cpu(), own.draws[slots.to(DEVICE), 3].cpu()
    out = sample(logits.to(DEVICE), slots.to(DEVICE, torch.int32), own, settings, first=False).cpu()
    assert out[:, 1].tolist() == [1] * rows
    probabilities = expected_row(logits, seen, settings)
    assert (probabilities.gather(1, out[:, :1].long()) > 0).float().mean() >= 0.99
    assert_fits(out[:, 0], probabilities, draws)


@pytest.mark.parametrize("kind", ["usual", "tied", "half"])
def test_what_is_kept_is_what_process_keeps(kind: str) -> None:
    """Where few are left, draws spread evenly choose every one of them."""
    generator, settings = fresh(), SamplingSettings(top_k=30, top_p=0.7)
    rows, count = (20, 300) if MANY else (1, 5)
    logits = some_logits(kind, rows, generator)
    # Nobody is so unlikely that no draw finds it.
    logits = logits.float().clamp(max=logits.float().topk(20).values[:, -1, None] + 1.0).to(logits.dtype)
    probabilities = expected_row(logits, first_seen(rows, V), settings)
    tokens = chosen_by_all_draws(logits, settings, count)
    for row in range(rows):
        found = set(tokens[row].tolist())
        possible = set(probabilities[row].nonzero().flatten().tolist())
        likely = set((probabilities[row] > 1.2 / count).nonzero().flatten().tolist())
        assert likely <= found
        assert found <= possible
        # As many as `process` keeps, whichever of equals it keeps.
        plain = process(logits.float(), first_seen(rows, V), settings)[row].isfinite()
        assert abs(int(plain.sum()) - len(possible)) <= 1
        shares = torch.bincount(tokens[row], minlength=V) / count
        assert (shares - probabilities[row]).abs().max() <= 2 / count


def test_of_equal_logits_at_top_ks_boundary_all_stay() -> None:
    logits = torch.zeros(1, V)
    logits[0, :4] = torch.tensor([4.1, 4.0, 4.0, 4.0])
    tokens = chosen_by_all_draws(logits, SamplingSettings(top_k=2, top_p=1.0), 6)
    assert set(tokens[0].tolist()) == {0, 1, 2, 3}


def test_negative_and_positive_zero_are_equal() -> None:
    logits = torch.full((1, V), -9.0)
    logits[0, 3], logits[0, 700] = -0.0, 0.0
    tokens = chosen_by_all_draws(logits, SamplingSettings(top_k=1, top_p=1.0), 4)
    assert set(tokens[0].tolist()) == {3, 700}


def test_the_highest_token_stays_whatever_top_p() -> None:
    generator = fresh()
    logits = some_logits("usual", 2, generator)
    tokens = chosen_by_all_draws(logits, SamplingSettings(top_p=0.0), 2)
    assert tokens.tolist() == [[best] * 2 for best in logits.argmax(-1).tolist()]


@pytest.mark.parametrize("draw", [0.0, 1 - 2**-24])
def test_draws_at_the_ends_choose_what_is_possible(draw: float) -> None:
    generator, settings = fresh(), SamplingSettings()
    logits = some_logits("sharp", 3, generator)
    own = state(4, generator)
    own.draws.fill_(draw)
    seen = own.seen[:3].cpu()
    slots = torch.arange(3, dtype=torch.int32, device=DEVICE)
    tokens = sample(logits.to(DEVICE), slots, own, settings, first=False)[:, 0].cpu()
    kept = expected_row(logits, seen, settings) > 0
    ends = kept.int().argmax(-1) if draw == 0 else V - 1 - kept.flip(1).int().argmax(-1)
    assert tokens.tolist() == ends.tolist()


def test_stop_is_impossible_before_its_step() -> None:
    generator = fresh()
    own = state(5, generator, steps=3)
    own.forbid_until[:] = torch.tensor([0, 3, 4, 100, 0])
    logits = torch.zeros(4, V)
    logits[:, STOP_TOKEN] = 60.0
    slots = torch.arange(4, dtype=torch.int32, device=DEVICE)
    tokens = sample(logits.to(DEVICE), slots, own, SamplingSettings(), first=False)[:, 0].tolist()
    assert [token == STOP_TOKEN for token in tokens] == [True, True, False, False]


def test_the_first_step_sees_start_and_forgets_it() -> None:
    generator = fresh()
    own = state(4, generator, steps=99)
    logits = torch.full((2, V), -30.0)
    # START and another, as likely: the penalty of 100 leaves the other alone.
    logits[:, START_TOKEN] = logits[:, 50] = 5.0
    slots = torch.tensor([2, 0], dtype=torch.int32, device=DEVICE)
    before = own.seen.clone()
    settings = SamplingSettings(repetition_penalty=100.0)
    out = sample(logits.to(DEVICE), slots, own, settings, first=True)
    draws = own.draws[[2, 0], 0].cpu()
    probabilities = expected_row(logits, first_seen(2, V), settings)
    assert_fits(out[:, 0].cpu(), probabilities, draws)
    for row, slot in enumerate([2, 0]):
        assert own.seen[slot].nonzero().flatten().tolist() == [int(out[row, 0])]
        assert int(own.last[slot]) == int(out[row, 0])
    assert own.steps.tolist() == [1, 99, 1, 99]
    assert own.last[[1, 3]].tolist() == [-7, -7]
    assert torch.equal(own.seen[[1, 3]], before[[1, 3]])


def test_a_later_step_adds_to_what_was_seen() -> None:
    generator = fresh()
    own = state(4, generator)
    before = own.seen.clone()
    logits = some_logits("usual", 3, generator)
    slots = torch.tensor([1, 3, 0], dtype=torch.int32, device=DEVICE)
    out = sample(logits.to(DEVICE), slots, own, SamplingSettings(), first=False).cpu()
    for row, slot in enumerate([1, 3, 0]):
        before[slot, int(out[row, 0])] = True
    assert torch.equal(own.seen, before)
    # The last slot is the idle one: it stays at step 0.
    assert own.steps.tolist() == [4, 4, 3, 0]


def test_each_step_has_its_draw_and_the_last_goes_on() -> None:
    generator, settings = fresh(), SamplingSettings(top_k=0, top_p=1.0, repetition_penalty=1.0)
    own = state(2, generator, steps=0)
    logits = some_logits("usual", 1, generator)
    probabilities = expected_row(logits, first_seen(1, V), settings)
    slots = torch.tensor([0], dtype=torch.int32, device=DEVICE)
    for step in range(MOST + 2):
        token = sample(logits.to(DEVICE), slots, own, settings, first=step == 0)[:, 0].cpu()
        assert_fits(token, probabilities, own.draws[0, min(step, MOST - 1)].cpu()[None])


def copy_of(own: SamplerState) -> SamplerState:
    return SamplerState(**{name: tensor.clone() for name, tensor in vars(own).items()})


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the interpreter's NumPy
def test_a_number_that_is_none_is_reported_and_harms_no_other_row() -> None:
    generator = fresh()
    own = state(5, generator)
    same = copy_of(own)
    logits = some_logits("usual", 4, generator)
    for row, bad in ((0, torch.nan), (1, torch.inf), (3, -torch.inf)):
        logits[row, 4000 + row] = bad
    slots = torch.arange(4, dtype=torch.int32, device=DEVICE)
    out = sample(logits.to(DEVICE), slots, own, SamplingSettings(), first=False)
    assert out[:, 1].tolist() == [0, 0, 1, 0]
    assert ((out[:, 0] >= 0) & (out[:, 0] < V)).all()
    alone = sample(logits[2:3].to(DEVICE), slots[2:3], same, SamplingSettings(), first=False)
    assert alone.tolist() == out[2:3].tolist()


def test_columns_beyond_the_vocabulary_are_not_read() -> None:
    generator = fresh()
    own = state(2, generator)
    same = copy_of(own)
    wide = torch.full((1, V + 93), torch.nan)
    wide[:, :V] = some_logits("usual", 1, generator)
    slots = torch.zeros(1, dtype=torch.int32, device=DEVICE)
    got = sample(wide.to(DEVICE), slots, own, SamplingSettings(), first=False)
    expected = sample(wide[:, :V].contiguous().to(DEVICE), slots, same, SamplingSettings(), first=False)
    assert torch.equal(got, expected)
    assert got[:, 1].tolist() == [1]


def test_the_state_is_what_process_would_have_seen() -> None:
    """A sequence of steps, each against the plain functions over the same state."""
    generator, settings = fresh(), SamplingSettings()
    own = state(2, generator)
    seen = first_seen(1, V)
    slots = torch.tensor([0], dtype=torch.int32, device=DEVICE)
    own.forbid_until[0] = 6
    for step in range(MOST - 1 if MANY else 3):
        logits = some_logits("sharp" if step % 2 else "usual", 1, generator)
        token = sample(logits.to(DEVICE), slots, own, settings, first=step == 0)[:, 0].cpu()
        barred = forbid_stop(logits, torch.tensor([True]))
        assert_fits(token, expected_row(barred, seen, settings), own.draws[0, step].cpu()[None])
        seen = own.seen[:1].cpu().clone()
        assert bool(seen[0, int(token)])
