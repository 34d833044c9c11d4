"""Recorded sound to be played on calls: fetched from a URL that the policy allows, decoded by FFmpeg (PyAV).

FFmpeg is told the container's format and never guesses it: its playlist formats open further URLs and files by
themselves, past every policy. Decoding is done in threads of its own, half a second of sound at a step.
"""

from __future__ import annotations

import asyncio
import io
import re
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx
import numpy as np

from mediaserver.api.urls import UrlPolicy
from mediaserver.speech.script import OpenSound, Sound
from tts_engine.engine import BYTES_PER_SAMPLE, PcmChunk
from tts_engine.resample import FULL_SCALE, Resampler, to_pcm16

if TYPE_CHECKING:
    import av.container

    from mediaserver.api.state import ApiState

MAX_BYTES = 20_000_000
MAX_SECONDS = 600.0
"Of one sound; it ends there."
FETCH_TIMEOUT_S = 15.0
"From the request to the body's last byte."
CHUNK_SECONDS = 0.5
MAX_CHANNELS = 8
MAX_RATE = 192_000

CACHE_BYTES = 32_000_000
CACHE_SECONDS = 300.0
"How long a sound is kept if its server does not say."
MAX_CACHE_SECONDS = 86_400.0

_RAW_TYPES = {"audio/basic": "mulaw", "audio/x-mulaw": "mulaw", "audio/pcmu": "mulaw", "audio/pcma": "alaw"}
_RAW_SUFFIXES = {".ulaw": "mulaw", ".ul": "mulaw", ".pcmu": "mulaw", ".alaw": "alaw", ".al": "alaw", ".pcma": "alaw"}
_RAW_RATE = 8000


class SoundError(Exception):
    """A sound that cannot be played. The text says why, and holds no URL."""


def pcm_sound(pcm: bytes, sample_rate: int, label: str = "") -> Sound:
    """Signed 16-bit little-endian mono PCM that is at hand."""
    whole = np.frombuffer(pcm[: len(pcm) // BYTES_PER_SAMPLE * BYTES_PER_SAMPLE], "<i2")
    samples = (whole / FULL_SCALE).astype(np.float32)

    async def play(rate: int) -> AsyncIterator[PcmChunk]:
        resampler = Resampler(sample_rate, rate)
        step = round(sample_rate * CHUNK_SECONDS)
        for start in range(0, len(samples), step):
            final = start + step >= len(samples)
            if converted := to_pcm16(resampler.process(samples[start : start + step], final=final)):
                yield PcmChunk(converted, rate)

    return Sound(play, label)


def open_sound(url: str, state: ApiState, library: SoundLibrary | None = None) -> Sound:
    """The sound at an http or https URL: WAV, AIFF, AU, MP3, Ogg (Opus, Vorbis), FLAC, or raw mu-law and A-law.

    It is fetched when it is about to be played. Raises UrlNotAllowedError.
    """
    state.urls.check(url, ("http", "https"))
    return Sound((library or _library).opener(url, state.urls), label=urlsplit(url).hostname or "")


@dataclass(frozen=True, slots=True)
class _Recording:
    """What a server gave."""

    body: bytes
    format: str
    "FFmpeg's name of the demuxer."
    fresh_until: float


class SoundLibrary:
    """Fetches sounds and keeps what it has fetched, bounded. Everything but the decoding is the event loop's."""

    def __init__(self, cache_bytes: int = CACHE_BYTES) -> None:
        self._cache_bytes = cache_bytes
        self._kept: OrderedDict[str, _Recording] = OrderedDict()
        self._fetching: dict[str, asyncio.Task[_Recording]] = {}
        self._decoders = ThreadPoolExecutor(2, thread_name_prefix="sound")

    def opener(self, url: str, policy: UrlPolicy) -> OpenSound:
        async def play(rate: int) -> AsyncIterator[PcmChunk]:
            recording = await self._get(url, policy)
            loop = asyncio.get_running_loop()
            decoder = Decoder(recording.body, recording.format, rate)
            try:
                while pcm := await loop.run_in_executor(self._decoders, decoder.step):
                    yield PcmChunk(pcm, rate)
            finally:
                # A step may be under way if the sound was cut: it is waited for there, not here.
                self._decoders.submit(decoder.close)

        return play

    async def _get(self, url: str, policy: UrlPolicy) -> _Recording:
        kept = self._kept.get(url)
        if kept is not None and kept.fresh_until > time.monotonic():
            self._kept.move_to_end(url)
            return kept
        task = self._fetching.get(url)
        if task is None:  # calls that ask for the same at once share one request
            task = asyncio.create_task(fetch(url, policy))
            self._fetching[url] = task
            task.add_done_callback(lambda done: self._fetched(url, done))
        return await asyncio.shield(task)

    def _fetched(self, url: str, task: asyncio.Task[_Recording]) -> None:
        self._fetching.pop(url, None)
        if task.cancelled() or task.exception() is not None:
            return
        recording = task.result()
        self._kept.pop(url, None)
        if recording.fresh_until > time.monotonic() and len(recording.body) <= self._cache_bytes // 4:
            self._kept[url] = recording
        while sum(len(kept.body) for kept in self._kept.values()) > self._cache_bytes:
            self._kept.popitem(last=False)


_library = SoundLibrary()
"Of the process: what it holds was allowed to whoever asked, and is checked again for whoever asks."


async def fetch(url: str, policy: UrlPolicy) -> _Recording:
    """Get a sound. Raises SoundError, and UrlNotAllowedError for a host at an address that is not allowed."""
    body = bytearray()
    try:
        async with (
            asyncio.timeout(FETCH_TIMEOUT_S),
            policy.http_client(FETCH_TIMEOUT_S) as client,
            client.stream("GET", url, headers={"Accept": "audio/*"}) as response,
        ):
            if response.status_code != 200:
                raise SoundError(f"the server answered {response.status_code}")
            async for piece in response.aiter_bytes():
                body += piece
                if len(body) > MAX_BYTES:
                    raise SoundError(f"larger than {MAX_BYTES} bytes")
            headers = response.headers
    except TimeoutError:
        raise SoundError(f"did not come within {FETCH_TIMEOUT_S:g} s") from None
    except httpx.HTTPError as error:
        raise SoundError(f"could not be fetched: {type(error).__name__}") from error
    form = format_of(bytes(body[:16]), headers.get("content-type", ""), urlsplit(url).path)
    lifetime = lifetime_of(headers.get("cache-control", ""))
    return _Recording(bytes(body), form, time.monotonic() + lifetime)


def format_of(head: bytes, content_type: str, path: str) -> str:
    """FFmpeg's name of the format: by the file's first bytes; raw G.711, which has none, by type or name.

    Raises SoundError.
    """
    if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
        return "wav"
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return "aiff"
    for magic, name in ((b"OggS", "ogg"), (b"fLaC", "flac"), (b".snd", "au"), (b"ID3", "mp3")):
        if head.startswith(magic):
            return name
    raw = _RAW_TYPES.get(content_type.partition(";")[0].strip().lower())
    if raw is None:
        raw = next((name for suffix, name in _RAW_SUFFIXES.items() if path.lower().endswith(suffix)), None)
    if raw is not None:
        return raw
    if len(head) >= 2 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0 and head[1] & 0x06:  # frame sync, and a layer
        return "mp3"
    raise SoundError("neither WAV, AIFF, AU, MP3, Ogg, FLAC nor, by its type or name, raw G.711")


def lifetime_of(cache_control: str) -> float:
    """For how many seconds a response with this Cache-Control header (RFC 9111) may be kept."""
    directives = cache_control.lower()
    if "no-store" in directives or "no-cache" in directives:
        return 0.0
    age = re.search(r"max-age\s*=\s*\"?(\d{1,10})", directives)
    return min(float(age[1]), MAX_CACHE_SECONDS) if age else CACHE_SECONDS


class Decoder:
    """Decodes one recording, step by step, from any thread."""

    def __init__(self, body: bytes, form: str, rate: int) -> None:
        """form: FFmpeg's name of the demuxer; rate: Hz, of the PCM that is wanted."""
        self._body = body
        self._form = form
        self._rate = rate
        self._lock = threading.Lock()
        self._container: av.container.InputContainer | None = None
        self._pieces: Iterator[bytes] | None = None
        self._left = round(rate * MAX_SECONDS) * BYTES_PER_SAMPLE
        self._closed = False

    def step(self) -> bytes:
        """The next CHUNK_SECONDS of PCM or more; b"" at the end. Raises SoundError."""
        with self._lock:
            if self._closed or not self._left:
                return b""
            pcm = bytearray()
            wanted = round(self._rate * CHUNK_SECONDS) * BYTES_PER_SAMPLE
            pieces = self._pieces = self._pieces or self._decode()
            while len(pcm) < wanted and (piece := next(pieces, None)) is not None:
                pcm += piece
            del pcm[self._left :]
            self._left -= len(pcm)
            return bytes(pcm)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._pieces = None
            if self._container is not None:
                self._container.close()
                self._container = None

    def _decode(self) -> Iterator[bytes]:
        import av  # noqa: PLC0415 - FFmpeg is 30 MB of memory: only for who plays sounds

        options = {"sample_rate": str(_RAW_RATE)} if self._form in _RAW_TYPES.values() else {}
        try:
            # Titles in other encodings than UTF-8: PyAV 19 takes them, those before have to be told.
            lenient: Any = {} if int(av.__version__.partition(".")[0]) >= 19 else {"metadata_errors": "ignore"}
            container = self._container = av.open(
                io.BytesIO(self._body), "r", format=self._form, options=options, **lenient
            )
            if not container.streams.audio:
                raise SoundError("there is no audio in it")
            stream = container.streams.audio[0]
            if not 0 < stream.channels <= MAX_CHANNELS or not 0 < stream.rate <= MAX_RATE:
                raise SoundError(f"{stream.channels} channels at {stream.rate} Hz are not played")
            resampler = av.AudioResampler(format="s16", layout="mono", rate=self._rate)
            for frame in container.decode(stream):
                for converted in resampler.resample(frame):
                    yield converted.to_ndarray().tobytes()
            for converted in resampler.resample(None):
                yield converted.to_ndarray().tobytes()
        except (av.FFmpegError, ValueError) as error:
            raise SoundError(f"FFmpeg cannot decode it: {type(error).__name__}") from error
