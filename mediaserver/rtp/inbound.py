"""Inbound audio of one leg: what the peer sends, as 20 ms frames of 8 kHz PCM for whoever listens."""

from __future__ import annotations

import logging
from collections.abc import Callable

from mediaserver.rtp.codec import PCMU, Codec, rms
from mediaserver.rtp.comfort_noise import ComfortNoise
from mediaserver.rtp.concealment import Concealment
from mediaserver.rtp.jitter_buffer import JitterBuffer, Missing, Pieces
from mediaserver.rtp.playout_depth import FRAME

_log = logging.getLogger(__name__)

FRAME_MS = 20
Consumer = Callable[[bytes, int], None]
"Gets 320 bytes of PCM and the time at which they were due, in the milliseconds of pull()."

_MAX_FRAMES_AT_ONCE = 5
"After a stall; the time beyond it is passed over."
_QUIET_RMS = 150
"16-bit samples: about -47 dBov, below speech and above the noise of a line."


class InboundAudio:
    """Jitter buffer, decoder, concealment and comfort noise of a leg, run only while somebody listens.

    put, put_noise, reset and pull belong to the media thread; listen and set_codec to the event loop. While
    `listening` is False, none of the former need be called, and nothing is kept.
    """

    __slots__ = (
        "_codec",
        "_codec_in_use",
        "_concealment",
        "_consumers",
        "_decode",
        "_next_ms",
        "_noise",
        "_silent",
        "_splices",
        "_tail",
        "buffer",
        "concealed",
        "consumer_errors",
        "frames",
        "listening",
    )

    def __init__(self, codec: Codec = PCMU, *, max_depth_ms: int = 200) -> None:
        """max_depth_ms: how long packets may at most wait in the jitter buffer."""
        self.listening = False
        "Whether there is a consumer."
        self.buffer = JitterBuffer(max_depth_ms)
        self.frames = 0
        "Frames given to consumers."
        self.concealed = 0
        "Frames of which any part was missing and had to be made up."
        self.consumer_errors = 0
        "Consumers removed because they raised."
        self._codec = codec
        self._codec_in_use: Codec | None = None  # None: begin anew at the next pull
        self._consumers: tuple[_Entry, ...] = ()  # written by the event loop only
        self._decode: Callable[[bytes], bytes] = codec.decode
        self._concealment = Concealment()
        self._noise = ComfortNoise()
        self._silent = True  # the frame before was not the sender's
        self._splices = 0  # of the buffer, as last seen
        self._next_ms: int | None = None
        self._tail = b""  # the frame before

    def listen(self, consumer: Consumer) -> Callable[[], None]:
        """Call `consumer` with each frame, on the media thread, until what is returned is called.

        A consumer that raises is removed. What comes on the media thread after the stop is at most one frame.
        """
        if not self._consumers:
            self._codec_in_use = None
        entry = _Entry(consumer)
        self._consumers = (*self._consumers, entry)
        self.listening = True

        def stop() -> None:
            self._consumers = tuple(other for other in self._consumers if other is not entry)
            self.listening = bool(self._consumers)

        return stop

    def set_codec(self, codec: Codec) -> None:
        """Change the codec (a re-INVITE): what of the old one waits in the buffer is dropped."""
        self._codec = codec

    def put(self, sequence: int, timestamp: int, payload: bytes, arrival: float) -> None:
        """Take a packet of the codec. Its depth needs no arrival time: see jitter_buffer."""
        self.buffer.put(sequence, timestamp, payload)

    def put_noise(self, sequence: int, timestamp: int, payload: bytes, arrival: float) -> None:
        """Take a comfort noise packet (RFC 3389)."""
        self._noise.describe(payload)
        self.buffer.put_silence(sequence, timestamp)

    def reset(self) -> None:
        """Another stream begins (a new SSRC): forget the one before."""
        self.buffer.restart()
        self._concealment.reset()
        self._noise.reset()
        self._decode = self._codec.new_narrowband_decoder()

    def pull(self, due_ms: int) -> None:
        """Give the consumers each frame due up to `due_ms`: after a stall several. The first call starts the clock."""
        if self._codec is not self._codec_in_use:
            self._codec_in_use = self._codec
            self._next_ms = due_ms
            self.reset()
        next_ms = self._next_ms
        if next_ms is None or due_ms < next_ms:
            return
        if due_ms - next_ms >= _MAX_FRAMES_AT_ONCE * FRAME_MS:
            passed = (due_ms - next_ms) // FRAME_MS - _MAX_FRAMES_AT_ONCE + 1
            self.buffer.skip(passed)
            next_ms += passed * FRAME_MS
        while next_ms <= due_ms:
            at_ms, next_ms = next_ms, next_ms + FRAME_MS
            self._next_ms = next_ms
            pcm = self._next_frame()
            for entry in self._consumers:
                try:
                    entry.consumer(pcm, at_ms)
                except Exception:  # noqa: BLE001  # whatever a consumer does, the call keeps its media
                    self._silence(entry)

    def _next_frame(self) -> bytes:
        buffer = self.buffer
        frame = buffer.get(quiet=buffer.depth.adjust != 0 and rms(self._tail) < _QUIET_RMS)
        concealment = self._concealment
        if buffer.splices != self._splices:
            self._splices = buffer.splices
            concealment.splice()
        if isinstance(frame, bytes) and not concealment.active:
            pcm = self._decode(frame)
            concealment.heard(pcm)
            self._silent = False
        else:
            pcm = self._make_up(frame)
        self._tail = pcm
        self.frames += 1
        return pcm

    def _make_up(self, frame: bytes | Pieces | Missing) -> bytes:
        """A frame that is not there as a whole, or does not follow the one before."""
        if frame is Missing.SILENCE:
            return self._make_silence()
        self._silent = False
        if isinstance(frame, Missing):
            self.concealed += 1
            return self._make_piece(FRAME)
        if isinstance(frame, bytes):
            return self._make_piece(frame)
        self.concealed += 1
        return b"".join([self._make_piece(piece) for piece in frame])

    def _make_piece(self, piece: bytes | int) -> bytes:
        concealment = self._concealment
        if isinstance(piece, int):
            pcm = concealment.conceal(piece)
        else:
            pcm = self._decode(piece)
            if concealment.active:
                pcm = concealment.resume(pcm)
        concealment.heard(pcm)
        return pcm

    def _make_silence(self) -> bytes:
        concealment = self._concealment
        pcm = self._noise.next(FRAME)
        if not self._silent:
            # The talkspurt goes over into the silence without a step.
            self._silent = True
            if not concealment.active:
                concealment.splice()
        if concealment.active:
            pcm = concealment.resume(pcm)
        concealment.heard(pcm)
        return pcm

    def _silence(self, entry: _Entry) -> None:
        self.consumer_errors += 1
        _log.exception("a consumer of inbound audio failed and is called no more")
        entry.consumer = _ignore


class _Entry:
    """One listen() of a consumer: one function may listen twice, and stop once."""

    __slots__ = ("consumer",)

    def __init__(self, consumer: Consumer) -> None:
        self.consumer = consumer


def _ignore(_pcm: bytes, _at_ms: int) -> None:
    pass
