"""What a machine's pace says of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tts_engine.onnx_bundle.pace import FIRST_TOKENS, USUAL_TOKENS, Pace

seconds = st.floats(1e-4, 10)


def test_a_decode_pays_for_the_prompt() -> None:
    pace = Pace(begin=0.4, step=0.02, decode=1.1, decoded=275, prompt=250)
    assert pace.decoding(25) == pytest.approx(1.1)
    assert pace.decoding(300) == pytest.approx(2.2)


def test_whole_segments() -> None:
    pace = Pace(begin=0.4, step=0.02, decode=1.0, decoded=100, prompt=50)
    assert pace.first_sound == pytest.approx(0.4 + FIRST_TOKENS * 0.02 + (50 + FIRST_TOKENS) / 100)
    assert pace.real_time_factor == pytest.approx((0.4 + USUAL_TOKENS * 0.02 + 2.0) / (USUAL_TOKENS * 0.04))


def test_chunks_are_decoded_again_and_again() -> None:
    pace = Pace(begin=0.1, step=0.01, decode=0.1, decoded=100, prompt=0, chunks=(24, 50))
    assert pace.first_sound == pytest.approx(0.1 + 0.24 + 0.024)
    decodes = 0.024 + 0.074 + 0.124 + 0.150
    assert pace.real_time_factor == pytest.approx((0.1 + 1.5 + decodes) / 6)


def test_company_in_turns() -> None:
    pace = Pace(begin=0.3, step=0.01, decode=0.6, decoded=60, prompt=0)  # 1.5 s
    assert pace.wait(0, 0, workers=1) == pytest.approx(1.5)
    assert pace.wait(1, 0, workers=1) == pytest.approx(3.0)
    assert pace.wait(1, 0, workers=2) == pytest.approx(1.5)
    factor = pace.real_time_factor
    assert pace.wait(0, 1, workers=1) == pytest.approx(1.5 * (1 + factor) + factor * pace.decoding(USUAL_TOKENS))


@given(seconds, seconds, seconds, st.integers(0, 20), st.integers(0, 20), st.integers(1, 8))
def test_more_company_is_never_quicker(
    begin: float, step: float, decode: float, silent: int, speaking: int, workers: int
) -> None:
    pace = Pace(begin, step, decode, 275, 250)
    wait = pace.wait(silent, speaking, workers)
    assert wait >= pace.first_sound
    assert pace.wait(silent + 1, speaking, workers) >= wait
    assert pace.wait(silent, speaking + 1, workers) >= wait
    assert pace.wait(silent, speaking, workers + 1) <= wait
    assert pace.wait(silent + 1, 0, workers) >= pace.wait(silent, 0, workers)
