"""What an application plays, as it is heard: over the real speech queue and playout buffer."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest
import structlog

from mediaserver.api.stream.playback import Playback
from mediaserver.call.events import CallEvent, EventType
from mediaserver.rtp.codec import audioop
from mediaserver.rtp.playout import PlayoutBuffer
from mediaserver.speech.events import MarkReached, SpeechEvent, SpeechFinished
from mediaserver.speech.measures import SpeechMeasures
from mediaserver.speech.queue import MAX_BUFFERED_S, SpeechLimits, SpeechQueue
from mediaserver.speech.utterance import CutSpeech
from tests.mediaserver.fake_engine import FakeEngine


class QueueCall:
    """Of CallControl what playback uses, with a listener that takes frames when the test says so."""

    def __init__(self) -> None:
        self.echoed: list[str] = []
        self.playout = PlayoutBuffer(max_seconds=MAX_BUFFERED_S, sample_rate=8000, frame_samples=160)
        self.queue = SpeechQueue(
            FakeEngine(),
            self.playout,
            SpeechLimits(max_queued_chars=1000),
            SpeechMeasures("fake"),
            self._on_event,
            lambda: None,
            lambda: None,
            structlog.get_logger(),
            sample_rate=8000,
        )
        self.playout.on_event = self.queue.playout_event
        self.player = Playback(cast(Any, self), self.echoed.append)
        self.heard = b""

    def open_turn(self, *, barge_in: Any = None) -> Any:
        return self.queue.open(barge_in=barge_in)

    def clear(self) -> list[CutSpeech]:
        cut = self.queue.clear()
        self._publish("speech.cleared", utterance=cut[0].number, utterances=len(cut))
        return cut

    def _on_event(self, event: SpeechEvent) -> None:
        match event:
            case MarkReached(name, number):
                self._publish("mark.reached", name=name, utterance=number)
            case SpeechFinished(number):
                self._publish("speech.finished", utterance=number)

    def _publish(self, event_type: EventType, **data: Any) -> None:
        self.player.on_event(CallEvent(event_type, "CA", data))

    async def tick(self, frames: int = 1) -> None:
        for _ in range(frames):
            self.heard += self.playout.read() or b""
            for _ in range(4):
                await asyncio.sleep(0)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not condition():
                await self.tick()


@pytest.fixture
async def call() -> QueueCall:
    return QueueCall()


def noise(samples: int, seed: int = 1) -> bytes:
    """Without the two codes of silence, which a gap would look like."""
    return random.Random(seed).randbytes(samples).replace(b"\x7f", b"\x01").replace(b"\xff", b"\x02")


def pcm(ulaw: bytes) -> bytes:
    return cast(bytes, audioop.ulaw2lin(ulaw, 2))


async def test_every_sample_is_heard_once_and_in_order_whatever_the_chunks(call: QueueCall):
    ulaw, pick, at = noise(36_000), random.Random(2), 4000
    call.player.play(ulaw[:at])  # so much ahead that there is no gap, into which the playout would fade
    while at < len(ulaw):
        size = pick.choice([1, 33, 160, 161, 1000, 9000])
        call.player.play(ulaw[at : at + size])
        at += size
        await call.tick(pick.randrange(3))
    call.player.close()
    await call.until(lambda: call.queue.idle)
    heard = np.frombuffer(call.heard, "<i2")
    assert np.array_equal(heard[heard != 0], np.frombuffer(pcm(ulaw), "<i2"))


async def test_marks_come_back_when_what_is_before_them_was_heard_and_not_before(call: QueueCall):
    for index in range(4):
        call.player.play(noise(8000, index))
        call.player.mark(str(index))
    for index in range(4):
        await call.until(lambda index=index: len(call.echoed) > index)  # type: ignore[misc]
        assert call.echoed == [str(n) for n in range(index + 1)]
        assert len(call.heard) / 16_000 == pytest.approx(index + 1, abs=0.1)


async def test_clear_silences_what_is_buffered_and_brings_back_the_marks(call: QueueCall):
    call.player.play(noise(40_000))
    call.player.mark("a")
    call.player.play(noise(40_000))
    call.player.mark("b")
    await call.tick(20)
    call.player.clear()
    assert call.echoed == ["a", "b"]
    before = len(call.heard)
    await call.tick(5)
    assert len(call.heard) - before <= 320  # a fade of the frame that was playing
    call.player.play(noise(1600, 7))
    call.player.mark("c")
    await call.until(lambda: call.echoed == ["a", "b", "c"])


async def test_a_mark_behind_a_complete_turn(call: QueueCall):
    call.player.play(noise(8000))
    call.player.close()
    await call.tick(10)
    call.player.mark("late")
    assert call.echoed == []
    await call.until(lambda: call.echoed == ["late"])
    assert len(call.heard) == 16_000


async def test_a_mark_in_a_turn_that_is_open_but_was_heard(call: QueueCall):
    call.player.play(noise(1600))
    await call.tick(20)
    call.player.mark("a")
    await call.until(lambda: call.echoed == ["a"])


async def test_speech_behind_it_comes_behind_it(call: QueueCall):
    call.player.play(noise(1600))
    call.player.close()
    number = call.queue.say("hello")
    await call.until(lambda: call.queue.idle)
    assert number == 2
    assert call.heard.startswith(pcm(noise(1600))[:3000])
    assert len(call.heard) > 3200
