"""One sequence in the making: a segment of a text, from waiting for a slot to its last sample."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from operator import attrgetter

from tts_engine.chatterbox.chunk_plan import ChunkPlan, ChunkPlanner
from tts_engine.chatterbox.chunk_policy import ChunkPolicy
from tts_engine.chatterbox.constants import FRAMES_PER_TOKEN, TOKEN_RATE, TRAILING_SILENCE_TOKENS

FRAME_SECONDS = 1 / (TOKEN_RATE * FRAMES_PER_TOKEN)

by_deadline = attrgetter("deadline", "id")
"Key of every queue's order; ids make it the same order each time."

_NEVER = 1 << 62


class State(Enum):
    """Where a sequence is in its life. The last three are its end: it holds nothing any more."""

    WAITING = "waiting"
    "For a slot and pages, or for T3 of the sequence it comes after."
    DECODING = "decoding"
    "T3 makes its tokens; its first chunks may be decoded and heard already."
    SPOKEN = "spoken"
    "T3 is done and its slot and pages are free; chunks remain."
    DONE = "done"
    CANCELLED = "cancelled"
    FAILED = "failed"


@dataclass(eq=False, slots=True)
class Sequence:
    """What its maker says of it, and below that what the scheduler, to whom it belongs once added, keeps of it."""

    id: int
    text_tokens: int
    prompt_tokens: int
    "The flow's, of the voice: each chunk pays for them again."
    limit: int
    "Most speech tokens: at that many it has ended, whoever says so."
    policy: ChunkPolicy | None
    "How it is cut; None: by `ladder`, from what its listener holds when it gets its slot."
    sample_rate: int
    deadline: float
    "Seconds: when the listener's audio runs out; for who has heard nothing yet, the time of arrival."
    after: int | None = None
    "The sequence whose sound comes before."

    state: State = field(default=State.WAITING, init=False)

    # T3. A result is one sampled token: of the prefill, then of each step.
    slot: int = field(default=-1, init=False)
    row: tuple[int, int] = field(default=(-1, -1), init=False)  # (id, slot), as steps name it
    pages: list[int] = field(default_factory=list, init=False)
    launched: int = field(default=0, init=False)  # results asked of the device
    reported: int = field(default=0, init=False)  # results that came back
    attention: int = field(default=0, init=False)  # `launched` at which it takes more than one more step
    tokens: int = field(default=0, init=False)  # speech tokens released

    # Its sound. `target` is a plain number, not the planner's, as each step's result is compared with it.
    target: int = field(default=_NEVER, init=False)  # tokens at which a chunk is to be planned
    plan: ChunkPlan | None = field(default=None, init=False)  # the chunk that is due or in a batch
    in_chunk: bool = field(default=False, init=False)  # whether it is in a batch
    decoded_frames: int = field(default=0, init=False)
    _planner: ChunkPlanner = field(default_factory=lambda: ChunkPlanner(ChunkPolicy()), init=False)

    def __post_init__(self) -> None:
        for name, value, least in (
            ("text_tokens", self.text_tokens, 0),
            ("prompt_tokens", self.prompt_tokens, 0),
            ("limit", self.limit, 1),
        ):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, not {value}")

    def begin(self, slot: int, pages: list[int], page: int) -> None:
        """Its prefill, which gives the first result, is to be launched; a page holds `page` positions."""
        self.state = State.DECODING
        self.slot, self.row, self.pages = slot, (self.id, slot), pages
        self.launched = 1
        self.attention = min(self.limit, len(pages) * page - self.text_tokens)
        self._planner = ChunkPlanner(self.policy or ChunkPolicy())
        self.target = self._planner.target

    @property
    def ended(self) -> bool:
        """Whether T3 gives no more tokens."""
        return self.state is not State.WAITING and self.state is not State.DECODING

    @property
    def positions(self) -> int:
        """Own positions of the KV cache that are written once all that was launched has run: text, START, speech."""
        return self.text_tokens + self.launched

    @property
    def missing(self) -> int:
        """Tokens that are missing before a chunk can be planned."""
        return max(0, self._planner.target - self.tokens)

    @property
    def undecoded_seconds(self) -> float:
        """Speech that exists as tokens only."""
        return max(0.0, self.tokens / TOKEN_RATE - self.decoded_frames * FRAME_SECONDS)

    @property
    def chunk_cost(self) -> int:
        """Tokens that the flow is given for the chunk planned, the voice's prompt included; 0 if there is none."""
        return 0 if self.plan is None else self.prompt_tokens + self.plan.given_tokens

    def plan_chunk(self) -> bool:
        """Plan the next chunk if there is none and its tokens are there; whether it did.

        A chunk takes the tokens of its size and no more, however many came while it had to wait: the joints, and so
        the samples, are the same whatever the load.
        """
        if self.plan is not None:
            return False
        target = self._planner.target
        if self.tokens >= target:
            self.plan = self._planner.next(target, False)
        elif self.ended:
            self.plan = self._planner.next(self.tokens + TRAILING_SILENCE_TOKENS, True)
        if self.plan is None:
            return False
        self.target = _NEVER
        return True

    def finish_chunk(self) -> bool:
        """The chunk planned is decoded; whether it was the last."""
        plan, self.plan, self.in_chunk = self.plan, None, False
        if plan is None:
            raise ValueError(f"sequence {self.id} has no chunk")
        self.decoded_frames = plan.until
        self.target = self._planner.target
        return plan.final
