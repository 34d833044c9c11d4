"""What arrives as RTP is, bit for bit, what the engine made of the text, and a recogniser understands it."""

from __future__ import annotations

import asyncio
import secrets
import struct
from itertools import pairwise

from sipmessage import Message, Request, Response

from mediaserver.rtp.codec import PCMU
from sip.sdp import SessionDescription
from tests.interop.server import StartServer
from tests.recogniser import Recogniser, overall_word_error_rate
from tests.sentences import TELEPHONE_SENTENCES
from tts_engine.embedded import EmbeddedEngine
from tts_engine.engine import SpeechRequest

FRAME_BYTES = 160
SILENCE = b"\xff"
CALL_LIMIT_S = 60


class Line(asyncio.DatagramProtocol):
    """A socket whose datagrams wait to be read."""

    def __init__(self) -> None:
        self.datagrams: asyncio.Queue[bytes] = asyncio.Queue()

    def datagram_received(self, data: bytes, addr: object) -> None:
        self.datagrams.put_nowait(data)


async def open_line(remote: tuple[str, int] | None = None) -> tuple[asyncio.DatagramTransport, Line]:
    loop = asyncio.get_running_loop()
    if remote is not None:
        return await loop.create_datagram_endpoint(Line, local_addr=("127.0.0.1", 0), remote_addr=remote)
    return await loop.create_datagram_endpoint(Line, local_addr=("127.0.0.1", 0))


async def hear(server_port: int, text: str) -> list[bytes]:
    """Call, have the text spoken, and return the RTP packets until the server hangs up."""
    sip, signalling = await open_line(("127.0.0.1", server_port))
    rtp, media = await open_line()
    port = sip.get_extra_info("sockname")[1]
    call_id = secrets.token_hex(8)

    def request(method: str, to: str, body: str = "") -> bytes:
        lines = [
            f"{method} sip:tts@127.0.0.1:{server_port} SIP/2.0",
            f"Via: SIP/2.0/UDP 127.0.0.1:{port};branch=z9hG4bK{secrets.token_hex(8)};rport",
            "Max-Forwards: 70",
            f"From: <sip:ear@127.0.0.1>;tag={call_id}",
            f"To: {to}",
            f"Call-ID: {call_id}",
            f"CSeq: 1 {method}",
            f"Contact: <sip:ear@127.0.0.1:{port}>",
            "X-TTS-Hangup: yes",
            f"X-TTS-Text: {text}",
            "Content-Type: application/sdp",
            f"Content-Length: {len(body)}",
        ]
        return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()

    rtp_port = rtp.get_extra_info("sockname")[1]
    offer = f"v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio {rtp_port} RTP/AVP 0\r\n"
    sip.sendto(request("INVITE", "<sip:tts@127.0.0.1>", offer))
    async with asyncio.timeout(CALL_LIMIT_S):
        while True:
            message = Message.parse(await signalling.datagrams.get())
            if isinstance(message, Request):
                break
            if message.code == 200:
                assert SessionDescription.parse(message.body).media[0].formats == ["0"]
                sip.sendto(request("ACK", message.headers["To"]))
            assert message.code <= 200
    assert message.method == "BYE"
    answer = Response(200, "OK")
    for name in ("Via", "From", "To", "Call-ID", "CSeq"):
        answer.headers.set(name, message.headers[name])
    sip.sendto(bytes(answer))
    sip.close()
    rtp.close()
    return [media.datagrams.get_nowait() for _ in range(media.datagrams.qsize())]


def payload_in_order(packets: list[bytes]) -> bytes:
    """The payloads in order of their timestamps, each packet checked against the one before.

    On a loaded machine the pacer may have skipped intervals: then the timestamp has, by whole frames.
    """
    headers = [struct.unpack("!BBHII", packet[:12]) for packet in packets]
    for (_, _, sequence, timestamp, ssrc), (first, second, *rest) in pairwise(headers):
        assert first == 0x80
        assert second & 0x7F == 0
        assert (rest[0], rest[2]) == ((sequence + 1) & 0xFFFF, ssrc)
        step = (rest[1] - timestamp) & 0xFFFFFFFF
        assert step % FRAME_BYTES == 0
        assert FRAME_BYTES <= step <= 100 * FRAME_BYTES
    assert all(len(packet) == 12 + FRAME_BYTES for packet in packets)
    return b"".join(packet[12:] for packet in packets)


async def expected_payload(engine: EmbeddedEngine, text: str) -> bytes:
    """The engine's samples in mu-law, the last frame filled up with silence."""
    pcm = b"".join([chunk.pcm async for chunk in engine.synthesize(SpeechRequest(text, sample_rate=8000))])
    pcm += bytes(-len(pcm) % (2 * FRAME_BYTES))
    return PCMU.encode(pcm)


async def test_ten_sentences(chatterline_server: StartServer, recogniser: Recogniser) -> None:
    server = chatterline_server()
    calls = await asyncio.gather(*(hear(server.port, text) for text in TELEPHONE_SENTENCES))
    engine = EmbeddedEngine()
    await engine.start()
    heard = []
    for text, packets in zip(TELEPHONE_SENTENCES, calls, strict=True):
        payload = payload_in_order(packets)
        assert payload.strip(SILENCE) == (await expected_payload(engine, text)).strip(SILENCE)
        heard.append(recogniser.transcribe(PCMU.decode(payload), 8000))
    await engine.stop()
    assert overall_word_error_rate(TELEPHONE_SENTENCES, heard) <= 0.15, heard


async def test_a_long_text_is_heard_whole(chatterline_server: StartServer) -> None:
    """Several sentences, synthesised while the ones before are played: no gap, no seam."""
    text = " ".join(TELEPHONE_SENTENCES[:4])
    server = chatterline_server()
    payload = payload_in_order(await hear(server.port, text))
    engine = EmbeddedEngine()
    await engine.start()
    expected = await expected_payload(engine, text)
    await engine.stop()
    assert expected.strip(SILENCE) in payload
    assert payload.strip(SILENCE) == expected.strip(SILENCE)
