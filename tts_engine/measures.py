"""What an engine measures of itself: counters, gauges and histograms, for whoever exports them.

Nothing here locks. Each measure has one writing thread; any other may read it at any time, and may then see a value
a moment old: under the interpreter lock a number is replaced, and a list copied, as a whole. What is written here (not
asked of a function) can be pickled, so that a worker in another process can send its measures.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate, pairwise
from math import isfinite

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_NO_LABELS: Mapping[str, str] = {}


class _Named:
    """Name, help text and labels; measures of one name with different labels are a family."""

    def __init__(self, name: str, text: str, labels: Mapping[str, str]) -> None:
        for word in (name, *labels):
            if not _NAME.fullmatch(word):
                raise ValueError(f"{word!r} is no name of a measure or label: lower case, digits and underscores")
        self.name = name
        self.text = text
        self.labels: Mapping[str, str] = dict(labels)


class _Number(_Named):
    """One number: written here, or kept elsewhere and asked for when it is read."""

    def __init__(
        self, name: str, text: str, read: Callable[[], float] | None = None, *, labels: Mapping[str, str] = _NO_LABELS
    ) -> None:
        """`name` in snake case with its base unit last (`step_seconds`, `memory_bytes`); `text` says what is measured.

        `read`, if given, is called by whichever thread reads, so it must be safe from any; nothing is written then.
        Raises ValueError for a name that is none.
        """
        super().__init__(name, text, labels)
        self._read = read
        self._value: float = 0

    @property
    def value(self) -> float:
        """Raises what `read` does."""
        return self._value if self._read is None else self._read()

    def _check_written_here(self) -> None:
        if self._read is not None:
            raise RuntimeError(f"{self.name} is kept elsewhere")


class Counter(_Number):
    """A total that only grows. Its name does not end with `total`: exporters add that."""

    def add(self, amount: float = 1) -> None:
        """By the writing thread. Raises ValueError for a negative amount."""
        self._check_written_here()
        if amount < 0:
            raise ValueError(f"{self.name}: a counter cannot go down")
        self._value += amount


class Gauge(_Number):
    """A value that goes up and down."""

    def set(self, value: float) -> None:
        """By the writing thread."""
        self._check_written_here()
        self._value = value


class Histogram(_Named):
    """How often values fell between fixed bounds, and their sum."""

    def __init__(
        self, name: str, text: str, bounds: Sequence[float], *, labels: Mapping[str, str] = _NO_LABELS
    ) -> None:
        """`bounds`: upper bounds, included, ascending and finite; what is above the last is counted too.

        Raises ValueError for bounds that are not so.
        """
        super().__init__(name, text, labels)
        self.bounds = tuple(float(bound) for bound in bounds)
        if (
            not self.bounds
            or not all(map(isfinite, self.bounds))
            or any(low >= high for low, high in pairwise(self.bounds))
        ):
            raise ValueError(f"histogram {name}: bounds must be finite and ascend")
        self._counts = [0] * (len(self.bounds) + 1)
        self._sum = 0.0

    @property
    def count(self) -> int:
        return sum(self._counts)

    @property
    def sum(self) -> float:
        return self._sum

    def observe(self, value: float) -> None:
        """By the writing thread. What is not a finite number is left out: it would spoil the sum for good."""
        if isfinite(value):
            self._counts[bisect_left(self.bounds, value)] += 1
            self._sum += value

    def cumulative(self) -> list[int]:
        """Values at most each bound, and last of all the number of values: a copy, consistent in itself."""
        return list(accumulate(list(self._counts)))


Measure = Counter | Gauge | Histogram
