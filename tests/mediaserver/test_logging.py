"""Logging: every line in one format, whoever wrote it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

PROGRAM = """
import logging, structlog
from mediaserver.config import LogConfig
from mediaserver.logging import configure
configure(LogConfig(level={level!r}, format={format!r}))
log = structlog.get_logger("call").bind(call_id="c-1")
log.debug("speech_queued", text="secret words")
log.info("call_answered", codec="PCMU")
logging.getLogger("httpx").info("HTTP Request: POST https://example.com/?secret words")
logging.getLogger("library").warning("something %s", "happened")
def fail(text):
    1 / 0
try:
    fail("secret" + " words")  # a traceback may show this line
except ZeroDivisionError:
    log.exception("failed")
"""


def lines(level: str, form: str) -> list[str]:
    program = PROGRAM.format(level=level, format=form)
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    assert result.stdout == ""
    return result.stderr.splitlines()


def test_json_is_a_line_each() -> None:
    answered, library, failed = (json.loads(line) for line in lines("info", "json"))
    assert answered["event"] == "call_answered"
    assert answered["call_id"] == "c-1"
    assert answered["level"] == "info"
    assert answered["timestamp"].endswith("Z")
    assert library["event"] == "something happened"
    assert library["level"] == "warning"
    assert failed["exception"][0]["exc_type"] == "ZeroDivisionError"


def test_console() -> None:
    text = "\n".join(lines("info", "console"))
    assert "call_answered" in text
    assert "call_id=c-1" in text
    assert "something happened" in text
    assert "ZeroDivisionError" in text


@pytest.mark.parametrize("form", ["json", "console"])
def test_the_callers_text_shows_at_debug_only(form: str) -> None:
    assert "secret words" not in "\n".join(lines("info", form))
    assert "secret words" in "\n".join(lines("debug", form))


THREADS = """
import logging, sys, threading, structlog
from mediaserver.config import LogConfig
from mediaserver.logging import configure
sys.setswitchinterval(1e-6)
configure(LogConfig(format="json"))
start = threading.Barrier(2)
def ours():
    start.wait()
    for number in range(500):
        structlog.get_logger("call").info("ours", number=number)
def theirs():
    start.wait()
    for number in range(500):
        logging.getLogger("library").info("theirs %d", number)
threads = [threading.Thread(target=target) for target in (ours, theirs)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


def test_lines_of_two_threads_stay_apart() -> None:
    result = subprocess.run([sys.executable, "-c", THREADS], capture_output=True, text=True, timeout=60, check=True)
    events = [json.loads(line)["event"] for line in result.stderr.splitlines()]
    assert len(events) == 1000
    assert events.count("ours") == 500
