"""Fixtures for all tests."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from tests.recogniser import Recogniser

# Before torch is loaded: its threads wait for one another spinning, which on shared cores costs up to ten times
# what they do.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# Before Triton is, which reads it then: without a GPU its kernels are interpreted.
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# How long an example takes is the machine's affair, and it may be busy.
settings.register_profile("chatterline", deadline=None)
settings.load_profile("chatterline")

REAL_TIME = (
    "interop/",
    "benchmarks/test_calls.py",
    "benchmarks/test_generator.py",
    "benchmarks/test_impairment.py",
    "benchmarks/test_pacing_under_load.py",
    "benchmarks/test_probe.py",
    "benchmarks/test_speakers.py",
    "mediaserver/api/agent/test_agent_on_call.py",
    "mediaserver/api/stream/test_real_call.py",
    "mediaserver/call/test_media.py",
    "mediaserver/test_calls.py",
    "mediaserver/test_garbage.py",
    "mediaserver/test_phone.py",
    "mediaserver/test_server.py",
    "mediaserver/test_server_engines.py",
    "mediaserver/speech/test_parts.py",
    "mediaserver/speech/test_queue.py",
    "mediaserver/speech/test_turn.py",
    "mediaserver/speech/test_wait.py",
    "rtp/test_bad_input.py",
    "rtp/test_pacer_thread.py",
    "rtp/test_playout.py",
    "rtp/test_ports.py",
    "sip/test_sipp_callee.py",
    "test_examples.py",
)
"Tests that wait for packets, or take ports by number: they have the machine to themselves."


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark them, so that all others can be run on several cores at once."""
    here = Path(__file__).parent
    for item in items:
        if item.path.relative_to(here).as_posix().startswith(REAL_TIME):
            item.add_marker(pytest.mark.realtime)


@pytest.fixture(scope="session")
def recogniser() -> Recogniser:
    # Imported here: most test runs do without, and it takes seconds.
    from tests.recogniser import Recogniser

    return Recogniser()
