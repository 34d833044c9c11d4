"""Putting a call's peer on hold and taking it back: one re-INVITE at a time, whatever is wished meanwhile."""

from __future__ import annotations

from collections.abc import Callable


class CallHold:
    """Pure: `ask` sends the re-INVITE, answered() brings its outcome."""

    def __init__(self, ask: Callable[[bool], None]) -> None:
        """ask(held) is to lead to answered(), once."""
        self.held = False
        "As the peer has agreed."
        self._wanted = False
        self._asked: bool | None = None
        self._ask = ask

    @property
    def silent(self) -> bool:
        """Whether speech is to pause: from the wish to hold until the peer has agreed to go on."""
        return self._wanted or self.held

    def want(self, held: bool) -> None:
        """Hold, or go on; nothing is done for what is so already, or asked for."""
        self._wanted = held
        self._proceed()

    def answered(self, agreed: bool) -> bool:
        """The re-INVITE was answered; whether that changed anything. A refusal leaves all as it was."""
        asked, self._asked = self._asked, None
        if asked is None:
            return False
        changed = agreed and asked != self.held
        if agreed:
            self.held = asked
        elif self._wanted == asked:
            self._wanted = self.held
        self._proceed()
        return changed

    def close(self) -> None:
        """The call is over: nothing is asked any more."""
        self._ask = _ignore
        self._asked = None

    def _proceed(self) -> None:
        if self._asked is None and self._wanted != self.held:
            self._asked = self._wanted
            self._ask(self._wanted)


def _ignore(_held: bool) -> None:
    pass
