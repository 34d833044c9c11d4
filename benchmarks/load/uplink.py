"""The callers' own RTP: a frame every 20 ms each, sent for many calls in one system call.

Calls are shared out over SLOTS phases of the 20 ms, so that the server meets a stream of packets, not one burst. A
slot's packets lie side by side in one array: a send moves all their sequence numbers and timestamps on at once.
"""

from __future__ import annotations

import math
import socket
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.load import mmsg

FRAME = 0.020
"Seconds: ptime of the uplink."
FRAME_SAMPLES = 160
CLOCK_RATE = 8000
SLOTS = 10
SSRC = 0x43480000
"That of call 0; call n has n more."
CATCH_UP = 10
"Frames that a late slot sends at once; what is overdue beyond is not sent."

PACKET = np.dtype(
    [
        ("vpxcc", "u1"),
        ("mpt", "u1"),
        ("sequence", ">u2"),
        ("timestamp", ">u4"),
        ("ssrc", ">u4"),
        ("payload", "u1", FRAME_SAMPLES),
    ]
)
"RFC 3550 5.1 with 20 ms of PCMU."


@dataclass(frozen=True, slots=True)
class Sent:
    """What a call has sent, for its RTCP sender report."""

    packets: int
    timestamp: int
    "RTP timestamp at `now`."


class _Slot:
    """Calls that send together."""

    def __init__(self, capacity: int, due: float) -> None:
        self.packets = np.zeros(capacity, PACKET)
        self.frames = np.zeros(capacity, np.int64)
        "Where in the sound each call is."
        self.begun = np.zeros(capacity, np.int64)
        "`frames` where each call began."
        self.calls: list[int] = []
        self.due = due
        self.vector = mmsg.Vector(capacity)
        self.vector.point_at(mmsg.address_of(self.packets), PACKET.itemsize, PACKET.itemsize)

    def move(self, source: int, target: int) -> None:
        for array in (self.packets, self.frames, self.begun, self.vector.addresses):
            array[target] = array[source]


class Uplink:
    """All calls' sending. Times are seconds, monotonic."""

    def __init__(self, sock: socket.socket, sound: NDArray[np.uint8], calls: int, now: float, seed: int = 1) -> None:
        """sound: frames x FRAME_SAMPLES of mu-law, said in a loop by each call from a place of its own."""
        self._fd = sock.fileno()
        self._sound = sound
        self._random = np.random.default_rng(seed)
        capacity = math.ceil(calls / SLOTS) + 1
        self._slots = [_Slot(capacity, now + n * FRAME / SLOTS) for n in range(SLOTS)]
        self._where: dict[int, _Slot] = {}
        self.sent = 0
        self.refused = 0
        "Packets that the kernel would not send."
        self.skipped = 0
        "Frames that were not sent because the generator was late."

    def add(self, call: int, remote: tuple[str, int]) -> None:
        """Begin to send to an IPv4 address, in the emptiest slot."""
        slot = min(self._slots, key=lambda slot: len(slot.calls))
        row = len(slot.calls)
        slot.calls.append(call)
        self._where[call] = slot
        packet = slot.packets[row]
        packet["vpxcc"], packet["mpt"] = 0x80, 0x80  # the talkspurt begins: marker
        packet["sequence"] = self._random.integers(1 << 16)
        packet["timestamp"] = self._random.integers(1 << 32)
        packet["ssrc"] = SSRC + call
        slot.frames[row] = slot.begun[row] = self._random.integers(len(self._sound))
        address = slot.vector.addresses[row]
        address["family"] = socket.AF_INET
        address["port"] = remote[1]
        address["host"] = int.from_bytes(socket.inet_aton(remote[0]), "big")

    def remove(self, call: int) -> None:
        slot = self._where.pop(call, None)
        if slot is None:
            return
        row, last = slot.calls.index(call), len(slot.calls) - 1
        slot.move(last, row)
        slot.calls[row] = slot.calls[last]
        slot.calls.pop()

    def send(self, now: float) -> None:
        """Send what is due."""
        for slot in self._slots:
            behind = (now - slot.due) / FRAME
            if behind < 0:
                continue
            if behind > CATCH_UP:
                skipped = int(behind) - CATCH_UP
                slot.due += skipped * FRAME
                self._advance(slot, skipped)
                self.skipped += skipped * len(slot.calls)
            while slot.due <= now:
                slot.due += FRAME
                self._send(slot)

    def _send(self, slot: _Slot) -> None:
        count = len(slot.calls)
        if not count:
            return
        packets = slot.packets[:count]
        self._advance(slot, 1)
        packets["payload"] = self._sound[slot.frames[:count] % len(self._sound)]
        refused = slot.vector.send(self._fd, count)
        packets["mpt"] = 0
        self.sent += count - refused
        self.refused += refused

    def _advance(self, slot: _Slot, frames: int) -> None:
        count = len(slot.calls)
        slot.packets["sequence"][:count] += np.uint16(frames & 0xFFFF)
        slot.packets["timestamp"][:count] += np.uint32(frames * FRAME_SAMPLES)
        slot.frames[:count] += frames

    def state(self, call: int, now: float) -> Sent | None:
        """What the call has sent, None if it does not send (any more)."""
        slot = self._where.get(call)
        if slot is None:
            return None
        row = slot.calls.index(call)
        since = now - (slot.due - FRAME)  # its last frame was due then
        timestamp = int(slot.packets["timestamp"][row]) + round(since * CLOCK_RATE)
        return Sent(int(slot.frames[row] - slot.begun[row]), timestamp & 0xFFFFFFFF)
