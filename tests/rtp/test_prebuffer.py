"""The depth of the prebuffer: grows when speech breaks off or nearly does, shrinks when it need not be."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediaserver.rtp.prebuffer import CALM_S, FAR_MAX_S, FIRST_S, MAX_S, SAFETY_S, Prebuffer


def speak(prebuffer: Prebuffer, seconds: float, margin_s: float = inf) -> None:
    """An utterance of second-long chunks, each of which came with `margin_s` to spare."""
    prebuffer.started()
    for _ in range(round(seconds)):
        prebuffer.arrived(margin_s, 1.0)


def test_none_at_first() -> None:
    prebuffer = Prebuffer()
    assert prebuffer.depth_s == 0
    speak(prebuffer, 100, margin_s=1.0)
    assert prebuffer.depth_s == 0


def test_underruns_double_it_up_to_a_bound() -> None:
    prebuffer = Prebuffer()
    depths = []
    for _ in range(6):
        prebuffer.underrun()
        depths.append(prebuffer.depth_s)
    assert depths == pytest.approx([0.06, 0.12, 0.24, 0.48, 0.5, 0.5])


def test_calm_halves_it_down_to_none() -> None:
    prebuffer = Prebuffer()
    for _ in range(4):
        prebuffer.underrun()
    depths = []
    for _ in range(5):
        speak(prebuffer, CALM_S - 1)
        depths.append(prebuffer.depth_s)
        speak(prebuffer, 1)
    assert depths == pytest.approx([0.48, 0.24, 0.12, 0.06, 0])


def test_an_underrun_begins_the_calm_anew() -> None:
    prebuffer = Prebuffer()
    prebuffer.underrun()
    speak(prebuffer, CALM_S - 1)
    prebuffer.underrun()
    speak(prebuffer, CALM_S - 1)
    assert prebuffer.depth_s == pytest.approx(0.12)


def test_it_stays_while_half_of_it_would_have_been_too_little() -> None:
    prebuffer = Prebuffer()
    for _ in range(3):
        prebuffer.underrun()  # 240 ms
    speak(prebuffer, 3 * CALM_S, margin_s=0.12)  # with 120 ms less, chunks would have come too late
    assert prebuffer.depth_s == pytest.approx(0.24)
    speak(prebuffer, CALM_S, margin_s=0.12 + SAFETY_S + 0.001)
    assert prebuffer.depth_s == pytest.approx(0.12)


def test_one_narrow_chunk_in_the_time_is_enough_to_keep_it() -> None:
    prebuffer = Prebuffer()
    prebuffer.underrun()
    speak(prebuffer, 1, margin_s=SAFETY_S)
    speak(prebuffer, CALM_S - 1, margin_s=2.0)
    assert prebuffer.depth_s == pytest.approx(FIRST_S)
    speak(prebuffer, CALM_S, margin_s=2.0)
    assert prebuffer.depth_s == 0


def test_it_grows_before_anything_breaks() -> None:
    """By what was short of safety, once an utterance, however many of its chunks were late."""
    prebuffer = Prebuffer()
    prebuffer.started()
    for margin_s in (0.5, 0.03, 0.01, 0.02):
        prebuffer.arrived(margin_s, 0.2)
    assert prebuffer.depth_s == pytest.approx(SAFETY_S - 0.01)
    prebuffer.started()
    prebuffer.arrived(0.03, 0.2)
    assert prebuffer.depth_s == pytest.approx(2 * SAFETY_S - 0.04)


def test_a_slow_engine_reaches_a_depth_that_holds() -> None:
    """Each utterance's second chunk is 300 ms late for a first of 200 ms: soon nothing breaks off any more."""
    prebuffer = Prebuffer()
    underruns = []
    for _ in range(12):
        prebuffer.started()
        first, second_comes = 0.2, 0.3
        waits = second_comes if prebuffer.depth_s > first else 0.0  # for the first chunk alone, or for both
        margin = first - second_comes + waits
        underruns.append(margin < 0)
        if margin < 0:
            prebuffer.underrun()
        prebuffer.arrived(max(margin, 0), 2.0)
    assert underruns[0]
    assert not any(underruns[4:])


@pytest.mark.parametrize(
    ("jitter_s", "loss", "depth"),
    [(0.0, 0.0, 0), (0.01, 0.0, 0), (0.02, 0.0, 0.02), (0.03, 0.05, 0.05), (1.0, 1.0, FAR_MAX_S), (-1.0, -1.0, 0)],
)
def test_the_far_ends_reports_count_within_a_bound(jitter_s: float, loss: float, depth: float) -> None:
    prebuffer = Prebuffer()
    prebuffer.far_end(jitter_s, loss)
    assert prebuffer.depth_s == pytest.approx(depth)


def test_the_far_ends_reports_add_nothing_to_a_greater_depth() -> None:
    prebuffer = Prebuffer()
    prebuffer.underrun()
    prebuffer.underrun()
    prebuffer.far_end(0.5, 0.5)
    assert prebuffer.depth_s == pytest.approx(0.12)
    speak(prebuffer, 2 * CALM_S)
    assert prebuffer.depth_s == pytest.approx(FAR_MAX_S), "theirs stays when ours has gone"
    prebuffer.far_end(0, 0)
    assert prebuffer.depth_s == 0


_steps = st.one_of(
    st.tuples(st.just("underrun")),
    st.tuples(st.just("started")),
    st.tuples(st.just("arrived"), st.floats(0, 5) | st.just(inf), st.floats(0, 30)),
    st.tuples(st.just("far_end"), st.floats(allow_nan=False), st.floats(allow_nan=False)),
)


@given(st.lists(_steps, max_size=60))
def test_whatever_happens_it_keeps_its_bounds_and_comes_down(steps: list[tuple]) -> None:
    prebuffer = Prebuffer()
    for name, *arguments in steps:
        before = prebuffer.depth_s
        getattr(prebuffer, name)(*arguments)
        assert 0 <= prebuffer.depth_s <= MAX_S
        if name == "underrun":
            assert prebuffer.depth_s >= max(FIRST_S, before if before > FAR_MAX_S else 0)
    prebuffer.far_end(0, 0)
    speak(prebuffer, 6 * CALM_S + 30)
    assert prebuffer.depth_s == 0
