"""The messages of Twilio Media Streams, read and written: pure.

https://www.twilio.com/docs/voice/media-streams/websocket-messages has the shapes, and they are followed to the letter:
numbers are strings there. Ours beyond them: `error` to the receiver, which says what is wrong with a message that it
sent, and `transcript` from it, for a recogniser that hands what it heard to the call's agent.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator

from mediaserver.api.sockets import ACCOUNT
from mediaserver.call.control import Track

SAMPLE_RATE = 8000
"Hz, of all audio in these messages: mu-law, one channel."

MAX_ERROR_CHARS = 300
MAX_NAME_CHARS = 256
MAX_TRANSCRIPT_CHARS = 8000


class ProtocolError(ValueError):
    """A message that is none. The text is for whoever sent it."""


class StreamWriter:
    """What one stream is sent, in order: it numbers the messages, so each is to be written just before it is sent."""

    def __init__(self, stream_id: str, call_id: str) -> None:
        self._stream_id = stream_id
        self._call_id = call_id
        self._sequence = 0
        self._chunks: Counter[Track] = Counter()

    def connected(self) -> str:
        """The first message."""
        return json.dumps({"event": "connected", "protocol": "Call", "version": "1.0.0"})

    def start(self, tracks: Sequence[Track], parameters: Mapping[str, str]) -> str:
        """The second."""
        about = {
            "accountSid": ACCOUNT,
            "streamSid": self._stream_id,
            "callSid": self._call_id,
            "tracks": list(tracks),
            "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": SAMPLE_RATE, "channels": 1},
            "customParameters": dict(parameters),
        }
        return self._numbered("start", start=about)

    def media(self, track: Track, timestamp_ms: int, payload: bytes) -> str:
        """Audio. timestamp_ms: from the stream's beginning; payload: mu-law."""
        self._chunks[track] += 1
        self._sequence += 1
        encoded = binascii.b2a_base64(payload, newline=False).decode("ascii")
        # Fifty a second for each track, so not by the JSON encoder: nothing in it needs to be escaped.
        return (
            f'{{"event": "media", "sequenceNumber": "{self._sequence}", "media": {{"track": "{track}", '
            f'"chunk": "{self._chunks[track]}", "timestamp": "{timestamp_ms}", "payload": "{encoded}"}}, '
            f'"streamSid": "{self._stream_id}"}}'
        )

    def dtmf(self, digit: str) -> str:
        """The caller has pressed a key."""
        return self._numbered("dtmf", dtmf={"track": "inbound_track", "digit": digit})

    def mark(self, name: str) -> str:
        """The audio before this mark has been played, or was cleared."""
        return self._numbered("mark", mark={"name": name})

    def error(self, message: str) -> str:
        """What is wrong with something that was received. Not in Twilio's protocol."""
        return self._numbered("error", error={"message": message[:MAX_ERROR_CHARS]})

    def stop(self) -> str:
        """The last message."""
        return self._numbered("stop", stop={"accountSid": ACCOUNT, "callSid": self._call_id})

    def _numbered(self, event: str, **about: Any) -> str:
        self._sequence += 1
        message = {"event": event, "sequenceNumber": str(self._sequence), **about, "streamSid": self._stream_id}
        return json.dumps(message)


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    stream_id: Annotated[str | None, Field(alias="streamSid")] = None
    "Twilio wants it; here it may be left out, as a connection has but one stream."


class _Media(BaseModel):
    payload: bytes

    @field_validator("payload", mode="before")
    @classmethod
    def _is_base64(cls, given: object) -> bytes:
        if not isinstance(given, str):
            raise ValueError("must be a string of base64")  # noqa: TRY004 - pydantic takes ValueError only
        try:
            return base64.b64decode(given, validate=True)
        except (binascii.Error, ValueError):
            raise ValueError("is not valid base64") from None


class _Mark(BaseModel):
    name: Annotated[str, Field(min_length=1, max_length=MAX_NAME_CHARS)]


class _Transcript(BaseModel):
    text: Annotated[str, Field(max_length=MAX_TRANSCRIPT_CHARS, repr=False)]
    lang: Annotated[str | None, Field(max_length=35)] = None
    final: bool = True
    "False: it may still change."


class MediaMessage(_Message):
    """Audio to be played to the caller: mu-law, of any length."""

    event: Literal["media"]
    media: _Media


class MarkMessage(_Message):
    """A place in that audio, to be told of when it is reached."""

    event: Literal["mark"]
    mark: _Mark


class ClearMessage(_Message):
    """All audio that waits is to be forgotten."""

    event: Literal["clear"]


class TranscriptMessage(_Message):
    """What the caller said, from a recogniser. Not in Twilio's protocol."""

    event: Literal["transcript"]
    transcript: _Transcript


Received: TypeAlias = MediaMessage | MarkMessage | ClearMessage | TranscriptMessage

_received: TypeAdapter[Received] = TypeAdapter(Annotated[Received, Field(discriminator="event")])


def parse(message: str | bytes, stream_id: str) -> Received:
    """Read one message of a stream. Raises ProtocolError."""
    if isinstance(message, bytes):
        raise ProtocolError("binary message: messages are JSON, in text")
    try:
        received = _received.validate_json(message)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"][1:])  # the first is the event's name again
        said = str(first["msg"]).removeprefix("Value error, ")
        raise ProtocolError(f"{where}: {said}" if where else said) from None
    except ValueError:  # a lone surrogate is no UTF-8
        raise ProtocolError("the message is not valid Unicode") from None
    if received.stream_id not in (None, stream_id):
        raise ProtocolError(f"this connection's streamSid is {stream_id}")
    return received
