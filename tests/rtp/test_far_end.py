import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediaserver.rtp.far_end import MAX_ROUND_TRIP, FarEnd, ntp_stamp
from mediaserver.rtp.rtcp import ReportBlock

WALL = 1_700_000_000.25
uint32 = st.integers(0, 0xFFFFFFFF)


def lsr_of(wall: float) -> int:
    return ntp_stamp(wall) >> 16 & 0xFFFFFFFF


def block(*, lost: int = 0, highest: int = 1000, fraction: int = 0, jitter: int = 0, lsr: int = 0, dlsr: int = 0):
    return ReportBlock(7, fraction, lost, highest, jitter, lsr, dlsr)


def test_ntp_stamp() -> None:
    assert ntp_stamp(0.0) == 2_208_988_800 << 32
    assert ntp_stamp(WALL) == (1_700_000_000 + 2_208_988_800) << 32 | 0x40000000
    assert ntp_stamp(-0.5) == 2_208_988_799 << 32 | 0x80000000


def test_ntp_stamp_wraps_in_2036() -> None:
    assert ntp_stamp(2**32 - 2_208_988_800 + 1.5) == 1 << 32 | 0x80000000


def test_report() -> None:
    far_end = FarEnd()
    far_end.note_report(block(lost=-3, highest=70000, fraction=64, jitter=160), 12.5, WALL, 8000)
    report = far_end.report
    assert report is not None
    assert (report.fraction_lost, report.lost, report.highest, report.when) == (0.25, -3, 70000, 12.5)
    assert report.jitter_seconds == pytest.approx(0.02)


def test_round_trip_of_the_rfcs_figure_2() -> None:
    """RFC 3550 section 6.4.1: A = b710:8000, DLSR = 5.25 s, LSR = b705:2000; 6.125 s."""
    arrival = 0xB44DB710 - 2_208_988_800 + 0.5
    far_end = FarEnd()
    far_end.note_report(block(lsr=0xB7052000, dlsr=0x00054000), 1.0, arrival, 8000)
    assert far_end.round_trip_last == pytest.approx(6.125)


def test_round_trip_is_smoothed() -> None:
    far_end = FarEnd()
    for rtt in (0.1, 0.1, 0.5):
        far_end.note_report(block(lsr=lsr_of(WALL), dlsr=65536), 1.0, WALL + 1 + rtt, 8000)
    assert far_end.round_trip_last == pytest.approx(0.5, abs=1e-4)
    assert far_end.round_trip == pytest.approx(0.2, abs=1e-4)


def test_round_trip_across_the_wrap_of_the_stamp() -> None:
    """The middle 32 bits wrap every 18 hours."""
    wrap = (ntp_stamp(WALL) >> 48) + 1 << 16  # seconds since 1900
    sent = wrap - 2_208_988_800 - 0.01
    assert lsr_of(sent) > lsr_of(sent + 0.06)
    far_end = FarEnd()
    far_end.note_report(block(lsr=lsr_of(sent)), 1.0, sent + 0.06, 8000)
    assert far_end.round_trip == pytest.approx(0.06, abs=1e-4)


@pytest.mark.parametrize(("later", "dlsr"), [(1.0, 2.0), (MAX_ROUND_TRIP + 0.1, 0.0), (-3600, 0), (30000, 0)])
def test_negative_and_absurd_round_trips_are_dropped(later: float, dlsr: float) -> None:
    far_end = FarEnd()
    far_end.note_report(block(lsr=lsr_of(WALL), dlsr=int(dlsr * 65536)), 1.0, WALL + later, 8000)
    assert (far_end.round_trip, far_end.round_trip_last, far_end.round_trips_dropped) == (None, None, 1)


def test_rounding_does_not_make_a_round_trip_negative() -> None:
    far_end = FarEnd()
    far_end.note_report(block(lsr=lsr_of(WALL), dlsr=20), 1.0, WALL, 8000)
    assert (far_end.round_trip, far_end.round_trips_dropped) == (0.0, 0)


def test_no_lsr_no_round_trip() -> None:
    far_end = FarEnd()
    far_end.note_report(block(dlsr=5), 1.0, WALL, 8000)
    assert (far_end.round_trip, far_end.round_trips_dropped) == (None, 0)


def test_loss_is_counted_between_reports() -> None:
    far_end = FarEnd()
    assert far_end.loss is None
    far_end.note_report(block(lost=10, highest=1000, fraction=26), 1.0, WALL, 8000)
    assert far_end.loss == pytest.approx(26 / 256), "the first report's own"
    far_end.note_report(block(lost=10, highest=1250), 6.0, WALL, 8000)
    assert far_end.loss == 0
    far_end.note_report(block(lost=35, highest=1500, fraction=25), 11.0, WALL, 8000)
    assert far_end.loss == pytest.approx(25 / 500)


def test_loss_across_the_wrap_of_the_extended_number() -> None:
    far_end = FarEnd()
    far_end.note_report(block(highest=0xFFFFFF00), 1.0, WALL, 8000)
    far_end.note_report(block(highest=0x100, lost=64), 6.0, WALL, 8000)
    assert far_end.loss == pytest.approx(64 / 512)


def test_receiver_that_counts_anew_is_a_new_beginning() -> None:
    far_end = FarEnd()
    far_end.note_report(block(highest=0x20000, lost=500), 1.0, WALL, 8000)
    far_end.note_report(block(highest=0x01000, lost=1, fraction=128), 6.0, WALL, 8000)
    assert far_end.loss == 0.5
    far_end.note_report(block(highest=0x01100, lost=1), 11.0, WALL, 8000)
    assert far_end.loss == 0


def test_reset_keeps_the_round_trip() -> None:
    far_end = FarEnd()
    far_end.note_report(block(lsr=lsr_of(WALL)), 1.0, WALL + 0.1, 8000)
    far_end.reset_reception()
    assert (far_end.report, far_end.loss) == (None, None)
    assert far_end.round_trip == pytest.approx(0.1, abs=1e-4)


@given(
    st.lists(
        st.builds(
            ReportBlock, uint32, st.integers(0, 255), st.integers(-0x800000, 0x7FFFFF), uint32, uint32, uint32, uint32
        ),
        max_size=6,
    )
)
def test_whatever_is_reported_stays_in_range(blocks) -> None:
    far_end = FarEnd()
    for reported in blocks:
        far_end.note_report(reported, 1.0, WALL, 8000)
        assert far_end.loss is not None
        assert 0 <= far_end.loss <= 1
        assert far_end.round_trip is None or 0 <= far_end.round_trip <= MAX_ROUND_TRIP
