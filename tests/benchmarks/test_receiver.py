"""Receiving into records, with the kernel's stamps, over loopback."""

from __future__ import annotations

import select
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.load import analysis, receiver
from benchmarks.load.receiver import Receiver

PORTS = range(24000, 24560, 2)
READ_DELAY_S = 0.05


@pytest.fixture
def phone() -> Iterator[Receiver]:
    made = Receiver(capacity=10)
    yield made
    made.close()


def send(sock: socket.socket, *packets: bytes) -> None:
    """Send to the socket, and wait until it has something to read."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for packet in packets:
            sender.sendto(packet, sock.getsockname())
    assert select.select([sock], [], [], 5)[0]


@pytest.fixture
def stamping() -> Iterator[None]:
    """The kernel stamps arrivals: it begins to a moment after the first socket asks, and until then stamps reads."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.bind(("127.0.0.1", 0))
        receiver.enable_stamps(asking)
        for _ in range(100):
            send(asking, packet(0))
            time.sleep(READ_DELAY_S)
            read = time.time_ns()
            _, ancillary, _, _ = asking.recvmsg(2000, 1000)
            if read - receiver.stamp_ns(ancillary) > READ_DELAY_S * 0.5e9:
                yield
                return
        pytest.fail("the kernel does not stamp arrivals")


def packet(sequence: int) -> bytes:
    return struct.pack(">BBHII", 0x80, 0, sequence, sequence * 160, 9) + bytes([sequence]) * 160


@pytest.mark.usefixtures("stamping")
def test_records_are_what_was_sent_and_when(phone: Receiver, tmp_path: Path) -> None:
    first, second = (phone.open(call, "127.0.0.1", iter(PORTS)) for call in (0, 1))
    before = time.time_ns()
    send(first, packet(1), packet(2))
    send(second, packet(3))
    after = time.time_ns()
    time.sleep(READ_DELAY_S)  # the read comes later than the arrival, and must not show

    while phone.drain():
        pass
    phone.save(tmp_path / "records.bin")
    records = analysis.read(tmp_path / "records.bin")

    assert phone.count == len(records) == 3
    mine = records[records["call"] == 0]
    assert list(mine["sequence"]) == [1, 2]
    assert list(mine["timestamp"]) == [160, 320]
    assert list(records[records["call"] == 1]["sequence"]) == [3]
    assert (mine["payload"][1] == 2).all()
    assert set(records["size"]) == {172}
    assert all(before <= stamp <= after for stamp in records["stamp"])


def test_rtp_port_is_even_and_a_taken_pair_is_passed_over(phone: Receiver) -> None:
    ports = iter(PORTS)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        taken = phone.open(0, "127.0.0.1", iter(PORTS)).getsockname()[1] + 3
        other.bind(("127.0.0.1", taken))  # the RTCP port of the next pair

        port = phone.open(1, "127.0.0.1", ports).getsockname()[1]

    assert port % 2 == 0
    assert port not in (taken - 3, taken - 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as rtcp, pytest.raises(OSError, match="in use"):
        rtcp.bind(("127.0.0.1", port + 1))


def test_no_port_left(phone: Receiver) -> None:
    with pytest.raises(OSError, match="no free RTP port"):
        phone.open(0, "127.0.0.1", iter(()))


def test_datagram_that_does_not_fit_is_marked(phone: Receiver, tmp_path: Path) -> None:
    send(phone.open(0, "127.0.0.1", iter(PORTS)), b"x" * 500)

    assert phone.drain() == 1
    phone.save(tmp_path / "r")

    assert analysis.read(tmp_path / "r")["size"][0] == -1


def test_more_datagrams_than_room(phone: Receiver) -> None:
    sock = phone.open(0, "127.0.0.1", iter(PORTS))
    send(sock, *[packet(n) for n in range(13)])

    while phone.drain():
        pass

    assert phone.count == 10
    assert phone.overflowed == 3


def test_drops_of_a_full_socket_are_seen(phone: Receiver) -> None:
    sock = phone.open(0, "127.0.0.1", iter(PORTS))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    assert phone.kernel_drops() == 0

    send(sock, *[packet(n % 256) for n in range(100)])
    kept = 0
    while phone.drain():
        kept += 1

    assert 0 < kept < 100
    assert phone.kernel_drops() == 100 - kept


def test_udp_drops_reads_port_and_count(tmp_path: Path) -> None:
    page = tmp_path / "udp"
    page.write_text(
        "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt"
        "   uid  timeout inode ref pointer drops\n"
        " 1234: 0100007F:6000 00000000:0000 07 00000000:00000000 00:00000000 00000000  0 0 999 2 0000000000000000 17\n"
    )

    assert receiver.udp_drops(page) == [(0x6000, 17)]


def test_stamp_of_nothing_is_zero() -> None:
    assert receiver.stamp_ns([]) == 0
    assert receiver.stamp_ns([(socket.SOL_SOCKET, 1, b"")]) == 0
    data = struct.pack("@ll", 1_800_000_000, 5)
    assert receiver.stamp_ns([(socket.SOL_SOCKET, receiver.SO_TIMESTAMPNS, data)]) == 1_800_000_000_000_000_005
