"""The callers' RTCP: its wire format, and what it makes of the server's."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from aiortc.rtp import RtcpByePacket, RtcpPacket, RtcpRrPacket, RtcpSdesPacket, RtcpSrPacket
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.load import caller_rtcp, reports
from benchmarks.load.caller_rtcp import Block, compound, parse, round_trip
from benchmarks.load.reduction import Reception
from benchmarks.load.reports import Reports
from benchmarks.load.uplink import SSRC, Sent

WALL = 1_800_000_000.25
WORD = st.integers(0, 2**32 - 1)
BLOCKS = st.builds(Block, WORD, st.integers(0, 255), st.integers(-(2**23), 2**23 - 1), WORD, WORD, WORD, WORD)


@given(BLOCKS | st.none(), st.integers(0, 10**6), st.text("abc@.1", min_size=1, max_size=30), st.booleans())
def test_is_rtcp_to_an_independent_parser(block: Block | None, packets: int, cname: str, bye: bool) -> None:
    data = compound(7, WALL, 4711, packets, block, cname, bye)

    first, sdes, *rest = RtcpPacket.parse(data)

    assert isinstance(first, RtcpSrPacket if packets else RtcpRrPacket)
    assert first.ssrc == 7
    if isinstance(first, RtcpSrPacket):
        info = first.sender_info
        assert (info.rtp_timestamp, info.packet_count, info.octet_count) == (4711, packets, packets * 160)
        assert info.ntp_timestamp == (1_800_000_000 + 2_208_988_800 << 32) + (1 << 30)
    assert [(r.ssrc, r.packets_lost, r.lsr, r.dlsr) for r in first.reports] == (
        [(block.ssrc, block.lost, block.last_report, block.delay)] if block else []
    )
    assert isinstance(sdes, RtcpSdesPacket)
    assert sdes.chunks[0].items == [(1, cname.encode())]
    assert [isinstance(packet, RtcpByePacket) for packet in rest] == [True] * bye


@given(BLOCKS, st.integers(0, 10**6), st.booleans())
def test_survives_the_wire(block: Block, packets: int, bye: bool) -> None:
    report = parse(compound(7, WALL, 4711, packets, block, "me", bye))

    assert (report.ssrc, report.sender, report.blocks, report.bye) == (7, bool(packets), (block,), bye)
    assert report.middle_ntp == (caller_rtcp.middle(caller_rtcp.ntp_time(WALL)) if packets else 0)


@given(st.binary(max_size=120))
def test_parse_raises_nothing_but_value_error(data: bytes) -> None:
    try:
        parse(data)
    except ValueError:
        return


@pytest.mark.parametrize("cut", [n for n in range(1, 60, 3) if n != 16])  # the SDES is 16 bytes
def test_truncated(cut: int) -> None:
    data = compound(7, WALL, 4711, 5, Block(1, 2, 3, 4, 5, 6, 7), "me")

    with pytest.raises(ValueError, match="RTCP"):
        parse(data[:-cut])


def test_must_begin_with_a_report() -> None:
    with pytest.raises(ValueError, match="begin"):
        parse(compound(7, WALL, 0, 0, None, "me")[8:])
    with pytest.raises(ValueError, match="empty"):
        parse(b"")


def test_round_trip() -> None:
    sent = caller_rtcp.middle(caller_rtcp.ntp_time(WALL))
    block = Block(1, 0, 0, 0, 0, sent, 65536 // 2)

    assert round_trip(block, WALL + 0.6) == pytest.approx(0.1, abs=1e-4)
    assert round_trip(Block(1, 0, 0, 0, 0, 0, 0), WALL) is None
    # A clock that went back a little is no round trip of 18 hours.
    assert round_trip(block, WALL + 0.49) == pytest.approx(-0.01, abs=1e-4)


@pytest.fixture
def sockets() -> Iterator[tuple[socket.socket, socket.socket]]:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ours,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
    ):
        for sock in (ours, server):
            sock.bind(("127.0.0.1", 0))
            sock.setblocking(False)
        yield ours, server


def receptions() -> Iterator[Reception]:
    yield Reception(7, received=100, expected=100, highest=65_636, jitter=8.0)
    yield Reception(7, received=170, expected=200, highest=65_736, jitter=8.9)


def test_reports_are_sent_when_due_and_tell_of_reception(sockets: tuple[socket.socket, socket.socket]) -> None:
    ours, server = sockets
    heard = receptions()
    talk = Reports(ours, "127.0.0.1", 1, lambda call, now: Sent(50, 8000), lambda call: next(heard))
    talk.add(3, server.getsockname(), 100.0)
    talk.tick(100.5)
    assert talk.sent == 0  # half of 2.5 to 7.5 s

    talk.tick(104.0)
    talk.take(compound(7, WALL, 0, 9, Block(SSRC + 3, 128, 5, 0, 80, 0, 0), "server"), int(WALL * 1e9))
    talk.tick(104.0 + reports.INTERVAL * 1.5)

    first, second = parse(server.recv(2048)), parse(server.recv(2048))
    assert (first.ssrc, first.blocks[0].ssrc) == (SSRC + 3, 7)
    assert (first.blocks[0].fraction_lost, first.blocks[0].lost, first.blocks[0].jitter) == (0, 0, 8)
    assert first.blocks[0].last_report == first.blocks[0].delay == 0
    # 30 of the last 100 in 1/256; whole clock units, rounded down.
    assert (second.blocks[0].fraction_lost, second.blocks[0].lost, second.blocks[0].jitter) == (76, 30, 8)
    assert second.blocks[0].last_report == caller_rtcp.middle(caller_rtcp.ntp_time(WALL))
    figures = talk.figures()
    assert (figures["sender_reports"], figures["report_blocks"], figures["far_lost"]) == (1, 1, 5)


def test_the_last_report_says_bye_once(sockets: tuple[socket.socket, socket.socket]) -> None:
    ours, server = sockets
    talk = Reports(ours, "127.0.0.1", 1, lambda call, now: None, lambda call: None)
    talk.add(0, server.getsockname(), 0.0)
    talk.remove(0, 1.0)
    talk.remove(0, 1.1)
    talk.remove(5, 1.1)
    talk.tick(100.0)

    report = parse(server.recv(2048))
    assert report.bye
    assert not report.sender  # nothing was sent, so it is a receiver's
    with pytest.raises(BlockingIOError):
        server.recv(2048)


def test_what_comes_is_told_by_its_source_or_by_what_it_is_about(sockets: tuple[socket.socket, socket.socket]) -> None:
    ours, server = sockets
    talk = Reports(ours, "127.0.0.1", 1, lambda call, now: None, lambda call: None)
    talk.add(2, server.getsockname(), 0.0)
    without_block = compound(7, WALL, 0, 9, None, "server")
    server.sendto(without_block, ours.getsockname())
    server.sendto(b"\x80", ours.getsockname())
    talk.poll()
    talk.take(without_block, 0)

    figures = talk.figures()
    assert (figures["sender_reports"], figures["malformed"], figures["strangers"]) == (1, 1, 1)


def test_summary_joins_processes() -> None:
    share = {"sent": 2, "round_trips": [0.001, 0.003], "far_jitter": [8]}

    found = reports.summary([share, share])

    assert found["sent"] == 4
    assert found["round_trip_ms"] == {"p50": 1.0, "p95": 3.0, "max": 3.0, "count": 4}
    assert found["far_jitter_ms"]["max"] == 1.0
    assert reports.summary([])["round_trip_ms"]["count"] == 0
