import sys
import threading
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mediaserver.rtp.playout import Dropped, PlayoutBuffer, PlayoutEvent, PlayoutFullError

FRAME = 320  # bytes: 20 ms


def pcm(samples: int, start: int = 1) -> bytes:
    """Samples that tell their position, and are never nought."""
    return b"".join((1 + (start + n - 1) % 30000).to_bytes(2, "little") for n in range(samples))


def buffer(events: list[PlayoutEvent] | None = None, max_seconds: float = 30.0) -> PlayoutBuffer:
    return PlayoutBuffer(max_seconds=max_seconds, on_event=(events if events is not None else []).append)


def test_frames_are_whole_whatever_the_writes() -> None:
    playout = buffer()
    playout.begin("a")
    speech = pcm(480)
    for start, stop in ((0, 2), (2, 300), (300, 700), (700, 960)):
        playout.write(speech[start:stop])
    assert [playout.read() for _ in range(4)] == [speech[:320], speech[320:640], speech[640:], None]


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
    assert events == [("started", "a")]
    playout.end()
    playout.read()
    assert events == [("started", "a")], "the last frame is still being heard"
    playout.read()
    assert events == [("started", "a"), ("finished", "a")]


def test_utterance_without_audio_only_finishes() -> None:
    events: list[PlayoutEvent] = []
    playout = buffer(events)
    playout.begin("empty")
    playout.end()
    playout.begin("b")
    playout.write(pcm(160))
    assert playout.read() == pcm(160)
    assert events == [("finished", "empty"), ("started", "b")]


def test_empty_in_mid_utterance_is_an_underrun_once_a_gap() -> None:
    playout = buffer()
    playout.begin("a")
    assert playout.read() is None
    assert (playout.underruns, playout.underrun_frames) == (0, 0), "speech that has not begun cannot break off"
    playout.write(pcm(160))
    playout.read()
    playout.read()
    playout.read()
    assert (playout.underruns, playout.underrun_frames) == (1, 2)
    playout.write(pcm(160))
    playout.read()
    playout.read()
    assert (playout.underruns, playout.underrun_frames) == (2, 3)
    playout.end()
    playout.read()
    playout.read()
    assert (playout.underruns, playout.underrun_frames) == (2, 3), "between utterances there is silence"


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
    assert events == [("started", "a")]


def test_clear_in_the_last_frame_reports_the_utterance_with_nothing_lost() -> None:
    events: list[PlayoutEvent] = []
    playout = buffer(events)
    playout.begin("a")
    playout.write(pcm(160))
    playout.end()
    playout.read()
    assert playout.clear() == [Dropped("a", 0, 160)]
    playout.read()
    assert events == [("started", "a")], "the stale end must not be reported too"


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
        self.gap = False
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

    def model_read(self) -> bytes | None:
        size = self.frame * 2
        while self.queue and self.queue[0][3] and not self.queue[0][1]:
            self.expected_events.append(("finished", self.queue.pop(0)[0]))
            self.playing = None
        if self.queue:
            tag, left, played, ended = self.queue[0]
            if len(left) >= size or ended:
                if self.playing is None and played == 0:
                    self.expected_events.append(("started", tag))
                self.playing = tag
                self.gap = False
                frame = left[:size]
                self.queue[0][1] = left[size:]
                self.queue[0][2] += len(frame) // 2
                return frame + bytes(size - len(frame))
        if self.playing is not None:
            self.underrun_frames += 1
            self.underruns += not self.gap
            self.gap = True
        return None

    @rule()
    def read(self) -> None:
        expected = self.model_read()
        assert self.playout.read() == expected

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
        playout._queue = Interrupted(playout._queue)
        dropped = {entry.tag: entry for entry in playout.clear()}
        playout._queue = deque(playout._queue)
        news = self.events[finished:]
        ended = {tag for kind, tag in news if kind == "finished"}
        assert not ended & dropped.keys(), "an utterance is either played to its end or dropped"
        assert ended | dropped.keys() == {tag for tag, *_ in before}
        for tag, left, played, _ in before:
            if tag in dropped:
                assert dropped[tag].samples + dropped[tag].played == len(left) // 2 + played
        frame = taken[0] if taken else None
        if frame is not None:
            first = next(entry for entry in before if entry[1])
            size = self.frame * 2
            assert frame == first[1][:size].ljust(size, b"\0")
        self.expected_events += news
        self.underruns, self.underrun_frames = playout.underruns, playout.underrun_frames
        self.forget()
        assert playout.read() is None
        assert (playout.underruns, playout.underrun_frames) == (self.underruns, self.underrun_frames)

    def forget(self) -> None:
        self.queue.clear()
        self.open = None
        self.playing = None
        self.gap = False

    @rule(frame=st.sampled_from([80, 160, 240, 480]))
    def set_frame_samples(self, frame: int) -> None:
        self.frame = frame
        self.playout.set_frame_samples(frame)

    @invariant()
    def agrees(self) -> None:
        assert self.playout.buffered_samples == sum(len(left) // 2 for _, left, _, _ in self.queue)
        assert (self.playout.underruns, self.playout.underrun_frames) == (self.underruns, self.underrun_frames)
        assert self.events == self.expected_events
        assert self.playout.is_idle == (not self.playout._queue and self.open is None)


TestPlayout = Playout.TestCase
TestPlayout.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)


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
    finished = [tag for kind, tag in events if kind == "finished"]
    assert sorted(finished + [entry.tag for entry in dropped]) == list(range(utterances))
    assert 160 * played_frames + sum(entry.samples for entry in dropped) == 160 * frames_each * utterances
    started = [tag for kind, tag in events if kind == "started"]
    assert started == sorted(set(started))
    assert playout.is_idle
    assert playout.buffered_samples == 0
