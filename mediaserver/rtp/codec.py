"""G.711, the codecs of the telephone network: payload types and clock rate of RFC 3551 section 6.

telephone-event (RFC 4733) is no codec of ours: the SDP names its payload type, and a session recognises it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

with warnings.catch_warnings():
    # Python 3.11 and 3.12 warn that audioop leaves in 3.13; from there on audioop-lts provides it.
    warnings.simplefilter("ignore", DeprecationWarning)
    import audioop

BYTES_PER_SAMPLE = 2
"Linear PCM here is signed 16-bit little-endian mono."


@dataclass(frozen=True, slots=True)
class Codec:
    """An audio encoding of one byte a sample."""

    name: str
    "Encoding name as in SDP's rtpmap."
    payload_type: int
    "The static payload type of RFC 3551."
    clock_rate: int
    "RTP clock and sample rate, Hz."
    silence: bytes
    "One sample of silence, encoded."
    encode: Callable[[bytes], bytes]
    "16-bit little-endian PCM to payload. Raises audioop.error on an odd number of bytes."
    decode: Callable[[bytes], bytes]
    "Payload to 16-bit little-endian PCM."


def _encode_ulaw(pcm: bytes) -> bytes:
    return audioop.lin2ulaw(pcm, BYTES_PER_SAMPLE)


def _decode_ulaw(payload: bytes) -> bytes:
    return audioop.ulaw2lin(payload, BYTES_PER_SAMPLE)


def _encode_alaw(pcm: bytes) -> bytes:
    return audioop.lin2alaw(pcm, BYTES_PER_SAMPLE)


def _decode_alaw(payload: bytes) -> bytes:
    return audioop.alaw2lin(payload, BYTES_PER_SAMPLE)


PCMU = Codec("PCMU", 0, 8000, b"\xff", _encode_ulaw, _decode_ulaw)
PCMA = Codec("PCMA", 8, 8000, b"\xd5", _encode_alaw, _decode_alaw)

CODECS = {codec.name: codec for codec in (PCMU, PCMA)}
"By encoding name, in upper case; SDP compares names without regard to case."
