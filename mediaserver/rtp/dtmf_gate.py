"""One report a press: many devices tell a digit twice, as RFC 4733 events and by SIP INFO, or leave the tone in too."""

from __future__ import annotations

from collections import deque

from mediaserver.rtp.dtmf_event import DtmfEvent

WINDOW_S = {"rfc4733": 0.2, "inband": 0.2, "info": 0.6}
"""How long after the end of a press another source's report of it may come. Events and tones differ by the jitter
buffer's depth; an INFO is sent when the key is released, and again after 500 ms (T1) if it was lost."""
MAX_PRESSES = 16


class _Press:
    __slots__ = ("digit", "ended_at", "told_by")

    def __init__(self, event: DtmfEvent) -> None:
        self.digit = event.digit
        self.told_by = {event.source}
        self.ended_at: float | None = None


class DigitGate:
    """Decides which reports of digits are news. Pure; belongs to one thread.

    The rule: the first source to report a press is believed. A report of the same digit by another source, while
    the press lasts or within WINDOW_S of its end, is of the same press; so each source tells a press once, and two
    quick presses of one key stay two. Only a tone, which a dropout may cut in two, may be told again. A source never
    silences itself.
    """

    __slots__ = ("_down", "_presses", "repeated")

    def __init__(self) -> None:
        self.repeated = 0
        "Presses told again by another source."
        self._presses: deque[_Press] = deque(maxlen=MAX_PRESSES)
        self._down: dict[str, tuple[_Press, bool]] = {}  # by source: the press it began to tell, and whether as news

    def admit(self, event: DtmfEvent, now: float) -> bool:
        """Whether to report an event; both events of a press get the same answer.

        An "ended" without a "started" before it, as an INFO gives, is a whole press.
        """
        if event.kind == "started":
            told = self._down[event.source] = self._find(event, now)
            return told[1]
        down = self._down.pop(event.source, None)
        told = down if down is not None and down[0].digit == event.digit else self._find(event, now)
        told[0].ended_at = now
        return told[1]

    def _find(self, event: DtmfEvent, now: float) -> tuple[_Press, bool]:
        """The press that a report is of, and whether it is news."""
        for press in self._presses:
            if press.digit == event.digit and self._is_of(event.source, press, now):
                press.told_by.add(event.source)
                self.repeated += 1
                return press, False
        press = _Press(event)
        self._presses.append(press)
        return press, True

    def _is_of(self, source: str, press: _Press, now: float) -> bool:
        if press.ended_at is not None and now - press.ended_at > max(WINDOW_S[s] for s in (source, *press.told_by)):
            return False
        if source == "inband":
            return press.told_by != {"inband"}
        return source not in press.told_by
