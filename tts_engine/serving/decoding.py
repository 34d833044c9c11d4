"""The sequences that T3 decodes: their slots and pages, and who takes part in the next step.

Planned 300 times a second with hundreds of rows, beside threads that pace RTP: a row costs a step a few comparisons.
What needs more (a page, the bound on being ahead, the limit) is looked at when `Sequence.attention` says so, and order
is made again only after it was lost.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, inf

from tts_engine.serving.ahead import AheadBound
from tts_engine.serving.limits import Limits
from tts_engine.serving.pages import PageAllocator
from tts_engine.serving.sequence import Sequence, by_deadline

RESULTS_AHEAD = 2
"Results of one sequence that may be on their way: of the step that runs, and of the one launched ahead."


@dataclass(frozen=True)
class StepPlan:
    """One step of T3: to be launched if there are rows."""

    rows: tuple[tuple[int, int], ...] = ()
    "(id, slot), the most urgent first."
    new_pages: tuple[tuple[int, int, int], ...] = ()
    "(slot, index in its table, page), to be written before the step."
    failed: tuple[int, ...] = ()
    "Sequences given up: the KV cache was full, and no other way was left."


class Decoding:
    """Sequences from prefill to T3's end."""

    def __init__(self, limits: Limits, runs_out: Callable[[Sequence], float]) -> None:
        """`runs_out`: see `ahead`."""
        self._limits = limits
        self._runs_out = runs_out
        self._bound = AheadBound(limits.ahead_seconds)
        self._pages = PageAllocator(limits.pages)
        self._slots = list(range(limits.slots - 1, -1, -1))
        self.sequences: dict[int, Sequence] = {}
        self._active: list[Sequence] = []
        self._in_order = True
        self._resting: dict[int, Sequence] = {}
        self._resume_at = inf  # not after the first of them is due
        self.crowded = False
        "Somebody waits for what those who rest have: then nobody rests, so that they come to their end."
        self.stalled = 0
        "Rows that lacked a page in the last step."

    @property
    def slots_used(self) -> int:
        return self._limits.slots - len(self._slots)

    @property
    def pages_used(self) -> int:
        return self._pages.used

    @property
    def resting(self) -> int:
        """Sequences too far ahead."""
        return len(self._resting)

    def first_pages(self, sequence: Sequence) -> int:
        """Of its text and START, and a page's worth of speech, so that it does not stall at once."""
        page = self._limits.page
        return ceil((sequence.text_tokens + min(1 + page, sequence.limit)) / page)

    def room_for(self, sequence: Sequence) -> bool:
        """Whether it can begin, and each that decodes already could still have one more page: or all might stall."""
        return bool(self._slots) and self.first_pages(sequence) + len(self.sequences) <= self._pages.free

    def begin(self, sequence: Sequence) -> None:
        """Give it a slot and its first pages; there must be room."""
        pages = self._pages.take(self.first_pages(sequence))
        if pages is None:
            raise ValueError(f"there is no room for sequence {sequence.id}")
        sequence.begin(self._slots.pop(), pages, self._limits.page)
        self.sequences[sequence.id] = sequence
        self._active.append(sequence)
        self._in_order = False

    def leave(self, sequence: Sequence) -> None:
        """Its slot and pages are free at once: see `scheduler` for why that is safe."""
        del self.sequences[sequence.id]
        if self._resting.pop(sequence.id, None) is None:
            self._active.remove(sequence)
        self._slots.append(sequence.slot)
        self._pages.give(sequence.pages)
        sequence.slot, sequence.pages = -1, []

    def look_again(self, sequence: Sequence) -> None:
        """Its deadline or what is decoded of it has changed: its place, and whether it rests, are to be found anew."""
        self._in_order = False
        if sequence.id in self._resting:
            at = self._bound.resume_at(sequence, self._runs_out(sequence))
            self._resume_at = min(self._resume_at, at)
        else:
            sequence.attention = min(sequence.attention, sequence.launched)

    def plan_step(self, now: float) -> StepPlan:
        """One more step for who is not too far ahead, has a page, and has no two results on their way."""
        if self._resting and (self.crowded or now >= self._resume_at):
            self._resume(now)
        plan = self._launch(now)
        if self._resting and self._stuck(plan):  # They may have room in their pages, and come to their end.
            self.crowded = True
            self._resume(now)
            plan = self._launch(now)
        return plan

    def to_give_up(self, plan: StepPlan) -> Sequence | None:
        """The least urgent, if nobody could ever free a page after this plan: all lack one, and no result is on its way
        that may be somebody's last.
        """
        return max(self.sequences.values(), key=by_deadline) if self._stuck(plan) else None

    def next_resume(self) -> float:
        """When the first of those who rest goes on; inf: nobody rests."""
        return min((self._bound.resume_at(each, self._runs_out(each)) for each in self._resting.values()), default=inf)

    def _stuck(self, plan: StepPlan) -> bool:
        if plan.rows or not self.stalled:
            return False
        return all(each.launched == each.reported for each in self.sequences.values())

    def _launch(self, now: float) -> StepPlan:
        if not self._in_order:
            self._active.sort(key=by_deadline)
            self._in_order = True
        self.stalled = 0
        resting, most = len(self._resting), self._limits.step_rows
        rows: list[tuple[int, int]] = []
        new_pages: list[tuple[int, int, int]] = []
        for sequence in self._active:
            launched = sequence.launched
            if launched - sequence.reported >= RESULTS_AHEAD:
                continue
            if launched >= sequence.attention and not self._attend(sequence, now, new_pages):
                continue
            sequence.launched = launched + 1
            rows.append(sequence.row)
            if len(rows) == most:
                break
        if len(self._resting) > resting:
            self._active = [each for each in self._active if each.id not in self._resting]
        return StepPlan(tuple(rows), tuple(new_pages))

    def _attend(self, sequence: Sequence, now: float, new_pages: list[tuple[int, int, int]]) -> bool:
        """Whether it can take one more step; a page for it is taken, or its rest begun."""
        if sequence.launched >= sequence.limit:
            return False
        room = inf if self.crowded else self._bound.room(sequence, self._runs_out(sequence), now)
        if not room:
            self._resting[sequence.id] = sequence
            at = self._bound.resume_at(sequence, self._runs_out(sequence))
            self._resume_at = min(self._resume_at, at)
            return False
        page = self._limits.page
        if sequence.positions >= len(sequence.pages) * page:
            taken = self._pages.take(1)
            if taken is None:
                self.stalled += 1
                return False
            new_pages.append((sequence.slot, len(sequence.pages), taken[0]))
            sequence.pages += taken
        in_pages = len(sequence.pages) * page - sequence.text_tokens
        in_bound = sequence.launched + int(min(room, sequence.limit))
        sequence.attention = min(in_pages, in_bound, sequence.limit)
        return True

    def _resume(self, now: float) -> None:
        for sequence in list(self._resting.values()):
            if self.crowded or self._bound.resume_at(sequence, self._runs_out(sequence)) <= now:
                del self._resting[sequence.id]
                sequence.attention = min(sequence.attention, sequence.launched)
                self._active.append(sequence)
                self._in_order = False
        self._resume_at = self.next_resume()
