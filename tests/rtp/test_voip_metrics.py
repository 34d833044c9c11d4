import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediaserver.rtp.stats import ReceiverStats
from mediaserver.rtp.voip_metrics import GMIN, VoipMetrics


def metrics_of(pattern: str, first: int = 0) -> VoipMetrics:
    """Metrics of a stream: `.` is a packet received, `x` a lost one; losses in a row are noted as one."""
    metrics = VoipMetrics()
    index = 0
    while index < len(pattern):
        run = len(pattern) - index - len(pattern[index:].lstrip("x"))
        if run:
            metrics.note_loss(first + index, run)
        index += run or 1
    return metrics


def bursts_by_definition(pattern: str) -> tuple[int, int, int]:
    """Section 4.7.2 read off the pattern: split at GMIN or more received, keep what has two losses or more."""
    clusters = [cluster.strip(".") for cluster in pattern.replace("." * GMIN, "|").split("|")]
    # A run that is no multiple of GMIN leaves dots at the edges; those of a cluster's inside are fewer than GMIN.
    bursts = [cluster for cluster in clusters if cluster.count("x") > 1]
    return len(bursts), sum(map(len, bursts)), sum(cluster.count("x") for cluster in bursts)


patterns = st.lists(
    st.builds(lambda lost, received: "x" * lost + "." * received, st.integers(0, 4), st.integers(0, 40)), max_size=30
).map("".join)


@given(patterns, st.integers(0, 2**20))
def test_bursts_are_those_of_the_definition(pattern: str, first: int) -> None:
    metrics = metrics_of(pattern, first)
    assert metrics.totals() == bursts_by_definition(pattern)
    assert metrics.lost == pattern.count("x")


@pytest.mark.parametrize(
    ("pattern", "totals"),
    [
        ("." * 100, (0, 0, 0)),
        ("." * 50 + "x" + "." * 50, (0, 0, 0)),
        ("x" + "." * 15 + "x", (1, 17, 2)),
        ("x" + "." * 16 + "x", (0, 0, 0)),
        ("." * 20 + "xx" + "." * 20 + "x" + "." * 20 + "xxx.x", (2, 7, 6)),
    ],
)
def test_bursts(pattern: str, totals: tuple[int, int, int]) -> None:
    assert metrics_of(pattern).totals() == totals


def test_block() -> None:
    pattern = "." * 100 + "xx.x" + "." * 100 + "x" + "." * 95  # a burst of 4, a loss alone; 300 packets
    block = metrics_of(pattern).block(7, expected=len(pattern), lost=4, packet_ms=20)
    assert (block.ssrc, block.gmin) == (7, 16)
    assert block.loss_rate == 4 * 256 // 300
    assert block.discard_rate == 0
    assert block.burst_density == 3 * 256 // 4
    assert block.gap_density == 1 * 256 // 296
    assert block.burst_duration == 4 * 20
    assert block.gap_duration == 296 * 20 // 2


def test_block_of_a_stream_without_loss() -> None:
    block = VoipMetrics().block(7, expected=500, lost=0, packet_ms=20)
    assert (block.loss_rate, block.burst_density, block.gap_density, block.burst_duration) == (0, 0, 0, 0)
    assert block.gap_duration == 10_000, "one gap: the whole"


def test_block_before_any_packet() -> None:
    block = VoipMetrics().block(7, expected=0, lost=0, packet_ms=20)
    assert (block.loss_rate, block.gap_density, block.gap_duration) == (0, 0, 0)


def test_block_fits_its_fields() -> None:
    metrics = VoipMetrics()
    metrics.note_loss(5, 10**7)
    metrics.note_discard(10**7)
    block = metrics.block(7, expected=10**7, lost=10**7, packet_ms=60)
    assert (block.loss_rate, block.discard_rate, block.burst_density) == (255, 255, 255)
    assert block.burst_duration == 0xFFFF
    assert len(bytes(block)) == 36
    assert bytes(VoipMetrics().block(7, expected=10**9, lost=-5, packet_ms=60)), "duplicates make a negative loss"


def test_discards() -> None:
    metrics = VoipMetrics()
    metrics.note_discard()
    metrics.note_discard(4)
    assert metrics.block(7, expected=100, lost=0, packet_ms=20).discard_rate == 5 * 256 // 100


def test_burst_ratio() -> None:
    assert VoipMetrics().burst_ratio(0) == 1
    assert metrics_of("." * 98 + "x.").burst_ratio(100) == 1, "never below random loss"
    in_fours = metrics_of(("." * 96 + "xxxx") * 10)
    assert in_fours.burst_ratio(1000) == pytest.approx(4 * 0.96)
    assert metrics_of("x" * 10).burst_ratio(10) == 1, "all lost: no run to compare"


def test_loss_noted_in_pieces_is_one_run() -> None:
    metrics = VoipMetrics()
    for sequence in range(4):
        metrics.note_loss(100 + sequence, 1)
    assert metrics.burst_ratio(100) == pytest.approx(4 * 0.96)
    assert metrics.totals() == (1, 4, 4)


def test_reset_forgets_the_old_stream() -> None:
    metrics = metrics_of("xx.x" + "." * 30 + "xx")
    metrics.note_discard()
    metrics.reset()
    assert (metrics.totals(), metrics.lost, metrics.discarded, metrics.burst_ratio(9)) == ((0, 0, 0), 0, 0, 1)
    metrics.note_loss(3, 1)
    metrics.note_loss(40, 2)
    assert metrics.totals() == (1, 2, 2)


@given(patterns, st.integers(0, 65535))
def test_fed_by_receiver_stats_across_the_wrap(pattern: str, base: int) -> None:
    pattern = "..." + pattern + "."
    stats = ReceiverStats()
    metrics = VoipMetrics()
    stats.on_loss = metrics.note_loss
    stats.on_stream = metrics.reset
    for index, packet in enumerate(pattern):
        if packet == ".":
            stats.update(1, (base + index) % 65536, index * 160, index * 0.02)
    assert metrics.totals() == bursts_by_definition(pattern)
    assert metrics.lost == stats.lost == pattern.count("x")
