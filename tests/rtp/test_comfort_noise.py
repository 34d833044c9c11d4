from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mediaserver.rtp import comfort_noise
from mediaserver.rtp.comfort_noise import ComfortNoise, level_dbov, reflection_coefficients


def noise_of(payload: bytes, frames: int = 100) -> np.ndarray:
    noise = ComfortNoise()
    noise.describe(payload)
    return np.frombuffer(b"".join(noise.next(160) for _ in range(frames)), "<i2").astype(float)


@pytest.mark.parametrize("level", [20, 40, 60, 70])
def test_level_is_in_db_below_overload(level: int) -> None:
    rms = np.sqrt(np.mean(noise_of(bytes([level])) ** 2))
    assert 20 * np.log10(rms / 32768) == pytest.approx(-level, abs=0.6)


def test_the_faintest_level_is_silence() -> None:
    assert not noise_of(bytes([127])).any()


def test_without_coefficients_the_noise_is_white() -> None:
    power = np.abs(np.fft.rfft(noise_of(bytes([30]))[:8000].reshape(50, 160))) ** 2
    low, high = power[:, 2:40].mean(), power[:, 41:79].mean()
    assert 0.8 < low / high < 1.25


@pytest.mark.parametrize(("code", "louder"), [(127 - 100, "low"), (127 + 100, "high")])
def test_the_first_coefficient_tilts_the_spectrum(code: int, louder: str) -> None:
    """A(z) = 1 + k/z: a negative k favours low frequencies."""
    power = np.abs(np.fft.rfft(noise_of(bytes([30, code]))[:8000].reshape(50, 160))) ** 2
    low, high = power[:, 2:20].mean(), power[:, 60:79].mean()
    assert (low / high > 10) == (louder == "low")
    assert (high / low > 10) == (louder == "high")


def test_the_spectrum_is_that_of_the_all_pole_filter() -> None:
    """Two coefficients against the step-up recursion written out: A(z) = 1 + k1(1 + k2)/z + k2/z**2."""
    payload = bytes([20, 60, 200])
    k1, k2 = reflection_coefficients(payload)
    samples = noise_of(payload)[:8192]
    power = np.abs(np.fft.rfft(samples.reshape(64, 128) * np.hanning(128))) ** 2
    z = np.exp(-2j * np.pi * np.arange(65) / 128)
    expected = 1 / np.abs(1 + k1 * (1 + k2) * z + k2 * z**2) ** 2
    ratio = 10 * np.log10(power.mean(axis=0)[2:-2] / expected[2:-2])
    assert np.std(ratio) < 1.2, "dB"


def test_coefficients_are_quantised_uniformly_about_127() -> None:
    """RFC 3389 section 3.2."""
    expected = [0, -0.99994, 0.99994, 0.99994]
    assert reflection_coefficients(bytes([40, 127, 0, 254, 255])) == pytest.approx(expected, abs=1e-4)


def test_repeating_it_leaves_no_seam() -> None:
    samples = noise_of(bytes([30, 20]), 120)  # beyond its period of 8192
    steps = np.abs(np.diff(samples))
    assert steps[8150:8250].max() <= steps[:8000].max() * 1.05
    assert np.array_equal(samples[:160], samples[8192:8352])


def test_silence_until_described_and_after_reset() -> None:
    noise = ComfortNoise()
    assert noise.next(160) == bytes(320)
    noise.describe(bytes([30]))
    assert any(noise.next(160))
    noise.reset()
    assert noise.next(160) == bytes(320)


def test_a_new_level_is_heard_within_200_ms_and_goes_on_from_the_old() -> None:
    noise, louder = ComfortNoise(), ComfortNoise()
    noise.describe(bytes([40]))
    louder.describe(bytes([20]))
    noise.next(160)
    noise.describe(bytes([20]))
    assert [noise.next(160) for _ in range(9)] != [louder.next(160) for _ in range(9)]
    louder.next(160)
    assert [noise.next(160) for _ in range(120)] == [louder.next(160) for _ in range(120)]


@pytest.mark.parametrize("samples", [80, 160, 240, 1600])
def test_the_noise_is_the_same_in_whatever_parts_it_is_asked_for(samples: int) -> None:
    noise, parts = ComfortNoise(), ComfortNoise()
    for one in (noise, parts):
        one.describe(bytes([30, 60]))
    whole = b"".join(noise.next(160) for _ in range(120))
    assert b"".join(parts.next(samples) for _ in range(19200 // samples)) == whole


@pytest.fixture
def shapes() -> Iterator[Callable[[], int]]:
    """How often noise was shaped since the test began."""
    comfort_noise._shaped.cache_clear()
    yield lambda: comfort_noise._shaped.cache_info().misses
    comfort_noise._shaped.cache_clear()


@pytest.mark.parametrize("coefficients", [b"", bytes([127] * 10), bytes([60, 200])])
def test_noise_is_shaped_once_for_all_levels_and_calls(coefficients: bytes, shapes: Callable[[], int]) -> None:
    for _ in range(3):
        noise = ComfortNoise()
        for level in range(20, 80):
            noise.describe(bytes([level]) + coefficients)
            noise.next(160)
    assert shapes() == 1


def test_coefficients_of_nought_are_white(shapes: Callable[[], int]) -> None:
    assert np.array_equal(noise_of(bytes([30])), noise_of(bytes([30, 127, 127])))
    assert shapes() == 1


def test_a_peer_with_new_coefficients_every_frame_costs_a_shape_in_ten(shapes: Callable[[], int]) -> None:
    noise = ComfortNoise()
    for code in range(200):
        noise.describe(bytes([40, code, 3]))
        assert len(noise.next(160)) == 320
    assert shapes() == 20


def test_streams_that_begin_anew_cost_no_more(shapes: Callable[[], int]) -> None:
    noise = ComfortNoise()
    for code in range(200):
        noise.reset()
        noise.describe(bytes([40, code, 3]))
        assert any(noise.next(160))
    assert shapes() == 20


def test_what_is_kept_for_the_process_is_bounded(shapes: Callable[[], int]) -> None:
    for code in range(comfort_noise._SHAPES + 8):
        noise = ComfortNoise()
        noise.describe(bytes([40, code]))
        noise.next(160)
    assert comfort_noise._shaped.cache_info().currsize == comfort_noise._SHAPES


@pytest.mark.parametrize("payload", [b"", bytes([128]), bytes([255, 1, 2])])
def test_a_payload_without_a_level_is_counted(payload: bytes) -> None:
    noise = ComfortNoise()
    noise.describe(payload)
    assert noise.malformed == 1
    assert noise.next(160) == bytes(320)
    with pytest.raises(ValueError, match="level"):
        level_dbov(payload)


@settings(max_examples=60, deadline=None)
@given(payload=st.binary(max_size=60))
def test_any_payload_gives_whole_frames(payload: bytes) -> None:
    noise = ComfortNoise()
    noise.describe(payload)
    assert len(noise.next(160)) == 320
    if payload and payload[0] > 12:
        samples = np.frombuffer(b"".join(noise.next(160) for _ in range(51)), "<i2").astype(float)
        rms = np.sqrt(np.mean(samples**2))
        # Clipping takes some of a loud, narrow one; the least levels round to nought.
        assert rms <= 32768 * 10 ** (-payload[0] / 20) * 1.2 + 1
