"""The codecs of the telephone network, G.711 and G.722: payload types and clock rates of RFC 3551 section 6.

telephone-event (RFC 4733) and comfort noise (RFC 3389) are no codecs here: the SDP names their payload types, and a
session recognises them.
"""

from __future__ import annotations

import importlib
import warnings
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

with warnings.catch_warnings():
    # Python 3.11 and 3.12 warn that audioop leaves in 3.13; from there on audioop-lts provides it.
    warnings.simplefilter("ignore", DeprecationWarning)
    import audioop

__all__ = ["BYTES_PER_SAMPLE", "CODECS", "G722", "PCMA", "PCMU", "Codec", "Convert", "audioop", "rms"]

BYTES_PER_SAMPLE = 2
"Linear PCM here is signed 16-bit little-endian mono."

Convert = Callable[[bytes], bytes]
"An encoder (PCM to payload) or a decoder (payload to PCM) of one stream."


@dataclass(frozen=True, slots=True)
class Codec:
    """An audio encoding of 64 kbit/s: a packet of ptime ms has clock_rate * ptime / 1000 octets of payload.

    An encoder takes whole 16-bit samples (G.722: an even number of them) and raises an error on an odd number of
    bytes; a decoder takes any payload.
    """

    name: str
    "Encoding name as in SDP's rtpmap."
    payload_type: int
    "The static payload type of RFC 3551."
    clock_rate: int
    "Of the RTP timestamp, Hz. For G.722 it is 8000, not the sample rate (RFC 3551 section 4.5.2)."
    sample_rate: int
    "Of the PCM, Hz."
    silence: bytes | None
    "One octet of silence, encoded; None if the encoder has state, so that silence is encoded like all else."
    new_encoder: Callable[[], Convert]
    "The encoder of a new stream. Stateless codecs give the same function each time."
    new_decoder: Callable[[], Convert]
    "The decoder of a new stream, to PCM at sample_rate."
    new_narrowband_decoder: Callable[[], Convert]
    "The decoder of a new stream, to PCM at 8 kHz."

    def encode(self, pcm: bytes) -> bytes:
        """PCM that is a whole stream, to payload."""
        return self.new_encoder()(pcm)

    def decode(self, payload: bytes) -> bytes:
        """The payload of a whole stream, to PCM."""
        return self.new_decoder()(payload)


def rms(pcm: bytes) -> int:
    """The root mean square of PCM, 0-32768: its level."""
    return audioop.rms(pcm, BYTES_PER_SAMPLE)


def _encode_ulaw(pcm: bytes) -> bytes:
    return audioop.lin2ulaw(pcm, BYTES_PER_SAMPLE)


def _decode_ulaw(payload: bytes) -> bytes:
    return audioop.ulaw2lin(payload, BYTES_PER_SAMPLE)


def _encode_alaw(pcm: bytes) -> bytes:
    return audioop.lin2alaw(pcm, BYTES_PER_SAMPLE)


def _decode_alaw(payload: bytes) -> bytes:
    return audioop.alaw2lin(payload, BYTES_PER_SAMPLE)


def _stateless(convert: Convert) -> Callable[[], Convert]:
    return lambda: convert


def _g722(sample_rate: int) -> Any:
    # Loaded by the first call that uses it. 64 kbit/s: mode 1, the only one that RFC 3551 section 4.5.2 has.
    return importlib.import_module("G722").G722(sample_rate, 64000)


def _g722_encoder() -> Convert:
    encode = _g722(16000).encode

    def convert(pcm: bytes) -> bytes:
        payload: bytes = encode(array("h", pcm))  # it would take bytes for samples
        return payload

    return convert


def _g722_decoder_at(sample_rate: int) -> Callable[[], Convert]:
    def new_decoder() -> Convert:
        decode = _g722(sample_rate).decode

        def convert(payload: bytes) -> bytes:
            pcm: bytes = decode(payload).tobytes()
            return pcm

        return convert

    return new_decoder


def _g711(name: str, payload_type: int, silence: bytes, encode: Convert, decode: Convert) -> Codec:
    new_decoder = _stateless(decode)
    return Codec(name, payload_type, 8000, 8000, silence, _stateless(encode), new_decoder, new_decoder)


PCMU = _g711("PCMU", 0, b"\xff", _encode_ulaw, _decode_ulaw)
PCMA = _g711("PCMA", 8, b"\xd5", _encode_alaw, _decode_alaw)
# At 8 kHz only the lower of its two bands is decoded: half the work, and no resampler.
G722 = Codec("G722", 9, 8000, 16000, None, _g722_encoder, _g722_decoder_at(16000), _g722_decoder_at(8000))

CODECS = {codec.name: codec for codec in (PCMU, PCMA, G722)}
"By encoding name, in upper case; SDP compares names without regard to case."
