"""What an agent says on one call: talk cycles of tokens, and recorded sounds between them.

A talk cycle is the tokens up to one that is the last. It is one utterance of the call, whose clauses are added as they
become complete; what interrupts it can change within it, and then it is two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from mediaserver.api.agent.clauses import ClauseSplitter
from mediaserver.call.control import CallControl, SpeechTurn
from mediaserver.config import BargeInPolicy
from mediaserver.refusal import RefusedError
from mediaserver.speech.script import Sound, Words

SETTLE_S = 0.1
"Without a token for so long, what looks complete is spoken: no next word has to prove it."

STALL_S = 1.0
"Without a token for so long, everything is spoken: a model may think for a while in the middle of a sentence."

QUIET_S = 0.5
"After an interruption a token that comes later than this after it and after the last one is of a new talk cycle."


class Timer(Protocol):
    def cancel(self) -> None: ...


class Clock(Protocol):
    """What an event loop has: monotonic seconds, and timers."""

    def time(self) -> float: ...

    def call_later(self, delay: float, callback: Callable[[], object], /) -> Timer: ...


class Talk:
    """Raises RefusedError where the call refuses; what follows of that talk cycle is then passed over."""

    def __init__(self, call: CallControl, clock: Clock, on_refusal: Callable[[RefusedError], None]) -> None:
        """on_refusal: of what was to be said after a while, when nobody is there to raise it to."""
        self._call = call
        self._clock = clock
        self._on_refusal = on_refusal
        self._clauses = ClauseSplitter()
        self._turn: SpeechTurn | None = None
        self._barge_in: BargeInPolicy = "none"
        self._voice: str | None = None
        self._under_way = False
        "A talk cycle has begun, and its last token has not come."
        self._deaf = False
        "It was interrupted or refused: the rest of its tokens is not said."
        self._preemptible = False
        "The last talk cycle may be cut by the next."
        self._unheard: set[int] = set()
        "Utterances of the agent that are queued, or being said."
        self._last_token = 0.0
        "When it came; or when it was interrupted, as from then on its sender has to be told before it can stop."
        self._timer: Timer | None = None

    def token(
        self, text: str, *, last: bool, barge_in: BargeInPolicy, preemptible: bool = False, voice: str | None = None
    ) -> None:
        """The next token. A cycle's first decides whether what was said before is cut."""
        now = self._clock.time()
        quiet, self._last_token = now - self._last_token, now
        if self._deaf and quiet < QUIET_S:
            if last:
                self._end_cycle()
            return
        if self._deaf:
            self._end_cycle()
        if not self._under_way:
            self._begin_cycle()
        self._preemptible = self._preemptible or preemptible
        try:
            if (barge_in, voice) != (self._barge_in, self._voice):
                self._say(self._clauses.finish())
                if barge_in != self._barge_in:
                    self._end_turn()
                self._barge_in, self._voice = barge_in, voice
            self._say(self._clauses.feed(text))
            if last:
                self._say(self._clauses.finish())
        except RefusedError:
            self._deafen()
            raise
        finally:
            if last:
                self._end_cycle()
        if self._clauses.waiting and self._timer is None:
            self._timer = self._clock.call_later(SETTLE_S, self._look)

    def play(self, sounds: Sequence[Sound], *, barge_in: BargeInPolicy, preemptible: bool = False) -> None:
        """A talk cycle of its own."""
        self.end_cycle()
        self._begin_cycle()
        self._under_way = False
        self._preemptible = preemptible
        self._unheard.add(self._call.say(tuple(sounds), barge_in=barge_in))

    def end_cycle(self) -> None:
        """What has come is all: it is said to its end."""
        try:
            if not self._deaf:
                self._say(self._clauses.finish())
        finally:
            self._end_cycle()

    def close(self) -> None:
        """No more comes."""
        self._forget()
        self._on_refusal = _untold

    def cut(self) -> None:
        """All that was queued on the call is heard no more: it was interrupted or cleared.

        That holds for a talk cycle under way, too, of which nothing was queued yet: who sends it has not noticed.
        """
        self._unheard.clear()
        if self._under_way:
            self._last_token = self._clock.time()
            self._deafen()

    def heard(self, utterance: int) -> None:
        self._unheard.discard(utterance)

    def answered(self) -> None:
        """The agent was told something to answer: what comes now is no rest of what was interrupted."""
        if self._deaf:
            self._end_cycle()

    def _begin_cycle(self) -> None:
        if self._preemptible and self._unheard:
            self._call.clear()
            self._unheard.clear()
        self._preemptible = False
        self._under_way = True

    def _say(self, clauses: Sequence[str]) -> None:
        if not clauses:
            return
        if self._turn is None:
            self._turn = self._call.open_turn(barge_in=self._barge_in)
            self._unheard.add(self._turn.number)
        self._turn.add(*(Words(clause, self._voice) for clause in clauses))

    def _look(self) -> None:
        """No token came for a while, perhaps."""
        self._timer = None
        if not self._clauses.waiting or self._deaf:
            return
        quiet = self._clock.time() - self._last_token
        try:
            if quiet >= STALL_S:
                self._say(self._clauses.finish())
            elif quiet >= SETTLE_S:
                self._say(self._clauses.settle())
        except RefusedError as error:
            self._deafen()
            self._on_refusal(error)
        if self._clauses.waiting:
            wait = (SETTLE_S if quiet < SETTLE_S else STALL_S) - quiet
            self._timer = self._clock.call_later(max(wait, 0.001), self._look)

    def _end_turn(self) -> None:
        turn, self._turn = self._turn, None
        if turn is not None:
            turn.end()

    def _end_cycle(self) -> None:
        self._forget()
        self._under_way = self._deaf = False

    def _deafen(self) -> None:
        """Half of a talk cycle would be worse than none of it, and what is refused once would be for each token."""
        self._forget()
        self._deaf = True

    def _forget(self) -> None:
        self._end_turn()
        self._clauses = ClauseSplitter()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _untold(_error: RefusedError) -> None:
    pass
