from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tts_engine.serving.usual import Usual

_SECONDS = st.floats(1e-6, 10)


def test_figures_follow_what_is_measured() -> None:
    usual = Usual()
    for _ in range(100):
        usual.prefilled(0.5)
        usual.stepped(0.25)
        usual.decoded(0.1, 1000)
        usual.ended(80)
    assert abs(usual.prefill_seconds - 0.5) < 1e-3
    assert abs(usual.step_seconds - 0.25) < 1e-3
    assert abs(usual.token_seconds - 1e-4) < 1e-6
    assert abs(usual.tokens - 80) < 1e-2


@given(st.lists(_SECONDS, min_size=1))
def test_what_a_batch_costs_in_any_case_is_below_the_smallest_s_half(batches: list[float]) -> None:
    usual = Usual(fixed_seconds=1e9)
    for seconds in batches:
        usual.decoded(seconds, 100)
        assert usual.fixed_seconds <= seconds / 2
    assert usual.fixed_seconds >= min(batches) / 2


def test_it_falls_at_once_and_rises_slowly() -> None:
    usual = Usual(fixed_seconds=1.0)
    usual.decoded(0.2, 100)
    assert usual.fixed_seconds == 0.1
    usual.decoded(2.2, 100)
    assert 0.1 < usual.fixed_seconds < 0.12
