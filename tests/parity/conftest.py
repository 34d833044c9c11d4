"""The reference and ours over one checkpoint, built once; and the figures that the tests recorded, as a table."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.parity.figures import FIGURE, lines
from tests.parity.pair import Pair, load_pair, write_random
from tests.parity.speakers import Speakers, speakers_of


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights, or what CHATTERBOX_WEIGHTS names: a directory with the released files of Turbo."""
    released = os.environ.get("CHATTERBOX_WEIGHTS")
    if released:
        return Path(released)
    directory = tmp_path_factory.mktemp("turbo")
    write_random(directory)
    return directory


@pytest.fixture(scope="session")
def pair(checkpoint: Path) -> Iterator[Pair]:
    with torch.inference_mode(False):
        yield load_pair(checkpoint, released="CHATTERBOX_WEIGHTS" in os.environ)


@pytest.fixture(scope="session")
def speakers(pair: Pair) -> Speakers:
    return speakers_of(pair)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    found = [
        value
        for report in terminalreporter.getreports("passed") + terminalreporter.getreports("failed")
        if report.when == "call"
        for name, value in report.user_properties
        if name == FIGURE
    ]
    if found:
        terminalreporter.section("figures of parity")
        for line in lines(found):
            terminalreporter.line(line)
