from __future__ import annotations

import logging
import time
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mediaserver.rtp.codec import CODECS, G722, PCMA, PCMU, Codec
from mediaserver.rtp.inbound import InboundAudio
from tests.rtp.network import Impairment, Network, Sender, Sent, packets_of, transmit

FRAME = 320


def tone(seconds: float, hertz: float = 150, rate: int = 8000) -> bytes:
    when = np.arange(int(rate * seconds)) / rate
    wave = np.sin(2 * np.pi * hertz * when) + np.sin(4 * np.pi * hertz * when) / 2
    return (5000 * wave).astype("<i2").tobytes()


def samples(pcm: bytes) -> np.ndarray:
    return np.frombuffer(pcm, "<i2").astype(float)


class Ear:
    """An InboundAudio behind a network, with one consumer."""

    def __init__(self, codec: Codec = PCMU, impairment: Impairment = Impairment()) -> None:  # noqa: B008
        self.inbound = InboundAudio(codec)
        self.frames: list[tuple[bytes, int]] = []
        self.stop = self.inbound.listen(self.hear)
        self.network: Network[Sent] = Network(impairment)
        self.sender = Sender()
        self.now = 0.007
        self.inbound.pull(self.due_ms)  # as the leg starts
        self.now += 0.02

    @property
    def due_ms(self) -> int:
        return 1000 + round(self.now * 1000)

    def hear(self, pcm: bytes, at_ms: int) -> None:
        self.frames.append((pcm, at_ms))

    def send(self, payload: bytes, ptime_ms: int = 20, tick_ms: int = 20, **timing) -> None:
        def take(sequence: int, timestamp: int, payload: bytes) -> None:
            self.inbound.put(sequence, timestamp, payload, self.now)

        def tick(now: float) -> None:
            self.now = now
            self.inbound.pull(self.due_ms)

        behind = round((self.now - self.sender.at) / 0.02)
        if behind > 1:
            self.sender.pause(behind * 0.02)  # the receiver went on while nothing was sent
        packets = packets_of(payload, ptime_ms)
        tick_seconds = tick_ms / 1000
        timing.setdefault("start", self.now)
        self.now = transmit(packets, self.network, self.sender, take, tick, tick_seconds=tick_seconds, **timing)

    @property
    def pcm(self) -> bytes:
        return b"".join(pcm for pcm, _ in self.frames)


def test_nobody_listens() -> None:
    inbound = InboundAudio()
    assert not inbound.listening
    stop = inbound.listen(lambda pcm, at_ms: None)
    assert inbound.listening
    stop()
    assert not inbound.listening


@pytest.mark.parametrize("codec", [PCMU, PCMA], ids=["PCMU", "PCMA"])
def test_what_was_sent_is_heard_sample_for_sample(codec: Codec) -> None:
    ear = Ear(codec)
    payload = codec.encode(tone(1))
    ear.send(payload)
    assert codec.decode(payload)[:-FRAME] in ear.pcm
    assert ear.inbound.concealed <= 17, "only what lies behind the end"


def test_g722_is_heard_at_8_khz() -> None:
    ear = Ear(G722)
    ear.send(G722.encode(tone(1, 400, 16000)))
    heard = samples(ear.pcm)[2000:6000]
    assert np.argmax(np.abs(np.fft.rfft(heard))) * 2 == pytest.approx(400, abs=3)
    assert heard.std() == pytest.approx(samples(tone(1, 400)).std(), rel=0.05)


@pytest.mark.parametrize(
    ("ptime_ms", "tick_ms"), [(10, 20), (30, 20), (60, 20), (20, 10), (20, 30), (20, 60), (30, 40)]
)
def test_frames_are_20_ms_whatever_is_sent_and_whenever_we_ask(ptime_ms: int, tick_ms: int) -> None:
    ear = Ear()
    payload = PCMU.encode(tone(2))
    ear.send(payload, ptime_ms, tick_ms)
    assert {len(pcm) for pcm, _ in ear.frames} == {FRAME}
    assert {after - before for (_, before), (_, after) in pairwise(ear.frames)} == {20}
    # All but what the adapting of the depth to a coarse tick costs at the start.
    assert PCMU.decode(payload)[4 * FRAME : -4 * FRAME] in ear.pcm


def test_at_ms_is_when_the_frame_was_due() -> None:
    ear = Ear()
    ear.frames.clear()
    ear.inbound.pull(2000)
    assert ear.frames[-1][1] <= 2000 < ear.frames[-1][1] + 20


def test_after_a_stall_of_ours_a_few_frames_come_at_once_and_time_is_right_again() -> None:
    ear = Ear()
    ear.send(PCMU.encode(tone(0.5)), linger=0)
    count, last = len(ear.frames), ear.frames[-1][1]
    ear.inbound.pull(last + 1000)
    assert len(ear.frames) - count == 5
    assert [at_ms for _, at_ms in ear.frames[-5:]] == list(range(last + 920, last + 1001, 20))
    ear.inbound.pull(last + 1019)
    assert len(ear.frames) - count == 5
    ear.inbound.pull(last + 1020)
    assert len(ear.frames) - count == 6


def test_a_first_pull_long_after_the_start_of_the_clock_gives_one_frame() -> None:
    inbound = InboundAudio()
    heard = []
    inbound.listen(lambda pcm, at_ms: heard.append(at_ms))
    inbound.pull(987654321)
    assert heard == [987654321]


def test_losses_are_concealed_and_counted() -> None:
    ear = Ear(impairment=Impairment(loss=0.05))
    ear.send(PCMU.encode(tone(10)))
    assert ear.inbound.concealed >= ear.network.lost > 10
    heard = samples(ear.pcm)
    talk = heard[50 * 160 : 480 * 160].reshape(-1, 160)
    assert np.abs(talk).max(axis=1).min() > 1500, "no hole in it"
    assert np.abs(np.diff(talk.ravel())).max() < 1.5 * np.abs(np.diff(samples(tone(1)))).max(), "and no click"


def test_half_a_frame_lost_is_half_a_frame_concealed() -> None:
    inbound = InboundAudio()
    heard: list[bytes] = []
    inbound.listen(lambda pcm, at_ms: heard.append(pcm))
    inbound.pull(0)
    payload = PCMU.encode(tone(1))
    for number in (0, 1, 3, 4):  # of 30 ms
        inbound.put(number, 240 * number, payload[240 * number : 240 * number + 240], 0)
    for at_ms in range(20, 200, 20):
        inbound.pull(at_ms)
    assert heard[:3] == [bytes(FRAME)] * 3
    sent = PCMU.decode(payload)
    frames = [sent[start : start + FRAME] for start in range(0, len(sent), FRAME)]
    assert heard[3:6] == frames[:3]
    assert inbound.concealed == 2
    assert heard[6] != frames[3]
    assert heard[7][-80:] == frames[4][-80:], "the second half came, and is heard after the overlap"
    assert heard[8] == frames[5]


def test_silence_suppression_with_comfort_noise() -> None:
    ear = Ear()
    ear.send(PCMU.encode(tone(0.5)), linger=0)
    ear.inbound.put_noise(ear.sender.sequence, ear.sender.timestamp, bytes([40, 100]), ear.now)
    concealed = ear.inbound.concealed
    ear.send(b"", linger=1)
    noise = samples(ear.pcm)[-30 * 160 :]
    assert 20 * np.log10(noise.std() / 32768) == pytest.approx(-40, abs=1)
    ear.sender.sequence = (ear.sender.sequence + 1) & 0xFFFF
    ear.sender.pause(1)
    ear.send(PCMU.encode(tone(0.5)))
    assert ear.inbound.concealed - concealed <= 13, "nothing of the silence"
    assert ear.inbound.buffer.resets == 0


def test_the_end_of_a_talkspurt_goes_over_into_silence_without_a_click() -> None:
    ear = Ear()
    payload = PCMU.encode(tone(0.5)[: 200 * 20])  # ends anywhere in the wave
    ear.send(payload, linger=0)
    ear.inbound.put_noise(ear.sender.sequence, ear.sender.timestamp, bytes([127]), ear.now)
    ear.send(b"", linger=0.5)
    heard = samples(ear.pcm)
    assert not heard[-1600:].any()
    end = len(heard) - np.argmax(np.abs(heard[::-1]) > 0)
    assert np.abs(np.diff(heard[end - 100 : end + 100])).max() < 1.5 * np.abs(np.diff(samples(tone(1)))).max()


def test_the_stream_ends_and_fades_to_silence() -> None:
    ear = Ear()
    ear.send(PCMU.encode(tone(0.5)), linger=1)
    assert not samples(ear.pcm)[-40 * 160 :].any()
    assert ear.inbound.buffer.underruns == 1


def test_a_codec_changes_in_mid_call() -> None:
    ear = Ear()
    ear.send(PCMU.encode(tone(0.5)), linger=0.2)
    ear.inbound.set_codec(PCMA)
    ear.inbound.pull(ear.due_ms)
    ear.send(PCMA.encode(tone(0.5)))
    for codec in (PCMU, PCMA):
        assert codec.decode(codec.encode(tone(0.5)))[4 * FRAME : -2 * FRAME] in ear.pcm


def test_a_new_stream_starts_over() -> None:
    ear = Ear()
    ear.send(PCMU.encode(tone(0.5)), linger=0.1)
    ear.inbound.reset()
    ear.sender.sequence, ear.sender.timestamp, ear.sender.at = 9, 77, ear.now
    ear.frames.clear()
    ear.send(PCMU.encode(tone(0.5)))
    assert PCMU.decode(PCMU.encode(tone(0.5)))[:-FRAME] in ear.pcm
    assert ear.inbound.buffer.resets == 0


def test_consumers_come_and_go() -> None:
    ear = Ear()
    other: list[int] = []
    stop_first = ear.inbound.listen(lambda pcm, at_ms: other.append(at_ms))
    stop_second = ear.inbound.listen(lambda pcm, at_ms: other.append(at_ms))
    ear.inbound.pull(1027)
    assert other == [1027, 1027]
    stop_first()
    stop_first()
    ear.inbound.pull(1047)
    assert other == [1027, 1027, 1047]
    stop_second()
    ear.stop()
    assert not ear.inbound.listening


def test_one_function_that_listens_twice_stops_once() -> None:
    inbound = InboundAudio()
    heard: list[int] = []

    def hear(_pcm: bytes, at_ms: int) -> None:
        heard.append(at_ms)

    stop = inbound.listen(hear)
    inbound.listen(hear)
    stop()
    inbound.pull(5)
    assert heard == [5]


def test_a_consumer_that_raises_is_removed_counted_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    ear = Ear()
    calls = []

    def fail(_pcm: bytes, at_ms: int) -> None:
        calls.append(at_ms)
        raise RuntimeError("broken")

    stop = ear.inbound.listen(fail)
    with caplog.at_level(logging.ERROR):
        for at_ms in (1027, 1047, 1067):
            ear.inbound.pull(at_ms)
    assert calls == [1027]
    assert ear.inbound.consumer_errors == 1
    assert len(caplog.records) == 1
    assert [at_ms for _, at_ms in ear.frames[-3:]] == [1027, 1047, 1067], "the others go on"
    stop()


def test_listening_again_begins_anew() -> None:
    ear = Ear()
    ear.send(PCMU.encode(tone(0.5)), linger=0)
    ear.stop()
    ear.frames.clear()
    ear.inbound.listen(ear.hear)
    ear.inbound.pull(500000)
    assert ear.frames == [(bytes(FRAME), 500000)], "nothing of what came before, and no frames for the time between"


@settings(max_examples=60, deadline=None)
@given(
    codec=st.sampled_from(list(CODECS.values())),
    packets=st.lists(
        st.tuples(st.integers(0, 65535), st.integers(0, 2**32 - 1) | st.integers(0, 2000), st.binary(max_size=400)),
        max_size=30,
    ),
    noise=st.binary(max_size=20),
)
def test_whatever_comes_whole_frames_are_given(codec: Codec, packets, noise: bytes) -> None:
    inbound = InboundAudio(codec)
    heard: list[bytes] = []
    inbound.listen(lambda pcm, at_ms: heard.append(pcm))
    for number, (sequence, timestamp, payload) in enumerate(packets):
        inbound.put(sequence, timestamp, payload, 0.0)
        if number % 3 == 0:
            inbound.put_noise(sequence, timestamp, noise, 0.0)
        inbound.pull(20 * number)
    inbound.pull(20 * len(packets))
    assert len(heard) == len(packets) + 1
    assert {len(pcm) for pcm in heard} == {FRAME}
    assert inbound.consumer_errors == 0


def test_a_packet_costs_little() -> None:
    """About 4 us a packet on an idle core; the bound is for a loaded one."""
    inbound = InboundAudio()
    inbound.listen(lambda pcm, at_ms: None)
    payload = PCMU.encode(tone(0.02))
    best = 1.0
    number = 0
    for _ in range(20):
        start = time.perf_counter()
        for _ in range(200):
            inbound.put(number & 0xFFFF, number * 160 & 0xFFFFFFFF, payload, number * 0.02)
            inbound.pull(20 * number)
            number += 1
        best = min(best, (time.perf_counter() - start) / 200)
    assert best < 20e-6
