"""Callers who speak at set moments: packets, phrases, and stamps of their onsets; and their timetable."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from benchmarks.load.control_callers import Said, Spoken, Timetable
from benchmarks.load.control_talkers import Talkers
from benchmarks.load.plan import Plan
from benchmarks.load.uplink import CATCH_UP, FRAME

ROOM = np.zeros((7, 160), np.uint8)
PHRASE = np.arange(1, 6, dtype=np.uint8)[:, None].repeat(160, axis=1)
VOICED = 2


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ours,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
    ):
        ours.bind(("127.0.0.1", 0))
        server.bind(("127.0.0.1", 0))
        server.settimeout(2)
        yield ours, server


def talkers(ours: socket.socket, when: list[tuple[float, int, int]], calls: int = 2) -> Talkers:
    scripts = [["Hello."]] * calls
    plan = Plan(("127.0.0.1", 5060), rate=1, seconds=1, scripts=scripts, start=time.monotonic(), token="t")
    return Talkers(ours, ROOM, [PHRASE], [VOICED], when, plan)


def received(server: socket.socket, count: int) -> list[bytes]:
    return [server.recv(2000) for _ in range(count)]


def test_a_phrase_is_said_when_it_is_due_and_its_onset_is_stamped(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, server = pair
    begin = time.monotonic()
    uplink = talkers(ours, [(begin + 10 * FRAME, 0, 0)])
    uplink.add(0, server.getsockname())
    before = time.time_ns()

    for tick in range(20):
        uplink.send(begin + (tick + 1) * FRAME)

    packets = received(server, uplink.sent)
    said = [packet[12] for packet in packets]
    first = said.index(1)
    assert 8 <= first <= 11  # the call's own phase of 20 ms is a random one
    assert said[first : first + 5] == [1, 2, 3, 4, 5]
    assert set(said[:first] + said[first + 5 :]) == {0}
    [(call, stamp)] = uplink.onsets
    assert call == 0
    assert before <= stamp <= time.time_ns()


def test_packets_are_rtp_in_sequence(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, server = pair
    uplink = talkers(ours, [])
    uplink.add(1, server.getsockname())
    begin = time.monotonic()

    for tick in range(5):
        uplink.send(begin + (tick + 1) * FRAME)

    packets = received(server, uplink.sent)
    assert len(packets) >= 4
    assert all(len(packet) == 172 and packet[0] == 0x80 for packet in packets)
    assert [packet[1] for packet in packets] == [0x80] + [0] * (len(packets) - 1)
    for one, other in pairwise(packets):
        assert (int.from_bytes(other[2:4], "big") - int.from_bytes(one[2:4], "big")) % (1 << 16) == 1
        assert (int.from_bytes(other[4:8], "big") - int.from_bytes(one[4:8], "big")) % (1 << 32) == 160
        assert other[8:12] == one[8:12]
    state = uplink.state(1, begin + 5 * FRAME)
    assert state is not None
    assert state.packets == len(packets)


def test_calls_that_are_over_send_no_more(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, server = pair
    uplink = talkers(ours, [])
    uplink.add(0, server.getsockname())
    uplink.remove(0)

    uplink.send(time.monotonic() + 1)

    assert uplink.sent == 0
    assert uplink.state(0, time.monotonic()) is None


def test_what_is_overdue_for_long_is_skipped_and_counted(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, server = pair
    uplink = talkers(ours, [])
    uplink.add(0, server.getsockname())

    uplink.send(time.monotonic() + 100 * FRAME)

    assert uplink.skipped >= 90
    assert uplink.sent <= CATCH_UP


def test_timetable_survives_its_file(tmp_path: Path) -> None:
    timetable = Timetable([Said(1.5, 3, "Hello.")], [Spoken(2.0, 1, 0)])

    timetable.write(tmp_path / "timetable.json")

    assert Timetable.read(tmp_path / "timetable.json") == timetable
