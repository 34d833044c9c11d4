"""What the workers of a pool do, metered step by step."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from tts_engine.pooled_stream import Piece
from tts_engine.step_meter import StepMeter


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def pieces(clock: Clock, *seconds: float) -> Iterator[Piece]:
    """Each step takes the time given, and gives half a second of audio at 8 kHz."""
    for taken in seconds:
        clock.now += taken
        yield Piece(bytes(8000), final=False)


def test_steps_are_timed_and_their_audio_counted() -> None:
    clock = Clock()
    meter = StepMeter(clock)
    metered = meter.metered(pieces(clock, 0.25, 0.5), 8000)
    assert (meter.work_seconds, meter.audio_seconds) == (0, 0)
    assert len(next(metered).pcm) == 8000
    clock.now += 60  # nobody asks for the next
    assert (meter.work_seconds, meter.audio_seconds) == (0.25, 0.5)
    assert len(list(metered)) == 1
    assert (meter.work_seconds, meter.audio_seconds) == (0.75, 1.0)


def test_the_rate_makes_the_length() -> None:
    clock = Clock()
    meter = StepMeter(clock)
    list(meter.metered(pieces(clock, 0), 16_000))
    assert meter.audio_seconds == 0.25


def test_a_step_that_fails_is_timed() -> None:
    clock = Clock()

    def failing() -> Iterator[Piece]:
        clock.now += 2
        yield Piece(b"", final=False)
        clock.now += 3
        raise ZeroDivisionError

    meter = StepMeter(clock)
    metered = meter.metered(failing(), 8000)
    next(metered)
    with pytest.raises(ZeroDivisionError):
        next(metered)
    assert (meter.work_seconds, meter.audio_seconds, meter.running) == (5, 0, 0)


def test_several_threads() -> None:
    """Their steps are counted while they run, and summed up."""
    clock = Clock()
    meter = StepMeter(clock)
    inside, go = threading.Barrier(4), threading.Event()

    def waiting() -> Iterator[Piece]:
        inside.wait(5)
        go.wait(5)
        yield Piece(bytes(1600), final=True)

    threads = [threading.Thread(target=lambda: next(meter.metered(waiting(), 8000))) for _ in range(3)]
    for thread in threads:
        thread.start()
    inside.wait(5)
    assert meter.running == 3
    clock.now += 1.5
    go.set()
    for thread in threads:
        thread.join(5)
    assert meter.running == 0
    assert meter.work_seconds == pytest.approx(4.5)
    assert meter.audio_seconds == pytest.approx(0.3)
