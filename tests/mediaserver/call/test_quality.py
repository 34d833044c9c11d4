import pytest

from mediaserver.call.quality import MOS_BOUNDS, QualityMeasures, quality_fields
from mediaserver.rtp.call_quality import CallQuality, DirectionQuality

NOTHING = CallQuality(DirectionQuality(), DirectionQuality(), None)
GOOD = CallQuality(DirectionQuality(0.0123456, 3.25, 4.123456, 88.0), DirectionQuality(0.0, 0.5, 4.4, 93.0), 41.98765)


def test_the_log_says_what_is_known_of_both_directions() -> None:
    assert quality_fields(GOOD) == {
        "loss_in": 0.0123,
        "jitter_in_ms": 3.25,
        "mos_in": 4.1235,
        "loss_out": 0.0,
        "jitter_out_ms": 0.5,
        "mos_out": 4.4,
        "round_trip_ms": 41.9877,
    }


@pytest.mark.parametrize("quality", [None, NOTHING])
def test_it_says_nothing_of_what_is_not(quality: CallQuality | None) -> None:
    assert quality_fields(quality) == {}


def test_nought_is_known() -> None:
    lossless = CallQuality(DirectionQuality(loss=0.0), DirectionQuality(), 0.0)
    assert quality_fields(lossless) == {"loss_in": 0.0, "round_trip_ms": 0.0}


def test_one_direction_may_be_unknown() -> None:
    """A peer without RTCP: it says nothing of what it hears."""
    quality = CallQuality(GOOD.inbound, DirectionQuality(), None)
    assert set(quality_fields(quality)) == {"loss_in", "jitter_in_ms", "mos_in"}


class TestMeasures:
    def counts(self, measures: QualityMeasures) -> dict[str, tuple[int, float]]:
        return {measure.labels["direction"]: (measure.count, measure.sum) for measure in measures.measures}

    def test_they_are_one_family_by_direction(self) -> None:
        measures = QualityMeasures().measures
        assert {measure.name for measure in measures} == {"call_mos"}
        assert [dict(measure.labels) for measure in measures] == [{"direction": "inbound"}, {"direction": "outbound"}]

    def test_ended_calls_are_counted(self) -> None:
        measures = QualityMeasures()
        for quality in (GOOD, GOOD, CallQuality(GOOD.inbound, DirectionQuality(), 1.0)):
            measures.count(quality)
        counts = self.counts(measures)
        assert counts["inbound"] == (3, pytest.approx(3 * 4.123456))
        assert counts["outbound"] == (2, pytest.approx(8.8))

    @pytest.mark.parametrize("quality", [None, NOTHING])
    def test_calls_of_unknown_quality_are_not(self, quality: CallQuality | None) -> None:
        measures = QualityMeasures()
        measures.count(quality)
        assert self.counts(measures) == {"inbound": (0, 0), "outbound": (0, 0)}

    def test_the_buckets_tell_good_from_fair(self) -> None:
        measures = QualityMeasures()
        for mos in (1.0, 3.55, 4.05, 4.35, 4.41):
            measures.count(CallQuality(DirectionQuality(mos=mos), DirectionQuality(), None))
        inbound = measures.measures[0]
        below = dict(zip((*MOS_BOUNDS, 5.0), inbound.cumulative(), strict=True))
        assert [below[bound] for bound in (1.5, 3.4, 3.6, 4.0, 4.1, 4.3, 4.4, 5.0)] == [1, 1, 2, 2, 3, 3, 4, 5]
