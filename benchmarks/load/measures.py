"""What an engine's own measures say of a stretch of time: rates of its counters, means of the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from tts_engine.measures import Counter, Gauge, Histogram, Measure


def name_of(measure: Measure) -> str:
    """With its labels: steps{kind=t3}."""
    labels = ",".join(f"{name}={value}" for name, value in measure.labels.items())
    return f"{measure.name}{{{labels}}}" if labels else measure.name


class Period:
    """Begins when it is made; gauges are read whenever sample() is called.

    Measures are taken by name: those of a worker in another process are new objects each time that it tells them. A
    counter that went down (the worker began again) counts from 0.
    """

    def __init__(self, measures: Callable[[], Sequence[Measure]]) -> None:
        self._measures = measures
        self._before = {name_of(each): _totals(each) for each in measures() if not isinstance(each, Gauge)}
        self._gauges: dict[str, list[float]] = {}

    def sample(self) -> None:
        for each in self._measures():
            if isinstance(each, Gauge):
                self._gauges.setdefault(name_of(each), []).append(each.value)

    def figures(self, seconds: float) -> dict[str, dict[str, Any]]:
        """By name: of a counter its `count` and the `rate` a second; of a gauge `mean` and `max` of the samples; of a
        histogram `mean`, `count`, and in `p95_at_most` the bound that 95 % did not exceed (None: above the last).
        """
        found: dict[str, dict[str, Any]] = {}
        for each in self._measures():
            name = name_of(each)
            if isinstance(each, Gauge):
                if values := self._gauges.get(name):
                    found[name] = {"mean": sum(values) / len(values), "max": max(values)}
                continue
            now, before = _totals(each), self._before.get(name)
            if before is None or before[0] > now[0]:
                before = [0.0] * len(now)
            total, *rest = (new - old for new, old in zip(now, before, strict=True))
            if isinstance(each, Counter):
                found[name] = {"count": total, "rate": total / seconds}
            elif total:
                bound = _bound(each.bounds, rest[1:], 0.95 * total)
                found[name] = {"mean": rest[0] / total, "count": total, "p95_at_most": bound}
        return found


def _totals(measure: Counter | Histogram) -> list[float]:
    """What only grows: a counter's value; a histogram's count, sum and counts by bound."""
    if isinstance(measure, Counter):
        return [measure.value]
    *counts, total = measure.cumulative()
    return [total, measure.sum, *counts]


def _bound(bounds: Sequence[float], counts: Sequence[float], least: float) -> float | None:
    """The first that so many values did not exceed."""
    return next((bound for bound, count in zip(bounds, counts, strict=True) if count >= least), None)


def total_of(figures: dict[str, dict[str, Any]], name: str) -> float | None:
    """The largest values of a gauge, added up over its labels; None where there is none."""
    found = [each["max"] for key, each in figures.items() if key.partition("{")[0] == name and "max" in each]
    return sum(found) if found else None


FILLED = {
    "step": ("step_rows", "step_padding_rows"),
    "flow": ("flow_tokens", "flow_padding_tokens"),
    "vocoder": ("vocoder_frames", "vocoder_padding_frames"),
}
"What a batch holds, and what it is padded with; a batch's size is both."


def fill(figures: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Share of the batches that was no padding, by stage, over all of an engine's workers."""
    found = {}
    for stage, names in FILLED.items():
        held, padding = (
            sum(each["count"] * each.get("mean", 1.0) for key, each in figures.items() if key.partition("{")[0] == name)
            for name in names
        )
        if held + padding:
            found[stage] = held / (held + padding)
    return found


def rows(figures: dict[str, dict[str, Any]]) -> Iterable[tuple[object, ...]]:
    """For a table of name, mean or rate a second, p95 or maximum, count; times in ms, which their names then say.

    What never happened is left out.
    """
    for name, each in figures.items():
        plain, brace, labels = name.partition("{")
        in_time = plain.endswith("_seconds") and "rate" not in each
        label = f"{plain.removesuffix('_seconds')}_ms{brace}{labels}" if in_time else name
        scale = 1000.0 if in_time else 1.0
        middle = each["rate"] if "rate" in each else each["mean"]
        spread = each.get("p95_at_most", each.get("max"))
        if middle or spread:
            yield label, middle * scale, None if spread is None else spread * scale, each.get("count")
