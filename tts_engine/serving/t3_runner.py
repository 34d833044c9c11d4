"""T3 on its device: batches become calls of known shapes, a CUDA graph for each, fetched without waiting for them.

A launch gives a `Sampled`; the next may be launched before its numbers are asked for, as all that a step needs from
the last one lies on the device.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tts_engine.chatterbox.paged_t3 import BatchDecoder, PagedCache, StepReads
from tts_engine.chatterbox.t3 import VoicePrefix
from tts_engine.serving.graphs import CapturedCall
from tts_engine.serving.laps import Laps, to_host
from tts_engine.tensorrt.step_shapes import Call, ExactShapes, FusedShapes, PrefillShape, StepShape, T3Shapes


@dataclass(frozen=True)
class Begin:
    """A sequence to be prefilled."""

    slot: int
    voice: int
    "Index in the bank."
    text: Sequence[int]
    pages: Sequence[int]
    draws: npt.NDArray[np.float32]
    "A uniform for each step."
    forbid_until: int
    "The first step at which STOP may be chosen."


class Sampled:
    """Tokens on their way to the host."""

    def __init__(self, slots: Sequence[int], on_host: Sequence[Tensor], laps: Laps) -> None:
        """`on_host`: of each call, in the order of the slots."""
        self._slots = slots
        self._on_host = on_host
        self._laps = laps

    @property
    def done(self) -> bool:
        """Whether wait() would not wait."""
        return self._laps.done

    @property
    def seconds(self) -> float:
        """Time on the device. After wait()."""
        return self._laps.seconds()[0]

    def wait(self) -> dict[int, tuple[int, bool]]:
        """By slot: the token, and whether all logits were numbers."""
        self._laps.wait()
        return {
            slot: (token, bool(finite))
            for slot, (token, finite) in zip(self._slots, torch.cat(tuple(self._on_host)).tolist(), strict=True)
        }


class T3Runner:
    """Belongs to one thread. `padding` counts rows of steps that were none."""

    def __init__(
        self, decoder: BatchDecoder, cache: PagedCache, *, graphs: bool, shapes: T3Shapes | None = None
    ) -> None:
        """With guidance the cache has twice the pages that rows are given: page p of a twin is p + half of them.

        `shapes`: of the decoder's passes; default: those of the kernels if there are graphs, else whatever comes.
        """
        slots = self._idle = cache.slots
        self.padding = 0
        self._decoder = decoder
        self._cache = cache
        self._device = decoder.draws.device
        self._graphs = graphs
        self._voice_of = [0] * slots
        # The own position that each slot's next token takes, as the cache's lengths have it on the device.
        self._own = [0] * slots
        # What the device's tables are to be; they go there whole, 45 KB for 256 slots, when a page was added.
        self._tables = np.full(tuple(cache.tables.shape), cache.pages, np.int32)
        self._changed = False
        self._stream = torch.cuda.Stream(priority=-1) if self._device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._pool: Any = torch.cuda.graph_pool_handle() if graphs else None
        self._shapes: T3Shapes = shapes or (FusedShapes(slots) if graphs else ExactShapes())
        self._steps: dict[StepShape, CapturedCall] = {}
        self._prefills: dict[PrefillShape, CapturedCall] = {}

    @property
    def stream(self) -> torch.cuda.Stream | None:
        """Of high priority: a step is many small kernels, which must not queue behind S3Gen's large ones."""
        return self._stream

    def capture(self) -> None:
        """Every graph that will be used."""
        if not self._graphs:
            return
        with self._on_stream():
            for step in self._shapes.all_steps:
                call = partial(self._step, reads=step.reads)
                self._steps[step] = CapturedCall(call, {"slots": self._idle_slots(step.rows)}, self._pool)
            for begin in self._shapes.all_prefills:
                texts = self._idle_texts(begin.rows, begin.text)
                self._prefills[begin] = CapturedCall(self._prefill, texts, self._pool)

    @torch.inference_mode()
    def set_voice(self, index: int, prefix: VoicePrefix) -> None:
        """The prefix that rows of this voice attend to; no row may be using another at this index."""
        with self._on_stream():
            self._cache.set_voice(index, prefix)

    @torch.inference_mode()
    def begin(self, rows: Sequence[Begin]) -> Sampled:
        """Prefill these sequences and sample the first token of each."""
        with self._on_stream():
            laps = Laps(self._device)
            for row in rows:
                self._prepare(row)
            self._send_tables()
            calls = self._shapes.prefills([len(row.text) for row in rows])
            sampled = [self._call_prefill([rows[place] for place in call.places], call.shape) for call in calls]
            return self._sampled([row.slot for row in rows], calls, sampled, laps)

    @torch.inference_mode()
    def step(self, slots: Collection[int], new_pages: Sequence[tuple[int, int, int]] = ()) -> Sampled:
        """One token more for each of these slots. `new_pages`: (slot, place in its table, page)."""
        with self._on_stream():
            laps = Laps(self._device)
            for slot, place, page in new_pages:
                self._set_page(slot, place, page)
            self._send_tables()
            # Rows of a voice side by side: their prefix is read once for a tile of them.
            ordered = sorted(slots, key=self._voice_of.__getitem__)
            calls = self._shapes.steps(
                [self._own[slot] for slot in ordered], [self._voice_of[slot] for slot in ordered]
            )
            sampled = [self._call_step([ordered[place] for place in call.places], call.shape) for call in calls]
            return self._sampled(ordered, calls, sampled, laps)

    @torch.inference_mode()
    def clean(self, slot: int) -> None:
        """Forget what the slot's pages hold: it may not be numbers, and 0 x NaN is NaN."""
        with self._on_stream():
            pages = np.unique(self._tables[self._lines(slot)])
            self._cache.keys_values[:, torch.from_numpy(pages).long().to(self._device)] = 0

    def _prepare(self, row: Begin) -> None:
        decoder, slot = self._decoder, row.slot
        self._voice_of[slot] = row.voice
        self._own[slot] = len(row.text) + 1
        self._tables[self._lines(slot)] = self._cache.pages
        for place, page in enumerate(row.pages):
            self._set_page(slot, place, page)
        self._cache.voice[slot].fill_(row.voice)
        decoder.forbid_until[slot].fill_(row.forbid_until)
        decoder.draws[slot, : len(row.draws)].copy_(torch.from_numpy(row.draws), non_blocking=True)

    def _lines(self, slot: int) -> list[int]:
        """Of the tables: the slot's, and its twin's."""
        return [slot, slot + self._cache.slots + 1] if self._cache.twins else [slot]

    def _set_page(self, slot: int, place: int, page: int) -> None:
        for number, line in enumerate(self._lines(slot)):
            self._tables[line, place] = page + number * (self._cache.pages // 2)
        self._changed = True

    def _send_tables(self) -> None:
        if self._changed:
            self._changed = False
            # From pageable memory: the driver has taken its copy when this returns.
            self._cache.tables.copy_(torch.from_numpy(self._tables), non_blocking=True)

    def _call_prefill(self, rows: Sequence[Begin], shape: PrefillShape) -> Tensor:
        texts = torch.zeros(shape.rows, shape.text, dtype=torch.int64)
        lengths = torch.ones(shape.rows, dtype=torch.int32)
        for at, row in enumerate(rows):
            texts[at, : len(row.text)] = torch.tensor(row.text)
            lengths[at] = len(row.text)
        slots = self._padded([row.slot for row in rows], shape.rows)
        if captured := self._prefills.get(shape):
            (sampled,) = captured(text=texts, lengths=lengths, slots=slots)
        else:
            (sampled,) = self._prefill(texts.to(self._device), lengths.to(self._device), slots)
        return to_host(sampled[: len(rows)])

    def _call_step(self, slots: list[int], shape: StepShape) -> Tensor:
        self.padding += shape.rows - len(slots)
        padded = self._padded(slots, shape.rows)
        captured = self._steps.get(shape)
        (sampled,) = captured(slots=padded) if captured else self._step(padded, shape.reads)
        for slot in slots:
            self._own[slot] = min(self._own[slot] + 1, self._cache.positions)
        return to_host(sampled[: len(slots)])

    def _padded(self, slots: list[int], rows: int) -> Tensor:
        idle = [self._idle] * (rows - len(slots))
        return torch.tensor(slots + idle, dtype=torch.int32).to(self._device, non_blocking=True)

    def _sampled(
        self, slots: Sequence[int], calls: Sequence[Call[Any]], on_host: Sequence[Tensor], laps: Laps
    ) -> Sampled:
        laps.mark()
        return Sampled([slots[place] for call in calls for place in call.places], on_host, laps)

    def _step(self, slots: Tensor, reads: StepReads | None) -> tuple[Tensor, ...]:
        return (self._decoder.step(slots, reads),)

    def _prefill(self, text: Tensor, lengths: Tensor, slots: Tensor) -> tuple[Tensor, ...]:
        return (self._decoder.prefill(text, lengths, slots),)

    def _idle_slots(self, rows: int) -> Tensor:
        return torch.full((rows,), self._idle, dtype=torch.int32, device=self._device)

    def _idle_texts(self, rows: int, count: int) -> dict[str, Tensor]:
        return {
            "text": torch.zeros(rows, count, dtype=torch.int64, device=self._device),
            "lengths": torch.ones(rows, dtype=torch.int32, device=self._device),
            "slots": self._idle_slots(rows),
        }

    def _on_stream(self) -> AbstractContextManager[Any]:
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)
