"""Fixtures for all tests."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.recogniser import Recogniser

# Before torch is loaded: its threads wait for one another spinning, which on shared cores costs up to ten times
# what they do.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# Before Triton is, which reads it then: without a GPU its kernels are interpreted.
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(scope="session")
def recogniser() -> Recogniser:
    # Imported here: most test runs do without, and it takes seconds.
    from tests.recogniser import Recogniser

    return Recogniser()
