"""A jitter buffer: packets in any order and of any length in, 20 ms of payload at a time out.

Time is counted in samples of the RTP clock, of which each is one octet of payload in every codec here. The playout
point is the time of the frame to be played next:

- nothing to play: the point waits, so that what is only late is still heard. What turns out to be lost while
  it waited is passed over, as it has been concealed already;
- a packet too late to be played: the point moves back by one frame at once;
- the depth is not what the packets' leads ask for (playout_depth.py): the point moves where the caller of get()
  finds the audio quiet;
- a talkspurt after silence starts at the depth that the leads of the one before ask for.
"""

from __future__ import annotations

import enum
from collections import deque

from mediaserver.rtp.playout_depth import FRAME, START_DEPTH, WINDOW_FRAMES, PlayoutDepth

_PER_MS = 8
_HALF = 0x80000000
_MASK = 0xFFFFFFFF
_MAX_DROPOUT = 3000
"As in RFC 3550 A.1: sequence numbers that may be passed over in the same stream."
_RESTART_AFTER = 5
"Packets in a row that fit the timeline nowhere."
_MAX_MISORDER = 100
"As in RFC 3550 A.1: how far behind the newest a late packet may be."
_FAR = 8000
"Samples: no late packet is as late as that."
_LONGEST_PACKET = 60 * _PER_MS
_MAX_PIECES = 5
"Of packets in one frame: of 5 ms, the shortest that are sent, it holds 4, or 5 if none begins where it does."
_MAX_GAPS = 8


class Missing(enum.Enum):
    """Why get() has no frame."""

    SILENCE = "silence"
    "The sender sends nothing, or nothing has come yet."
    LOST = "lost"
    "Later audio has come, but not this."
    EMPTY = "empty"
    "Nothing has come that could be played; or the playout point is being moved back."


Pieces = list[bytes | int]
"The parts of a frame in order: payload, or the number of samples that are missing."
_Fragments = list[tuple[int, bytes]]


class JitterBuffer:
    """The playout order of one stream; one thread's. Bounded: beyond `max_ms` the oldest is dropped.

    `put` and `get` never raise for what a packet holds. 64 kbit/s codecs only: an octet is a sample.
    """

    __slots__ = (
        "_begun",
        "_capacity",
        "_end_sequence",
        "_end_timestamp",
        "_flowing",
        "_frames",
        "_gaps",
        "_grow",
        "_held",
        "_lost",
        "_max",
        "_point",
        "_running",
        "_silent_from",
        "_strange",
        "_window",
        "depth",
        "duplicates",
        "late",
        "malformed",
        "overflows",
        "resets",
        "splices",
        "stretches",
        "underruns",
    )

    def __init__(self, max_ms: int = 200) -> None:
        """max_ms: the most that packets may wait on average; one that is early may wait half as long again."""
        self._max = max(max_ms, 40) * _PER_MS
        self.depth = PlayoutDepth(self._max)
        self._capacity = self._max * 3 // 2
        self.late = 0
        "Packets that came after their turn."
        self.duplicates = 0
        self.overflows = 0
        "Frames of time skipped because what had come exceeded the bound."
        self.resets = 0
        "Restarts by the stream's own doing: a timestamp or sequence number that jumped."
        self.underruns = 0
        "Times that there was nothing to play in the midst of audio."
        self.malformed = 0
        "Packets with no payload, longer than the bound, or in more pieces than make sense."
        self.splices = 0
        "Times that the playout point moved forward over audio: what comes next does not follow what came before."
        self.stretches = 0
        "Times that the playout point was moved back by one frame."
        self.restart()

    def restart(self) -> None:
        """Forget the stream (a new SSRC): the next packet starts one. The counters go on."""
        self._frames: dict[int, bytes | _Fragments] = {}
        self._begun = False  # a packet of the stream has come
        self._running = False  # the playout point moves
        self._flowing = False  # running, and the sender has not said that it is silent
        self._point = 0  # of the next frame; its lower 32 bits are an RTP timestamp
        self._held = 0  # frames that the point has waited
        self._grow = False  # the point is to be moved back at once
        self.depth.reset()
        self._window = WINDOW_FRAMES
        self._lost: deque[int] = deque(maxlen=64)  # frames that were missing: they may yet come
        self._gaps: deque[tuple[int, int]] = deque(maxlen=_MAX_GAPS)  # [from, to) in which nothing was sent
        self._silent_from: int | None = None
        self._end_sequence = 0  # what goes on where the newest packet ended
        self._end_timestamp = 0
        self._strange = 0

    @property
    def depth_ms(self) -> float:
        """How long packets wait here, smoothed."""
        return self.depth.mean / _PER_MS

    @property
    def buffered_ms(self) -> int:
        """How far the latest audio lies ahead of the playout point."""
        return (max(self._frames) + FRAME - self._point) // _PER_MS if self._frames else 0

    def put(self, sequence: int, timestamp: int, payload: bytes) -> None:
        """Take the payload of one packet."""
        lead = ((timestamp - self._point + _HALF) & _MASK) - _HALF
        if (
            sequence == self._end_sequence
            and timestamp == self._end_timestamp
            and self._flowing
            and len(payload) == FRAME
            and 0 <= lead <= self._capacity
            and not lead % FRAME
        ):
            self._frames[self._point + lead] = payload
            self._end_sequence = (sequence + 1) & 0xFFFF
            self._end_timestamp = (timestamp + FRAME) & _MASK
            self._strange = 0
            self.depth.note(lead)
            return
        if not 0 < len(payload) <= self._max:
            self.malformed += 1
            return
        newest = self._follow(sequence, timestamp)
        if newest is not None:
            self._place(sequence, timestamp, payload, newest)

    def put_silence(self, sequence: int, timestamp: int) -> None:
        """The sender says that it is silent from `timestamp` on (a comfort noise packet, RFC 3389)."""
        lead = _signed(timestamp - self._point)
        if not self._running or abs(lead) > _FAR or (sequence - self._end_sequence) & 0xFFFF >= _MAX_DROPOUT:
            return
        self._end_sequence = (sequence + 1) & 0xFFFF
        if self._silent_from is None:
            self._silent_from = self._point + lead
            self._flowing = False

    def get(self, *, quiet: bool = False) -> bytes | Pieces | Missing:
        """The next frame, 20 ms: payload of 160 octets, or the pieces there are, or why there is none.

        quiet: the audio before it was so quiet that a frame more or less would not be heard.
        """
        self._window -= 1
        if not self._window:
            self._window = WINDOW_FRAMES
            self.depth.end_window()
        if (self._grow or self.depth.adjust) and self._move_point(quiet):
            return Missing.EMPTY
        frame = self._frames.pop(self._point, None)
        if frame is None:
            if not self._running:
                return Missing.SILENCE
            if not self._frames:
                return self._wait()
            if self._held:
                self._pass_concealed()
                frame = self._frames.pop(self._point, None)
            if frame is None:
                return self._pass_missing()
        elif self._held:
            # What had only been late is heard: the depth has grown by the time waited.
            self.depth.moved(self._held * FRAME)
            self._held = 0
        self._point += FRAME
        return frame if isinstance(frame, bytes) else _join(frame)

    def skip(self, frames: int) -> None:
        """Pass over time in which nobody could play: the playout point moves on, what it passes is dropped."""
        if self._running and frames > 0:
            self._advance(frames)

    # Packets that are not the next 20 ms of the stream

    def _follow(self, sequence: int, timestamp: int) -> bool | None:
        """Bring the playout point where this packet can be placed: whether it is the newest; None: drop it."""
        ahead = (sequence - self._end_sequence) & 0xFFFF
        newest = ahead < _MAX_DROPOUT or not self._begun
        # An unlikely number is a stray, unless as many of them come that they must be the stream.
        if not newest and ahead < 0x10000 - _MAX_MISORDER:
            self._strange += 1
            newest = self._strange >= _RESTART_AFTER
        if not self._running:
            if not newest:
                self.late += 1  # of the talkspurt before
                return None
            self._start(timestamp)
            return True
        lead = _signed(timestamp - self._point)
        if -_FAR <= lead <= self._capacity:
            return newest
        if newest:
            self._jump(ahead, timestamp, lead)
            return True
        self.late += 1
        return None

    def _jump(self, ahead: int, timestamp: int, lead: int) -> None:
        """The newest packet is far off: a long loss or silence, a burst after a stall, or timestamps that jumped."""
        passed = _signed(timestamp - self._end_timestamp)
        if lead > 0 and not self._frames and (self._silent_from is not None or not ahead):
            self._start(timestamp)
        elif lead > 0 and passed <= ahead * _LONGEST_PACKET:
            if not self._frames:
                self._pass_concealed()
            keep = min(self._max, max(START_DEPTH, int(self.depth.mean)))
            frames = -(-(_signed(timestamp - self._point) - keep) // FRAME)
            if frames > 0:
                self.overflows += frames
                self._advance(frames)
                self.depth.forget()
        else:
            self.resets += 1
            self._start(timestamp)

    def _start(self, timestamp: int) -> None:
        """Begin a talkspurt: play what comes some depth before `timestamp`, and be silent until then."""
        depth = self.depth.start_talkspurt()
        self._point = (timestamp - depth) & _MASK
        self._begun = self._running = True
        self._frames.clear()
        self._lost.clear()
        self._gaps.clear()
        self._gaps.append((self._point, self._point + depth))
        self._held = 0
        self._grow = False
        self._silent_from = None
        self._end_timestamp = timestamp

    def _place(self, sequence: int, timestamp: int, payload: bytes, newest: bool) -> None:
        lead = _signed(timestamp - self._point)
        size = len(payload)
        if newest:
            self._strange = 0
            self._note_gap(sequence, timestamp, self._point + lead)
            self._end_sequence = (sequence + 1) & 0xFFFF
            self._end_timestamp = (timestamp + size) & _MASK
            self._flowing = True
        if lead < 0:
            if lead + size <= 0:
                self._note_late(self._point + lead)
                return
            payload = payload[-lead:]
            self._grow = self.depth.may_grow
            lead = 0
        if self._store(self._point + lead, payload):
            self.depth.note(lead)

    def _note_gap(self, sequence: int, timestamp: int, position: int) -> None:
        """Time passed over without a sequence number passed over is silence, and so is what follows comfort noise."""
        silent_from = self._silent_from
        self._silent_from = None
        if silent_from is None and sequence == self._end_sequence:
            silent_from = position - _signed(timestamp - self._end_timestamp)
        if silent_from is not None and silent_from < position:
            self._gaps.append((silent_from, position))

    def _note_late(self, position: int) -> None:
        aligned = self._point - -(-(self._point - position) // FRAME) * FRAME
        if aligned not in self._lost:
            self.duplicates += 1
            return
        self._lost.remove(aligned)
        self.late += 1
        self._grow = self.depth.may_grow

    def _store(self, position: int, payload: bytes) -> bool:
        """Lay a payload on the frames that it covers; whether all of it was new."""
        offset = (position - self._point) % FRAME
        start = position - offset
        taken = 0
        new = True
        while taken < len(payload):
            piece = payload[taken : taken + FRAME - offset]
            new &= self._store_piece(start, offset, piece)
            taken += len(piece)
            start += FRAME
            offset = 0
        if not new:
            self.duplicates += 1
        return new

    def _store_piece(self, start: int, offset: int, piece: bytes) -> bool:
        frames = self._frames
        if len(piece) == FRAME:
            new = start not in frames
            frames[start] = piece
            return new
        fragments = frames.setdefault(start, [])
        if isinstance(fragments, bytes) or any(at == offset for at, _ in fragments):
            return False
        if len(fragments) < _MAX_PIECES:
            fragments.append((offset, piece))
        else:
            self.malformed += 1
        return True

    # Frames that are not there, and the depth

    def _wait(self) -> Missing:
        """There is nothing to play: the point stands still, for at most the bound."""
        silent_from = self._silent_from
        if silent_from is not None and self._point < silent_from:
            return self._pass_missing()  # lost, as the sender has gone silent since
        silent = silent_from is not None
        if not self._held and not silent:
            self.underruns += 1
        self._held += 1
        if self._held * FRAME > self._max:
            self._running = self._flowing = False  # nothing is sent: the next packet starts a talkspurt
            self._silent_from = None
        return Missing.SILENCE if silent else Missing.EMPTY

    def _pass_concealed(self) -> None:
        """What is missing was lost, and has been concealed while the point waited: pass over it."""
        point = self._point + self._held * FRAME
        if self._frames:
            point = min(point, *self._frames)
        self._held = 0
        self._lost.extend(range(self._point, point, FRAME))
        self._point = point

    def _pass_missing(self) -> Missing:
        point = self._point
        self._point = point + FRAME
        gaps = self._gaps
        while gaps and gaps[0][1] <= point:
            gaps.popleft()
        if gaps and gaps[0][0] <= point:
            return Missing.SILENCE
        self._lost.append(point)
        return Missing.LOST

    def _advance(self, frames: int) -> None:
        """Move the point forward; what it passes is dropped."""
        if self._frames:
            self.splices += 1
        self._point = point = self._point + frames * FRAME
        for position in [position for position in self._frames if position < point]:
            del self._frames[position]

    def _move_point(self, quiet: bool) -> bool:
        """Move the playout point by a frame if it is time to; whether it stands still for this frame."""
        if self._grow:
            self._grow = False
            self._stretch()
            return True
        if not self._running or not self._frames:
            return False
        change = self.depth.take_adjustment(quiet)
        if change > 0:
            self._stretch()
        elif change < 0:
            self._advance(-change)
            self.depth.moved(change * FRAME)
        return change > 0

    def _stretch(self) -> None:
        self.stretches += 1
        self.depth.moved(FRAME)


def _signed(difference: int) -> int:
    """The nearer way round, modulo 2**32."""
    return ((difference + _HALF) & _MASK) - _HALF


def _join(fragments: _Fragments) -> bytes | Pieces:
    """One frame of its fragments; overlaps are heard once."""
    pieces: Pieces = []
    end = 0
    for offset, piece in sorted(fragments, key=lambda fragment: fragment[0]):
        if offset > end:
            pieces.append(offset - end)
            end = offset
        fresh = piece[end - offset :]
        if fresh:
            pieces.append(fresh)
            end += len(fresh)
    if end < FRAME:
        pieces.append(FRAME - end)
    elif all(isinstance(piece, bytes) for piece in pieces):
        return b"".join(piece for piece in pieces if isinstance(piece, bytes))
    return pieces
