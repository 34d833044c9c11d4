from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mediaserver.rtp.jitter_buffer import JitterBuffer, Missing
from mediaserver.rtp.playout_depth import FRAME
from tests.rtp.network import Impairment, Network, Sender, Sent, packets_of, transmit


def frame(number: int, size: int = FRAME) -> bytes:
    """A payload that tells where it belongs: its first four octets, and all others alike."""
    return number.to_bytes(4, "big") + bytes([number % 251]) * (size - 4)


def audio_of(frames: int) -> bytes:
    return b"".join(frame(number) for number in range(frames))


class Play:
    """A jitter buffer behind a network, and what came out of it."""

    def __init__(self, impairment: Impairment = Impairment(), max_ms: int = 200, seed: int = 1) -> None:  # noqa: B008
        self.buffer = JitterBuffer(max_ms)
        self.network: Network[Sent] = Network(impairment, seed)
        self.sender = Sender()
        self.out: list[bytes | list | Missing] = []
        self.depths: list[float] = []
        self.quiet = False
        self.now = 0.007

    def tick(self, _now: float) -> None:
        self.out.append(self.buffer.get(quiet=self.quiet))
        self.depths.append(self.buffer.depth_ms)

    def send(self, audio: bytes, ptime_ms: int = 20, **timing) -> None:
        behind = round((self.now - self.sender.at) / 0.02)
        if behind > 1:
            self.sender.pause(behind * 0.02)  # the receiver went on while nothing was sent
        payloads = packets_of(audio, ptime_ms)
        take = self.buffer.put
        self.now = transmit(payloads, self.network, self.sender, take, self.tick, start=self.now, **timing)

    @property
    def heard(self) -> bytes:
        return b"".join(item for item in self.out if isinstance(item, bytes))

    @property
    def numbers(self) -> list[int]:
        return [int.from_bytes(item[:4], "big") for item in self.out if isinstance(item, bytes)]

    def counted(self, kind: Missing) -> int:
        return self.out.count(kind)

    @property
    def talk(self) -> list:
        """What was played from the first frame to the last."""
        present = [index for index, item in enumerate(self.out) if not isinstance(item, Missing)]
        return self.out[present[0] : present[-1] + 1]


@pytest.mark.parametrize("ptime_ms", [10, 20, 30, 40, 60, 5, 25, 100])
def test_what_is_sent_is_heard_whole_and_in_order_at_any_packet_time(ptime_ms: int) -> None:
    play = Play()
    audio = audio_of(300)
    play.send(audio, ptime_ms)
    assert audio.startswith(play.heard)
    assert len(play.heard) >= len(audio) - FRAME
    assert all(isinstance(item, bytes) for item in play.talk), "without a hole"


def test_playing_starts_after_40_ms() -> None:
    play = Play()
    play.send(audio_of(20))
    assert play.out.index(frame(0)) == 3, "arrives after 20 ms, is read at the tick of 27 ms, and waits for two"
    assert play.out[:3] == [Missing.SILENCE] * 3


def test_nothing_received_is_silence() -> None:
    buffer = JitterBuffer()
    assert [buffer.get() for _ in range(300)] == [Missing.SILENCE] * 300
    assert (buffer.underruns, buffer.buffered_ms, buffer.depth_ms) == (0, 0, 40)


def test_lost_packets_are_known_as_lost_and_time_goes_on() -> None:
    play = Play(Impairment(loss=0.02))
    play.send(audio_of(1000))
    lost = [item for item in play.talk if item is Missing.LOST]
    assert len(lost) == pytest.approx(play.network.lost, abs=2)
    assert 10 < play.network.lost < 35
    # One frame each 20 ms: what is played is where it was sent, but for one change of depth.
    assert len(play.talk) == pytest.approx(1000, abs=3)
    assert play.numbers == sorted(set(play.numbers))


def test_lost_bursts() -> None:
    play = Play(Impairment(loss=0.05, burst=4))
    play.send(audio_of(2000))
    assert play.network.lost > 50
    missing = sum(isinstance(item, Missing) for item in play.talk)
    assert missing == pytest.approx(play.network.lost, abs=8)
    assert len(play.talk) == pytest.approx(2000, abs=8)


def test_duplicates_are_heard_once_and_do_not_deepen_the_buffer() -> None:
    play = Play(Impairment(duplicate=0.3, duplicate_after=0.1))
    audio = audio_of(600)
    play.send(audio)
    assert play.heard == audio
    assert play.buffer.duplicates == play.network.duplicated > 100
    assert (play.buffer.late, play.buffer.stretches) == (0, 0)


def test_reordering_within_the_depth_is_not_heard() -> None:
    play = Play(Impairment(reorder=0.02, reorder_by=0.025))
    audio = audio_of(600)
    play.send(audio)
    assert play.network.reordered > 5
    assert play.heard == audio
    assert play.buffer.late == 0


def test_jitter_loss_reordering_and_duplicates_together() -> None:
    """The depth settles so that hardly anything comes too late."""
    impairment = Impairment(loss=0.02, delay=0.06, jitter=0.02, reorder=0.01, duplicate=0.01)
    play = Play(impairment)
    play.quiet = True
    play.send(audio_of(3000))
    late_at_start = play.buffer.late
    play.send(audio_of(6000))
    assert play.buffer.late - late_at_start <= 60, "1 %"
    assert len(play.numbers) >= 9000 - play.network.lost - play.buffer.late - 120
    assert 40 <= play.buffer.depth_ms <= 140
    assert play.buffer.resets == play.buffer.overflows == 0
    numbers = play.numbers
    assert all(later > earlier or later == 0 for earlier, later in itertools.pairwise(numbers))


def test_depth_grows_at_once_and_shrinks_slowly() -> None:
    play = Play(Impairment(delay=0.08, jitter=0.0, in_order=True))
    play.quiet = True
    play.send(audio_of(700))
    assert play.buffer.depth_ms == pytest.approx(20, abs=2), "no jitter: the least"
    play.network.impairment = Impairment(delay=0.08, jitter=0.025)
    play.send(audio_of(150))
    grown = play.buffer.depth_ms
    assert grown > 50, "within 3 s"
    play.network.impairment = Impairment(delay=0.08)
    play.send(audio_of(250))
    assert play.buffer.depth_ms > 40, "5 s later it has not forgotten"
    play.send(audio_of(5000))
    assert play.buffer.depth_ms == pytest.approx(20, abs=2)


def test_depth_shrinks_in_quiet_rather_than_in_speech() -> None:
    play = Play()
    play.send(audio_of(500))
    assert play.buffer.splices == 0
    play.quiet = True
    play.send(audio_of(101))
    assert play.buffer.splices == 1
    assert play.buffer.depth_ms == pytest.approx(20, abs=2)


def test_without_any_quiet_the_depth_shrinks_in_the_end() -> None:
    play = Play()
    play.send(audio_of(2500))
    assert play.buffer.splices == 1


@pytest.mark.parametrize("drift_ppm", [200, -200, 1000, -1000])
def test_drift_neither_fills_nor_starves_the_buffer(drift_ppm: float) -> None:
    play = Play(Impairment(jitter=0.002))
    play.sender.drift_ppm = drift_ppm
    rng = random.Random(5)
    seconds = 600 if abs(drift_ppm) == 200 else 120

    def tick(now: float) -> None:
        play.quiet = rng.random() < 0.3
        play.tick(now)

    transmit(packets_of(audio_of(50 * seconds), 20), play.network, play.sender, play.buffer.put, tick)
    slips = seconds * drift_ppm * 1e-6 / 0.02
    buffer = play.buffer
    assert min(play.depths[1000:]) >= 15
    assert max(play.depths[1000:]) <= 65
    assert abs(buffer.splices - buffer.stretches - slips) <= 2
    assert buffer.splices + buffer.stretches <= abs(slips) + 4, "no more changes than the drift asks for"
    # Conceals for a frame when the point is put back, and never for want of audio.
    assert buffer.underruns <= 1
    assert buffer.overflows == buffer.resets == buffer.late == 0


def test_a_stall_of_the_network_is_waited_for_and_nothing_of_it_is_lost() -> None:
    play = Play(Impairment(in_order=True))
    play.send(audio_of(100), linger=0)
    # 100 ms late, and what comes behind it at once.
    play.network.impairment = Impairment(delay=0.12, in_order=True)
    play.send(audio_of(1), linger=0)
    play.network.impairment = Impairment(in_order=True)
    play.send(audio_of(99))
    assert len(play.numbers) == 200
    assert play.buffer.underruns >= 1
    assert play.buffer.late == 0


def test_a_burst_after_a_long_stall_is_cut_to_the_bound() -> None:
    play = Play(Impairment(delay=0.0))
    play.send(audio_of(50), linger=0)
    for number in range(50, 150):
        play.network._put(play.sender.at, play.sender.send(frame(number)))
    held = play.sender.at
    buffer = play.buffer
    for _ in range(100):
        play.tick(0)  # 2 s without a packet
    for _, packet in play.network.receive(held):
        buffer.put(*packet)
        assert buffer.buffered_ms <= 420
    play.out.clear()
    for _ in range(60):
        play.tick(0)
    assert play.numbers[-1] == 149
    assert 2 <= len(play.numbers) <= 16, "of 2 s, the last 300 ms at most"
    assert buffer.overflows > 0


def test_the_delay_that_a_stall_leaves_behind_is_worked_off() -> None:
    play = Play(Impairment(in_order=True))
    play.send(audio_of(600), linger=0)
    play.network.impairment = Impairment(delay=0.24, in_order=True)
    play.send(audio_of(1), linger=0)
    play.network.impairment = Impairment(in_order=True)
    play.send(audio_of(50), linger=0)
    assert play.buffer.depth_ms > 100
    play.send(audio_of(700), linger=0)
    assert play.buffer.depth_ms < 70, "in 14 s, without any quiet"


def test_more_jitter_than_the_bound_allows_for_does_not_make_it_restart() -> None:
    play = Play(Impairment(delay=0.12, jitter=0.04))
    play.quiet = True
    play.send(audio_of(5000))
    assert play.buffer.resets == 0
    assert play.buffer.late + play.buffer.overflows < 100
    assert max(play.depths) < 260


def test_silence_suppression_is_silence_not_loss() -> None:
    play = Play()
    for _ in range(5):
        play.send(audio_of(50), linger=0)
        play.sender.pause(0.1)  # shorter than the hold
    play.send(audio_of(50))
    assert play.counted(Missing.LOST) == 0
    assert play.buffer.resets == 0
    assert len(play.numbers) == 300


def test_a_talkspurt_after_a_long_silence_starts_whole_at_a_depth_for_its_jitter() -> None:
    play = Play(Impairment(delay=0.06, jitter=0.015))
    play.send(audio_of(250))
    play.out.clear()
    late = play.buffer.late
    for _ in range(10):
        play.sender.pause(3)
        play.send(audio_of(50))
    assert play.numbers.count(0) == 10
    assert play.counted(Missing.LOST) <= 10
    assert play.buffer.late - late <= 5
    assert play.buffer.resets == play.buffer.overflows == 0


def test_comfort_noise_says_that_what_follows_is_silence() -> None:
    play = Play()
    play.send(audio_of(50), linger=0)
    for _, packet in play.network.receive(play.sender.at + 1):
        play.buffer.put(*packet)
    play.buffer.put_silence(play.sender.sequence, play.sender.timestamp)
    play.out.clear()
    for _ in range(30):
        play.tick(0)
    assert [item for item in play.out if isinstance(item, Missing)] == [Missing.SILENCE] * play.counted(Missing.SILENCE)
    assert play.buffer.underruns == 0
    play.sender.sequence = (play.sender.sequence + 1) & 0xFFFF
    play.sender.pause(0.6)
    play.out.clear()
    play.send(audio_of(20))
    assert play.numbers == list(range(20))
    assert play.counted(Missing.LOST) == 0


def test_what_was_lost_before_comfort_noise_is_not_waited_for() -> None:
    buffer = JitterBuffer()
    for number in range(3):
        buffer.put(number, 160 * number, frame(number))
    buffer.put_silence(4, 640)
    out = [buffer.get() for _ in range(20)]
    assert out[:2] == [Missing.SILENCE] * 2
    assert out[5] is Missing.LOST
    assert out[6:] == [Missing.SILENCE] * 14


def test_comfort_noise_for_less_than_the_hold() -> None:
    play = Play()
    play.send(audio_of(50), linger=0)
    play.buffer.put_silence(play.sender.sequence + 2, play.sender.timestamp + 320)  # in flight behind two packets
    play.send(audio_of(2), linger=0)
    play.sender.sequence = (play.sender.sequence + 1) & 0xFFFF
    play.sender.pause(0.1)
    play.send(audio_of(20))
    assert play.numbers == [*range(50), 0, 1, *range(20)]


@pytest.mark.parametrize("jump", [10**6, -(10**6), 2**31 - 5, 9000, -9000, 77])
def test_a_timestamp_that_jumps(jump: int) -> None:
    play = Play()
    play.send(audio_of(50), linger=0)
    play.sender.timestamp = (play.sender.timestamp + jump) & 0xFFFFFFFF
    play.out.clear()
    play.send(audio_of(50))
    assert play.numbers[-1] == 49 or jump == 77, "at the latest a few packets later it goes on"
    assert sum(len(item) for item in play.out if isinstance(item, bytes)) >= 45 * FRAME
    assert play.buffer.resets <= 1


@pytest.mark.parametrize("jump", [5000, 30000, -200, -30000])
@pytest.mark.parametrize("timestamps", [True, False])
def test_a_sequence_number_that_jumps(jump: int, timestamps: bool) -> None:
    play = Play()
    play.send(audio_of(50), linger=0)
    play.sender.sequence = (play.sender.sequence + jump) & 0xFFFF
    if timestamps:
        play.sender.timestamp = 123456789
    play.out.clear()
    play.send(audio_of(50))
    assert play.numbers[-1] == 49
    assert len(set(play.numbers)) >= 43


def test_one_stray_packet_does_no_harm() -> None:
    play = Play()
    play.send(audio_of(50), linger=0)
    play.buffer.put(play.sender.sequence + 20000, 5, b"x" * FRAME)
    play.buffer.put(play.sender.sequence + 20000, play.sender.timestamp - 10**6, b"x" * FRAME)
    play.send(audio_of(50))
    assert play.numbers == [*range(50), *range(50)]
    assert play.buffer.resets == 0


def test_restart_for_a_new_ssrc() -> None:
    play = Play()
    play.send(audio_of(50), linger=0)
    list(play.network.receive(play.now + 1))
    play.buffer.restart()
    play.sender.sequence, play.sender.timestamp = 7, 4711
    play.out.clear()
    play.send(audio_of(50))
    assert play.numbers == list(range(50))
    assert play.buffer.resets == 0


def test_packet_time_that_changes_in_mid_stream() -> None:
    play = Play()
    for ptime_ms in (20, 30, 10, 60, 40, 20):
        play.send(audio_of(60), ptime_ms, linger=0)
    play.send(audio_of(10))
    assert play.heard == audio_of(60) * 6 + audio_of(10)
    assert play.counted(Missing.LOST) == 0


def test_a_lost_packet_of_30_ms_leaves_its_half_frames() -> None:
    buffer = JitterBuffer()
    for number in range(6):
        if number != 2:
            buffer.put(number, 240 * number, bytes([65 + number]) * 240)
    out = [buffer.get() for _ in range(11)][2:]
    assert out[:3] == [b"A" * 160, b"A" * 80 + b"B" * 80, b"B" * 160]
    assert out[3] is Missing.LOST
    assert out[4] == [80, b"D" * 80]
    assert out[5] == b"D" * 160


def test_skipped_time_is_dropped() -> None:
    buffer = JitterBuffer()
    for number in range(8):
        buffer.put(number, 160 * number, frame(number))
    for _ in range(3):
        buffer.get()
    buffer.skip(3)
    assert buffer.get() == frame(4)
    assert buffer.splices == 1


@pytest.mark.parametrize("payload", [b"", b"x" * 1601, b"x" * 65000])
def test_payloads_of_no_sense_are_counted(payload: bytes) -> None:
    buffer = JitterBuffer()
    buffer.put(1, 1, payload)
    assert buffer.malformed == 1
    assert buffer.get() is Missing.SILENCE


def test_a_flood_of_tiny_packets_is_bounded() -> None:
    buffer = JitterBuffer()
    for number in range(5000):
        buffer.put(number, number, b"x")
    assert buffer.buffered_ms <= 420
    assert buffer.malformed > 0 or buffer.overflows > 0
    assert sum(len(item) if isinstance(item, list) else 1 for item in buffer._frames.values()) <= 20 * 17


packets = st.lists(
    st.tuples(
        st.one_of(st.integers(0, 65535), st.integers(65530, 65545).map(lambda number: number & 0xFFFF)),
        st.one_of(st.integers(0, 2**32 - 1), st.integers(-20, 20).map(lambda steps: 80 * steps & 0xFFFFFFFF)),
        st.one_of(st.integers(0, 1700), st.just(160), st.just(80)),
        st.integers(0, 4),
        st.booleans(),
    ),
    max_size=80,
)


@settings(max_examples=300, deadline=None)
@given(packets=packets)
def test_whatever_comes_a_frame_is_given_each_time_and_memory_is_bounded(packets) -> None:
    buffer = JitterBuffer()
    for sequence, timestamp, size, gets, silence in packets:
        if silence:
            buffer.put_silence(sequence, timestamp)
        else:
            buffer.put(sequence, timestamp, bytes(size))
        assert len(buffer._frames) <= (2400 + 1600) // FRAME + 2
        for _ in range(gets):
            item = buffer.get(quiet=silence)
            if isinstance(item, list):
                assert sum(piece if isinstance(piece, int) else len(piece) for piece in item) == FRAME
            elif isinstance(item, bytes):
                assert len(item) == FRAME
    for _ in range(60):
        last = buffer.get()
    assert last is Missing.SILENCE
    assert not buffer._frames, "all is drained in the end"


def arrivals(draw_seed: int, frames: int) -> Iterator[tuple[float, Sent]]:
    network: Network[Sent] = Network(
        Impairment(loss=0.05, burst=2, delay=0.05, jitter=0.02, duplicate=0.1, reorder=0.05), draw_seed
    )
    sender = Sender(sequence=65500 + draw_seed % 36, timestamp=(2**32 - 8000 + draw_seed) & 0xFFFFFFFF)
    for number in range(frames):
        network.send(sender.send(frame(number)), number * 0.02)
    return network.receive(1e9)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), quiet=st.booleans())
def test_frames_are_never_played_twice_nor_out_of_order(seed: int, quiet: bool) -> None:
    buffer = JitterBuffer()
    numbers = []
    now = 0.0
    for arrival, packet in arrivals(seed, 150):
        while now < arrival:
            now += 0.02
            item = buffer.get(quiet=quiet)
            if isinstance(item, bytes):
                numbers.append(int.from_bytes(item[:4], "big"))
        buffer.put(*packet)
    assert numbers == sorted(set(numbers))
    assert len(numbers) > 100


@pytest.mark.parametrize("first", [160, 163])
def test_packets_of_5_ms_are_whole_wherever_they_begin(first: int) -> None:
    """The shortest that are sent: a frame needs five of them if none begins with it."""
    buffer = JitterBuffer()
    audio = bytes(range(200)) * 10
    buffer.put(0, 0, audio[:first])
    for sequence, start in enumerate(range(first, len(audio) - 40, 40), 1):
        buffer.put(sequence, start, audio[start : start + 40])
    played = b"".join(frame for _ in range(40) if isinstance(frame := buffer.get(), bytes))

    assert played[:1600] == audio[:1600]
    assert buffer.malformed == 0


def test_of_smaller_packets_a_frame_takes_five() -> None:
    buffer = JitterBuffer()
    for sequence in range(64):
        buffer.put(sequence, 10 * sequence, bytes([255] * 10))
    frames = [frame for _ in range(10) if not isinstance(frame := buffer.get(), Missing)]

    assert frames == [[bytes([255] * 10)] * 5 + [110]] * 4
    assert buffer.malformed == 4 * 11
