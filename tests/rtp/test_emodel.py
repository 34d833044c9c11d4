import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediaserver.rtp.emodel import G711_BPL, G711_PLC_BPL, mos, r_factor

delays = st.floats(10, 2000)
losses = st.floats(0, 1)


def test_default_values_give_the_standards_r() -> None:
    """ITU-T G.107: with all parameters at their defaults R = 93.2, MOS 4.41."""
    assert r_factor(0, 0) == pytest.approx(93.2, abs=0.05)
    assert mos(r_factor(0, 0)) == pytest.approx(4.41, abs=0.005)


@pytest.mark.parametrize("delay_ms", [20, 50, 100, 150, 200, 250, 300])
def test_delay_follows_the_published_approximation(delay_ms: float) -> None:
    """Cole and Rosenbluth, "Voice over IP performance monitoring": Id = 0.024 d + 0.11 (d - 177.3) H(d - 177.3)."""
    approximation = 93.2 - 0.024 * delay_ms - 0.11 * max(0.0, delay_ms - 177.3)
    assert r_factor(delay_ms, 0) == pytest.approx(approximation, abs=0.5)


@pytest.mark.parametrize(("bpl", "loss", "impairment"), [(G711_BPL, 0.01, 17.92), (G711_BPL, 0.05, 51.08)])
def test_loss_without_concealment(bpl: float, loss: float, impairment: float) -> None:
    """Ie-eff = 95 Ppl / (Ppl + Bpl), by hand."""
    assert r_factor(0, 0) - r_factor(0, loss, bpl=bpl) == pytest.approx(impairment, abs=0.01)


def test_concealment_makes_loss_bearable() -> None:
    assert mos(r_factor(20, 0.05, bpl=G711_PLC_BPL)) > 3.8
    assert mos(r_factor(20, 0.05, bpl=G711_BPL)) < 2.4


def test_bursts_are_worse_than_random_loss() -> None:
    random_loss = r_factor(20, 0.02)
    assert r_factor(20, 0.02, burst_ratio=2) < random_loss
    assert r_factor(20, 0.02, burst_ratio=0.1) == random_loss


@pytest.mark.parametrize(
    ("r", "score"),
    [(-1, 1), (0, 1), (50, 2.58), (60, 3.10), (70, 3.60), (80, 4.02), (90, 4.34), (100, 4.5), (120, 4.5)],
)
def test_mos_of_r(r: float, score: float) -> None:
    """ITU-T G.107 annex B, table B.1."""
    assert mos(r) == pytest.approx(score, abs=0.01)


@given(delays, delays, losses, losses)
def test_more_delay_or_loss_is_never_better(delay, other_delay, loss, other_loss) -> None:
    better = r_factor(min(delay, other_delay), min(loss, other_loss))
    worse = r_factor(max(delay, other_delay), max(loss, other_loss))
    assert worse <= better + 1e-9


@given(st.floats(-1e6, 1e6), st.floats(-2, 2), st.floats(-1, 100))
def test_ranges(delay, loss, burst_ratio) -> None:
    r = r_factor(delay, loss, burst_ratio=burst_ratio)
    assert 0 <= r <= 93.3
    assert 1 <= mos(r) <= 4.5


@given(st.floats(0, 100), st.floats(0, 100))
def test_mos_rises_with_r(a, b) -> None:
    assert mos(min(a, b)) <= mos(max(a, b)) + 1e-9
