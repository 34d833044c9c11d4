import random
import sys
import threading
import tracemalloc
from collections import deque
from collections.abc import Hashable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mediaserver.rtp.playout import Dropped, PlayoutBuffer, PlayoutEvent, PlayoutFullError

FRAME = 320  # bytes: 20 ms


def pcm(samples: int, start: int = 1) -> bytes:
    """Samples that tell their position, and are never nought."""
    return b"".join((1 + (start + n - 1) % 30000).to_bytes(2, "little") for n in range(samples))


def brief(events: list[PlayoutEvent]) -> list[tuple[str, Hashable]]:
    return [(event.kind, event.tag) for event in events]


def buffer(events: list[PlayoutEvent] | None = None, max_seconds: float = 30.0) -> PlayoutBuffer:
    return PlayoutBuffer(max_seconds=max_seconds, on_event=(events if events is not None else []).append)


def test_frames_are_whole_whatever_the_writes() -> None:
    playout = buffer()
    playout.begin("a")
    speech = pcm(480)
    for start, stop in ((0, 2), (2, 300), (300, 700), (700, 960)):
        playout.write(speech[start:stop])
    assert [playout.read() for _ in range(3)] == [speech[:320], speech[320:640], speech[640:]]


def test_a_remainder_waits_for_more() -> None:
    playout = buffer()
    playout.begin("a")
    playout.write(pcm(159))
    assert playout.read() is None
    playout.write(pcm(1, start=160))
    assert playout.read() == pcm(160)


def test_end_fills_the_last_frame_with_silence() -> None:
    playout = buffer()
    playout.begin("a")
    playout.write(pcm(200))
    playout.end()
    assert playout.read() == pcm(200)[:FRAME]
    assert playout.read() == pcm(200)[FRAME:] + bytes(2 * 120)
    assert playout.read() is None


def test_utterances_play_back_to_back() -> None:
    playout = buffer()
    for tag in "ab":
        playout.begin(tag)
        playout.write(pcm(160, start=ord(tag)))
        playout.end()
    assert [playout.read() for _ in range(3)] == [pcm(160, ord("a")), pcm(160, ord("b")), None]


def test_events_tell_first_frame_and_end_of_each_utterance() -> None:
    events: list[PlayoutEvent] = []
    playout = buffer(events)
    playout.begin("a")
    playout.write(pcm(320))
    assert events == []
    playout.read()
    assert brief(events) == [("started", "a")]
    playout.end()
    playout.read()
    assert brief(events) == [("started", "a")], "the last frame is still being heard"
    playout.read()
    assert brief(events) == [("started", "a"), ("finished", "a")]


def test_utterance_without_audio_only_finishes() -> None:
    events: list[PlayoutEvent] = []
    playout = buffer(events)
    playout.begin("empty")
    playout.end()
    playout.begin("b")
    playout.write(pcm(160))
    assert playout.read() == pcm(160)
    assert brief(events) == [("finished", "empty"), ("started", "b")]


def test_empty_in_mid_utterance_is_an_underrun_once_a_gap() -> None:
    events: list[PlayoutEvent] = []
    now = 5.0
    playout = PlayoutBuffer(max_seconds=30, on_event=events.append, clock=lambda: now)
    playout.begin("a")
    assert playout.read() is None
    assert (playout.underruns, playout.underrun_frames) == (0, 0), "speech that has not begun cannot break off"
    playout.write(pcm(160))
    playout.read()
    assert events == [PlayoutEvent("started", "a")]
    now = 7.0
    playout.read()
    now = 8.0
    assert playout.read() is None
    assert (playout.underruns, playout.underrun_frames) == (1, 2)
    assert events[1:] == [PlayoutEvent("underrun", "a", at=7.0)]
    playout.write(pcm(1600))
    assert playout.read() is not None
    assert events[2:] == [PlayoutEvent("resumed", "a", gap_s=pytest.approx(0.04))]
    for _ in range(9):
        assert playout.read() is not None
    playout.read()
    assert (playout.underruns, playout.underrun_frames) == (2, 3)
    playout.end()
    playout.read()
    playout.read()
    assert (playout.underruns, playout.underrun_frames) == (2, 3), "between utterances there is silence"
    assert brief(events)[3:] == [("underrun", "a"), ("finished", "a")]


class TestConcealment:
    """No click at either edge of a gap."""

    @staticmethod
    def tone(samples: int, rate: int = 8000, hertz: float = 310.0) -> np.ndarray:
        return np.round(12000 * np.sin(2 * np.pi * hertz * np.arange(samples) / rate)).astype("<i2")

    @pytest.mark.parametrize(("rate", "frame"), [(8000, 80), (8000, 160), (8000, 480), (16000, 320), (16000, 960)])
    @pytest.mark.parametrize("phase", range(0, 26, 5))
    def test_no_step_is_larger_than_the_signals_own(self, rate: int, frame: int, phase: int) -> None:
        playout = PlayoutBuffer(max_seconds=30, sample_rate=rate, frame_samples=frame)
        tone = self.tone(40 * frame + phase, rate)[phase:]
        playout.begin("a")
        playout.write(tone[: 2 * frame].tobytes())
        heard = [playout.read() for _ in range(5)]
        playout.write(tone[2 * frame :].tobytes())
        heard += [playout.read() for _ in range(3)]
        assert heard[3:5] == [None, None]
        signal = np.frombuffer(b"".join(part or bytes(2 * frame) for part in heard), "<i2").astype(int)
        assert np.abs(np.diff(signal)).max() <= np.abs(np.diff(tone.astype(int))).max()
        fade = signal[2 * frame : 3 * frame]
        assert fade[0] == pytest.approx(tone[2 * frame - 1], abs=15), "it begins where the sound broke off"
        assert abs(fade[-1]) < 100
        assert np.abs(fade[: frame // 4]).max() > np.abs(fade[-(frame // 4) :]).max()
        assert not fade[rate // 50 :].any(), "20 ms and no more"
        resumed = signal[5 * frame :]
        ramp = rate // 200
        assert abs(resumed[0]) < 100
        assert (resumed[ramp:] == tone[2 * frame + ramp : 5 * frame]).all(), "after 5 ms it is the signal itself"

    def test_the_fade_of_the_frame_played_last_whatever_the_chunks(self) -> None:
        for first in (320, 640 + 100, 32000):
            playout = buffer()
            speech = self.tone(800).tobytes()
            playout.begin("a")
            playout.write(speech[:first])
            playout.write(speech[first:])
            for _ in range(5):
                playout.read()
            fade = playout.read()
            assert fade is not None
            begin, end = (
                int.from_bytes(fade[:2], "little", signed=True),
                int.from_bytes(speech[-2:], "little", signed=True),
            )
            assert begin == pytest.approx(end, abs=2)

    def test_after_a_new_frame_length_in_a_gap(self) -> None:
        playout = buffer()
        playout.begin("a")
        playout.write(pcm(160))
        playout.read()
        playout.set_frame_samples(480)
        fade = playout.read()
        assert fade is None or len(fade) == 960
        assert playout.read() is None
        assert playout.underruns == 1


class TestDepth:
    def test_an_utterance_begins_at_once_at_first(self) -> None:
        playout = buffer()
        playout.begin("a")
        playout.write(pcm(160))
        assert playout.depth_s == 0
        assert playout.read() == pcm(160)

    def run_dry(self, playout: PlayoutBuffer, times: int = 1) -> None:
        for _ in range(times):
            playout.begin("dry")
            playout.write(pcm(4000))
            for _ in range(26):
                playout.read()
            playout.end()
            assert playout.read() is None

    def test_it_goes_on_only_with_the_depth_in_hand(self) -> None:
        playout = buffer()
        playout.begin("a")
        playout.write(pcm(320))
        for _ in range(3):
            playout.read()
        assert playout.depth_s == pytest.approx(0.06)
        playout.write(pcm(479))
        assert playout.read() is None
        assert playout.underrun_frames == 2, "what waits counts as gap"
        playout.write(pcm(1, start=480))
        frame = playout.read()
        assert frame is not None
        assert frame[80:] == pcm(160)[80:]
        assert playout.read() == pcm(160, start=161)
        assert playout.underruns == 1

    def test_the_next_begins_only_with_the_depth_in_hand(self) -> None:
        playout = buffer()
        self.run_dry(playout, times=2)
        assert playout.depth_s == pytest.approx(0.12)
        playout.begin("b")
        playout.write(pcm(959))
        underruns = playout.underruns
        assert playout.read() is None
        assert not playout.playing
        playout.write(pcm(1, start=960))
        assert playout.read() == pcm(160)
        assert playout.playing
        assert playout.underruns == underruns, "a later start is no gap"

    def test_what_has_ended_waits_for_nothing(self) -> None:
        playout = buffer()
        self.run_dry(playout, times=5)
        playout.begin("short")
        playout.write(pcm(200))
        assert playout.read() is None
        playout.end()
        assert playout.read() == pcm(160)
        assert playout.read() == pcm(40, start=161).ljust(FRAME, b"\0")

    def test_an_utterance_behind_another_plays_without_a_pause_if_it_is_there(self) -> None:
        playout = buffer()
        self.run_dry(playout, times=5)
        playout.begin("a")
        playout.write(pcm(160))
        playout.end()
        playout.begin("b")
        playout.write(pcm(8000))
        assert [playout.read(), playout.read()] == [pcm(160), pcm(160)]

    def test_a_small_buffer_does_not_wait_for_what_it_cannot_hold(self) -> None:
        playout = buffer(max_seconds=0.1)
        for _ in range(6):
            playout.begin("a")
            playout.write(pcm(160))
            for _ in range(3):
                playout.read()
            playout.end()
            playout.read()
        playout.begin("b")
        playout.write(pcm(800))
        assert playout.read() == pcm(160)

    def test_chunks_that_come_just_in_time_deepen_it(self) -> None:
        playout = buffer()
        playout.begin("a")
        playout.write(pcm(480))
        playout.read()
        playout.read()
        playout.write(pcm(480))  # with 20 ms to spare
        for _ in range(4):
            playout.read()
        assert playout.underruns == 0
        assert playout.depth_s == pytest.approx(0.02)

    def test_a_far_end_with_a_bad_network_deepens_it(self) -> None:
        playout = buffer()
        playout.far_end(0.1, 0.0)
        assert playout.depth_s == pytest.approx(0.06)
        playout.begin("a")
        playout.write(pcm(400))
        assert playout.read() is None
        playout.far_end(0.0, 0.0)
        assert playout.read() == pcm(160)


class TestHalt:
    def test_the_next_frame_is_silence_until_the_clear(self) -> None:
        events: list[PlayoutEvent] = []
        playout = buffer(events)
        playout.begin("a")
        playout.write(pcm(1600))
        playout.end()
        playout.begin("b")
        playout.write(pcm(320))
        assert playout.read() == pcm(160)
        assert playout.playing
        assert playout.halt()
        assert playout.halted
        assert not playout.playing
        playout.write(pcm(320))
        assert [playout.read() for _ in range(20)] == [None] * 20
        assert playout.buffered_samples == 1440 + 640
        assert playout.clear() == [Dropped("a", 1440, 160), Dropped("b", 640, 0)]
        assert not playout.halted
        assert playout.underruns == playout.underrun_frames == 0
        assert brief(events) == [("started", "a")]

    def test_what_is_said_after_the_clear_is_heard_whole(self) -> None:
        playout = buffer()
        playout.begin("a")
        playout.write(pcm(1600))
        playout.read()
        playout.halt()
        playout.clear()
        playout.begin("b")
        playout.write(pcm(320))
        playout.end()
        assert [playout.read() for _ in range(3)] == [pcm(160), pcm(160, start=161), None]

    def test_a_halt_that_comes_after_the_clear_halts_nothing(self) -> None:
        """It was decided on what has been cleared since: the reply must not pay for it."""
        playout = buffer()
        playout.begin("a")
        playout.write(pcm(1600))
        playout.read()
        playout.clear()
        playout.begin("b")
        playout.write(pcm(320))
        assert not playout.halt()
        assert not playout.halted
        assert playout.read() == pcm(160)

    def test_in_the_last_frame(self) -> None:
        events: list[PlayoutEvent] = []
        playout = buffer(events)
        playout.begin("a")
        playout.write(pcm(160))
        playout.end()
        playout.read()
        assert playout.halt()
        assert playout.read() is None
        assert playout.clear() == [Dropped("a", 0, 160)]
        assert brief(events) == [("started", "a")]

    def test_in_a_gap(self) -> None:
        playout = buffer()
        playout.begin("a")
        playout.write(pcm(160))
        playout.read()
        playout.read()
        assert playout.playing
        assert playout.halt()
        playout.write(pcm(1600))
        assert playout.read() is None
        assert playout.underrun_frames == 1
        assert playout.clear() == [Dropped("a", 1600, 160)]

    def test_of_nothing(self) -> None:
        playout = buffer()
        assert not playout.halt()
        playout.begin("a")
        assert not playout.halt()
        playout.write(pcm(160))
        playout.end()
        assert playout.read() == pcm(160)
        assert playout.read() is None
        assert not playout.halt()

    def test_a_new_frame_length_does_not_undo_it(self) -> None:
        playout = buffer()
        playout.begin("a")
        playout.write(pcm(1600))
        playout.read()
        playout.halt()
        playout.set_frame_samples(80)
        assert playout.halted
        assert playout.read() is None
        assert playout.clear() == [Dropped("a", 1440, 160)]


def test_memory_that_calls_share_is_not_copied() -> None:
    prompt = bytes(80_000)  # 5 s
    before = sys.getrefcount(prompt)
    tracemalloc.start()
    try:
        playouts = [buffer() for _ in range(20)]
        start, _ = tracemalloc.get_traced_memory()
        for playout in playouts:
            playout.begin("a")
            for at in range(0, len(prompt), 16_000):
                playout.write(memoryview(prompt)[at : at + 16_000])
            playout.end()
        assert tracemalloc.get_traced_memory()[0] - start < 20 * 8000, "a tenth of the audio at most"
    finally:
        tracemalloc.stop()
    for playout in playouts:
        while playout.read() is not None:
            pass
    assert sys.getrefcount(prompt) == before, "what has been played is let go"


def test_memory_is_let_go_by_a_clear() -> None:
    prompt = bytes(80_000)
    before = sys.getrefcount(prompt)
    playout = buffer()
    playout.begin("a")
    playout.write(prompt)
    playout.read()
    playout.clear()
    assert sys.getrefcount(prompt) == before


def test_clear_empties_at_once_and_tells_what_was_lost() -> None:
    events: list[PlayoutEvent] = []
    playout = buffer(events)
    playout.begin("a")
    playout.write(pcm(400))
    playout.end()
    playout.begin("b")
    playout.write(pcm(200))
    playout.end()
    playout.begin("c")
    playout.write(pcm(190))
    playout.read()
    assert playout.clear() == [Dropped("a", 240, 160), Dropped("b", 200, 0), Dropped("c", 190, 0)]
    assert playout.read() is None
    assert playout.is_idle
    assert playout.buffered_seconds == 0
    assert playout.underruns == 0, "what was cleared did not break off"
    assert brief(events) == [("started", "a")]


def test_clear_in_the_last_frame_reports_the_utterance_with_nothing_lost() -> None:
    events: list[PlayoutEvent] = []
    playout = buffer(events)
    playout.begin("a")
    playout.write(pcm(160))
    playout.end()
    playout.read()
    assert playout.clear() == [Dropped("a", 0, 160)]
    playout.read()
    assert brief(events) == [("started", "a")], "the stale end must not be reported too"


def test_clear_of_an_open_utterance_that_has_run_dry() -> None:
    playout = buffer()
    playout.begin("a")
    playout.write(pcm(160))
    playout.read()
    assert playout.clear() == [Dropped("a", 0, 160)]
    assert playout.read() is None
    assert playout.underruns == 0


def test_clear_of_nothing() -> None:
    assert buffer().clear() == []


def test_late_audio_of_a_cleared_utterance_is_refused() -> None:
    playout = buffer()
    playout.begin("a")
    playout.write(pcm(10))
    playout.clear()
    with pytest.raises(RuntimeError, match="no utterance is open"):
        playout.write(pcm(160))
    with pytest.raises(RuntimeError, match="no utterance is open"):
        playout.end()
    playout.begin("b")
    playout.write(pcm(160, start=500))
    assert playout.read() == pcm(160, start=500), "the remainder of the cleared utterance is forgotten"


def test_only_one_utterance_is_open() -> None:
    playout = buffer()
    playout.begin("a")
    with pytest.raises(RuntimeError, match="an utterance is open"):
        playout.begin("b")


def test_half_a_sample_is_refused() -> None:
    playout = buffer()
    playout.begin("a")
    with pytest.raises(ValueError, match="whole number"):
        playout.write(b"\0\0\0")


def test_bound_refuses_the_whole_write() -> None:
    playout = buffer(max_seconds=0.1)
    playout.begin("a")
    playout.write(pcm(790))
    with pytest.raises(PlayoutFullError, match="800 samples"):
        playout.write(pcm(11))
    assert playout.buffered_samples == 790
    playout.write(pcm(10))
    playout.read()
    playout.write(pcm(160))
    assert playout.buffered_seconds == pytest.approx(0.1)


def test_new_frame_length_cuts_anew() -> None:
    playout = buffer()
    speech = pcm(500)
    playout.begin("a")
    playout.write(speech[:800])
    playout.end()
    playout.begin("b")
    playout.write(speech)
    assert playout.read() == speech[:320]
    playout.set_frame_samples(240)
    assert playout.read() == speech[320:800]
    assert playout.read() == speech[:480]
    playout.write(speech[:440])  # 20 samples of b remained, and 200 in the queue
    assert playout.read() == speech[480:960]
    playout.set_frame_samples(80)
    assert playout.read() == speech[960:] + speech[:120]
    assert playout.read() == speech[120:280]
    assert playout.underruns == 0


class Playout(RuleBasedStateMachine):
    """Against a model that holds utterances in a list, also with a read in the middle of a clear."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[PlayoutEvent] = []
        self.playout = buffer(self.events)
        self.frame = 160
        self.tags = 0
        self.position = 1
        self.open: int | None = None
        # (tag, samples not played, samples played, ended), in order of playing
        self.queue: list[list] = []
        self.expected_events: list[tuple[str, int]] = []
        self.playing: int | None = None
        self.gap = self.halted = False
        self.underruns = self.underrun_frames = 0

    @precondition(lambda self: self.open is None)
    @rule()
    def begin(self) -> None:
        self.tags += 1
        self.open = self.tags
        self.playout.begin(self.tags)
        self.queue.append([self.tags, b"", 0, False])

    @precondition(lambda self: self.open is not None)
    @rule(samples=st.sampled_from([160, 320]) | st.integers(0, 500))
    def write(self, samples: int) -> None:
        data = pcm(samples, self.position)
        self.position += samples
        self.playout.write(data)
        self.queue[-1][1] += data

    @precondition(lambda self: self.open is not None)
    @rule()
    def end(self) -> None:
        self.playout.end()
        self.queue[-1][3] = True
        self.open = None

    def is_deep_enough(self) -> bool:
        _, left, played, ended = self.queue[0]
        if ended or (played and not self.gap):
            return True
        return len(left) // 2 >= min(int(self.playout.depth_s * 8000), self.playout.max_samples // 2)

    def model_read(self) -> tuple[str, bytes]:
        """What kind of frame it has to be, and the frame."""
        if self.halted:
            return "silence", b""
        size = self.frame * 2
        while self.queue and self.queue[0][3] and not self.queue[0][1]:
            self.expected_events.append(("finished", self.queue.pop(0)[0]))
            self.playing = None
            self.gap = False
        if self.queue:
            tag, left, played, ended = self.queue[0]
            if left and (len(left) >= size or ended) and self.is_deep_enough():
                if played == 0:
                    self.expected_events.append(("started", tag))
                resumed, self.gap = self.gap, False
                if resumed:
                    self.expected_events.append(("resumed", tag))
                self.playing = tag
                frame = left[:size]
                self.queue[0][1] = left[size:]
                self.queue[0][2] += len(frame) // 2
                return "resumed" if resumed else "speech", frame.ljust(size, b"\0")
        if self.playing is None:
            return "silence", b""
        self.underrun_frames += 1
        if self.gap:
            return "silence", b""
        self.gap = True
        self.underruns += 1
        self.expected_events.append(("underrun", self.playing))
        return "fade", b""

    @rule()
    def read(self) -> None:
        kind, expected = self.model_read()
        frame = self.playout.read()
        if kind == "silence":
            assert frame is None
            return
        assert frame is not None
        assert len(frame) == 2 * self.frame
        if kind == "speech":
            assert frame == expected
        elif kind == "resumed":
            assert frame[80:] == expected[80:], "5 ms fade in"

    @precondition(lambda self: not self.halted)
    @rule()
    def halt(self) -> None:
        self.halted = self.playing is not None
        assert self.playout.halt() == self.halted

    @rule()
    def clear(self) -> None:
        expected = [Dropped(tag, len(left) // 2, played) for tag, left, played, _ in self.queue]
        assert self.playout.clear() == expected
        self.forget()

    @rule(pops=st.integers(0, 6))
    def clear_while_reading(self, pops: int) -> None:
        """The pacer reads after that many pops of the clear's drain: it must get the next frame in order, or none."""
        taken: list[bytes | None] = []
        playout = self.playout

        class Interrupted(deque):
            def pop(self):
                nonlocal pops
                if pops == 0:
                    pops = -1
                    taken.append(playout.read())
                pops -= 1
                return super().pop()

        before = [list(entry) for entry in self.queue]
        finished = len(self.events)
        playout._line.queue = Interrupted(playout._line.queue)
        gap = self.gap
        dropped = {entry.tag: entry for entry in playout.clear()}
        news = self.events[finished:]
        ended = {event.tag for event in news if event.kind == "finished"}
        assert not ended & dropped.keys(), "an utterance is either played to its end or dropped"
        assert ended | dropped.keys() == {tag for tag, *_ in before}
        for tag, left, played, _ in before:
            if tag in dropped:
                assert dropped[tag].samples + dropped[tag].played == len(left) // 2 + played
        frame = taken[0] if taken else None
        if frame is not None:
            first = next(entry for entry in before if entry[1])
            size = self.frame * 2
            begin = 80 if gap else 0
            assert frame[begin:] == first[1][:size].ljust(size, b"\0")[begin:]
        self.expected_events += brief(news)
        self.underruns, self.underrun_frames = playout.underruns, playout.underrun_frames
        self.forget()
        assert playout.read() is None
        assert (playout.underruns, playout.underrun_frames) == (self.underruns, self.underrun_frames)

    def forget(self) -> None:
        self.queue.clear()
        self.open = None
        self.playing = None
        self.gap = self.halted = False

    @rule(frame=st.sampled_from([80, 160, 240, 480]))
    def set_frame_samples(self, frame: int) -> None:
        self.frame = frame
        self.playout.set_frame_samples(frame)

    @invariant()
    def agrees(self) -> None:
        padding = sum(-(len(left) // 2) % self.frame for _, left, _, ended in self.queue if ended)
        assert self.playout.buffered_samples == sum(len(left) // 2 for _, left, _, _ in self.queue) + padding
        assert (self.playout.underruns, self.playout.underrun_frames) == (self.underruns, self.underrun_frames)
        assert brief(self.events) == self.expected_events
        assert self.playout.halted == self.halted
        assert self.playout.playing == (self.playing is not None and not self.halted)
        if self.queue:
            assert not self.playout.is_idle


TestPlayout = Playout.TestCase
TestPlayout.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


@given(st.lists(st.integers(0, 700), max_size=12), st.sampled_from([80, 160, 480]))
def test_nothing_is_lost_and_nothing_added_but_the_filling(writes: list[int], frame: int) -> None:
    playout = buffer()
    playout.set_frame_samples(frame)
    speech = pcm(sum(writes))
    playout.begin("a")
    done = 0
    for samples in writes:
        playout.write(speech[2 * done : 2 * (done + samples)])
        done += samples
    playout.end()
    frames = []
    while (taken := playout.read()) is not None:
        assert len(taken) == 2 * frame
        frames.append(taken)
    heard = b"".join(frames)
    assert heard == speech.ljust(len(heard), b"\0")
    assert len(heard) - len(speech) < 2 * frame


def test_two_threads_lose_no_sample_and_report_no_end_twice() -> None:
    """Real threads, switched as often as Python can: every utterance ends once, played or dropped."""
    events: list[PlayoutEvent] = []
    playout = buffer(events)
    played_frames = 0
    stop = threading.Event()

    def pace() -> None:
        nonlocal played_frames
        while not stop.is_set():
            played_frames += playout.read() is not None

    reader = threading.Thread(target=pace)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    dropped: list[Dropped] = []
    utterances, frames_each = 400, 12
    try:
        reader.start()
        for tag in range(utterances):
            playout.begin(tag)
            playout.write(pcm(160 * frames_each))
            if tag % 3:
                playout.end()
            if tag % 5 == 0 or tag % 3 == 0:
                dropped += playout.clear()
        dropped += playout.clear()
    finally:
        stop.set()
        reader.join()
        sys.setswitchinterval(interval)
    finished = [tag for kind, tag in brief(events) if kind == "finished"]
    assert sorted(finished + [entry.tag for entry in dropped]) == list(range(utterances))
    played_frames -= playout.underruns  # each begins with a fade, where the clear came later than the last frame
    assert 160 * played_frames + sum(entry.samples for entry in dropped) == 160 * frames_each * utterances
    started = [tag for kind, tag in brief(events) if kind == "started"]
    assert started == sorted(set(started))
    assert playout.is_idle
    assert playout.buffered_samples == 0


class HaltingReader(threading.Thread):
    """A media thread that never rests, and interrupts what has an even number when it has heard of it."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.playout = PlayoutBuffer(max_seconds=60, on_event=self.take)
        self.stop = threading.Event()
        self.finished = threading.Event()
        self.halts = threading.Event()
        self.latest = 1
        self.heard: list[int] = []
        "Of each frame, the number of its utterance."
        self.faults: list[str] = []
        self.late_halts = 0

    def take(self, event: PlayoutEvent) -> None:
        assert isinstance(event.tag, int)
        if event.kind == "started":
            self.latest = event.tag
        elif event.kind == "finished" and event.tag % 2:
            self.finished.set()

    def run(self) -> None:
        rng = random.Random(1)
        halted = 0
        while not self.stop.is_set():
            frame = self.playout.read()
            number = int.from_bytes(frame[-2:], "little") if frame is not None else 0
            if number:  # not so a fade
                self.heard.append(number)
                if number == halted:
                    self.faults.append(f"{number} was heard after its halt")
            if self.latest % 2 == 0 and self.latest != halted and rng.random() < 0.2:
                number = self.latest
                for _ in range(rng.randrange(60)):  # to make up its mind takes time, in which there may be a clear
                    pass
                if self.playout.halt():
                    halted = number
                    self.halts.set()
                else:
                    self.late_halts += 1


def test_a_thread_that_reads_and_halts_against_one_that_writes_and_clears() -> None:
    """What is halted is never heard again, and what is said after a clear is heard to its end, whoever was first."""
    reader = HaltingReader()
    playout = reader.playout
    rng = random.Random(2)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    frames, rounds, waited = 30, 250, 0

    def say(number: int, *, end: bool) -> None:
        playout.begin(number)
        for _ in range(3):
            playout.write(number.to_bytes(2, "little") * (160 * frames // 3))
        if end:
            playout.end()

    try:
        reader.start()
        for round_ in range(1, rounds + 1):
            reader.halts.clear()
            reader.finished.clear()
            say(2 * round_, end=rng.random() < 0.5)
            if rng.random() < 0.5:  # else by ourselves, in the middle of whatever the reader does
                waited += reader.halts.wait(0.02)
            playout.clear()
            say(2 * round_ + 1, end=True)
            assert reader.finished.wait(5), f"reply {round_} was not heard: halted {playout.halted}"
    finally:
        reader.stop.set()
        reader.join()
        sys.setswitchinterval(interval)
    assert not reader.faults
    assert waited > rounds / 10, "the test is one of halts"
    assert reader.heard == sorted(reader.heard), "nothing of what was cleared comes after what was said next"
    for round_ in range(1, rounds + 1):
        assert reader.heard.count(2 * round_ + 1) == frames
    assert playout.underruns <= rounds
    assert playout.is_idle
