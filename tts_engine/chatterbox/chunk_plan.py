"""Which tokens and frames the next chunk of a sequence is made of: counting alone, no samples and no tensors.

`SpeechAssembler` (one utterance, plain modules) and the scheduler (many, batched) plan with the same planner, so that
both cut a sequence alike.
"""

from __future__ import annotations

from dataclasses import dataclass

from tts_engine.chatterbox.chunk_policy import ChunkPolicy
from tts_engine.chatterbox.constants import FRAMES_PER_TOKEN

_LADDER = (
    # held seconds, sizes. 200 tokens take about a second to generate in a busy batch, 500 two and a half.
    (6.0, (500,)),  # all in one: what is left of a segment after 20 s is a second chunk
    (2.0, (75, 200)),
    (1.0, (40, 100, 200)),
    (0.0, (24, 40, 200)),
)


@dataclass(frozen=True)
class ChunkPlan:
    """One chunk. Frames are counted in the sequence, without the voice's prompt.

    The vocoder's window is frames `base` to `known`. Of it, `base` to `spoken` are as the last chunk left them,
    `spoken` to `until` are new speech, and what is left is context.
    """

    first_token: int
    tokens: int
    "The flow is given tokens[first_token:tokens]; of a finished sequence they include the trailing silence."
    look_ahead: int
    "How many of them are context only: 0 in the final chunk."
    final: bool
    "Nothing follows."
    base: int
    spoken: int
    known: int
    until: int
    next_base: int
    "Where the next chunk's window begins."
    fade: int
    "So many frames from `spoken` on are crossfaded from the last chunk's mel to this one's."

    @property
    def given_tokens(self) -> int:
        """How many tokens the flow is given, without the prompt."""
        return self.tokens - self.first_token

    @property
    def window_frames(self) -> int:
        """Frames of the vocoder's window."""
        return self.known - self.base

    @property
    def speech_frames(self) -> int:
        """Frames of new speech, of 20 ms."""
        return self.until - self.spoken


class ChunkPlanner:
    """Plans the chunks of one sequence, each after the one before it."""

    def __init__(self, policy: ChunkPolicy) -> None:
        self.policy = policy
        self._chunks = 0
        self._decoded = 0  # tokens that the last chunk saw
        self._base = self._spoken = self._known = 0  # frames
        self._done = False

    @property
    def target(self) -> int:
        """Tokens of the unfinished sequence at which the next chunk can be decoded."""
        return self.policy.next_target(self._chunks, self._decoded)

    @property
    def done(self) -> bool:
        """Whether the final chunk was planned."""
        return self._done

    def wanted(self, tokens: int, finished: bool) -> int:
        """Tokens missing before the next chunk can be decoded, there being `tokens`."""
        return 0 if finished else max(0, self.target - tokens)

    def next(self, tokens: int, finished: bool) -> ChunkPlan | None:
        """The next chunk, which is thereby begun; None while tokens are missing, and after the final one.

        `tokens` are all that there are, and with the trailing silence once `finished`: the chunk takes them all. Raises
        ValueError if they have become fewer.
        """
        if self._done or self.wanted(tokens, finished):
            return None
        if tokens < self._decoded:
            raise ValueError(f"the last chunk saw {self._decoded} tokens: there cannot be {tokens}")
        policy = self.policy
        look_ahead = 0 if finished else policy.look_ahead_tokens
        known = (tokens - look_ahead) * FRAMES_PER_TOKEN
        until = known if finished else known - policy.right_context_frames
        plan = ChunkPlan(
            first_token=policy.first_context_token(self._spoken),
            tokens=tokens,
            look_ahead=look_ahead,
            final=finished,
            base=self._base,
            spoken=self._spoken,
            known=known,
            until=until,
            next_base=max(0, until - policy.left_context_frames),
            fade=min(policy.crossfade_frames, self._known - self._spoken, known - self._spoken),
        )
        self._chunks += 1
        self._decoded = tokens
        self._base, self._spoken, self._known = plan.next_base, until, known
        self._done = finished
        return plan


def ladder(held_seconds: float) -> ChunkPolicy:
    """Chunk sizes for a sequence whose listener holds so much audio when it begins.

    Each chunk pays for the voice's prompt (250 tokens) and all earlier tokens again, so large ones are cheap; they are
    as large as can be generated before what is held has been heard.
    """
    for held, sizes in _LADDER:
        if held_seconds >= held:
            return ChunkPolicy(sizes=sizes)
    return ChunkPolicy(sizes=_LADDER[-1][1])
