"""The analysis on records made up with known loss, jitter, drift, talkspurts and holes."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.load import analysis
from benchmarks.load.analysis import RECORD, CallFigures, analyse, by_call, unwrap
from tests.benchmarks.fake_server import SILENCE, TONE

if sys.version_info >= (3, 13):
    audioop = pytest.importorskip("audioop")
else:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import audioop

START = 1_800_000_000_000_000_000
FRAME_NS = 20_000_000


def records(
    count: int = 300, *, call: int = 0, first_sequence: int = 65_400, first_timestamp: int = (1 << 32) - 16_000
) -> np.ndarray:
    """A faultless call: one frame of tone every 20 ms. Both counters wrap on the way."""
    made = np.zeros(count, RECORD)
    n = np.arange(count)
    made["stamp"] = START + n * FRAME_NS
    made["call"] = call
    made["size"] = 172
    made["vpxcc"] = 0x80
    made["sequence"] = (first_sequence + n) & 0xFFFF
    made["timestamp"] = (first_timestamp + n * 160) & 0xFFFFFFFF
    made["ssrc"] = 0xCAFE
    made["payload"] = np.frombuffer(TONE, np.uint8)
    made["mpt"][0] = 0x80
    return made


def quiet(made: np.ndarray, frames: slice | list[int], payload: bytes = SILENCE) -> None:
    made["payload"][frames] = np.frombuffer(payload, np.uint8)


def test_mulaw_table_is_that_of_the_c_codec() -> None:
    codes = bytes(range(256))

    expected = np.frombuffer(audioop.ulaw2lin(codes, 2), "<i2")

    assert (expected == analysis.MULAW).all()


def test_record_has_the_receivers_layout() -> None:
    from benchmarks.load import receiver

    assert RECORD.itemsize == receiver.RECORD_BYTES
    assert RECORD.fields is not None
    assert RECORD.fields["vpxcc"][1] == receiver.PACKET_OFFSET


def test_faultless_call() -> None:
    found = analyse(records())

    assert found.packets == 300
    assert (found.lost, found.duplicated, found.reordered, found.timestamp_errors) == (0, 0, 0, 0)
    assert (found.malformed, found.other_ssrc, found.after_close) == (0, 0, 0)
    assert (found.talkspurts, found.markers) == (1, 1)
    assert len(found.spacing_error) == 299
    assert found.spacing_error.max() < 1e-6
    assert found.spacing_vs_timestamp.max() < 1e-6
    assert found.drift_ppm == pytest.approx(0.0, abs=1e-3)
    assert found.first_audible == START
    assert found.last_audible == START + 299 * FRAME_NS
    assert found.audible_share == 1.0
    assert (found.cuts, found.digital_silence, found.longest_pause_ms) == (0, 0, 0.0)


def test_nothing_received() -> None:
    found = analyse(np.zeros(0, RECORD))

    assert found.packets == 0
    assert found.first_audible is None
    assert found.drift_ppm is None
    assert len(found.spacing_error) == 0


def test_loss_is_no_fault_of_spacing_or_timestamps() -> None:
    made = np.delete(records(), [10, 100, 101, 102, 200])

    found = analyse(made)

    assert found.lost == 5
    assert found.timestamp_errors == found.reordered == found.cuts == 0
    assert found.spacing_error.max() < 1e-6
    assert found.spacing_vs_timestamp.max() < 1e-6


def test_duplicates_and_reordering() -> None:
    made = records()
    order = np.arange(300)
    order[[50, 51]] = [51, 50]
    order[[70, 71, 72]] = [72, 70, 71]  # one packet two places early: both others came late
    made["sequence"], made["timestamp"] = made["sequence"][order], made["timestamp"][order]
    made = np.concatenate((made[:120], made[119:]))

    found = analyse(made)

    assert found.duplicated == 1
    assert found.reordered == 1 + 2
    assert found.lost == found.timestamp_errors == 0


def test_late_packet_shows_twice_in_spacing() -> None:
    made = records()
    made["stamp"][40] += 7_000_000

    found = analyse(made)

    assert sorted(found.spacing_error)[-3:] == pytest.approx([0.0, 7.0, 7.0])
    assert sorted(found.spacing_vs_timestamp)[-2:] == pytest.approx([7.0, 7.0])


def test_jitter_of_known_spread() -> None:
    made = records(5000)
    offsets = np.random.default_rng(1).uniform(-1e6, 1e6, 5000)
    made["stamp"] += offsets.astype(np.int64)

    found = analyse(made)

    # The difference of two uniforms on +-1 ms is a triangle on +-2 ms: its absolute value's 99th percentile is 1.8.
    assert np.percentile(found.spacing_error, 99) == pytest.approx(1.8, abs=0.05)
    assert found.spacing_error.max() <= 2.0


def test_stall_with_a_timestamp_jump_is_hidden_from_one_spacing_only() -> None:
    made = records()
    made["stamp"][100:] += 3 * FRAME_NS
    made["timestamp"][100:] += 3 * 160

    found = analyse(made)

    assert found.timestamp_errors == 1
    assert found.spacing_error.max() == pytest.approx(60.0)
    assert found.spacing_vs_timestamp.max() < 1e-6
    assert found.cuts == 1


def test_intervals_that_the_pacer_skipped_are_a_gap_of_spacing() -> None:
    made = records()
    made["stamp"][100:] += 15 * FRAME_NS
    made["timestamp"][100:] += 15 * 160
    made["mpt"][100] = 0x80
    made["stamp"][200:] += 60_000_000  # late, and no more than a pacer makes up for

    found = analyse(made)

    assert len(found.spacing_error) == 299
    assert sorted(found.spacing_error)[-3:] == pytest.approx([0.0, 60.0, 300.0], abs=1e-3)
    assert found.gaps == 1
    assert found.spacing_vs_timestamp.max() == pytest.approx(60.0)
    assert found.lost == found.timestamp_errors == 0


def test_announced_talkspurt_is_no_error_of_timestamps() -> None:
    made = records()
    quiet(made, slice(90, 100))
    made["stamp"][100:] += 50 * FRAME_NS
    made["timestamp"][100:] += 50 * 160
    made["mpt"][100] = 0x80

    found = analyse(made)

    assert (found.talkspurts, found.markers, found.timestamp_errors) == (2, 2, 0)
    assert found.spacing_vs_timestamp.max() < 1e-6
    assert found.gaps == 1
    assert found.longest_pause_ms == pytest.approx((10 + 50) * 20.0)


def test_timestamp_that_stands_still_or_runs_back_is_an_error() -> None:
    made = records()
    made["timestamp"][50] -= 160
    made["mpt"][200] = 0x80  # a marker excuses no step back
    made["timestamp"][200:] -= 320

    assert analyse(made).timestamp_errors == 2 + 1


@pytest.mark.parametrize("ppm", [-500.0, 40.0, 2000.0])
def test_drift(ppm: float) -> None:
    made = records(1000)
    made["stamp"] = START + (np.arange(1000) * FRAME_NS * (1 + ppm / 1e6)).astype(np.int64)

    assert analyse(made).drift_ppm == pytest.approx(ppm, abs=0.1)


def test_drift_sees_through_loss_and_jitter() -> None:
    made = records(2000)
    jitter = np.random.default_rng(2).normal(0, 5e5, 2000)
    made["stamp"] = START + (np.arange(2000) * FRAME_NS * (1 + 100e-6) + jitter).astype(np.int64)
    made = np.delete(made, np.arange(500, 900))

    assert analyse(made).drift_ppm == pytest.approx(100, abs=10)


def test_short_call_has_no_drift() -> None:
    assert analyse(records(99)).drift_ppm is None


def test_lead_in_is_not_audible() -> None:
    made = records()
    quiet(made, slice(0, 4))
    quiet(made, slice(4, 16), bytes([0xFE] * 160))  # the noise of a voice's lead-in
    quiet(made, slice(290, 300))

    found = analyse(made)

    assert found.first_packet == START
    assert found.first_signal == START + 4 * FRAME_NS
    assert found.first_audible == START + 16 * FRAME_NS
    assert found.last_audible == START + 289 * FRAME_NS
    assert found.digital_silence == found.cuts == 0
    assert found.audible_share == 1.0


def test_pause_that_fades_is_no_cut_and_a_hole_is() -> None:
    noise = bytes([0xFF, 0x7E, 0xFE, 0x7F] * 40)
    faded = audioop.lin2ulaw(audioop.mul(audioop.ulaw2lin(TONE, 2), 2, 0.02), 2)
    made = records()
    quiet(made, [60], faded)
    quiet(made, slice(61, 80), noise)
    quiet(made, slice(150, 153))
    quiet(made, slice(200, 220))
    quiet(made, [199], faded)  # digital silence after a word that ended

    found = analyse(made)

    assert found.cuts == 1
    assert found.digital_silence == 3 + 20
    assert found.longest_pause_ms == pytest.approx(20 * 20.0)


def test_silence_of_a_constant_level_is_no_sound() -> None:
    assert analyse(_all_payload(b"\x7f" * 160)).first_audible is None
    assert analyse(_all_payload(b"\xff" * 160)).first_audible is None
    assert analyse(_all_payload(b"\xff" * 160)).first_signal is None
    assert analyse(_all_payload(b"\xff" * 160)).first_packet == START
    assert analyse(_all_payload(bytes([0xF0] * 160))).first_audible == START  # 120: above the threshold of 100


def _all_payload(payload: bytes) -> np.ndarray:
    made = records(20)
    quiet(made, slice(None), payload)
    return made


def test_foreign_packets_are_counted_apart() -> None:
    made = records()
    made["vpxcc"][5] = 0x90  # header extension
    made["mpt"][6] = 8  # PCMA
    made["size"][7] = 92  # a 10 ms frame
    made["size"][8] = -1  # did not fit
    made["ssrc"][9] = 1

    found = analyse(made)

    assert found.malformed == 4
    assert found.other_ssrc == 1
    assert found.packets == 296
    assert found.lost == 5


def test_packets_after_the_end() -> None:
    found = analyse(records(), closed=START + 250 * FRAME_NS)

    assert found.after_close == 49
    assert found.last_audible == START + 250 * FRAME_NS


def test_only_packets_after_the_end() -> None:
    found = analyse(records(10), closed=START - 1)

    assert found.after_close == 10
    assert found.first_audible is None


def test_by_call_keeps_the_order_of_arrival() -> None:
    mixed = np.empty(40, RECORD)
    mixed[0::2], mixed[1::2] = records(20, call=2), records(20, call=0)

    calls = by_call(mixed, 4)

    assert [len(c) for c in calls] == [20, 0, 20, 0]
    assert (np.diff(calls[2]["stamp"]) > 0).all()
    assert set(calls[0]["call"]) == {0}


@given(st.integers(0, 0xFFFF), st.lists(st.integers(-30_000, 30_000), max_size=50))
def test_unwrap_restores_any_walk_of_short_steps(first: int, steps: list[int]) -> None:
    walk = np.concatenate(([first], first + np.cumsum(steps))).astype(np.int64)

    assert (unwrap((walk & 0xFFFF).astype(np.uint16), 16) == walk).all()


@given(
    st.sets(st.integers(1, 98), max_size=30),
    st.lists(st.integers(0, 99), max_size=10),
    st.integers(0, 0xFFFF),
    st.integers(0, (1 << 32) - 1),
)
def test_loss_and_duplicates_are_counted_exactly(
    dropped: set[int], repeated: list[int], sequence: int, timestamp: int
) -> None:
    made = records(100, first_sequence=sequence, first_timestamp=timestamp)
    kept = sorted(set(range(100)) - dropped)
    repeats = [n for n in repeated if n not in dropped]

    found: CallFigures = analyse(made[sorted(kept + repeats)])

    assert found.lost == len(dropped)
    assert found.duplicated == len(repeats)
    assert found.reordered == found.timestamp_errors == found.cuts == 0
    assert found.talkspurts == 1
