"""How deep a jitter buffer should be, learnt from the leads of its packets.

A packet's lead is how far its first sample lies ahead of the playout point when it comes. The least lead of some
seconds is kept between one frame and two: less, and a packet will be late soon; more, and all audio waits for nothing.
The drift of the sender's clock shows in the leads as well, so it needs no estimate of its own.
"""

from __future__ import annotations

from collections import deque

FRAME = 160
"Samples of 20 ms at 8 kHz: the step by which the playout point moves."

START_DEPTH = 2 * FRAME
_SMOOTHING = 1 / 16
WINDOW_FRAMES = 100
"Frames over which a least lead is taken: 2 s."
_WINDOWS = 5
_NONE = 1 << 30
_EXCESS = 5 * FRAME
"With a least lead of 100 ms the delay is worth a splice in the middle of speech."


class PlayoutDepth:
    """The leads seen, in samples, and the change of depth that they ask for."""

    __slots__ = ("_leasts", "_max", "_patience", "adjust", "least", "mean")

    def __init__(self, maximum: int) -> None:
        """maximum: of the mean lead."""
        self._max = maximum
        self.reset()

    def reset(self) -> None:
        """Forget all: another stream."""
        self.mean = float(START_DEPTH)
        "Smoothed: how long packets wait."
        self.adjust = 0
        "+1: the depth should grow by one frame; negative: shrink by so many, where it is not heard. 0: it is right."
        self._patience = 0  # windows for which `adjust` has found no quiet
        self.forget()

    def forget(self) -> None:
        """Forget the least leads: delays are not what they were."""
        self.least = _NONE  # of this window
        self._leasts: deque[int] = deque(maxlen=_WINDOWS)

    def note(self, lead: int) -> None:
        """A packet has come in time."""
        self.mean += (lead - self.mean) * _SMOOTHING
        self.least = min(self.least, lead)

    def moved(self, change: int) -> None:
        """The playout point was moved: leads will be greater by `change`, and so are those remembered."""
        self.mean = max(0.0, self.mean + change)
        if self.least != _NONE:
            self.least += change
        self._leasts = deque((least if least == _NONE else least + change for least in self._leasts), _WINDOWS)

    @property
    def may_grow(self) -> bool:
        return self.mean + FRAME <= self._max

    def start_talkspurt(self) -> int:
        """The depth at which to start, which is assumed from now on: the spread of the leads, and one frame."""
        least = min(self.least, *self._leasts, _NONE)
        if least == _NONE:
            depth = START_DEPTH
        else:
            spread = max(0, int(self.mean) - least)
            depth = min(self._max, FRAME + -(-spread // FRAME) * FRAME)
        self.moved(depth - int(self.mean))
        return depth

    def end_window(self) -> None:
        """Every WINDOW_FRAMES frames: judge the depth."""
        self._leasts.append(self.least)
        self.least = _NONE
        least = min(self._leasts)
        before = self.adjust
        self.adjust = 0
        if least == _NONE:
            return
        if least < FRAME and self.may_grow:
            self.adjust = 1
        elif least >= 2 * FRAME and len(self._leasts) >= (2 if least >= _EXCESS else _WINDOWS):
            self.adjust = -max(1, least // FRAME // 2)
        self._patience = self._patience + 1 if self.adjust * before > 0 else 0

    def take_adjustment(self, quiet: bool) -> int:
        """The frames by which to move the playout point back now (negative: forward), if it is time; else 0.

        Where it is quiet; or, if there was no quiet for long or the delay is great, anywhere.
        """
        if not quiet and self._patience < _WINDOWS and min(self._leasts, default=0) < _EXCESS:
            return 0
        change, self.adjust, self._patience = self.adjust, 0, 0
        return change
