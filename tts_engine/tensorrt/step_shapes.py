"""Of which shapes T3's calls are: which rows go together, and up to which sizes they are padded.

The fused kernels follow the length of each row: one call takes all, padded to a bucket where graphs are captured. An
engine reads as many pages of every row as its longest has, and is built for ranges of sizes (tensorrt.profiles): there
rows are split by length. All of it is plain numbers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from tts_engine.chatterbox.packing import bucket_of
from tts_engine.chatterbox.paged_t3 import PAGE, StepReads
from tts_engine.tensorrt.prefix_tiles import most_tiles
from tts_engine.tensorrt.profiles import (
    MOST_VOICES,
    PREFILL_ROWS,
    PREFILL_TEXT,
    PREFIX_TILE,
    STEP_LONG_PAGES,
    STEP_LONG_ROWS,
    STEP_SHORT_PAGES,
    STEP_SHORT_ROWS,
)

STEP_ROWS = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 160, 192, 224, 256)
BEGIN_ROWS = (1, 2, 4, 8)
TEXT_TOKENS = (16, 32, 64, 128)
"Longer texts, of which there are few, are prefilled by kernels without a graph, by engines a few at a time."

ENGINE_STEP_ROWS = (1, 2, 4, 8, 16, 32, 48, 64, 96, 128, 192, 256)
ENGINE_PAGES = (4, 8, STEP_SHORT_PAGES, 24, STEP_LONG_PAGES)
_LONG_TEXT_ROWS = 2
_FEW_VOICES = 4
"Most often no more are heard at once than fit the tiles for so many."

_CALL_PAGES = 64
"Pages whose reading costs what another call does, which reads the weights once more: 0.6 GB against 9 MB a page."

_CALL_TOKENS = 64
"Text tokens whose prefill costs what another call does."


@dataclass(frozen=True)
class StepShape:
    """Of a step."""

    rows: int
    "Sequences; with guidance each has its twin besides."
    reads: StepReads | None = None


@dataclass(frozen=True)
class PrefillShape:
    """Of a prefill."""

    rows: int
    text: int


ShapeT = TypeVar("ShapeT", StepShape, PrefillShape)


@dataclass(frozen=True)
class Call(Generic[ShapeT]):
    """Those of the given rows, by their places, that one call takes."""

    places: Sequence[int]
    shape: ShapeT


class T3Shapes(Protocol):
    """How the runner's batches become calls; every row goes into exactly one."""

    @property
    def all_steps(self) -> Sequence[StepShape]:
        """What graphs are captured for: the shapes that may come again."""

    @property
    def all_prefills(self) -> Sequence[PrefillShape]:
        """Likewise."""

    def steps(self, own: Sequence[int], voices: Sequence[int]) -> list[Call[StepShape]]:
        """Rows by the own position that each computes, and by voice. ValueError if there are too many."""

    def prefills(self, lengths: Sequence[int]) -> list[Call[PrefillShape]]:
        """Rows by text tokens."""


class ExactShapes:
    """One call of just what is asked for."""

    all_steps: Sequence[StepShape] = ()
    all_prefills: Sequence[PrefillShape] = ()

    def steps(self, own: Sequence[int], voices: Sequence[int]) -> list[Call[StepShape]]:
        """See T3Shapes."""
        return [Call(range(len(own)), StepShape(len(own)))]

    def prefills(self, lengths: Sequence[int]) -> list[Call[PrefillShape]]:
        """See T3Shapes."""
        return [Call(range(len(lengths)), PrefillShape(len(lengths), max(lengths)))]


class FusedShapes:
    """One call, padded to a bucket."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._step_rows = _up_to(STEP_ROWS, slots)
        self.all_steps = [StepShape(rows) for rows in reversed(self._step_rows)]
        self.all_prefills = [PrefillShape(rows, text) for rows in BEGIN_ROWS for text in TEXT_TOKENS]

    def steps(self, own: Sequence[int], voices: Sequence[int]) -> list[Call[StepShape]]:
        """See T3Shapes."""
        rows = bucket_of(len(own), self._step_rows)
        if rows is None:
            raise ValueError(f"a step of {len(own)} rows: there are {self._slots} slots")
        return [Call(range(len(own)), StepShape(rows))]

    def prefills(self, lengths: Sequence[int]) -> list[Call[PrefillShape]]:
        """See T3Shapes. What is beyond the buckets is not padded."""
        rows, text = bucket_of(len(lengths), BEGIN_ROWS), bucket_of(max(lengths), TEXT_TOKENS)
        if rows is None or text is None:
            return ExactShapes().prefills(lengths)
        return [Call(range(len(lengths)), PrefillShape(rows, text))]


class EngineShapes:
    """Calls that fit an engine's profiles. Idle rows are of voice 0, as in the runner."""

    def __init__(self, slots: int, positions: int, voices: int, *, twins: bool = False) -> None:
        """`positions`: own ones of a row, at most. `voices` of the bank; ValueError if the engines do not take them."""
        if voices > MOST_VOICES:
            raise ValueError(f"a bank of {voices} voices: the engines are built for {MOST_VOICES}")
        if positions > STEP_LONG_PAGES * PAGE:
            raise ValueError(f"rows of {positions} positions: the engines are built for {STEP_LONG_PAGES * PAGE}")
        self._slots, self._voices = slots, voices
        self._lines = 2 if twins else 1
        self._pages = _up_to(ENGINE_PAGES, -(-positions // PAGE))
        self._short_rows = _up_to(ENGINE_STEP_ROWS, min(slots, STEP_SHORT_ROWS // self._lines))
        self._long_rows = _up_to(ENGINE_STEP_ROWS, min(slots, STEP_LONG_ROWS // self._lines))
        self._begin_rows = _up_to(BEGIN_ROWS, PREFILL_ROWS // self._lines)
        self._texts = _up_to(TEXT_TOKENS, min(PREFILL_TEXT, positions - 1))
        self.all_steps = [
            StepShape(rows, StepReads(pages, tiles))
            for pages in reversed(self._pages)
            for rows in reversed(self._rows(pages))
            for tiles in reversed(self._tiles(rows))
        ]
        self.all_prefills = [
            PrefillShape(rows, text)
            for text in self._texts
            for rows in self._begin_rows
            if rows <= self._most_begun(text)
        ]

    def steps(self, own: Sequence[int], voices: Sequence[int]) -> list[Call[StepShape]]:
        """See T3Shapes. Short rows in one call and long ones in others, or all in one where that is less to read."""
        if len(own) > self._slots:
            raise ValueError(f"a step of {len(own)} rows: there are {self._slots} slots")
        pages = [max(1, -(-position // PAGE)) for position in own]
        short = [place for place, count in enumerate(pages) if count <= STEP_SHORT_PAGES]
        long = [place for place, count in enumerate(pages) if count > STEP_SHORT_PAGES]
        groups = [*_cut(short, self._short_rows[-1]), *_cut(long, self._long_rows[-1])]
        calls = [self._step(group, pages, voices) for group in groups]
        if short and long and len(own) <= self._long_rows[-1]:
            together = [self._step(range(len(own)), pages, voices)]
            calls = min(together, calls, key=lambda some: sum(_pages_read(call.shape) for call in some))
        return calls

    def prefills(self, lengths: Sequence[int]) -> list[Call[PrefillShape]]:
        """See T3Shapes. Texts of like length go together; ValueError if one is too long for the engine."""
        if max(lengths) > self._texts[-1]:
            raise ValueError(f"a text of {max(lengths)} tokens: the engines and the cache take {self._texts[-1]}")
        order = sorted(range(len(lengths)), key=lengths.__getitem__)
        # The cheapest way to cut the order, from that of each shorter part of it.
        best: list[tuple[int, list[Call[PrefillShape]]]] = [(0, [])]
        for end in range(1, len(order) + 1):
            ways = []
            for start in range(max(0, end - self._most_begun(lengths[order[end - 1]])), end):
                call = self._prefill(order[start:end], lengths)
                cost, calls = best[start]
                ways.append((cost + _CALL_TOKENS + call.shape.rows * call.shape.text, [*calls, call]))
            best.append(min(ways, key=lambda way: way[0]))
        return best[-1][1]

    def _rows(self, pages: int) -> tuple[int, ...]:
        return self._short_rows if pages <= STEP_SHORT_PAGES else self._long_rows

    def _tiles(self, rows: int) -> tuple[int, ...]:
        """A prefix that nobody reads is gathered all the same: few tiles where few voices are heard."""
        every = most_tiles(rows * self._lines, self._voices)
        few = most_tiles(rows * self._lines, min(_FEW_VOICES, self._voices))
        return (few, every) if 2 * every >= 3 * few else (every,)

    def _step(self, places: Sequence[int], pages: Sequence[int], voices: Sequence[int]) -> Call[StepShape]:
        read = _bucket(max(pages[place] for place in places), self._pages)
        rows = _bucket(len(places), self._rows(read))
        heard = Counter(voices[place] for place in places)
        heard[0] += rows - len(places)
        tiles = sum(-(-count * self._lines // PREFIX_TILE) for count in heard.values())
        return Call(places, StepShape(rows, StepReads(read, _bucket(tiles, self._tiles(rows)))))

    def _prefill(self, places: Sequence[int], lengths: Sequence[int]) -> Call[PrefillShape]:
        text = _bucket(max(lengths[place] for place in places), self._texts)
        return Call(places, PrefillShape(_bucket(len(places), self._begin_rows), text))

    def _most_begun(self, text: int) -> int:
        """Keys and values of all layers come out in one tensor: of long texts, few rows at a time."""
        return self._begin_rows[-1] if text <= TEXT_TOKENS[-1] else _LONG_TEXT_ROWS


def _up_to(buckets: Sequence[int], most: int) -> tuple[int, ...]:
    return (*(size for size in buckets if size < most), most)


def _bucket(size: int, buckets: Sequence[int]) -> int:
    found = bucket_of(size, buckets)
    if found is None:
        raise ValueError(f"{size} is over the largest of {list(buckets)}")
    return found


def _cut(places: Sequence[int], most: int) -> Iterator[Sequence[int]]:
    return (places[at : at + most] for at in range(0, len(places), most))


def _pages_read(shape: StepShape) -> int:
    return _CALL_PAGES + shape.rows * (shape.reads.pages if shape.reads else 0)
