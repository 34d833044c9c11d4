from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any, cast

import av
import numpy as np
import pytest

from mediaserver.api import sounds
from mediaserver.api.sounds import (
    Decoder,
    SoundError,
    SoundLibrary,
    format_of,
    lifetime_of,
    open_sound,
    pcm_sound,
)
from mediaserver.api.state import ApiState
from mediaserver.api.urls import UrlNotAllowedError, UrlPolicy
from mediaserver.rtp.codec import audioop
from mediaserver.speech.script import Sound


def tone(seconds: float, rate: int, frequency: float = 440.0) -> np.ndarray:
    return np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate) * 0.5


def pcm_of(signal: np.ndarray) -> bytes:
    return cast(bytes, (signal * 32767).astype("<i2").tobytes())


def recorded(form: str, codec: str, rate: int, *, channels: int = 1, seconds: float = 1.0) -> bytes:
    """A file with a tone of 440 Hz."""
    file = io.BytesIO()
    layout = "mono" if channels == 1 else "stereo"
    with av.open(file, "w", format=form) as container:
        stream = cast(Any, container.add_stream(codec, rate=rate, layout=layout))
        samples = np.repeat((tone(seconds, rate) * 32767).astype("<i2"), channels)[None, :]
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout=layout)
        frame.sample_rate = rate
        for packet in (*stream.encode(frame), *stream.encode(None)):
            container.mux(packet)
    return file.getvalue()


def frequency_of(pcm: bytes, rate: int) -> float:
    signal = np.frombuffer(pcm, "<i2").astype(float)
    return float(np.argmax(np.abs(np.fft.rfft(signal))) * rate / len(signal))


def decoded(body: bytes, form: str, rate: int = 8000) -> bytes:
    decoder = Decoder(body, form, rate)
    try:
        return b"".join(iter(decoder.step, b""))
    finally:
        decoder.close()


async def heard(sound: Sound, rate: int = 8000) -> bytes:
    pcm = b""
    async for chunk in sound.open(rate):
        assert chunk.sample_rate == rate
        assert len(chunk.pcm) % 2 == 0
        pcm += chunk.pcm
    return pcm


class Files:
    """An HTTP server: what it gives by path, and what it was asked for."""

    def __init__(self) -> None:
        self.bodies: dict[str, tuple[bytes, str]] = {}
        self.asked: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            path = (await reader.readuntil(b"\r\n\r\n")).split()[1].decode()
            self.asked.append(path)
            await self.gate.wait()
            body, headers = self.bodies.get(path, (b"", ""))
            status = "200 OK" if path in self.bodies else "404 Not Found"
            head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n{headers}\r\n"
            writer.write(head.encode() + body)
            await writer.drain()
        writer.close()


@pytest.fixture
async def files() -> AsyncIterator[Files]:
    files = Files()
    server = await asyncio.start_server(files.serve, "127.0.0.1", 0)
    files.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        yield files
        files.gate.set()


@pytest.fixture
def opened(files: Files) -> Callable[[str], Sound]:
    from ipaddress import ip_network

    state = cast(ApiState, SimpleNamespace(urls=UrlPolicy([files.url + "/"], [ip_network("127.0.0.0/8")], [])))
    library = SoundLibrary()
    return lambda path: open_sound(files.url + path, state, library)


class TestDecoder:
    @pytest.mark.parametrize(
        ("form", "codec", "rate", "channels"),
        [
            ("wav", "pcm_s16le", 8000, 1),
            ("wav", "pcm_s16le", 44100, 2),
            ("wav", "pcm_mulaw", 8000, 1),
            ("aiff", "pcm_s16be", 22050, 1),
            ("au", "pcm_mulaw", 8000, 1),
            ("flac", "flac", 48000, 1),
            ("mulaw", "pcm_mulaw", 8000, 1),
            ("alaw", "pcm_alaw", 8000, 1),
        ],
    )
    def test_exact_formats_keep_length_and_pitch(self, form: str, codec: str, rate: int, channels: int):
        pcm = decoded(recorded(form, codec, rate, channels=channels), form)
        assert len(pcm) / 16000 == pytest.approx(1.0, abs=0.01)
        assert frequency_of(pcm, 8000) == pytest.approx(440, abs=2)

    @pytest.mark.parametrize(("form", "codec", "rate"), [("mp3", "libmp3lame", 44100), ("ogg", "libopus", 48000)])
    def test_lossy_formats_nearly_so(self, form: str, codec: str, rate: int):
        body = recorded(form, codec, rate)
        assert format_of(body[:16], "", "") == form
        pcm = decoded(body, form, 16000)
        assert len(pcm) / 32000 == pytest.approx(1.0, abs=0.1)
        assert frequency_of(pcm, 16000) == pytest.approx(440, abs=2)

    def test_it_decodes_as_it_goes(self):
        decoder = Decoder(recorded("wav", "pcm_s16le", 8000, seconds=10), "wav", 8000)
        first = decoder.step()
        assert 0.5 <= len(first) / 16000 < 1.5
        decoder.close()
        decoder.close()
        assert decoder.step() == b""

    @pytest.mark.parametrize("form", ["wav", "mp3", "ogg", "flac", "aiff", "au"])
    def test_rubbish_is_an_error_or_silence_but_nothing_else(self, form: str):
        rng = np.random.default_rng(7)
        for size in (0, 1, 100, 20_000):
            with contextlib.suppress(SoundError):
                decoded(rng.bytes(size), form)

    def test_a_title_that_is_not_utf8(self):
        """Old recorders write in Latin-1; nobody reads it here."""
        title = b"INFOINAM\x08\x00\x00\x00Caf\xe9 ol\xe9"
        body = recorded("wav", "pcm_s16le", 8000) + b"LIST" + len(title).to_bytes(4, "little") + title
        body = body[:4] + (len(body) - 8).to_bytes(4, "little") + body[8:]
        assert len(decoded(body, "wav")) / 16000 == pytest.approx(1.0, abs=0.01)

    def test_a_file_that_is_cut_short_plays_as_far_as_it_goes(self):
        body = recorded("wav", "pcm_s16le", 8000)
        assert len(decoded(body[: len(body) // 2], "wav")) / 16000 == pytest.approx(0.5, abs=0.05)

    def test_it_does_not_play_for_ever(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(sounds, "MAX_SECONDS", 2.0)
        assert len(decoded(recorded("wav", "pcm_s16le", 8000, seconds=5), "wav")) == 2 * 16000

    def test_a_playlist_that_calls_itself_audio_opens_nothing(self):
        playlist = b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n#EXTINF:1,\nhttp://127.0.0.1:1/x\n"
        with pytest.raises(SoundError, match="neither"):
            format_of(playlist[:16], "audio/mpegurl", "/x.m3u8")
        with pytest.raises(SoundError, match="cannot decode"):
            decoded(playlist, "wav")

    def test_more_channels_or_samples_than_a_telephone_needs(self):
        body = bytearray(recorded("wav", "pcm_s16le", 8000))
        body[24:28] = (1_000_000).to_bytes(4, "little")
        with pytest.raises(SoundError, match="1000000 Hz"):
            decoded(bytes(body), "wav")


class TestFormat:
    @pytest.mark.parametrize(
        ("head", "content_type", "path", "form"),
        [
            (b"RIFF\x00\x00\x00\x00WAVEfmt ", "text/plain", "/x.mp3", "wav"),
            (b"ID3\x04\x00", "", "", "mp3"),
            (b"\xff\xfb\x90\x00", "audio/mpeg", "", "mp3"),
            (b"\xff\xff\xff\xff", "audio/basic", "/x", "mulaw"),
            (b"\xff\xff\xff\xff", "Audio/PCMA; rate=8000", "/x", "alaw"),
            (b"\x00", "application/octet-stream", "/x.ULAW", "mulaw"),
            (b"", "audio/x-mulaw", "", "mulaw"),
        ],
    )
    def test_first_bytes_then_type_then_name(self, head: bytes, content_type: str, path: str, form: str):
        assert format_of(head, content_type, path) == form

    @pytest.mark.parametrize(
        "head", [b"", b"\xff", b"<html>", b"RIFF\x00\x00\x00\x00AVI ", b"\x00\x00\x00\x18ftypisom"]
    )
    def test_what_it_is_not(self, head: bytes):
        with pytest.raises(SoundError, match="neither WAV"):
            format_of(head, "text/html", "/x")


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("", 300.0),
        ("no-store", 0.0),
        ("private, max-age=60", 60.0),
        ("max-age=0", 0.0),
        ("max-age=99999999", 86400.0),
        ("max-age=x", 300.0),
    ],
)
def test_lifetime(header: str, seconds: float):
    assert lifetime_of(header) == seconds


class TestOpenSound:
    async def test_plays_what_a_server_gives(self, files: Files, opened: Callable[[str], Sound]):
        files.bodies["/a.wav"] = (recorded("wav", "pcm_s16le", 22050, seconds=2), "")
        sound = opened("/a.wav")
        assert files.asked == []  # fetched when it is its turn
        pcm = await heard(sound)
        assert frequency_of(pcm, 8000) == pytest.approx(440, abs=2)
        assert len(pcm) / 16000 == pytest.approx(2.0, abs=0.01)
        assert sound.label == "127.0.0.1"

    async def test_raw_mulaw_by_its_type(self, files: Files, opened: Callable[[str], Sound]):
        pcm = pcm_of(tone(0.5, 8000))
        files.bodies["/raw"] = (audioop.lin2ulaw(pcm, 2), "Content-Type: audio/basic\r\n")
        assert await heard(opened("/raw")) == audioop.ulaw2lin(audioop.lin2ulaw(pcm, 2), 2)

    async def test_is_fetched_once(self, files: Files, opened: Callable[[str], Sound]):
        files.bodies["/a.wav"] = (recorded("wav", "pcm_s16le", 8000), "")
        first = await heard(opened("/a.wav"))
        assert await heard(opened("/a.wav")) == first
        assert files.asked == ["/a.wav"]

    async def test_calls_that_ask_at_once_share_one_request(self, files: Files, opened: Callable[[str], Sound]):
        files.bodies["/a.wav"] = (recorded("wav", "pcm_s16le", 8000), "Cache-Control: no-store\r\n")
        played = await asyncio.gather(*(heard(opened("/a.wav")) for _ in range(5)))
        assert len(set(played)) == 1
        assert files.asked == ["/a.wav"]
        await heard(opened("/a.wav"))
        assert len(files.asked) == 2  # and it is not kept, as the server said

    async def test_the_cache_is_bounded_and_forgets_the_oldest(self, files: Files):
        from ipaddress import ip_network

        body = recorded("wav", "pcm_s16le", 8000)
        policy = UrlPolicy([files.url + "/"], [ip_network("127.0.0.0/8")], [])
        library = SoundLibrary(cache_bytes=len(body) * 4)
        for name in "abcdea":
            files.bodies[f"/{name}.wav"] = (body, "")
            await heard(Sound(library.opener(f"{files.url}/{name}.wav", policy)))
        assert files.asked.count("/a.wav") == 2
        assert files.asked.count("/b.wav") == 1

    async def test_one_that_is_cut_while_it_is_fetched_does_not_harm_the_other(
        self, files: Files, opened: Callable[[str], Sound]
    ):
        files.bodies["/a.wav"] = (recorded("wav", "pcm_s16le", 8000), "")
        files.gate.clear()
        cut = asyncio.create_task(heard(opened("/a.wav")))
        other = asyncio.create_task(heard(opened("/a.wav")))
        while not files.asked:
            await asyncio.sleep(0)
        cut.cancel()
        files.gate.set()
        assert len(await other) == 16000
        with pytest.raises(asyncio.CancelledError):
            await cut

    async def test_one_that_is_cut_while_it_plays_can_be_closed(self, files: Files, opened: Callable[[str], Sound]):
        files.bodies["/a.wav"] = (recorded("wav", "pcm_s16le", 8000, seconds=20), "")
        stream = cast(Any, opened("/a.wav").open(8000))
        assert (await anext(stream)).pcm
        await stream.aclose()
        with pytest.raises(StopAsyncIteration):
            await anext(stream)

    async def test_what_is_not_there(self, opened: Callable[[str], Sound]):
        with pytest.raises(SoundError, match="answered 404"):
            await heard(opened("/none.wav"))

    async def test_what_is_no_sound(self, files: Files, opened: Callable[[str], Sound]):
        files.bodies["/page"] = (b"<!doctype html>", "Content-Type: text/html\r\n")
        with pytest.raises(SoundError, match="neither WAV"):
            await heard(opened("/page"))

    async def test_what_is_too_large(self, files: Files, opened: Callable[[str], Sound], monkeypatch: Any):
        monkeypatch.setattr(sounds, "MAX_BYTES", 1000)
        files.bodies["/a.wav"] = (recorded("wav", "pcm_s16le", 8000), "")
        with pytest.raises(SoundError, match="larger than 1000 bytes"):
            await heard(opened("/a.wav"))

    async def test_a_server_that_hangs(self, files: Files, opened: Callable[[str], Sound], monkeypatch: Any):
        monkeypatch.setattr(sounds, "FETCH_TIMEOUT_S", 0.05)
        files.gate.clear()
        with pytest.raises(SoundError, match=r"did not come|ReadTimeout"):
            await heard(opened("/a.wav"))

    @pytest.mark.parametrize("url", ["http://127.0.0.1:1/a.wav", "data:audio/wav;base64,AA", "file:///a.wav", "a.wav"])
    async def test_what_is_not_allowed(self, url: str):
        state = cast(ApiState, SimpleNamespace(urls=UrlPolicy(["http://sounds.example.com/"], [], [])))
        with pytest.raises(UrlNotAllowedError):
            open_sound(url, state)

    async def test_a_redirect_is_not_followed(self, files: Files, opened: Callable[[str], Sound]):
        async def redirect(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(redirect, "127.0.0.1", 0)
        async with server:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/a.wav"
            state = cast(ApiState, SimpleNamespace(urls=UrlPolicy([], [], [url])))
            with pytest.raises(SoundError, match="answered 302"):
                await heard(open_sound(url, state, SoundLibrary()))


class TestPcmSound:
    async def test_at_its_own_rate_it_is_what_it_was(self):
        pcm = pcm_of(tone(1.3, 8000))
        assert await heard(pcm_sound(pcm, 8000)) == pcm

    async def test_at_another_rate(self):
        pcm = await heard(pcm_sound(pcm_of(tone(1.3, 24000)), 24000), 8000)
        assert len(pcm) / 16000 == pytest.approx(1.3, abs=0.01)
        assert frequency_of(pcm, 8000) == pytest.approx(440, abs=2)

    async def test_nothing_and_half_a_sample(self):
        assert await heard(pcm_sound(b"", 8000)) == b""
        assert await heard(pcm_sound(b"\x01", 8000)) == b""
