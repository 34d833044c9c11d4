"""A minimal SIP user agent client: one outgoing call, its messages and timers, without sockets or clocks.

Just enough of RFC 3261 to place a call over UDP, have it answered and hang up, with the retransmissions that keep
one lost datagram from spoiling a run. No authentication, no forking, no route set.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass, field

from benchmarks.load import sdp

T1 = 0.5
"RFC 3261 17.1.1.1: round-trip estimate in seconds, the first retransmission interval."
T2 = 4.0
"RFC 3261 17.1.2.2: the longest interval between retransmissions of a request other than INVITE."

COMPACT = {"v": "via", "f": "from", "t": "to", "i": "call-id", "m": "contact", "l": "content-length"}


@dataclass(frozen=True, slots=True)
class Message:
    """A SIP request or response: `status` is 0 for a request, `method` that of the request line or of CSeq."""

    method: str
    status: int
    reason: str
    headers: dict[str, list[str]]
    body: str

    def header(self, name: str) -> str:
        """The first value of a header, "" where there is none; names in lower case."""
        return self.headers.get(name, [""])[0]


def parse(datagram: bytes) -> Message:
    """Raises ValueError if the datagram is no SIP message."""
    head, _, body = datagram.decode("utf-8", errors="replace").partition("\r\n\r\n")
    start, *lines = head.split("\r\n")
    headers: dict[str, list[str]] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon:
            raise ValueError(f"SIP header line has no colon: {line[:40]!r}")
        key = name.strip().lower()
        headers.setdefault(COMPACT.get(key, key), []).append(value.strip())
    cseq_method = headers.get("cseq", [""])[0].rpartition(" ")[2]
    if match := re.fullmatch(r"SIP/2\.0 ([1-6]\d\d)(?: (.*))?", start):
        return Message(cseq_method, int(match[1]), match[2] or "", headers, body)
    if match := re.fullmatch(r"([A-Z]+) \S+ SIP/2\.0", start):
        return Message(match[1], 0, "", headers, body)
    raise ValueError(f"SIP start line is malformed: {start[:40]!r}")


def reply(request: Message, status: int, reason: str) -> bytes:
    """A response without a body to a request inside a dialog."""
    lines = [f"SIP/2.0 {status} {reason}"]
    for name, title in (("via", "Via"), ("from", "From"), ("to", "To"), ("call-id", "Call-ID"), ("cseq", "CSeq")):
        lines += [f"{title}: {value}" for value in request.headers.get(name, [])]
    return "\r\n".join([*lines, "Content-Length: 0", "", ""]).encode()


def options(local: tuple[str, int], server: tuple[str, int], token: str) -> bytes:
    """An OPTIONS request, to learn whether the server is up."""
    return _format(
        "OPTIONS",
        f"sip:{server[0]}:{server[1]}",
        local,
        branch=f"{token}-options",
        from_tag=token,
        to=f"<sip:probe@{server[0]}:{server[1]}>",
        call_id=f"{token}@{local[0]}",
        cseq=1,
    )


def _format(
    method: str,
    uri: str,
    local: tuple[str, int],
    *,
    branch: str,
    from_tag: str,
    to: str,
    call_id: str,
    cseq: int,
    extra: tuple[str, ...] = (),
    body: str = "",
) -> bytes:
    here = f"{local[0]}:{local[1]}"
    lines = [
        f"{method} {uri} SIP/2.0",
        f"Via: SIP/2.0/UDP {here};branch=z9hG4bK{branch};rport",
        "Max-Forwards: 70",
        f"From: <sip:load@{here}>;tag={from_tag}",
        f"To: {to}",
        f"Call-ID: {call_id}",
        f"CSeq: {cseq} {method}",
        f"Contact: <sip:load@{here}>",
        *extra,
        f"Content-Length: {len(body.encode())}",
    ]
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()


class State(enum.Enum):
    """Where a call is."""

    IDLE = "idle"
    INVITING = "inviting"
    ESTABLISHED = "established"
    CLOSING = "closing"
    DONE = "done"
    FAILED = "failed"


@dataclass(slots=True)
class Call:
    """One outgoing call. Methods take the time (seconds, monotonic) and return the datagrams to send.

    `due` is the time at which `on_timer` wants to be called, None for never.
    """

    call_id: str
    text: str
    "What X-TTS-Text carries: one line."
    local: tuple[str, int]
    server: tuple[str, int]
    rtp_port: int
    rtcp_mux: bool = False
    "Whether to offer RTCP on the port of RTP (RFC 5761)."
    give_up: float = 8.0
    "Seconds to wait for a final response; RFC 3261 waits 32 (timers B and F), a benchmark knows sooner."

    state: State = State.IDLE
    failure: str = ""
    retransmissions: int = 0
    media: sdp.Media | None = None
    "Where the server wants RTP and RTCP, once it has answered."
    said: int = 0
    "INFO requests that were answered 2xx."
    refused: int = 0
    "INFO requests that were answered otherwise, or not at all."
    due: float | None = None
    _request: bytes = b""
    _ack: bytes = b""
    _interval: float = T1
    _deadline: float = 0.0
    _cseq: int = 1
    _to: str = ""
    _target: str = ""
    _token: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        if not self.text.isprintable():
            raise ValueError("X-TTS-Text has a line break or a control character")
        self._target = f"sip:speech@{self.server[0]}:{self.server[1]}"
        self._to = f"<{self._target}>"
        self._token = self.call_id.partition("@")[0]

    def invite(self, now: float) -> list[bytes]:
        """Place the call (RFC 3261 13.2.1)."""
        extra = (f"X-TTS-Text: {self.text}", "Content-Type: application/sdp")
        self.state = State.INVITING
        return self._begin("INVITE", now, extra, sdp.offer(self.local[0], self.rtp_port, rtcp_mux=self.rtcp_mux))

    def say(self, text: str, now: float) -> list[bytes]:
        """Send INFO (RFC 6086) with one more text; nothing if another is under way, or no call stands."""
        if self.state is not State.ESTABLISHED or self.due is not None:
            return []
        self._cseq += 1
        return self._begin("INFO", now, (f"X-TTS-Text: {text}",))

    def hang_up(self, now: float) -> list[bytes]:
        """Send BYE; nothing if the call is not established."""
        if self.state is not State.ESTABLISHED:
            return []
        self.state = State.CLOSING
        self._cseq += 1
        return self._begin("BYE", now)

    def on_timer(self, now: float) -> list[bytes]:
        """Retransmit the request under way, or give it up. Timers A and E, B and F of RFC 3261 17.1."""
        if self.due is None or now < self.due:
            return []
        if now >= self._deadline:
            if self.state is State.ESTABLISHED:
                self._info_over(held=False)
                return []
            self._fail("INVITE not answered" if self.state is State.INVITING else "BYE not answered")
            return []
        self._interval *= 2
        if self.state is State.CLOSING:
            self._interval = min(self._interval, T2)
        self.due = min(now + self._interval, self._deadline)
        self.retransmissions += 1
        return [self._request]

    def on_message(self, message: Message, now: float) -> list[bytes]:
        """Take a message of this call."""
        if not message.status:
            return self._on_request(message)
        if message.method == "INVITE":
            return self._on_invite_response(message, now)
        if message.method == "INFO" and message.status >= 200 and self._is_current(message):
            self._info_over(held=message.status < 300)
        elif message.method == "BYE" and message.status >= 200 and self.state is State.CLOSING:
            if message.status >= 300:
                self._fail(f"BYE {message.status} {message.reason}")
            else:
                self._end(State.DONE)
        return []

    def _is_current(self, response: Message) -> bool:
        """Whether it answers the INFO that is under way."""
        return self.state is State.ESTABLISHED and response.header("cseq") == f"{self._cseq} INFO"

    def _info_over(self, *, held: bool) -> None:
        if self.due is None:
            return
        self.due = None
        if held:
            self.said += 1
        else:
            self.refused += 1

    def _on_request(self, request: Message) -> list[bytes]:
        if request.method == "ACK":
            return []
        if request.method == "BYE":
            if self.state is State.ESTABLISHED:
                self._fail("ended by the server")
            elif self.state is State.CLOSING:
                self._end(State.DONE)  # both hung up at once
        elif request.method != "OPTIONS":
            return [reply(request, 501, "Not Implemented")]
        return [reply(request, 200, "OK")]

    def _on_invite_response(self, response: Message, now: float) -> list[bytes]:
        if response.status < 200:
            if self.state is State.INVITING:
                self.due = self._deadline  # timer A stops in the Proceeding state
            return []
        if response.status >= 300:
            # This ACK belongs to the INVITE's transaction: same branch, same target (RFC 3261 17.1.1.3).
            if self.state is State.INVITING:
                self._fail(f"{response.status} {response.reason}".strip())
            return [self._compose("ACK", 1, to=response.header("to"), branch="invite-1")]
        if self.state is State.INVITING:
            return self._on_answer(response)
        if self.state is State.FAILED and not self._ack:
            return self._on_late_answer(response)
        return [self._ack]  # our ACK was lost (RFC 3261 13.2.2.4)

    def _on_answer(self, response: Message) -> list[bytes]:
        self._accept(response)
        try:
            self.media = sdp.media(response.body, rtcp_mux=self.rtcp_mux)
        except ValueError as error:
            self._fail(str(error))
            return [self._ack, self._compose("BYE", 2, to=self._to)]
        self.state = State.ESTABLISHED
        self.due = None
        return [self._ack]

    def _on_late_answer(self, response: Message) -> list[bytes]:
        """A call that was given up must not stay up at the server."""
        self._accept(response)
        return [self._ack, self._compose("BYE", 2, to=self._to)]

    def _accept(self, response: Message) -> None:
        self._to = response.header("to")
        contact = re.search(r"<(sips?:[^>]+)>|(sips?:[^;\s]+)", response.header("contact"))
        if contact:
            self._target = contact[1] or contact[2]
        self._ack = self._compose("ACK", 1, to=self._to)

    def _begin(self, method: str, now: float, extra: tuple[str, ...] = (), body: str = "") -> list[bytes]:
        self._request = self._compose(method, self._cseq, to=self._to, extra=extra, body=body)
        self._interval = T1
        self._deadline = now + self.give_up
        self.due = now + T1
        return [self._request]

    def _compose(
        self, method: str, cseq: int, *, to: str, branch: str = "", extra: tuple[str, ...] = (), body: str = ""
    ) -> bytes:
        return _format(
            method,
            self._target,
            self.local,
            branch=f"{self._token}-{branch or f'{method.lower()}-{cseq}'}",
            from_tag=self._token,
            to=to,
            call_id=self.call_id,
            cseq=cseq,
            extra=extra,
            body=body,
        )

    def _fail(self, why: str) -> None:
        self.failure = self.failure or why
        self._end(State.FAILED)

    def _end(self, state: State) -> None:
        self.state = state
        self.due = None
