"""The ring of what was sent, and the echo path fitted to what is heard."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mediaserver.rtp.codec import PCMA, PCMU
from mediaserver.rtp.echo_guard import MAX_DELAY_MS, EchoGuard, SentAudio, heard_samples
from mediaserver.rtp.voice_activity import HALF_CONTEXT, SAMPLE_RATE, Samples, level_of, to_half_rate

MS = SAMPLE_RATE // 1000
THRESHOLD = level_of(-45)


def pcm(samples: Samples) -> bytes:
    return np.clip(np.round(samples), -32768, 32767).astype("<i2").tobytes()


def babbling(seconds: float, seed: int, level: float = 3000) -> Samples:
    """Noise coloured as speech and as unsteady: syllables at about four a second."""
    rng = np.random.default_rng(seed)
    count = int(seconds * SAMPLE_RATE)
    coloured = np.convolve(rng.standard_normal(count), np.exp(-np.arange(40) / 6), "same")
    syllables = np.interp(
        np.arange(count) / SAMPLE_RATE,
        np.arange(0, seconds + 1, 0.12),
        rng.uniform(0.2, 1, int(seconds / 0.12) + 9)[: len(np.arange(0, seconds + 1, 0.12))],
    )
    sound = coloured * syllables
    return np.asarray(sound / np.sqrt(np.mean(sound**2)) * level)


def later(samples: Samples, delay_ms: float) -> Samples:
    return np.concatenate((np.zeros(int(delay_ms * MS)), samples))[: len(samples)]


def sent_by(guard: EchoGuard, samples: Samples, until_ms: int) -> None:
    raw = pcm(samples)
    for at_ms in range(0, until_ms, 20):
        guard.sent.write(raw[at_ms * 2 * MS :][: 40 * MS], at_ms)


def window(heard: bytes, first_ms: int, length_ms: int = 300) -> Samples:
    """With the frame before as context."""
    start = first_ms * 2 * MS
    return heard_samples(heard[start - 40 * MS : start], heard[start : start + length_ms * 2 * MS])


def power(samples: Samples) -> float:
    return float(np.mean(samples**2))


class Model:
    """What SentAudio promises, by a dictionary of samples."""

    def __init__(self) -> None:
        self.samples: dict[int, int] = {}
        self.length = 20

    def write(self, frame: bytes | None, at_ms: int) -> None:
        if frame is not None:
            self.length = len(frame) // 16
        values = np.frombuffer(frame, "<i2") if frame else np.zeros(self.length * MS)
        self.samples.update({at_ms * MS + n: int(value) for n, value in enumerate(values)})

    def read(self, start: int, count: int) -> Samples:
        first = 2 * start - HALF_CONTEXT
        wanted = [self.samples.get(first + n, 0) for n in range(2 * count + HALF_CONTEXT)]
        return to_half_rate(np.array(wanted, float))


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 5000),
    st.lists(
        st.tuples(st.sampled_from([10, 20, 30, 40, 60, None]), st.sampled_from([0, 0, 0, 20, 37, 400, 3000])),
        max_size=40,
    ),
    st.integers(0, 900),
    st.integers(1, 1000),
)
def test_ring_holds_the_last_second(start_ms: int, frames: list[tuple[int | None, int]], back: int, count: int) -> None:
    ring, model, at_ms = SentAudio(), Model(), start_ms
    rng = np.random.default_rng(1)
    for length, gap in frames:
        at_ms += gap
        frame = None if length is None else rng.integers(-9000, 9000, length * MS).astype("<i2").tobytes()
        ring.write(frame, at_ms)
        model.write(frame, at_ms)
        at_ms += model.length
    first = (at_ms - back) * MS // 2
    np.testing.assert_allclose(ring.read(first, count), model.read(first, count), atol=1e-6)


def test_nothing_was_sent() -> None:
    guard = EchoGuard()
    heard = window(pcm(babbling(1, 1)), 500)

    assert guard.subtract(heard, 500) is heard
    assert guard.path is None
    assert not guard.explains(b"", bytes(320), 500, THRESHOLD)


@pytest.mark.parametrize("delay_ms", [3, 20, 87.125, 150, 333, 600, MAX_DELAY_MS - 10])
@pytest.mark.parametrize("attenuation_db", [6, 20])
def test_an_echo_is_taken_out(delay_ms: float, attenuation_db: float) -> None:
    sent = babbling(2, 1)
    guard = EchoGuard()
    sent_by(guard, sent, 1600)
    heard = pcm(later(sent, delay_ms) * 10 ** (-attenuation_db / 20))

    residual = guard.subtract(window(heard, 1300), 1300)

    assert power(residual) < 0.01 * power(window(heard, 1300))
    assert guard.path is not None
    # The path's first tap lies before the strongest one.
    assert guard.path.delay + np.argmax(np.abs(guard.path.taps)) == pytest.approx(delay_ms * 4, abs=1)


@pytest.mark.parametrize("codec", [PCMU, PCMA])
def test_an_echo_through_g711_and_a_handset(codec: object) -> None:
    encode, decode = codec.encode, codec.decode  # type: ignore[attr-defined]
    sent = babbling(2, 2)
    guard = EchoGuard()
    sent_by(guard, sent, 1600)
    played = np.frombuffer(decode(encode(pcm(sent))), "<i2").astype(float)
    rng = np.random.default_rng(3)
    handset = rng.standard_normal(80) * np.exp(-np.arange(80) / 12)
    heard = decode(encode(pcm(later(np.convolve(played, handset)[: len(sent)] * 0.1, 140))))

    residual = guard.subtract(window(heard, 1200), 1200)

    assert power(residual) == 0  # each frame was recognised


def test_a_remembered_path_explains_each_further_frame_and_no_one_else() -> None:
    sent, caller = babbling(3, 4), babbling(3, 5, 1500)
    guard = EchoGuard()
    heard = pcm(later(sent, 200) * 0.3)
    sent_by(guard, sent, 1600)
    guard.subtract(window(heard, 1300), 1300)
    sent_by(guard, sent, 2400)

    def explained(raw: bytes, at_ms: int) -> bool:
        size = 40 * MS
        at = at_ms * 2 * MS
        return guard.explains(raw[at - size : at], raw[at : at + size], at_ms, THRESHOLD)

    assert all(explained(heard, at_ms) for at_ms in range(1600, 2000, 20))
    both = pcm(later(sent, 200) * 0.3 + caller)
    assert sum(explained(both, at_ms) for at_ms in range(2000, 2400, 20)) < 5


def test_the_caller_is_left_over_from_double_talk() -> None:
    sent, caller = babbling(2, 6), babbling(2, 7, 900)
    guard = EchoGuard()
    sent_by(guard, sent, 1600)
    heard = pcm(later(sent, 120) * 0.3 + caller)

    residual = guard.subtract(window(heard, 1300), 1300)

    alone = window(pcm(caller), 1300)
    spoken = residual != 0
    assert np.mean(spoken) > 0.7
    assert power(residual[spoken] - alone[spoken]) < 0.2 * power(alone[spoken])


def test_a_stranger_is_not_explained() -> None:
    guard = EchoGuard()
    sent_by(guard, babbling(2, 8), 1600)
    heard = window(pcm(babbling(2, 9)), 1300)

    residual = guard.subtract(heard, 1300)

    assert guard.path is None
    assert power(residual) > 0.5 * power(heard)


def test_the_path_is_found_anew_after_the_delay_changed() -> None:
    sent = babbling(3, 10)
    guard = EchoGuard()
    for delay_ms, at_ms in ((100, 1000), (180, 1800)):
        sent_by(guard, sent, at_ms + 400)
        guard.subtract(window(pcm(later(sent, delay_ms) * 0.2), at_ms), at_ms)
        assert guard.path is not None
        assert guard.path.delay + np.argmax(np.abs(guard.path.taps)) == pytest.approx(delay_ms * 4, abs=1)


def test_short_windows_and_constants_do_no_harm() -> None:
    guard = EchoGuard()
    guard.sent.write(pcm(np.full(160, 32767.0)), 0)
    for length_ms in (40, 120, 300):
        residual = guard.subtract(heard_samples(b"", pcm(np.full(length_ms * MS, -32768.0))), 20)
        assert np.all(np.isfinite(residual))
