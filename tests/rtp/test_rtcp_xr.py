import struct

import pytest

from mediaserver.rtp.rtcp import parse_compound
from mediaserver.rtp.rtcp_xr import MAX_BLOCKS, UNAVAILABLE, ExtendedReport, VoipMetricsBlock

RR = bytes.fromhex("80c9000100000007")

# Receiver reference time (skipped), then VoIP metrics.
XR = bytes.fromhex(
    "80cf000d 11223344"
    "04000002 e8b1c2d3 40000000"
    "07000008 55667788 05034020 00c8 1388 0028 0050 eebc7f10 5d7f2b29 b3000028 0050 00c8".replace(" ", "")
)


def test_wire_fixture() -> None:
    _, report = parse_compound(RR + XR)
    assert report == ExtendedReport(
        0x11223344,
        [
            VoipMetricsBlock(
                ssrc=0x55667788,
                loss_rate=5,
                discard_rate=3,
                burst_density=0x40,
                gap_density=0x20,
                burst_duration=200,
                gap_duration=5000,
                round_trip_delay=40,
                end_system_delay=80,
                signal_level=0xEE,
                noise_level=0xBC,
                rerl=UNAVAILABLE,
                gmin=16,
                r_factor=93,
                external_r_factor=UNAVAILABLE,
                mos_lq=43,
                mos_cq=41,
                rx_config=0xB3,
                jb_nominal=40,
                jb_maximum=80,
                jb_absolute_maximum=200,
            )
        ],
    )


def test_block_is_nine_words_with_its_header() -> None:
    data = bytes(VoipMetricsBlock(0x55667788, 1, 2, 3, 4, 5, 6))
    assert data.hex() == ("07000008556677880102030400050006000000007f7f7f107f7f7f7f0000" + "00" * 6), (
        "unknown levels, R and MOS are 127"
    )
    assert len(bytes(ExtendedReport(1, [VoipMetricsBlock(2, 0, 0, 0, 0, 0, 0)] * 2))) == 8 + 72


@pytest.mark.parametrize(("bits", "conceals"), [(0b00, False), (0b01, False), (0b10, True), (0b11, True)])
def test_concealment_bits(bits: int, conceals: bool) -> None:
    """Unspecified, disabled, enhanced, standard."""
    block = VoipMetricsBlock(1, 0, 0, 0, 0, 0, 0, rx_config=bits << 6 | 0b110101)
    assert block.conceals_loss is conceals


def xr(*blocks: tuple[int, int, bytes]) -> bytes:
    body = b"\0\0\0\7" + b"".join(struct.pack("!BBH", kind, 0, words) + data for kind, words, data in blocks)
    return struct.pack("!BBH", 0x80, 207, len(body) // 4) + body


def test_unknown_and_empty_blocks_are_skipped() -> None:
    data = xr((1, 0, b""), (200, 3, bytes(12)), (7, 8, bytes(32)), (5, 3, bytes(12)))
    (_, report) = parse_compound(RR + data)
    assert [block.ssrc for block in report.blocks] == [0]


@pytest.mark.parametrize("words", [0, 1, 7, 9])
def test_voip_metrics_of_another_length_are_refused(words: int) -> None:
    with pytest.raises(ValueError, match="invalid length"):
        ExtendedReport.parse(xr((7, words, bytes(4 * words)))[4:], 0)


def test_block_that_claims_its_neighbours_octets() -> None:
    with pytest.raises(ValueError, match="truncated block"):
        ExtendedReport.parse(xr((4, 12, bytes(8)), (7, 8, bytes(32)))[4:], 0)


def test_number_of_blocks_is_bounded() -> None:
    with pytest.raises(ValueError, match="more than 31"):
        ExtendedReport.parse(xr(*[(7, 8, bytes(32))] * (MAX_BLOCKS + 1))[4:], 0)
