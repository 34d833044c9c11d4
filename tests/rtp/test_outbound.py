"""What is sent, for whoever listens."""

from __future__ import annotations

import struct
from itertools import accumulate, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediaserver.rtp.outbound import FRAME_BYTES, OutboundAudio


def audio(rate: int = 8000, ptime_ms: int = 20) -> OutboundAudio:
    return OutboundAudio(rate, lambda: ptime_ms)


def pcm(milliseconds: int, value: int = 1000, rate: int = 8000) -> bytes:
    return struct.pack("<h", value) * (milliseconds * rate // 1000)


class Listener:
    def __init__(self) -> None:
        self.frames: list[tuple[bytes, int]] = []

    def __call__(self, frame: bytes, at_ms: int) -> None:
        self.frames.append((frame, at_ms))


def test_frames_and_silence() -> None:
    outbound, listener = audio(), Listener()
    outbound.listen(listener)
    outbound.sent(pcm(20), 100)
    outbound.sent(None, 120)
    assert listener.frames == [(pcm(20), 100), (bytes(FRAME_BYTES), 120)]


@pytest.mark.parametrize("ptime_ms", [10, 30, 40, 60])
def test_packets_of_any_length_become_frames_of_20_ms(ptime_ms: int) -> None:
    outbound, listener = audio(ptime_ms=ptime_ms), Listener()
    outbound.listen(listener)
    for number in range(6):
        outbound.sent(pcm(ptime_ms, number), number * ptime_ms)
    whole = b"".join(pcm(ptime_ms, number) for number in range(6))
    frames = len(whole) // FRAME_BYTES
    assert b"".join(frame for frame, _ in listener.frames) == whole[: frames * FRAME_BYTES]
    assert [at_ms for _, at_ms in listener.frames] == [20 * number for number in range(frames)]


@given(st.sampled_from([10, 20, 30, 40, 60]), st.lists(st.integers(0, 3), max_size=30), st.booleans())
def test_a_frame_is_never_of_two_moments(ptime_ms: int, skipped: list[int], silent: bool) -> None:
    """After packets that were missed the times jump, and what was left before is not joined to what comes after."""
    outbound, listener = audio(ptime_ms=ptime_ms), Listener()
    outbound.listen(listener)
    dues = [ptime_ms * number for number in accumulate(skips + 1 for skips in skipped)]
    for due in dues:
        outbound.sent(None if silent else pcm(ptime_ms), due)
    sent = {due + ms for due in dues for ms in range(ptime_ms)}
    for frame, at_ms in listener.frames:
        assert len(frame) == FRAME_BYTES
        assert set(range(at_ms, at_ms + 20)) <= sent
    times = [at_ms for _, at_ms in listener.frames]
    assert all(later - earlier >= 20 for earlier, later in pairwise(times))


def test_wideband_speech_is_brought_down() -> None:
    outbound, listener = audio(16_000), Listener()
    outbound.listen(listener)
    for number in range(5):
        outbound.sent(pcm(20, rate=16_000), 20 * number)
    assert [len(frame) for frame, _ in listener.frames] == [FRAME_BYTES] * 5
    assert listener.frames[-1][0] == pcm(20)


def test_packets_as_they_are() -> None:
    outbound = audio(ptime_ms=60)
    told: list[tuple[bytes | None, int]] = []

    def hear(pcm: bytes | None, at_ms: int) -> None:
        told.append((pcm, at_ms))

    stop = outbound.listen_to_packets(hear)
    outbound.sent(None, 0)
    outbound.sent(pcm(60), 60)
    assert told == [(None, 0), (pcm(60), 60)]
    stop()
    assert not outbound.listening


def test_several_listen_and_stop_each_for_itself() -> None:
    outbound, first, second = audio(), Listener(), Listener()
    assert not outbound.listening
    stops = [outbound.listen(first), outbound.listen(second), outbound.listen(second)]
    outbound.sent(None, 0)
    stops[1]()
    stops[1]()
    outbound.sent(None, 20)
    assert (len(first.frames), len(second.frames)) == (2, 3)
    stops[0]()
    stops[2]()
    assert not outbound.listening


def test_a_listener_that_fails_is_called_no_more() -> None:
    outbound, listener = audio(), Listener()
    calls = []

    def fail(_pcm: bytes, _at_ms: int) -> None:
        calls.append(1)
        raise ZeroDivisionError

    outbound.listen(fail)
    outbound.listen(listener)
    outbound.sent(None, 0)
    outbound.sent(None, 20)
    assert len(calls) == 1
    assert outbound.consumer_errors == 1
    assert len(listener.frames) == 2


def test_nobody_listens_after_the_end() -> None:
    outbound, listener = audio(), Listener()
    outbound.listen(listener)
    outbound.close()
    outbound.sent(None, 0)
    assert not listener.frames
