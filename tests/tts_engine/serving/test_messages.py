from __future__ import annotations

import pickle

import pytest

from tests.tts_engine.serving.guards import OneTokenACharacter
from tests.tts_engine.serving.served import settings_for
from tts_engine.chatterbox.guards import TokenGuard
from tts_engine.serving.admission import Load
from tts_engine.serving.messages import (
    Audio,
    Cancel,
    CannotStart,
    Deadline,
    Failed,
    Logged,
    Ready,
    Speak,
    Status,
    Stop,
)
from tts_engine.serving.serving_measures import ServingMeasures
from tts_engine.serving.settings import WorkerSettings

LOAD = Load(1, 2, 3, 4, 5, 6.0, 7.0, 8.0, 9, 10.0, 11, 12.0, 13.0, None)


@pytest.mark.parametrize(
    "message",
    [
        Speak(1, "Hello.", "anna", 8000, 1.0, 2.0),
        Deadline(1, 2.0),
        Cancel(1),
        Stop(),
        Ready(built_in_voice=True, summary="all well"),
        CannotStart("no model"),
        Audio(1, b"\x01\x02", final=True, deadline=3.0),
        Failed(1, "overflow"),
        Status(LOAD, ()),
        Logged("tts", 20, "hello"),
    ],
    ids=lambda message: type(message).__name__,
)
def test_they_reach_another_process_as_they_were(message: object) -> None:
    assert pickle.loads(pickle.dumps(message)) == message


def test_measures_do_too() -> None:
    measures = ServingMeasures("cuda:1")
    measures.turns.add(3)
    measures.step_rows.observe(5)
    status = pickle.loads(pickle.dumps(Status(LOAD, measures.all())))
    told = {measure.name: measure for measure in status.measures}
    assert told["turns"].value == 3
    assert (told["step_rows"].count, told["step_rows"].sum) == (1, 5)
    assert told["turns"].labels == {"device": "cuda:1"}


def test_no_log_shows_a_text() -> None:
    assert "Hello" not in repr(Speak(1, "Hello.", "anna", 8000, 1.0, 2.0))


@pytest.mark.parametrize("guard", [TokenGuard.for_text, OneTokenACharacter])
def test_settings_reach_a_process(tmp_path: object, guard: object) -> None:
    settings = WorkerSettings(settings_for("model", tmp_path, guard=guard), "cpu", 0.5, 9)  # type: ignore[arg-type]
    copied = pickle.loads(pickle.dumps(settings))
    assert copied == settings
    assert copied.engine.guard("Hello.").limit == settings.engine.guard("Hello.").limit
