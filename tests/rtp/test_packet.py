import aiortc.rtp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediaserver.rtp.packet import FIRST_OCTET, RtpPacket, is_rtcp, pack_header, parse_fields

uint16 = st.integers(0, 0xFFFF)
uint32 = st.integers(0, 0xFFFFFFFF)

# What an Asterisk sends: PCMU, marker, 160 bytes.
TELEPHONE = bytes.fromhex("8080d1f20000a0c811223344") + b"\xff" * 160


@st.composite
def datagrams(draw: st.DrawFn) -> bytes:
    """Well-formed datagrams with every optional part of the header."""
    csrc = draw(st.lists(uint32, max_size=15))
    extension = draw(st.none() | st.tuples(uint16, st.binary(max_size=64)))
    padding = draw(st.integers(0, 255))
    first = FIRST_OCTET | bool(padding) << 5 | (extension is not None) << 4 | len(csrc)
    header = bytearray([first, draw(st.integers(0, 255))])
    header += draw(uint16).to_bytes(2, "big") + draw(uint32).to_bytes(4, "big")
    header += draw(uint32).to_bytes(4, "big")
    for source in csrc:
        header += source.to_bytes(4, "big")
    if extension is not None:
        profile, value = extension
        value += bytes(-len(value) % 4)
        header += profile.to_bytes(2, "big") + (len(value) // 4).to_bytes(2, "big") + value
    payload = draw(st.binary(max_size=320))
    tail = bytes(padding - 1) + bytes([padding]) if padding else b""
    return bytes(header) + payload + tail


def assert_same(packet: RtpPacket, oracle: aiortc.rtp.RtpPacket) -> None:
    assert packet.payload == oracle.payload
    assert packet.marker == bool(oracle.marker)
    assert packet.payload_type == oracle.payload_type
    assert packet.sequence == oracle.sequence_number
    assert packet.timestamp == oracle.timestamp
    assert packet.ssrc == oracle.ssrc
    assert list(packet.csrc) == oracle.csrc
    assert packet.padding == oracle.padding_size


@given(datagrams())
def test_well_formed_packets_read_as_aiortc_reads_them(data: bytes) -> None:
    assert_same(RtpPacket.parse(data), aiortc.rtp.RtpPacket.parse(data))


@given(
    st.binary(max_size=64)
    | st.builds(lambda head, rest: bytes([head]) + rest, st.integers(0x80, 0xBF), st.binary(max_size=64))
)
def test_arbitrary_bytes_are_refused_or_read_as_by_aiortc(data: bytes) -> None:
    try:
        oracle = aiortc.rtp.RtpPacket.parse(data)
    except ValueError:
        oracle = None
    try:
        packet = RtpPacket.parse(data)
    except ValueError as error:
        assert str(error).startswith("RTP packet ")
        assert oracle is None
    else:
        if oracle is not None:
            assert_same(packet, oracle)
        else:
            # aiortc also reads the one- and two-byte extension elements of RFC 8285, and refuses broken ones.
            assert packet.extension_profile is not None


@given(st.booleans(), st.integers(0, 127), uint16, uint32, uint32, st.binary(max_size=320))
def test_packed_header_is_read_by_aiortc(
    marker: bool, payload_type: int, sequence: int, timestamp: int, ssrc: int, payload: bytes
) -> None:
    data = pack_header(FIRST_OCTET, marker << 7 | payload_type, sequence, timestamp, ssrc) + payload
    oracle = aiortc.rtp.RtpPacket.parse(data)
    assert (bool(oracle.marker), oracle.payload_type) == (marker, payload_type)
    assert (oracle.sequence_number, oracle.timestamp, oracle.ssrc) == (sequence, timestamp, ssrc)
    assert oracle.payload == payload
    assert (oracle.csrc, oracle.padding_size) == ([], 0)
    assert RtpPacket.parse(data).payload == payload


@given(datagrams())
def test_fields_agree_with_the_packet(data: bytes) -> None:
    fields, packet = parse_fields(data), RtpPacket.parse(data)
    assert data[fields.payload_start : fields.payload_end] == packet.payload
    assert fields[:5] == (
        packet.marker,
        packet.payload_type,
        packet.sequence,
        packet.timestamp,
        packet.ssrc,
    )


def test_telephone_packet() -> None:
    assert RtpPacket.parse(TELEPHONE) == RtpPacket(
        payload_type=0,
        sequence=0xD1F2,
        timestamp=0xA0C8,
        ssrc=0x11223344,
        payload=b"\xff" * 160,
        marker=True,
    )


def test_extension_and_csrc() -> None:
    data = bytes.fromhex("9208000100000002000000030000000a0000000b abcd0001 01020304") + b"payload"
    packet = RtpPacket.parse(data)
    assert packet.csrc == (10, 11)
    assert packet.extension_profile == 0xABCD
    assert packet.extension_value == b"\1\2\3\4"
    assert packet.payload == b"payload"


def test_packet_without_payload() -> None:
    assert RtpPacket.parse(TELEPHONE[:12]).payload == b""


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "RTP packet length is less than 12 bytes"),
        (TELEPHONE[:11], "RTP packet length is less than 12 bytes"),
        (b"\x40" + TELEPHONE[1:], "RTP packet has invalid version"),
        (b"\x81" + TELEPHONE[1:15], "RTP packet has truncated CSRC"),
        (b"\x90" + TELEPHONE[1:12] + b"\0\0\0", "RTP packet has truncated extension profile / length"),
        (b"\x90" + TELEPHONE[1:12] + b"\0\0\0\1\0\0\0", "RTP packet has truncated extension value"),
        (b"\xa0" + TELEPHONE[1:12] + b"ab\0", "RTP packet has invalid padding length"),
        (b"\xa0" + TELEPHONE[1:12] + b"ab\4", "RTP packet has invalid padding length"),
    ],
)
def test_errors_name_the_field(data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RtpPacket.parse(data)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (bytes.fromhex("80c80006") + bytes(24), True),  # sender report
        (bytes.fromhex("81c90007") + bytes(28), True),  # receiver report
        (bytes.fromhex("81ca0002") + bytes(8), True),  # source description
        (bytes.fromhex("81cb0001") + bytes(4), True),  # goodbye
        (bytes.fromhex("80c0") + bytes(10), True),
        (bytes.fromhex("80df") + bytes(10), True),
        (bytes.fromhex("80bf") + bytes(10), False),
        (bytes.fromhex("80e0") + bytes(10), False),  # payload type 96 with the marker
        (bytes.fromhex("8048") + bytes(10), False),  # payload type 72 without
        (bytes.fromhex("00c8") + bytes(10), False),  # STUN's first bits
        (TELEPHONE, False),
        (b"\x80", False),
        (b"", False),
    ],
)
def test_rtcp_is_told_from_rtp(data: bytes, expected: bool) -> None:
    assert is_rtcp(data) is expected


@given(st.integers(0, 63) | st.integers(96, 127), st.booleans())
def test_no_payload_type_in_use_is_taken_for_rtcp(payload_type: int, marker: bool) -> None:
    assert not is_rtcp(pack_header(FIRST_OCTET, marker << 7 | payload_type, 1, 2, 3))
