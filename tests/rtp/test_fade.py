"""The edges of a gap: as long as asked, silent where they should be, and no louder than what they are made of."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediaserver.rtp.fade import FADE_IN_S, FADE_OUT_S, fade_in, fade_out

SAMPLES = st.lists(st.integers(-32768, 32767), max_size=700)
RATES = st.sampled_from([8000, 16000])


def pcm(samples: list[int]) -> bytes:
    return np.array(samples, "<i2").tobytes()


def signal(data: bytes) -> np.ndarray:
    return np.frombuffer(data, "<i2").astype(int)


@given(SAMPLES, RATES)
def test_fade_out(samples: list[int], rate: int) -> None:
    faded = signal(fade_out(pcm(samples), rate))
    assert len(faded) == len(samples)
    length = min(len(samples), int(FADE_OUT_S * rate))
    assert not faded[length:].any()
    mirrored = np.array(samples[::-1], int)
    assert (np.abs(faded) <= np.abs(mirrored)).all()
    assert (faded * mirrored >= 0).all()


@given(SAMPLES, RATES)
def test_fade_in(samples: list[int], rate: int) -> None:
    faded = signal(fade_in(pcm(samples), rate))
    whole = np.array(samples, int)
    assert len(faded) == len(samples)
    assert (np.abs(faded) <= np.abs(whole)).all()
    ramp = int(FADE_IN_S * rate)
    assert (faded[ramp:] == whole[ramp:]).all()


@pytest.mark.parametrize("level", [-32768, 32767, 1])
def test_the_height_changes_evenly(level: int) -> None:
    """A constant level is what shows the curve: down to nothing, and up from it, without a jump."""
    down = signal(fade_out(pcm([level] * 160), 8000))
    up = signal(fade_in(pcm([level] * 160), 8000))
    assert abs(down[0] - level) <= 4
    assert abs(down[-1]) <= 4
    assert abs(up[0]) <= abs(level) * 0.002
    assert (np.diff(np.abs(down)) <= 0).all()
    assert (np.diff(np.abs(up)) >= 0).all()
    assert np.abs(np.diff(down)).max() <= abs(level) * np.pi / 2 / 160 + 1
    assert np.abs(np.diff(up)).max() <= abs(level) * np.pi / 2 / 40 + 1


def test_a_view_is_taken_as_well() -> None:
    data = pcm(list(range(320)))
    assert fade_out(memoryview(data)[320:], 8000) == fade_out(data[320:], 8000)
