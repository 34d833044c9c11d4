"""Fixtures for all tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.recogniser import Recogniser


@pytest.fixture(scope="session")
def recogniser() -> Recogniser:
    # Imported here: most test runs do without, and it takes seconds.
    from tests.recogniser import Recogniser

    return Recogniser()
