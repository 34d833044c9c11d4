from mediaserver.rtp.call_quality import DirectionQuality
from mediaserver.rtp.emodel import G711_BPL, G711_PLC_BPL, mos, r_factor


def test_rate() -> None:
    quality = DirectionQuality.rate(0.02, 7.5, 90, burst_ratio=1.5, conceals_loss=True)
    assert (quality.loss, quality.jitter_ms) == (0.02, 7.5)
    assert quality.r_factor == r_factor(90, 0.02, burst_ratio=1.5, bpl=G711_PLC_BPL)
    assert quality.mos == mos(quality.r_factor)


def test_without_concealment_loss_weighs_more() -> None:
    plain = DirectionQuality.rate(0.02, 0, 90, conceals_loss=False)
    assert plain.r_factor == r_factor(90, 0.02, bpl=G711_BPL)
    assert plain.mos < DirectionQuality.rate(0.02, 0, 90, conceals_loss=True).mos


def test_unknown() -> None:
    quality = DirectionQuality()
    assert (quality.loss, quality.jitter_ms, quality.mos, quality.r_factor) == (None, None, None, None)
