"""Callers who speak at set moments, and note when the first voiced frame of each phrase left.

Beside uplink.py, whose calls all say the same in a loop, many in one system call: here each packet is a call of its
own, and so for some fifty callers, not a thousand.
"""

from __future__ import annotations

import heapq
import random
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from benchmarks.load.plan import Plan
from benchmarks.load.uplink import CATCH_UP, CLOCK_RATE, FRAME, FRAME_SAMPLES, SSRC, Sent, Uplink

Frames = NDArray[np.uint8]


@dataclass
class _Talker:
    """One call's microphone."""

    remote: tuple[str, int]
    due: float
    sequence: int
    timestamp: int
    at: int
    "Where in the room's noise."
    sent: int = 0
    phrases: list[tuple[float, int]] = field(default_factory=list)
    "When which phrase begins, latest first."
    phrase: int | None = None
    frame: int = 0


class Talkers(Uplink):
    """Room noise all the time, and phrases when they are due. Times are seconds, monotonic."""

    def __init__(
        self,
        sock: socket.socket,
        room: Frames,
        phrases: Sequence[Frames],
        voiced: Sequence[int],
        when: Sequence[tuple[float, int, int]],
        plan: Plan,
    ) -> None:
        """voiced: the first voiced frame of each phrase. when: time, call and phrase."""
        super().__init__(sock, room, plan.calls, plan.start, plan.seed)
        self.onsets: list[tuple[int, int]] = []
        "Call, and ns since the epoch straight before the first voiced frame of a phrase was handed to the kernel."
        self._sock = sock
        self._room, self._phrases, self._voiced, self._when = room, phrases, voiced, when
        self._rng = random.Random(plan.seed)
        self._talkers: dict[int, _Talker] = {}
        self._agenda: list[tuple[float, int]] = []

    def add(self, call: int, remote: tuple[str, int]) -> None:
        rng = self._rng
        due = time.monotonic() + rng.random() * FRAME
        phrases = sorted(((at, phrase) for at, whose, phrase in self._when if whose == call), reverse=True)
        self._talkers[call] = _Talker(
            remote, due, rng.randrange(1 << 16), rng.randrange(1 << 32), rng.randrange(len(self._room)), phrases=phrases
        )
        heapq.heappush(self._agenda, (due, call))

    def remove(self, call: int) -> None:
        self._talkers.pop(call, None)

    def send(self, now: float) -> None:
        while self._agenda and self._agenda[0][0] <= now:
            due, call = heapq.heappop(self._agenda)
            talker = self._talkers.get(call)
            if talker is None:
                continue
            behind = int((now - due) / FRAME)
            if behind > CATCH_UP:
                self.skipped += behind
                talker.due += behind * FRAME
                talker.timestamp += behind * FRAME_SAMPLES
            self._send_frame(call, talker)
            talker.due += FRAME
            heapq.heappush(self._agenda, (talker.due, call))

    def _send_frame(self, call: int, talker: _Talker) -> None:
        payload, voiced = self._next_frame(talker)
        marker = 0x80 if not talker.sent else 0
        header = bytes((0x80, marker)) + (talker.sequence & 0xFFFF).to_bytes(2, "big")
        header += (talker.timestamp & 0xFFFFFFFF).to_bytes(4, "big") + (SSRC + call).to_bytes(4, "big")
        packet = header + payload
        if voiced:
            self.onsets.append((call, time.time_ns()))
        try:
            self._sock.sendto(packet, talker.remote)
            self.sent += 1
        except OSError:
            self.refused += 1
        talker.sent += 1
        talker.sequence += 1
        talker.timestamp += FRAME_SAMPLES

    def _next_frame(self, talker: _Talker) -> tuple[bytes, bool]:
        """The next 20 ms, and whether a phrase's voice begins with it."""
        if talker.phrase is None and talker.phrases and talker.phrases[-1][0] <= talker.due:
            talker.phrase, talker.frame = talker.phrases.pop()[1], 0
        if talker.phrase is None:
            talker.at = (talker.at + 1) % len(self._room)
            return self._room[talker.at].tobytes(), False
        frames, frame = self._phrases[talker.phrase], talker.frame
        voiced = frame == self._voiced[talker.phrase]
        talker.frame += 1
        if talker.frame == len(frames):
            talker.phrase = None
        return frames[frame].tobytes(), voiced

    def state(self, call: int, now: float) -> Sent | None:
        talker = self._talkers.get(call)
        if talker is None:
            return None
        since = now - (talker.due - FRAME)
        return Sent(talker.sent, (talker.timestamp - FRAME_SAMPLES + round(since * CLOCK_RATE)) & 0xFFFFFFFF)
