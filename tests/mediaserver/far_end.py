"""A far end for the phone's tests: answers one call and sends the RTP packets it was told to send."""

from __future__ import annotations

import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np

PTIME_S = 0.020
SAMPLES = 160
SILENCE = b"\xff" * SAMPLES
SDP = (
    "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
    "m=audio {port} RTP/AVP {payload_type} 101\r\na=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-16\r\n"
)


def ulaw(pcm: int) -> int:
    """One 16-bit sample as mu-law (ITU-T G.711), the formula written out."""
    sign = 0x80 if pcm < 0 else 0
    magnitude = min(abs(pcm) >> 2, 8158) + 33
    segment = magnitude.bit_length() - 6
    return ~(sign | segment << 4 | (magnitude >> (segment + 1)) & 0x0F) & 0xFF


def tone(frame: int, amplitude: int = 8000, hz: int = 440) -> bytes:
    """20 ms of a sine as mu-law, continuous from one frame to the next."""
    moments = (np.arange(SAMPLES) + frame * SAMPLES) / 8000
    return bytes(ulaw(int(sample)) for sample in amplitude * np.sin(2 * np.pi * hz * moments))


@dataclass(frozen=True)
class Packet:
    """One packet of the plan: its sequence number and timestamp follow from `frame`.

    With an `event_frame` it is a telephone-event that began in that frame.
    """

    frame: int
    payload: bytes
    event_frame: int | None = None


@dataclass
class FarEnd:
    """Answers on `port` from a thread of its own, and hangs up after the last packet if told to."""

    packets: Sequence[Packet] = ()
    status: int = 200
    reason: str = "OK"
    answers: bool = True
    hangs_up: bool = True
    payload_type: int = 0
    requests: list[str] = field(default_factory=list)
    rtp_received: list[bytes] = field(default_factory=list)
    failure: BaseException | None = None

    def __enter__(self) -> Self:
        self._sip = _socket()
        self._rtp = _socket()
        self.port: int = self._sip.getsockname()[1]
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._guard, args=(self._serve,))]
        self._threads.append(threading.Thread(target=self._guard, args=(self._listen,)))
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(5)
        self._sip.close()
        self._rtp.close()
        assert self.failure is None, repr(self.failure)

    @property
    def uri(self) -> str:
        return f"sip:tts@127.0.0.1:{self.port}"

    def sent(self, method: str) -> list[str]:
        """Requests of `method` that the phone sent."""
        return [request for request in self.requests if request.startswith(method + " ")]

    def _guard(self, work: Callable[..., None], *arguments: object) -> None:
        try:
            work(*arguments)
        except BaseException as error:  # noqa: BLE001  # shown by __exit__
            self.failure = error

    def _listen(self) -> None:
        while not self._stopping.is_set():
            try:
                self.rtp_received.append(self._rtp.recv(2048))
            except TimeoutError:
                continue

    def _serve(self) -> None:
        while not self._stopping.is_set():
            try:
                data, phone = self._sip.recvfrom(65535)
            except TimeoutError:
                continue
            message = data.decode()
            if message.startswith("SIP/2.0") or not message.strip():
                continue
            self.requests.append(message)
            if message.startswith("ACK") or not self.answers:
                continue
            if not message.startswith("INVITE"):
                self._sip.sendto(_response(message, 200, "OK"), phone)
                continue
            body = ""
            if self.status == 200:
                body = SDP.format(port=self._rtp.getsockname()[1], payload_type=self.payload_type)
            self._sip.sendto(_response(message, self.status, self.reason, body), phone)
            first = ";tag=" not in header(message, "To")
            if first and self.status == 200:
                talk = threading.Thread(target=self._guard, args=(self._talk, message, phone))
                self._threads.append(talk)
                talk.start()

    def _talk(self, invite: str, phone: tuple[str, int]) -> None:
        port_match = re.search(r"m=audio (\d+)", invite)
        assert port_match
        event_match = re.search(r"a=rtpmap:(\d+) telephone-event/8000", invite)
        event_type = int(event_match[1]) if event_match else 101
        start = time.monotonic()
        for place, packet in enumerate(self.packets):
            if self._stopping.wait(max(0.0, start + place * PTIME_S - time.monotonic())):
                return
            kind, began = self.payload_type, packet.frame
            if packet.event_frame is not None:
                # As the phone's offer numbers them (RFC 3264 section 5.1).
                kind, began = event_type, packet.event_frame
            rtp = struct.pack("!BBHII", 0x80, kind, 1000 + packet.frame, SAMPLES * began, 0x1234)
            self._rtp.sendto(rtp + packet.payload, ("127.0.0.1", int(port_match[1])))
        if self.hangs_up:
            self._sip.sendto(_bye(invite, self.port), phone)


def header(message: str, name: str) -> str:
    match = re.search(rf"(?im)^{name}:[ ]*(.*?)\r$", message)
    assert match, f"no {name} in {message}"
    return match[1]


def _socket() -> socket.socket:
    result = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    result.bind(("127.0.0.1", 0))
    result.settimeout(0.05)
    return result


def _response(request: str, status: int, reason: str, body: str = "") -> bytes:
    to = header(request, "To")
    lines = [
        f"SIP/2.0 {status} {reason}",
        *(f"Via: {via}" for via in re.findall(r"(?im)^Via: (.*?)\r$", request)),
        f"From: {header(request, 'From')}",
        f"To: {to}" if ";tag=" in to else f"To: {to};tag=far-end",
        f"Call-ID: {header(request, 'Call-ID')}",
        f"CSeq: {header(request, 'CSeq')}",
        "Contact: " + re.sub(r"^\w+ (\S+) .*", r"<\1>", request.partition("\r\n")[0]),
        *(["Content-Type: application/sdp"] if body else []),
        f"Content-Length: {len(body)}",
    ]
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()


def _bye(invite: str, port: int) -> bytes:
    contact = re.search("<(.*?)>", header(invite, "Contact"))
    assert contact
    lines = [
        f"BYE {contact[1]} SIP/2.0",
        f"Via: SIP/2.0/UDP 127.0.0.1:{port};branch=z9hG4bKfarend{header(invite, 'Call-ID')}",
        "Max-Forwards: 70",
        f"From: {header(invite, 'To')};tag=far-end",
        f"To: {header(invite, 'From')}",
        f"Call-ID: {header(invite, 'Call-ID')}",
        "CSeq: 1 BYE",
        "Content-Length: 0",
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()
