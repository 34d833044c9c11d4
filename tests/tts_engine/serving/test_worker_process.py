from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Iterator
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import pytest

from tests.tts_engine.serving.served import settings_for
from tts_engine.serving import worker, worker_process
from tts_engine.serving.messages import Logged, Report
from tts_engine.serving.settings import WorkerSettings

SETTINGS = WorkerSettings(settings_for(Path("model"), Path("voices")), "cpu", 0.0, 4)
TEXT = "My account number is 4711."


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[Any, ...]]]:
    """main() is for a process of its own: what it changes of this one is put back."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    signals: list[tuple[Any, ...]] = []
    monkeypatch.setattr(signal, "signal", lambda *arguments: signals.append(arguments))
    yield signals
    root.handlers[:], root.level = handlers, level


class FakeWorker:
    outcome = True
    made: list[FakeWorker] = []  # noqa: RUF012

    def __init__(self, settings: WorkerSettings, connection: object) -> None:
        self.settings = settings
        self.reports: list[Report] = []
        FakeWorker.made.append(self)

    def report(self, report: Report) -> None:
        self.reports.append(report)

    def run(self) -> bool:
        log = logging.getLogger("tts_engine.serving.some")
        log.debug("to be spoken: %s", TEXT)
        log.info("loaded in %d s", 3)
        try:
            raise RuntimeError("CUDA error")
        except RuntimeError:
            log.exception("the worker has failed")
        return self.outcome


def run_main(monkeypatch: pytest.MonkeyPatch, first: object) -> object:
    ours, theirs = Pipe()
    ours.send(first)
    monkeypatch.setattr(worker, "Worker", FakeWorker)
    monkeypatch.setattr(sys, "argv", ["worker_process", str(theirs.fileno())])
    monkeypatch.setattr(worker_process, "Connection", lambda descriptor: theirs)
    with pytest.raises(SystemExit) as exited:
        worker_process.main()
    ours.close()
    theirs.close()
    return exited.value.code


@pytest.mark.parametrize(("outcome", "status"), [(True, 0), (False, 1)])
def test_its_log_goes_to_the_engine_without_the_caller_s_text(
    monkeypatch: pytest.MonkeyPatch, restored: list[tuple[Any, ...]], outcome: bool, status: int
) -> None:
    monkeypatch.setattr(FakeWorker, "outcome", outcome)
    assert run_main(monkeypatch, SETTINGS) == status
    worker = FakeWorker.made[-1]
    assert worker.settings == SETTINGS
    first, second = worker.reports
    assert first == Logged("tts_engine.serving.some", logging.INFO, "loaded in 3 s")
    assert isinstance(second, Logged)
    assert second.level == logging.ERROR
    assert second.message.startswith("the worker has failed\nTraceback")
    assert "RuntimeError: CUDA error" in second.message
    assert TEXT not in repr(worker.reports)
    assert {number for number, action in restored if action is signal.SIG_IGN} == {signal.SIGINT, signal.SIGTERM}


def test_the_first_message_must_be_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_main(monkeypatch, "hello") == "the first message of the engine is not the settings"
