"""The worker's own threads, over a pipe: what it says of itself, and how it ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import pytest

from tests.tts_engine.serving.served import Pcm, Plain, assert_same_sound, pcm_array, settings_for
from tts_engine.chatterbox.model import Chatterbox
from tts_engine.errors import EngineError
from tts_engine.serving import loading
from tts_engine.serving import worker as worker_module
from tts_engine.serving.messages import (
    Audio,
    Cancel,
    CannotStart,
    Deadline,
    Failed,
    Order,
    Ready,
    Report,
    Speak,
    Status,
    Stop,
)
from tts_engine.serving.settings import WorkerSettings
from tts_engine.serving.synthesiser import Synthesiser
from tts_engine.serving.texts import Prepared, Texts
from tts_engine.serving.worker import Worker
from tts_engine.serving.worker_host import _hang_up

TEXT, OTHER = "Hold the line.", "Good morning."


class Running:
    """A worker in a thread; this side of its pipe."""

    def __init__(self, settings: WorkerSettings) -> None:
        self.connection, self._theirs = Pipe()
        self.reports: list[Report] = []
        self.outcome: bool | None = None
        self._worker = Worker(settings, self._theirs)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.outcome = self._worker.run()
        finally:
            _hang_up(self._theirs)

    def say(self, *orders: Order) -> None:
        for order in orders:
            self.connection.send(order)

    def until(self, wanted: Callable[[Report], bool]) -> Report:
        """The next report that is wanted; those before are kept, too."""
        end = time.monotonic() + 20
        while self.connection.poll(max(0.0, end - time.monotonic())):
            report: Report = self.connection.recv()
            self.reports.append(report)
            if wanted(report):
                return report
        raise AssertionError(f"only {self.reports}")

    def pcm(self, id: int) -> Pcm:
        self.until(lambda report: isinstance(report, Audio) and report.id == id and report.final)
        heard = [report for report in self.reports if isinstance(report, Audio) and report.id == id]
        return pcm_array(b"".join(audio.pcm for audio in heard))

    def ended(self) -> bool | None:
        self._thread.join(20)
        assert not self._thread.is_alive()
        return self.outcome


@pytest.fixture
def settings(
    small_model: Path, steady: Chatterbox, voices_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> WorkerSettings:
    monkeypatch.setattr(loading, "load_model", lambda *_, **__: steady)
    return WorkerSettings(settings_for(small_model, voices_dir), "cpu", 0.0, 4)


@contextmanager
def running(settings: WorkerSettings) -> Iterator[Running]:
    worker = Running(settings)
    try:
        yield worker
    finally:
        if not worker.connection.closed:
            _hang_up(worker.connection)
        worker.ended()


def speak(id: int, text: str = TEXT, voice: str = "anna") -> Speak:
    now = time.monotonic()
    return Speak(id, text, voice, 8000, now, now)


def is_status(report: Report) -> bool:
    return isinstance(report, Status)


def test_it_says_that_it_is_ready_and_speaks_until_it_is_told_to_stop(settings: WorkerSettings, plain: Plain) -> None:
    with running(settings) as worker:
        ready = worker.until(lambda report: True)
        assert isinstance(ready, Ready)
        assert ready.built_in_voice
        assert ready.summary.endswith("on cpu as float32, eager, because there is no GPU")
        worker.say(speak(1), speak(2, OTHER, "bob"), Deadline(2, time.monotonic() + 1))
        heard: dict[int, Pcm] = {}
        while len(heard) < 2:
            report = worker.until(lambda report: isinstance(report, Audio) and report.final)
            assert isinstance(report, Audio)
            heard[report.id] = pcm_array(report.pcm)
        assert_same_sound(heard[1], plain(TEXT))
        assert_same_sound(heard[2], plain(OTHER, "bob"))
        worker.say(Stop())
        assert worker.ended() is True


def test_signs_of_life_come_though_nobody_speaks_and_it_does_not_spin(settings: WorkerSettings) -> None:
    with running(settings) as worker:
        worker.until(is_status)
        turns = []
        for _ in range(3):
            status = worker.until(is_status)
            assert isinstance(status, Status)
            assert status.load.streams == 0
            turns += [measure.value for measure in status.measures if measure.name == "turns"]  # type: ignore[union-attr]
        assert turns[2] - turns[0] <= 6


def test_what_is_missing_is_said(settings: WorkerSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: object) -> None:
        raise EngineError("there is no model")

    monkeypatch.setattr(worker_module, "load", load)
    with running(settings) as worker:
        assert worker.until(lambda report: True) == CannotStart("there is no model")
        assert worker.ended() is True


def test_it_ends_when_nobody_is_left_to_speak_for(settings: WorkerSettings) -> None:
    """Even in the middle of a text."""
    with running(settings) as worker:
        worker.say(speak(1, "An agent will be with you in just a moment, so please hold the line."))
        worker.until(lambda report: isinstance(report, Audio))
        _hang_up(worker.connection)
        assert worker.ended() is True


@pytest.mark.parametrize("method", ["_step", "_decode"])
def test_an_error_of_the_device_ends_it_and_all_that_it_spoke(
    settings: WorkerSettings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, method: str
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with running(settings) as worker:
        worker.until(is_status)
        monkeypatch.setattr(Synthesiser, method, fail)
        worker.say(speak(1))
        assert worker.ended() is False
        # No word of the utterance: the engine sees the worker end, and knows what can be asked for again.
        with pytest.raises(EOFError):
            worker.until(lambda report: isinstance(report, Failed | Audio))
    assert "the worker on cpu has failed" in caplog.text
    assert "illegal memory access" in caplog.text
    assert TEXT not in caplog.text


def test_a_text_that_cannot_be_prepared_fails_alone_and_is_not_logged(
    settings: WorkerSettings, plain: Plain, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    prepare = Texts.prepare

    def fail(self: Texts, order: Speak) -> Prepared:
        if order.id == 1:
            raise ValueError(f"cannot read {order.text!r}")
        return prepare(self, order)

    monkeypatch.setattr(Texts, "prepare", fail)
    with running(settings) as worker:
        worker.say(speak(1), speak(2, OTHER))
        failed = worker.until(lambda report: isinstance(report, Failed))
        assert failed == Failed(1, "the text could not be prepared: ValueError")
        assert_same_sound(worker.pcm(2), plain(OTHER))
        status = worker.until(is_status)
        assert isinstance(status, Status)
        kinds = {m.labels["kind"]: m.value for m in status.measures if m.name == "utterances_failed"}  # type: ignore[union-attr]
        assert kinds["text"] == 1
    assert "a text could not be prepared: ValueError" in caplog.text
    assert TEXT not in caplog.text


class TestSlowTexts:
    @pytest.fixture
    def gate(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
        """The text of utterance 1 takes until it is opened."""
        gate, prepare = threading.Event(), Texts.prepare

        def wait(self: Texts, order: Speak) -> Any:
            if order.id == 1:
                assert gate.wait(20)
            return prepare(self, order)

        monkeypatch.setattr(Texts, "prepare", wait)
        yield gate
        gate.set()

    def test_they_keep_nobody_waiting_who_speaks(
        self, settings: WorkerSettings, plain: Plain, gate: threading.Event
    ) -> None:
        with running(settings) as worker:
            worker.say(speak(2, OTHER), speak(1))
            assert_same_sound(worker.pcm(2), plain(OTHER))
            gate.set()
            assert_same_sound(worker.pcm(1), plain(TEXT))

    def test_a_cancellation_does_not_overtake_its_text(
        self, settings: WorkerSettings, plain: Plain, gate: threading.Event
    ) -> None:
        with running(settings) as worker:
            worker.say(speak(1), Cancel(1), speak(2, OTHER))
            worker.until(is_status)
            gate.set()
            assert_same_sound(worker.pcm(2), plain(OTHER))
            status = worker.until(is_status)
            assert isinstance(status, Status)
            assert status.load.streams == 0
            assert not [report for report in worker.reports if isinstance(report, Audio) and report.id == 1]
