"""Barge-in: the caller interrupts what is being played, by speaking or by a digit.

All of it runs on the media thread, and all times are arguments. A frame that may be speech, and that no known echo
explains, sets a bit in a register; enough bits make a candidate; a candidate is freed of echo and must still be a
voice. On a quiet line a frame costs one look at its level.

That close look at a candidate is dear. A leg whose looks find no caller takes them less often, and the legs of one
media thread share a budget (look_budget.py): a leg that is refused asks again with its next frame that may be speech.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from mediaserver.rtp.echo_guard import WINDOW_MS, EchoGuard, heard_samples
from mediaserver.rtp.look_budget import LookBudget, new_leg
from mediaserver.rtp.voice_activity import FRAME_MS, HALF_FRAME, Samples, VoiceActivity, is_speech, level

Policy = Literal["none", "speech", "digit", "either"]

CHECK_INTERVAL_MS = 60
"Between two close looks at one caller; each costs some milliseconds."
LONGEST_INTERVAL_MS = 240
"The interval doubles up to this with each look that finds no caller, from the second one on."
CALM_MS = 1000
"Without a candidate: whatever it was that looked like a caller is over."
TALKSPURT_GAP_MS = 400
"A pause between two utterances that ends a talkspurt; in a shorter one, the hold-off does not begin again."

_WINDOW_FRAMES = WINDOW_MS // FRAME_MS
_SLACK_FRAMES = 3  # within the shortest speech, not voiced: a stop consonant
_LONGEST_MS = WINDOW_MS - _SLACK_FRAMES * FRAME_MS
_RISE = 2.0  # 6 dB above what was no caller: somebody may be speaking over it
_YIELD_MS = 2000  # how far a leg whose looks find nothing stands behind others in the queue for the budget


@dataclass(frozen=True, slots=True)
class BargeInSettings:
    """What interrupts, and how sure of it one must be. Raises ValueError for what cannot be."""

    policy: Policy = "none"
    min_speech_ms: int = 120
    "Speech, in frames of 20 ms with room for pauses of 60 ms in all, that makes an interruption."
    energy_floor_dbov: float = -45.0
    "What is quieter is never speech. dBov: 0 is a full-scale square wave."
    hold_off_ms: int = 500
    "From the start of a talkspurt: speech within it does not count, as the caller's own hello after the answer."
    aggressiveness: int = 1
    "WebRTC's: 0 to 3; with 3 noise is taken for speech least often, and speech for noise most."
    echo_guard: bool = True
    "Whether to subtract what was sent from what was heard."

    def __post_init__(self) -> None:
        if not 60 <= self.min_speech_ms <= _LONGEST_MS:
            raise ValueError(f"min_speech_ms is {self.min_speech_ms}, not 60 to {_LONGEST_MS}")
        if self.hold_off_ms < 0:
            raise ValueError(f"hold_off_ms is {self.hold_off_ms}, less than 0")
        if not -90 <= self.energy_floor_dbov <= 0:
            raise ValueError(f"energy_floor_dbov is {self.energy_floor_dbov}, not -90 to 0")
        if self.aggressiveness not in range(4):
            raise ValueError(f"aggressiveness is {self.aggressiveness}, not 0 to 3")


class Interruption(NamedTuple):
    """The caller interrupted."""

    cause: Literal["speech", "digit"]
    at_ms: int
    "When it was decided; on the pacer's clock."
    onset_ms: int
    "When the speech that led to it began, or the digit."


class BargeIn:
    """One leg's decision. Belongs to the media thread; `policy` may be set by the event loop."""

    __slots__ = (
        "_activity",
        "_before",
        "_budget",
        "_candidate_ms",
        "_check_ms",
        "_due_ms",
        "_fruitless",
        "_fruitless_level",
        "_guard",
        "_halt",
        "_hold_off_ms",
        "_last_playing_ms",
        "_leg",
        "_looked_ms",
        "_mask",
        "_min_frames",
        "_on_interrupt",
        "_playing",
        "_recent",
        "_recent_ms",
        "_register",
        "_started_ms",
        "_write",
        "checks",
        "echoes",
        "policy",
    )

    def __init__(
        self,
        settings: BargeInSettings,
        on_interrupt: Callable[[Interruption], None],
        *,
        playing: Callable[[], bool],
        halt: Callable[[], object],
        budget: LookBudget | None = None,
    ) -> None:
        """`playing`: whether speech is being played, and was not halted. `halt`: stop it with the next frame.

        Both, and on_interrupt after halt, are called on the media thread. `budget`: what all legs of that thread
        share; without it the leg has one of its own.
        """
        self.policy: Policy = settings.policy
        self.checks = 0
        "Close looks that were taken."
        self.echoes = 0
        "Of them, those that found no caller: echo, tones or noise."
        self._on_interrupt = on_interrupt
        self._playing = playing
        self._halt = halt
        self._activity = VoiceActivity(settings.energy_floor_dbov, settings.aggressiveness)
        self._guard = EchoGuard() if settings.echo_guard else None
        self._write = self._guard.sent.write if self._guard is not None else None
        self._hold_off_ms = settings.hold_off_ms
        self._min_frames = settings.min_speech_ms // FRAME_MS
        self._mask = (1 << (self._min_frames + _SLACK_FRAMES)) - 1
        self._register = 0  # one bit a frame, the newest is bit 0
        self._recent: deque[bytes] = deque(maxlen=_WINDOW_FRAMES)
        self._before = b""  # the frame before them
        self._recent_ms = 0  # of the newest
        self._budget = budget if budget is not None else LookBudget()
        self._leg = new_leg()
        self._candidate_ms = 0  # of the last candidate
        self._looked_ms = -CHECK_INTERVAL_MS
        self._check_ms = 0  # no close look before
        self._due_ms: int | None = None  # the place in the queue for a close look
        self._fruitless = 0  # looks in a row that found no caller
        self._fruitless_level = math.inf  # of the loudest frame of the last of them
        self._started_ms: int | None = None  # of the talkspurt
        self._last_playing_ms = 0

    @property
    def wants_audio(self) -> bool:
        """Whether sent() and heard() need to be called."""
        return self.policy in {"speech", "either"}

    def sent(self, pcm: bytes | None, at_ms: int) -> None:
        """What the leg sent at this tick: 16-bit PCM at 8 kHz, whole milliseconds; None for silence."""
        write = self._write
        if write is not None:
            write(pcm, at_ms)

    def heard(self, pcm: bytes, at_ms: int) -> None:
        """20 ms of inbound 16-bit PCM at 8 kHz, in order of time. Decides, if speech is being played."""
        if not self._playing():
            self._register = 0
            self._activity.is_loud(pcm)  # for the noise
            started = self._started_ms
            if started is not None and at_ms - self._last_playing_ms >= TALKSPURT_GAP_MS:
                self._started_ms = None
            self._keep(pcm, at_ms)
            return
        self._last_playing_ms = at_ms
        if self._started_ms is None:
            self._started_ms = at_ms
        self._keep(pcm, at_ms)
        voiced = self._activity.is_voiced(pcm)
        if not voiced:
            if self._register:
                self._register = (self._register << 1) & self._mask
            return
        if at_ms - self._started_ms < self._hold_off_ms or not self.wants_audio:
            return
        guard = self._guard
        if guard is not None and guard.path is not None and self._is_known_echo(guard, pcm, at_ms):
            self._register = (self._register << 1) & self._mask
            return
        self._register = register = ((self._register << 1) | 1) & self._mask
        if register.bit_count() >= self._min_frames:
            self._consider(at_ms)

    def _is_known_echo(self, guard: EchoGuard, pcm: bytes, at_ms: int) -> bool:
        before = self._recent[-2] if len(self._recent) > 1 else b""
        return guard.explains(before, pcm, at_ms, self._activity.threshold)

    def digit(self, at_ms: int) -> None:
        """The caller pressed a key. There is no hold-off: nobody presses a key by accident of the answer."""
        if self.policy in {"digit", "either"} and self._playing():
            self._interrupt(Interruption("digit", at_ms, at_ms))

    def close(self) -> None:
        """The end: nothing interrupts any more, and nothing is held that could hold this."""
        self._playing, self._halt, self._on_interrupt = _never, _nothing, _unheard

    def _keep(self, pcm: bytes, at_ms: int) -> None:
        recent = self._recent
        if at_ms - self._recent_ms != FRAME_MS:
            recent.clear()  # the window has to be continuous
            self._before = b""
        elif len(recent) == _WINDOW_FRAMES:
            self._before = recent[0]
        self._recent_ms = at_ms
        recent.append(pcm)

    def _consider(self, at_ms: int) -> None:
        """A candidate: look closely if it is time to, and the budget has it."""
        if at_ms - self._candidate_ms >= CALM_MS or self._activity.level >= _RISE * self._fruitless_level:
            self._start_afresh()
        self._candidate_ms = at_ms
        if at_ms < self._check_ms:
            return
        due_ms = self._due_ms
        if due_ms is None:
            self._due_ms = due_ms = at_ms + (_YIELD_MS if self._fruitless > 1 else 0)
        if self._budget.take(self._leg, due_ms, at_ms):
            self._check(at_ms)

    def _start_afresh(self) -> None:
        """What earlier looks found says nothing about the next."""
        self._fruitless = 0
        self._fruitless_level = math.inf
        self._check_ms = self._looked_ms + CHECK_INTERVAL_MS
        self._due_ms = None

    def _found_nothing(self, length: int) -> None:
        self.echoes += 1
        self._fruitless += 1
        self._fruitless_level = max(map(level, list(self._recent)[-length:]))
        interval = CHECK_INTERVAL_MS << min(self._fruitless - 1, 8)
        self._check_ms = self._looked_ms + min(interval, LONGEST_INTERVAL_MS)

    def _check(self, at_ms: int) -> None:
        """The close look: freed of echo, is there a caller?"""
        self.checks += 1
        self._looked_ms = at_ms
        self._due_ms = None
        length = self._register.bit_length()
        heard = heard_samples(self._before, b"".join(self._recent))
        caller = self._is_caller(heard, length)
        if caller and self._guard is not None:
            # A second opinion from these frames alone: the echo path may have changed within the window.
            self._budget.charge()
            caller = self._is_caller(heard[-length * HALF_FRAME :], length)
        if caller:
            self._interrupt(Interruption("speech", at_ms, at_ms - (length - 1) * FRAME_MS))
        else:
            self._found_nothing(length)

    def _is_caller(self, heard: Samples, length: int) -> bool:
        """Whether the last `length` frames hold a voice, once an echo path fitted to all of `heard` is taken out."""
        if self._guard is not None:
            first_ms = self._recent_ms + FRAME_MS - len(heard) // HALF_FRAME * FRAME_MS
            heard = self._guard.subtract(heard, first_ms)
        return is_speech(heard[-length * HALF_FRAME :], self._activity.threshold)

    def _interrupt(self, interruption: Interruption) -> None:
        self._register = 0
        self._start_afresh()
        self._started_ms = None  # what is played next is a new talkspurt
        self._halt()
        self._on_interrupt(interruption)


def _never() -> bool:
    return False


def _nothing() -> None:
    pass


def _unheard(_interruption: Interruption) -> None:
    pass
