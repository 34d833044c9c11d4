"""Reception of many calls on one socket: whose a packet is, when it came, and what was lost on our side."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.load import analysis
from benchmarks.load.downlink import BATCH, Downlink, open_pair

PORTS = range(23000, 24000, 2)


def packet(sequence: int, kind: int = 0) -> bytes:
    return struct.pack(">BBHII", 0x80, kind, sequence, sequence * 160, 9) + bytes([sequence % 256]) * 160


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    rtp, rtcp = open_pair("127.0.0.1", PORTS)
    with rtp, rtcp:
        yield rtp, rtcp


@pytest.fixture
def legs() -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        made = [stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(3)]
        for sock in made:
            sock.bind(("127.0.0.1", 0))
        yield made


def test_packets_are_told_apart_by_the_port_they_come_from(
    pair: tuple[socket.socket, socket.socket], legs: list[socket.socket], tmp_path: Path
) -> None:
    downlink = Downlink(pair[0], 100)
    for call, leg in enumerate(legs[:2]):
        downlink.expect(leg.getsockname()[1], call)
    before = time.time_ns()
    for number in range(3):
        for leg in legs:  # nobody has named the last one's port
            leg.sendto(packet(number), pair[0].getsockname())
    after = time.time_ns()

    assert downlink.drain() == 9
    fresh, reports = downlink.settle()
    downlink.save(tmp_path / "r")

    records = analysis.read(tmp_path / "r")
    for call in (0, 1):
        mine = fresh[fresh["call"] == call]
        assert list(mine["sequence"]) == [0, 1, 2]
        assert list(mine["timestamp"]) == [0, 160, 320]
        assert (mine["payload"][2] == 2).all()
        assert set(mine["size"]) == {172}
        assert len(analysis.by_call(records, 2)[call]) == 3
    # Whether the kernel stamps arrivals or, just begun to, reads: no earlier than they were sent.
    assert all(before <= stamp <= max(after, time.time_ns()) for stamp in fresh["stamp"])
    assert downlink.strangers == 3
    assert reports == []
    assert downlink.settle()[0].size == 0


def test_more_than_one_batch_and_more_than_there_is_room_for(
    pair: tuple[socket.socket, socket.socket], legs: list[socket.socket]
) -> None:
    downlink = Downlink(pair[0], BATCH + 50)
    downlink.expect(legs[0].getsockname()[1], 0)
    for number in range(BATCH + 60):
        legs[0].sendto(packet(number), pair[0].getsockname())

    assert downlink.drain() == BATCH + 60
    fresh, _ = downlink.settle()

    assert list(fresh["sequence"]) == list(range(BATCH + 50))
    assert downlink.overflowed == 10
    legs[0].sendto(packet(1), pair[0].getsockname())
    assert downlink.drain() == 1
    assert downlink.overflowed == 11

    downlink.forget()
    legs[0].sendto(packet(7), pair[0].getsockname())
    downlink.drain()
    assert list(downlink.settle()[0]["sequence"]) == [7]


def test_rtcp_on_the_same_port_is_handed_over(
    pair: tuple[socket.socket, socket.socket], legs: list[socket.socket]
) -> None:
    downlink = Downlink(pair[0], 10)
    downlink.expect(legs[0].getsockname()[1], 0)
    report = struct.pack(">BBHI", 0x80, 201, 1, 77)
    for datagram in (packet(1), report, packet(2, kind=0x80)):
        legs[0].sendto(datagram, pair[0].getsockname())
    downlink.drain()

    fresh, reports = downlink.settle()

    assert list(fresh["sequence"]) == [1, 2]
    assert [datagram for _, datagram in reports] == [report]
    assert downlink.strangers == 0


def test_datagram_that_does_not_fit_is_marked(
    pair: tuple[socket.socket, socket.socket], legs: list[socket.socket]
) -> None:
    downlink = Downlink(pair[0], 10)
    downlink.expect(legs[0].getsockname()[1], 0)
    legs[0].sendto(b"\x80\0" + b"x" * 500, pair[0].getsockname())
    downlink.drain()

    assert list(downlink.settle()[0]["size"]) == [-1]


def test_drops_of_a_full_socket_are_seen(pair: tuple[socket.socket, socket.socket], legs: list[socket.socket]) -> None:
    downlink = Downlink(pair[0], 200)
    pair[0].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    assert downlink.kernel_drops() == 0

    for number in range(100):
        legs[0].sendto(packet(number), pair[0].getsockname())
    kept = downlink.drain()

    assert 0 < kept < 100
    assert downlink.kernel_drops() == 100 - kept


def test_a_pair_is_even_and_odd_and_a_taken_one_is_passed_over() -> None:
    with contextlib.ExitStack() as stack:
        rtp, rtcp = (stack.enter_context(sock) for sock in open_pair("127.0.0.1", PORTS))
        port = rtp.getsockname()[1]
        second, _ = (stack.enter_context(sock) for sock in open_pair("127.0.0.1", range(port, port + 40, 2)))

        assert port % 2 == 0
        assert rtcp.getsockname()[1] == port + 1
        assert second.getsockname()[1] > port
    with pytest.raises(OSError, match="no free RTP port"):
        open_pair("127.0.0.1", [])
