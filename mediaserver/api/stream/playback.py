"""Audio of an application's own on a call: `media`, `mark` and `clear`, as utterances of the call's speech queue.

Media that comes without a longer gap is one turn. A mark ends the sound before it, so that the queue can tell when it
has been heard. Twilio sends a mark back when the audio before it has been played, at once when none waits, and when it
was cleared: so do we, and also when something else cut that audio.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence

import numpy as np

from mediaserver.api.stream.protocol import SAMPLE_RATE
from mediaserver.call.control import CallControl, SpeechTurn
from mediaserver.call.events import CallEvent
from mediaserver.refusal import RefusedError
from mediaserver.rtp.codec import BYTES_PER_SAMPLE, audioop
from mediaserver.speech.script import Mark, Sound
from tts_engine.engine import PcmChunk
from tts_engine.resample import FULL_SCALE, Resampler, to_pcm16

LINGER_S = 0.2
"Without media or marks for so long, what came is a turn of its own, and other speech may come behind it."

MAX_BUFFERED_S = 300
"Of audio that waits to be taken up by the speech queue."

MAX_MARKS = 1000
"That wait to be reached."

PREBUFFER_S = 0.06
"Audio that is waited for, and for no longer than that, before a sound begins: media sent in real time comes unevenly."

LABEL = "media stream"


class PlaybackFullError(Exception):
    """More audio, or more marks, than are kept."""


class MediaFeed:
    """A sound that is still coming: mu-law in, PCM at the call's rate out."""

    def __init__(self) -> None:
        self._waiting = bytearray()
        self._news = asyncio.Event()
        self._ended = False

    @property
    def waiting(self) -> int:
        """Bytes of mu-law, which are samples, that have not been taken up."""
        return len(self._waiting)

    def put(self, ulaw: bytes) -> None:
        self._waiting += ulaw
        self._news.set()

    def end(self) -> None:
        """There is no more. Idempotent."""
        self._ended = True
        self._news.set()

    def forget(self) -> None:
        """What waits is not to be heard."""
        self._waiting.clear()
        self.end()

    async def open(self, rate: int) -> AsyncIterator[PcmChunk]:
        """What Sound asks for."""
        resampler = None if rate == SAMPLE_RATE else Resampler(SAMPLE_RATE, rate)
        await self._prebuffer()
        while self._waiting or not self._ended:
            if self._waiting:
                ulaw = bytes(self._waiting[:SAMPLE_RATE])
                del self._waiting[:SAMPLE_RATE]
                if pcm := _convert(audioop.ulaw2lin(ulaw, BYTES_PER_SAMPLE), resampler):
                    yield PcmChunk(pcm, rate)
            else:
                self._news.clear()
                await self._news.wait()
        if resampler is not None and (rest := to_pcm16(resampler.flush())):
            yield PcmChunk(rest, rate)

    async def _prebuffer(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PREBUFFER_S):
                while not self._ended and len(self._waiting) < PREBUFFER_S * SAMPLE_RATE:
                    self._news.clear()
                    await self._news.wait()


def _convert(pcm: bytes, resampler: Resampler | None) -> bytes:
    if resampler is None:
        return pcm
    samples = (np.frombuffer(pcm, "<i2") / FULL_SCALE).astype(np.float32)
    return to_pcm16(resampler.process(samples))


class Playback:
    """What one stream plays. Everything belongs to the event loop."""

    def __init__(self, call: CallControl, echo: Callable[[str], None]) -> None:
        """echo: sends a mark back. on_event() is to be given the call's events."""
        self._call = call
        self._echo = echo
        self._turn: SpeechTurn | None = None
        self._feed: MediaFeed | None = None
        self._feeds: list[MediaFeed] = []
        "Those of which something may still wait."
        self._unheard: dict[int, deque[str]] = {}
        "Our utterances, oldest first, and the marks that are in or behind them."
        self._timer: asyncio.TimerHandle | None = None

    def play(self, ulaw: bytes) -> None:
        """Play this behind what is there. Raises PlaybackFullError, and RefusedError for what the call refuses."""
        self._feeds = [feed for feed in self._feeds if feed.waiting]
        if sum(feed.waiting for feed in self._feeds) + len(ulaw) > MAX_BUFFERED_S * SAMPLE_RATE:
            raise PlaybackFullError(f"more than {MAX_BUFFERED_S} s of audio wait to be played")
        if not ulaw:
            return
        self._wait_for_more()
        if self._turn is None or not self._turn.open:
            self._feed = None
            # Twilio's applications hear the caller themselves, and send `clear`.
            self._turn = self._call.open_turn(barge_in="none")
            self._unheard[self._turn.number] = deque()
        if self._feed is None:
            feed = MediaFeed()
            feed.put(ulaw)
            self._turn.add(Sound(feed.open, LABEL))
            self._feed = feed
        else:
            self._feed.put(ulaw)
        if self._feed not in self._feeds:
            self._feeds.append(self._feed)

    def mark(self, name: str) -> None:
        """Send this back when what has come before has been heard. Raises as play()."""
        if not self._unheard:
            self._echo(name)
            return
        if sum(map(len, self._unheard.values())) >= MAX_MARKS:
            raise PlaybackFullError(f"more than {MAX_MARKS} marks wait to be reached")
        last = next(reversed(self._unheard))
        self._unheard[last].append(name)
        if self._turn is not None and self._turn.open and self._turn.number == last:
            self._wait_for_more()
            with contextlib.suppress(RefusedError):  # no room for a part more: it is reached with what comes after it
                self._turn.add(Mark(name))
                self._end_feed()
        # Else the turn is complete: the mark is reached with its end.

    def clear(self) -> None:
        """Silence what plays, and send back all marks that wait. Raises RefusedError."""
        if self._unheard:
            self._call.clear()
            self._cut(list(self._unheard))

    def close(self) -> None:
        """No more comes; what is there is played."""
        self._pause()

    def forget_marks(self) -> None:
        """The receiver is gone: no mark is sent back."""
        self._echo = _unsent

    def on_event(self, event: CallEvent) -> None:
        """An event of the call."""
        match event.type:
            case "mark.reached":
                self._reached(event.data["utterance"], event.data["name"])
            case "speech.finished":
                self._heard(event.data["utterance"])
            case "speech.interrupted" | "speech.cleared":
                first = event.data["utterance"]
                self._cut(range(first, first + event.data["utterances"]))

    def _reached(self, number: int, name: str) -> None:
        marks = self._unheard.get(number, ())
        if name in marks:
            while (passed := self._unheard[number].popleft()) != name:
                self._echo(passed)
            self._echo(name)

    def _heard(self, number: int) -> None:
        for name in self._unheard.pop(number, ()):
            self._echo(name)

    def _cut(self, numbers: Sequence[int]) -> None:
        if self._turn is not None and self._turn.number in numbers:
            self._turn = None
            for feed in self._feeds:
                feed.forget()
            self._end_feed()
        for number in sorted(numbers):
            self._heard(number)

    def _wait_for_more(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(LINGER_S, self._pause)

    def _pause(self) -> None:
        """The turn is complete."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._end_feed()
        if self._turn is not None:
            self._turn.end()
            self._turn = None

    def _end_feed(self) -> None:
        if self._feed is not None:
            self._feed.end()
            self._feed = None


def _unsent(_name: str) -> None:
    pass
