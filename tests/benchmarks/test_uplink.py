"""The callers' RTP: what leaves, when, and from where in the sound."""

from __future__ import annotations

import socket
from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import pytest

from benchmarks.load import caller_sound
from benchmarks.load.analysis import MULAW
from benchmarks.load.uplink import CATCH_UP, FRAME, PACKET, SLOTS, SSRC, Uplink

SOUND = np.repeat(np.arange(100, dtype=np.uint8), 160).reshape(100, 160)


@pytest.fixture
def sockets() -> Iterator[tuple[socket.socket, socket.socket]]:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as here,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as there,
    ):
        here.bind(("127.0.0.1", 0))
        there.bind(("127.0.0.1", 0))
        there.setblocking(False)
        there.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 21)
        yield here, there


def received(sock: socket.socket) -> dict[int, np.ndarray]:
    """What lies in the socket, by call."""
    found = defaultdict(list)
    while True:
        try:
            datagram = sock.recv(2048)
        except BlockingIOError:
            return {call: np.concatenate(packets) for call, packets in found.items()}
        assert len(datagram) == PACKET.itemsize == 172
        packet = np.frombuffer(datagram, PACKET)
        found[int(packet["ssrc"][0]) - SSRC].append(packet)


def test_each_call_is_a_stream_of_rtp(sockets: tuple[socket.socket, socket.socket]) -> None:
    here, there = sockets
    uplink = Uplink(here, SOUND, 25, now=10.0)
    for call in range(25):
        uplink.add(call, there.getsockname())

    for tick in range(50):  # 100 ms
        uplink.send(10.0 + tick * 0.002)
    found = received(there)

    assert sorted(found) == list(range(25))
    for packets in found.values():
        assert len(packets) == 5
        assert set(packets["vpxcc"]) == {0x80}
        assert list(packets["mpt"]) == [0x80, 0, 0, 0, 0]
        assert set(np.diff(packets["sequence"].astype(int)) % 65536) == {1}
        assert set(np.diff(packets["timestamp"].astype(int)) % (1 << 32)) == {160}
        assert set(np.diff(packets["payload"][:, 0].astype(int)) % 100) == {1}
    assert uplink.sent == 125
    assert len({int(packets["sequence"][0]) for packets in found.values()}) > 20, "calls begin alike"


def test_calls_are_spread_over_the_frame(sockets: tuple[socket.socket, socket.socket]) -> None:
    here, there = sockets
    uplink = Uplink(here, SOUND, 2 * SLOTS, now=0.0)
    for call in range(2 * SLOTS):
        uplink.add(call, there.getsockname())

    for slot in range(SLOTS):
        uplink.send(slot * FRAME / SLOTS + 1e-6)
        assert len(received(there)) == 2


def test_sequence_and_timestamp_wrap(
    sockets: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = sockets
    uplink = Uplink(here, SOUND, 1, now=0.0)
    monkeypatch.setattr(uplink, "_random", type("Last", (), {"integers": lambda self, high: high - 1})())
    uplink.add(0, there.getsockname())
    uplink.send(0.0)
    uplink.send(FRAME)

    packets = received(there)[0]
    assert list(packets["sequence"]) == [0, 1]
    assert list(packets["timestamp"]) == [159, 319]


def test_a_call_that_ended_is_silent_and_the_others_go_on(sockets: tuple[socket.socket, socket.socket]) -> None:
    here, there = sockets
    uplink = Uplink(here, SOUND, 31, now=0.0)
    for call in range(31):
        uplink.add(call, there.getsockname())
    uplink.send(0.0199)
    first = received(there)
    for call in (0, 10, 30):  # of one slot: its first, its second and its last
        uplink.remove(call)
    uplink.remove(0)

    uplink.send(0.0399)
    second = received(there)

    assert sorted(second) == sorted(set(range(31)) - {0, 10, 30})
    for call, packets in second.items():
        assert packets["sequence"][0] == (int(first[call]["sequence"][0]) + 1) % 65536
        assert packets["mpt"][0] == 0
    assert uplink.state(10, 0.04) is None


def test_state_tells_packets_and_the_timestamp_of_now(sockets: tuple[socket.socket, socket.socket]) -> None:
    here, there = sockets
    uplink = Uplink(here, SOUND, 1, now=0.0)
    uplink.add(0, there.getsockname())
    for frame in range(3):
        uplink.send(frame * FRAME)

    state = uplink.state(0, 0.045)

    assert state is not None
    assert state.packets == 3
    last = int(received(there)[0]["timestamp"][-1])
    assert state.timestamp == (last + 40) % (1 << 32)  # 5 ms later


def test_what_is_long_overdue_is_skipped_not_flooded(sockets: tuple[socket.socket, socket.socket]) -> None:
    here, there = sockets
    uplink = Uplink(here, SOUND, 1, now=0.0)
    uplink.add(0, there.getsockname())
    uplink.send(0.0)
    uplink.send(50.5 * FRAME)

    packets = received(there)[0]

    assert len(packets) <= 1 + CATCH_UP + 1
    assert uplink.skipped + len(packets) == 51
    assert (int(packets["timestamp"][-1]) - int(packets["timestamp"][0])) % (1 << 32) == 50 * 160


@pytest.mark.parametrize("sound", caller_sound.SOUNDS[:-1])
def test_sounds(sound: str) -> None:
    frames = caller_sound.frames(sound)

    assert frames.shape[1] == 160
    assert frames.dtype == np.uint8
    level = np.sqrt((MULAW[frames] ** 2).mean(axis=1))
    if sound == "silence":
        assert (frames == 0xFF).all()
    elif sound == "noise":
        assert 10 < level.mean() < 40
    else:
        assert level.max() > 2000, "no loud syllable"
        assert (level < 100).mean() > 0.15, "no pause"
        assert (level > 500).mean() > 0.4, "hardly any speech"
        assert np.abs(MULAW[frames]).max() < 32124, "clipped"


def test_no_such_sound() -> None:
    with pytest.raises(ValueError, match="no such sound"):
        caller_sound.frames("music")


def test_codes_are_the_nearest() -> None:
    values = np.linspace(-33000, 33000, 2001)

    error = np.abs(MULAW[caller_sound.encode(values)] - values)

    assert (error <= np.abs(values[:, None] - MULAW[None, :]).min(axis=1) + 1e-6).all()
