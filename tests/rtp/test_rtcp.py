import contextlib
import struct

import aiortc.rtp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediaserver.rtp.rtcp import (
    MAX_COMPOUND_LENGTH,
    MAX_COMPOUND_PACKETS,
    MAX_SDES_ITEMS,
    SDES_CNAME,
    Bye,
    ReceiverReport,
    ReportBlock,
    SdesChunk,
    SenderReport,
    SourceDescription,
    parse_compound,
)
from mediaserver.rtp.rtcp_xr import ExtendedReport, VoipMetricsBlock

uint8 = st.integers(0, 0xFF)
uint16 = st.integers(0, 0xFFFF)
uint32 = st.integers(0, 0xFFFFFFFF)

report_blocks = st.builds(ReportBlock, uint32, uint8, st.integers(-0x800000, 0x7FFFFF), uint32, uint32, uint32, uint32)
report_lists = st.lists(report_blocks, max_size=31)
sender_reports = st.builds(SenderReport, uint32, st.integers(0, 2**64 - 1), uint32, uint32, uint32, report_lists)
receiver_reports = st.builds(ReceiverReport, uint32, report_lists)
items = st.tuples(st.integers(1, 8), st.binary(max_size=255))
chunks = st.builds(SdesChunk, uint32, st.lists(items, max_size=3))
descriptions = st.builds(SourceDescription, st.lists(chunks, max_size=2))
byes = st.builds(Bye, st.lists(uint32, max_size=31), st.binary(max_size=255))
voip_blocks = st.builds(
    VoipMetricsBlock,
    uint32,
    *[uint8] * 4,
    *[uint16] * 4,
    *[uint8] * 9,
    *[uint16] * 3,
)
extended_reports = st.builds(ExtendedReport, uint32, st.lists(voip_blocks, max_size=4))
compounds = st.builds(
    lambda first, rest: [first, *rest],
    sender_reports | receiver_reports,
    st.lists(descriptions | byes | extended_reports | receiver_reports, max_size=3),
)

# SR with one block; SDES with a CNAME.
SR = bytes.fromhex(
    "81c8000c 11223344 e8b1c2d3 40000000 0000a0c8 00000064 00003e80"
    "55667788 02fffffe 00010007 00000010 c2d34000 00010000".replace(" ", "")
)
SDES = bytes.fromhex("81ca0004 11223344 0108 6162636465666768 0000".replace(" ", ""))


def oracle_of(packet: object) -> object:
    """aiortc's packet with the same fields."""
    rtp = aiortc.rtp
    match packet:
        case SenderReport():
            info = rtp.RtcpSenderInfo(packet.ntp, packet.rtp_timestamp, packet.packets, packet.octets)
            return rtp.RtcpSrPacket(packet.ssrc, info, [oracle_of(block) for block in packet.reports])
        case ReceiverReport():
            return rtp.RtcpRrPacket(packet.ssrc, [oracle_of(block) for block in packet.reports])
        case ReportBlock():
            return rtp.RtcpReceiverInfo(
                packet.ssrc,
                packet.fraction_lost,
                packet.lost,
                packet.highest,
                packet.jitter,
                packet.lsr,
                packet.dlsr,
            )
        case SourceDescription():
            return rtp.RtcpSdesPacket([rtp.RtcpSourceInfo(chunk.ssrc, chunk.items) for chunk in packet.chunks])
        case Bye():
            return rtp.RtcpByePacket(packet.sources)
    raise AssertionError(packet)


# aiortc ends only the last chunk of an SDES as it should, so one chunk is all it can be asked about.
one_chunk = st.builds(lambda chunk: SourceDescription([chunk]), chunks)


@given(sender_reports | receiver_reports, one_chunk | byes)
def test_aiortc_reads_what_we_write(report, second) -> None:
    read = aiortc.rtp.RtcpPacket.parse(bytes(report) + bytes(second))
    assert read == [oracle_of(report), oracle_of(second)]


@given(sender_reports | receiver_reports, one_chunk | byes)
def test_we_read_what_aiortc_writes(report, second) -> None:
    if isinstance(second, Bye):
        second.reason = b""  # it writes none
    data = bytes(oracle_of(report)) + bytes(oracle_of(second))
    if len(data) <= MAX_COMPOUND_LENGTH:
        assert parse_compound(data) == [report, second]


@given(compounds)
def test_every_compound_reads_back(packets) -> None:
    data = b"".join(map(bytes, packets))
    assert len(data) % 4 == 0
    if len(data) <= MAX_COMPOUND_LENGTH:
        assert parse_compound(data) == packets


def test_wire_fixture() -> None:
    report, description = parse_compound(SR + SDES)
    assert report == SenderReport(
        ssrc=0x11223344,
        ntp=0xE8B1C2D340000000,
        rtp_timestamp=0xA0C8,
        packets=100,
        octets=16000,
        reports=[ReportBlock(0x55667788, 2, -2, 0x10007, 16, 0xC2D34000, 0x10000)],
    )
    assert description == SourceDescription([SdesChunk(0x11223344, [(SDES_CNAME, b"abcdefgh")])])
    assert description.chunks[0].cname == b"abcdefgh"
    assert bytes(report) + bytes(description) == SR + SDES


def test_cname_absent() -> None:
    assert SdesChunk(1, [(2, b"a name")]).cname is None


@pytest.mark.parametrize("lost", [-0x800000, -1, 0, 1, 0x7FFFFF])
def test_cumulative_loss_is_signed_24_bits(lost: int) -> None:
    block = ReportBlock(1, 255, lost, 0, 0, 0, 0)
    assert len(bytes(block)) == 24
    assert ReportBlock.parse(bytes(block)) == block


@pytest.mark.parametrize("length", range(1, 9))
def test_item_list_ends_with_one_to_four_nulls(length: int) -> None:
    chunk = bytes(SdesChunk(1, [(SDES_CNAME, b"x" * length)]))
    nulls = len(chunk) - len(chunk.rstrip(b"\0"))
    assert len(chunk) % 4 == 0
    assert 1 <= nulls <= 4


def test_thirty_one_blocks_and_profile_extensions() -> None:
    blocks = [ReportBlock(n, 0, n, n, n, n, n) for n in range(31)]
    data = bytearray(bytes(ReceiverReport(7, blocks)) + b"extension...")
    struct.pack_into("!H", data, 2, len(data) // 4 - 1)
    assert parse_compound(bytes(data)) == [ReceiverReport(7, blocks)]


def header(count: int, packet_type: int, words: int, *, version: int = 2, padding: bool = False) -> bytes:
    return struct.pack("!BBH", version << 6 | padding << 5 | count, packet_type, words)


RR = header(0, 201, 1) + b"\0\0\0\7"


@pytest.mark.parametrize(
    ("data", "field"),
    [
        (b"", "shorter"),
        (RR[:7], "shorter"),
        (bytes(MAX_COMPOUND_LENGTH + 4), "longer"),
        (SDES + SR, "does not begin"),
        (header(0, 206, 2) + bytes(8), "does not begin"),  # reduced-size feedback, RFC 5506
        (header(0, 201, 1, version=1) + bytes(4), "version"),
        (RR + header(0, 202, 0, version=0), "version"),
        (RR + b"\x80\xca", "truncated header"),
        (header(0, 201, 2) + bytes(4), "invalid length"),
        (header(0, 201, 0xFFFF) + bytes(4), "invalid length"),
        (header(0, 201, 0) + bytes(4), "receiver report is truncated"),
        (header(31, 201, 1) + bytes(4), "receiver report is truncated"),
        (header(0, 200, 5) + bytes(20), "sender report is truncated"),
        (header(1, 200, 11) + bytes(44), "sender report is truncated"),
        (header(0, 201, 2, padding=True) + bytes(7) + b"\4" + RR, "padding before"),
        (header(0, 201, 2, padding=True) + bytes(8), "padding length"),
        (header(0, 201, 2, padding=True) + bytes(7) + b"\3", "padding length"),
        (header(0, 201, 2, padding=True) + bytes(7) + b"\x0c", "padding length"),
        (RR + header(0, 203, 0, padding=True), "padding length"),  # the last octet is its own length's: 0
        (RR + header(1, 202, 0), "truncated source"),
        (RR + header(2, 202, 2) + bytes(8), "truncated source"),
        (RR + header(1, 202, 1) + bytes(4), "without end"),
        (RR + header(1, 202, 2) + bytes(4) + b"\1\2ab", "without end"),
        (RR + header(1, 202, 2) + bytes(4) + b"\1\3ab", "truncated item"),
        (RR + header(1, 202, 2) + bytes(4) + b"\1\1a\1", "truncated item"),
        (RR + header(1, 202, 10) + bytes(4) + b"\1\0" * 17 + b"\0\0", f"more than {MAX_SDES_ITEMS} items"),
        (RR + header(31, 203, 1) + bytes(4), "truncated sources"),
        (RR + header(0, 203, 1) + b"\4abc", "truncated reason"),
        (RR + header(1, 203, 2) + bytes(4) + b"\xffabc", "truncated reason"),
        (RR + header(0, 207, 0), "XR is truncated"),
        (RR + header(0, 207, 2) + bytes(4) + b"\7\0\0\1", "truncated block"),
        (RR + header(0, 207, 2) + bytes(4) + b"\4\0\xff\xff", "truncated block"),
        (RR + header(0, 207, 2) + bytes(4) + b"\7\0\0\0", "invalid length"),
        (RR + header(0, 203, 0) * MAX_COMPOUND_PACKETS, "more than"),
    ],
)
def test_faults_are_named(data: bytes, field: str) -> None:
    with pytest.raises(ValueError, match=field):
        parse_compound(data)


def test_the_limit_of_packets_is_readable() -> None:
    assert len(parse_compound(RR + header(0, 203, 0) * (MAX_COMPOUND_PACKETS - 1))) == MAX_COMPOUND_PACKETS


def test_padding_on_the_last_packet() -> None:
    padded = header(1, 203, 3, padding=True) + b"\0\0\0\7" + bytes(7) + b"\x08"
    assert parse_compound(RR + padded) == [ReceiverReport(7), Bye([7])]


def test_unknown_types_are_skipped() -> None:
    unknown = header(3, 204, 2) + b"APP data" + header(1, 205, 1) + bytes(4) + header(0, 192, 0)
    assert parse_compound(RR + unknown + bytes(Bye([7], b"over"))) == [ReceiverReport(7), Bye([7], b"over")]


def test_bye_of_nobody_and_of_thirty_one() -> None:
    everybody = list(range(31))
    assert parse_compound(RR + bytes(Bye()) + bytes(Bye(everybody)))[1:] == [Bye(), Bye(everybody)]


def test_thousands_of_tiny_packets_are_not_read() -> None:
    with pytest.raises(ValueError, match="longer"):
        parse_compound(RR + header(0, 203, 0) * 16000)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_raise_only_value_errors(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        parse_compound(data)


@given(compounds, st.data())
def test_mutated_compounds_raise_only_value_errors(packets, data: st.DataObject) -> None:
    wire = bytearray(b"".join(map(bytes, packets)))
    for _ in range(data.draw(st.integers(1, 4))):
        wire[data.draw(st.integers(0, len(wire) - 1))] = data.draw(uint8)
    del wire[data.draw(st.integers(0, len(wire))) :]
    with contextlib.suppress(ValueError):
        parse_compound(bytes(wire))


@given(
    st.lists(
        st.tuples(st.integers(0, 31), st.sampled_from([200, 201, 202, 203, 204, 207]), st.binary(max_size=48)),
        max_size=6,
    )
)
def test_lying_counts_raise_only_value_errors(packets) -> None:
    data = RR
    for count, packet_type, body in packets:
        words = -(-len(body) // 4)
        data += header(count, packet_type, words) + body.ljust(4 * words, b"\0")
    try:
        read = parse_compound(data)
    except ValueError:
        return
    assert len(read) <= 1 + len(packets)
