"""How batches for S3Gen are cut and rounded up: to sizes that have CUDA graphs, and that engines know.

Packed rows lie one after the other, so a batch is rounded up as a whole. Engines read padded batches, and know ranges
of rows and lengths (tensorrt/profiles.py): there rows of like length go together. Flow and vocoder may be of either
kind, each; a batch goes through both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from tts_engine.chatterbox.constants import FRAMES_PER_TOKEN
from tts_engine.chatterbox.packing import BatchShape, bucket_of
from tts_engine.tensorrt.profiles import PROFILES, Profile

TOKENS = (288, 352, 448, 576, 704, 896, 1152, 1440, 1792, 2304, 2880, 3584, 4608, 5760, 7168, 9216, 11520)
"Flow tokens of a batch, prompts included: a quarter more each time, so an eighth is padding on average."
LONGEST = (448, 704, 1440)
"""Tokens of the longest row: a prompt of 10 s and 8 s, 18 s or 47 s of speech. Scores by distance take memory as the
product of this and all tokens; so of the longest kind a batch holds one."""
FRAMES = (40, 64, 96, 128, 192, 256, 384, 512, 704, 896, 1152, 1536, 2048, 2560, 3072, 4096, 5120, 6144)
"Vocoder frames of a batch, contexts included."

ROWS = (1, 2, 4, 8, 16)
"Of a padded batch."
ROW_TOKENS = (160, 224, 288, 320, 384, 448, 512, 608, 704, 928, 1184, 1440)
"Of its longest row. With a prompt of 10 s, first chunks have some 280 tokens and few have more than 500."
ROW_FRAMES = (40, 64, 96, 128, 192, 256, 384, 512, 768, 1152)

FRAME_COST = 0.55
"Work of the vocoder for a frame, in tokens of the flow: 0.62 of 1.13 GFLOP."
BATCH_COST = 200.0
"""What a batch costs beside its rows, likewise: a thousand kernels one after the other, whatever they work on. An
estimate, from the same modules' CUDA graphs on an H100 and its speed over an A10G's."""

Limit = tuple[int, int]
"Rows, and positions of the longest: what one optimisation profile of an engine holds."


@dataclass(frozen=True)
class _Extent:
    """Of a batch: how many rows, the longest of them, all positions."""

    rows: int = 0
    longest: int = 0
    total: int = 0

    def with_row(self, length: int) -> _Extent:
        return _Extent(self.rows + 1, max(self.longest, length), self.total + length)


class Unit(Protocol):
    """How the batches of one unit, flow or vocoder, are rounded up."""

    captured: Sequence[BatchShape]
    "All that there are graphs of."

    def shape(self, lengths: Sequence[int]) -> BatchShape | None:
        """The captured shape that serves rows of these lengths; None: none does."""

    def cost(self, batch: _Extent) -> float | None:
        """Positions that are worked on; None: the rows do not go together. One row alone always does."""


class SpeechShapes(Protocol):
    """What the runner asks."""

    flows: Sequence[BatchShape]
    vocoders: Sequence[BatchShape]

    def batches(self, tokens: Sequence[int], frames: Sequence[int]) -> list[list[int]]:
        """Which rows go together, given each row's tokens for the flow and frames for the vocoder."""

    def flow(self, lengths: Sequence[int]) -> BatchShape | None:
        """The captured shape that serves rows of so many tokens; None: none does."""

    def vocoder(self, lengths: Sequence[int]) -> BatchShape | None:
        """The same for rows of so many frames."""


class PackedTokens:
    """The packed flow: all tokens, and the longest row."""

    def __init__(self, most: int) -> None:
        self._sizes = (*(size for size in TOKENS if size < most), most)
        pairs = flow_graphs(self._sizes)
        self.captured: Sequence[BatchShape] = [BatchShape(size, size, longest) for size, longest in pairs]

    def shape(self, lengths: Sequence[int]) -> BatchShape | None:
        """See Unit."""
        size, longest = bucket_of(sum(lengths), self._sizes), bucket_of(max(lengths), LONGEST)
        return None if size is None or longest is None else BatchShape(size, size, longest)

    def cost(self, batch: _Extent) -> float | None:
        """See Unit."""
        if batch.rows > 1 and (batch.longest > LONGEST[-2] or batch.total > self._sizes[-1]):
            return None
        return bucket_of(batch.total, self._sizes) or batch.total


class PackedFrames:
    """The packed vocoder: all frames, in rows of any length."""

    def __init__(self, most: int) -> None:
        self._sizes = (*(size for size in FRAMES if size < most), most)
        self.captured: Sequence[BatchShape] = [BatchShape(size, size, size) for size in self._sizes]

    def shape(self, lengths: Sequence[int]) -> BatchShape | None:
        """See Unit."""
        size = bucket_of(sum(lengths), self._sizes)
        return None if size is None else BatchShape(size, size, size)

    def cost(self, batch: _Extent) -> float | None:
        """See Unit."""
        if batch.rows > 1 and batch.total > self._sizes[-1]:
            return None
        return bucket_of(batch.total, self._sizes) or batch.total


class PaddedRows:
    """An engine: rows times the longest, both rounded up, within one of its profiles."""

    def __init__(self, limits: Sequence[Limit], lengths: Sequence[int], most: int) -> None:
        """Lengths are rounded up to `lengths` and the limits' own; no batch has more than `most` positions, padded."""
        longest = max(length for _, length in limits)
        steps = sorted({length for length in (*lengths, *(length for _, length in limits)) if length <= longest})
        counts = sorted({*ROWS, *(rows for rows, _ in limits)})
        self._shapes = {
            length: [
                BatchShape(rows * length, rows, length)
                for rows in counts
                if any(rows <= r and length <= n for r, n in limits) and rows * length <= most
            ]
            for length in steps
        }
        self._steps = [length for length in steps if self._shapes[length]]
        self.captured: Sequence[BatchShape] = [shape for length in self._steps for shape in self._shapes[length]]

    def shape(self, lengths: Sequence[int]) -> BatchShape | None:
        """See Unit."""
        return self._shape(len(lengths), max(lengths))

    def cost(self, batch: _Extent) -> float | None:
        """See Unit."""
        shape = self._shape(batch.rows, batch.longest)
        if shape is None:
            return batch.longest if batch.rows == 1 else None
        return shape.size

    def _shape(self, rows: int, longest: int) -> BatchShape | None:
        length = bucket_of(longest, self._steps)
        return None if length is None else next((each for each in self._shapes[length] if rows <= each.rows), None)


class _Shapes:
    """SpeechShapes of a flow and a vocoder, each packed or padded."""

    def __init__(self, flow: Unit, vocoder: Unit) -> None:
        self._flow, self._vocoder = flow, vocoder
        self.flows: Sequence[BatchShape] = flow.captured
        self.vocoders: Sequence[BatchShape] = vocoder.captured

    def flow(self, lengths: Sequence[int]) -> BatchShape | None:
        """See SpeechShapes."""
        return self._flow.shape(lengths)

    def vocoder(self, lengths: Sequence[int]) -> BatchShape | None:
        """See SpeechShapes."""
        return self._vocoder.shape(lengths)


class PackedShapes(_Shapes):
    """Of the packed kernels, and of the plain modules, which take any."""

    def __init__(self, tokens: int, frames: int) -> None:
        """The most that a batch may hold."""
        super().__init__(PackedTokens(tokens), PackedFrames(frames))

    def batches(self, tokens: Sequence[int], frames: Sequence[int]) -> list[list[int]]:
        """See SpeechShapes: all together, but a very long row goes alone."""
        together = [at for at, length in enumerate(tokens) if length <= LONGEST[-2]]
        alone = [[at] for at, length in enumerate(tokens) if length > LONGEST[-2]]
        return [*([together] if together else []), *alone]


class EngineShapes(_Shapes):
    """Where flow, vocoder or both run by engines. What does not is packed."""

    def __init__(
        self,
        tokens: int,
        frames: int,
        *,
        flow: bool = True,
        vocoder: bool = True,
        capture_flow: bool = True,
        capture_vocoder: bool = True,
        profiles: Mapping[str, Sequence[Profile]] = PROFILES,
    ) -> None:
        """`tokens` and `frames`: the most that a batch may hold. `flow`, `vocoder`: whether an engine runs it.

        Where there can be no graph, batches are cut all the same, and run with exactly their rows.
        """
        flow_limits = limits_of(profiles, {"flow_encoder": ("tokens", 1), "estimator": ("frames", FRAMES_PER_TOKEN)})
        vocoder_limits = limits_of(profiles, {"vocoder": ("frames", 1)})
        super().__init__(
            PaddedRows(flow_limits, ROW_TOKENS, tokens) if flow else PackedTokens(tokens),
            PaddedRows(vocoder_limits, ROW_FRAMES, frames) if vocoder else PackedFrames(frames),
        )
        self.flows = self.flows if capture_flow else ()
        self.vocoders = self.vocoders if capture_vocoder else ()
        self._by_tokens = flow

    def batches(self, tokens: Sequence[int], frames: Sequence[int]) -> list[list[int]]:
        """See SpeechShapes: rows in order of length, cut where it costs least."""
        sizes = list(zip(tokens, frames, strict=True))
        order = sorted(range(len(sizes)), key=lambda at: sizes[at] if self._by_tokens else sizes[at][::-1])
        sizes = [sizes[at] for at in order]
        # The least cost of the first 0, 1, ... rows, and where the last batch of them begins.
        best: list[tuple[float, int]] = [(0.0, 0)]
        for end in range(1, len(order) + 1):
            costs = self._costs(sizes[:end])
            best.append(min((best[begin][0] + cost, begin) for begin, cost in costs))
        found: list[list[int]] = []
        end = len(order)
        while end:
            begin = best[end][1]
            found.append(sorted(order[begin:end]))
            end = begin
        return sorted(found, key=min)

    def _costs(self, sizes: Sequence[tuple[int, int]]) -> Iterator[tuple[int, float]]:
        """Of every batch that the last rows could be: its first row, and what it costs."""
        tokens, frames = _Extent(), _Extent()
        for begin in range(len(sizes) - 1, -1, -1):
            tokens, frames = tokens.with_row(sizes[begin][0]), frames.with_row(sizes[begin][1])
            flow, vocoder = self._flow.cost(tokens), self._vocoder.cost(frames)
            if flow is None or vocoder is None:
                break  # with more rows it is none the less too large
            yield begin, flow + FRAME_COST * vocoder + BATCH_COST


def limits_of(profiles: Mapping[str, Sequence[Profile]], units: Mapping[str, tuple[str, int]]) -> list[Limit]:
    """What all these stages take, given by stage the size that is a row's length, and how many make a position."""
    found: list[Limit] | None = None
    for stage, (name, each) in units.items():
        own = [(profile.dims["rows"][-1], profile.dims[name][-1] // each) for profile in profiles[stage]]
        found = own if found is None else [(min(r, n), min(a, b)) for r, a in found for n, b in own]
    return found or []


def flow_graphs(sizes: Sequence[int]) -> list[tuple[int, int]]:
    """Which pairs of (tokens, longest row), both rounded up, a packed batch can come to: see PackedShapes.batches."""
    found = []
    for before, most in zip((0, *LONGEST), LONGEST, strict=False):
        alone = bucket_of(most, sizes) or sizes[-1]
        found += [(size, most) for size in sizes if before < size and (most != LONGEST[-1] or size <= alone)]
    return sorted(found)
