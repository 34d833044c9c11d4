"""A listener that plays what comes at once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.load.listener import Listener


def test_first_chunk_is_never_late() -> None:
    listener = Listener()
    listener.begin(10.0)

    assert listener.buffered(10.0) == 0
    assert listener.starved(99.0) == 0
    assert listener.hear(12.0, 0.5) == 0
    assert listener.runs_out == 12.5
    assert listener.buffered(12.1) == pytest.approx(0.4)


def test_chunk_in_time_extends_what_is_held() -> None:
    listener = Listener()
    listener.begin(0.0)
    listener.hear(1.0, 1.0)

    assert listener.hear(1.9, 1.0) == 0
    assert listener.runs_out == 3.0


def test_chunk_after_the_buffer_ran_dry_is_an_underrun_of_that_length() -> None:
    listener = Listener()
    listener.begin(0.0)
    listener.hear(1.0, 1.0)

    assert listener.starved(2.25) == pytest.approx(0.25)
    assert listener.hear(2.25, 1.0) == pytest.approx(0.25)
    assert listener.runs_out == pytest.approx(3.25), "playback was held up as long"


def test_silence_after_the_end_is_no_underrun() -> None:
    listener = Listener()
    listener.begin(0.0)
    listener.hear(0.1, 1.0)
    listener.end()

    assert listener.starved(50.0) == 0
    listener.begin(50.0)
    assert listener.hear(50.2, 1.0) == 0


def test_text_that_comes_while_the_last_still_plays_is_to_follow_without_a_gap() -> None:
    listener = Listener()
    listener.begin(0.0)
    listener.hear(0.0, 2.0)
    listener.end()
    listener.begin(1.5)

    assert listener.hear(2.3, 1.0) == pytest.approx(0.3)


@given(
    st.lists(st.tuples(st.floats(0, 3, allow_nan=False), st.floats(0.01, 3, allow_nan=False)), min_size=1, max_size=30)
)
def test_time_is_played_audio_and_gaps(chunks: list[tuple[float, float]]) -> None:
    """From the first chunk on, the clock at the end of playback is audio plus gaps, whatever comes when."""
    listener = Listener()
    listener.begin(0.0)
    now = start = chunks[0][0]
    gaps = audio = 0.0
    for index, (wait, seconds) in enumerate(chunks):
        now += wait if index else 0.0
        held = listener.buffered(now)
        gap = listener.hear(now, seconds)
        assert gap == 0 or held == 0
        gaps += gap
        audio += seconds
    assert listener.runs_out - start == pytest.approx(audio + gaps)
