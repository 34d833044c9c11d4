"""Outbound audio of one leg: what the peer is sent, for whoever listens."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from mediaserver.rtp.codec import BYTES_PER_SAMPLE, audioop

_log = logging.getLogger(__name__)

NARROWBAND_HZ = 8000
FRAME_MS = 20
FRAME_BYTES = NARROWBAND_HZ * FRAME_MS // 1000 * BYTES_PER_SAMPLE
_BYTES_PER_MS = NARROWBAND_HZ * BYTES_PER_SAMPLE // 1000

Sent = Callable[[bytes | None, int], None]
"Gets what one packet carries as 8 kHz PCM (None: silence) and when it was due, in milliseconds."
Consumer = Callable[[bytes, int], None]
"Gets 320 bytes of 8 kHz PCM, silence included, and when they were due, in milliseconds."


class OutboundAudio:
    """Made only while somebody listens: the caller hooks sent() into the sending stream while `listening`.

    sent() belongs to the media thread, listen() and listen_to_packets() to the event loop.
    """

    def __init__(self, sample_rate: int, ptime_ms: Callable[[], int]) -> None:
        """sample_rate: of what sent() is given, Hz. ptime_ms: of the packets being sent."""
        self.consumer_errors = 0
        "Consumers removed because they raised."
        self._ptime_ms = ptime_ms
        self._rates = (sample_rate, NARROWBAND_HZ)
        self._converted: Any = None  # audioop's state
        self._packets: tuple[Sent, ...] = ()  # this and the next: replaced as a whole, by the event loop only
        self._frames: tuple[_Entry, ...] = ()
        self._left = b""  # of a packet that did not end with a frame
        self._next_ms = 0  # when the audio after that is due

    @property
    def listening(self) -> bool:
        return bool(self._packets or self._frames)

    def listen(self, consumer: Consumer) -> Callable[[], None]:
        """Call `consumer` with each frame of 20 ms, on the media thread, until what is returned is called.

        A consumer that raises is called no more. Packets that were missed leave a gap in the times.
        """
        entry = _Entry(consumer)
        self._frames = (*self._frames, entry)

        def stop() -> None:
            self._frames = tuple(other for other in self._frames if other is not entry)

        return stop

    def listen_to_packets(self, consumer: Sent) -> Callable[[], None]:
        """The same by packets, whatever their length, where silence need not be made."""
        self._packets = (*self._packets, consumer)

        def stop() -> None:
            self._packets = tuple(other for other in self._packets if other is not consumer)

        return stop

    def close(self) -> None:
        """Nobody listens any more."""
        self._packets = self._frames = ()

    def sent(self, pcm: bytes | None, due_ms: int) -> None:
        """What one packet carried; None: silence, or a digit."""
        if pcm is not None and self._rates[0] != NARROWBAND_HZ:
            if self._converted is None:  # primed with a sample, or the first packet would come out one short
                _, self._converted = audioop.ratecv(bytes(BYTES_PER_SAMPLE), BYTES_PER_SAMPLE, 1, *self._rates, None)
            pcm, self._converted = audioop.ratecv(pcm, BYTES_PER_SAMPLE, 1, *self._rates, self._converted)
        for consumer in self._packets:
            consumer(pcm, due_ms)
        if self._frames:
            self._cut(pcm if pcm is not None else bytes(self._ptime_ms() * _BYTES_PER_MS), due_ms)

    def _cut(self, pcm: bytes, due_ms: int) -> None:
        """Into frames: packets are of 10 to 60 ms."""
        left = self._left
        if left and due_ms == self._next_ms:
            pcm = left + pcm
            due_ms -= len(left) // _BYTES_PER_MS
        whole = len(pcm) // FRAME_BYTES * FRAME_BYTES
        for start in range(0, whole, FRAME_BYTES):
            frame = pcm[start : start + FRAME_BYTES]
            for entry in self._frames:
                try:
                    entry.consumer(frame, due_ms)
                except Exception:  # noqa: BLE001 - whatever a consumer does, the call keeps its media
                    self.consumer_errors += 1
                    _log.exception("a consumer of outbound audio failed and is called no more")
                    entry.consumer = _ignore
            due_ms += FRAME_MS
        self._left = pcm[whole:]
        self._next_ms = due_ms + len(self._left) // _BYTES_PER_MS


class _Entry:
    """One listen() of a consumer: one function may listen twice, and stop once."""

    __slots__ = ("consumer",)

    def __init__(self, consumer: Consumer) -> None:
        self.consumer = consumer


def _ignore(_pcm: bytes, _due_ms: int) -> None:
    pass
