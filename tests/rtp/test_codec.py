import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediaserver.rtp.codec import CODECS, PCMA, PCMU, Codec

codecs = pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)


def test_static_payload_types() -> None:
    """RFC 3551 table 4."""
    assert {name: (codec.payload_type, codec.clock_rate) for name, codec in CODECS.items()} == {
        "PCMU": (0, 8000),
        "PCMA": (8, 8000),
    }


def ulaw_value(code: int) -> int:
    """The decoder of G.711 table 2, written from its definition: sign, 3 bits of segment, 4 of step."""
    code = ~code & 0xFF
    magnitude = ((((code & 0x0F) << 1) + 33) << ((code >> 4) & 7)) - 33
    return -4 * magnitude if code & 0x80 else 4 * magnitude


def alaw_value(code: int) -> int:
    """The decoder of G.711 table 1."""
    code ^= 0x55
    segment, step = (code >> 4) & 7, code & 0x0F
    magnitude = 2 * step + 1 if segment == 0 else (2 * step + 33) << (segment - 1)
    return 8 * magnitude if code & 0x80 else -8 * magnitude


@pytest.mark.parametrize(("codec", "value"), [(PCMU, ulaw_value), (PCMA, alaw_value)], ids=["PCMU", "PCMA"])
def test_decodes_every_code_as_g711_says(codec: Codec, value) -> None:
    decoded = np.frombuffer(codec.decode(bytes(range(256))), "<i2")
    assert decoded.tolist() == [value(code) for code in range(256)]


@codecs
def test_silence_is_what_zero_encodes_to(codec: Codec) -> None:
    assert codec.encode(bytes(320)) == codec.silence * 160
    level = np.frombuffer(codec.decode(codec.silence), "<i2")
    assert abs(int(level[0])) <= 8  # A-law has no zero; its smallest step is 8


@codecs
def test_every_code_survives_decoding_and_encoding(codec: Codec) -> None:
    codes = bytes(range(256))
    again = codec.encode(codec.decode(codes))
    # mu-law has two zeros: 0x7f (minus nought) comes back as 0xff.
    assert again.replace(b"\xff", b"\x7f") == codes.replace(b"\xff", b"\x7f")


@codecs
@given(samples=st.lists(st.integers(-32768, 32767), max_size=400))
def test_error_is_within_the_step_of_the_level(codec: Codec, samples: list[int]) -> None:
    pcm = np.array(samples, dtype="<i2")
    payload = codec.encode(pcm.tobytes())
    assert len(payload) == len(samples)
    heard = np.frombuffer(codec.decode(payload), "<i2").astype(int)
    # Steps are a 16th of their segment, so half a step is at most 1/32 of the level (more where mu-law clips
    # at 32124), and 8 near nought.
    assert np.all(np.abs(heard - pcm) <= np.maximum(16, np.abs(pcm.astype(int)) / 30 + 16))


@codecs
def test_odd_number_of_bytes_is_refused(codec: Codec) -> None:
    with pytest.raises(Exception, match="not a whole number of frames"):
        codec.encode(bytes(3))


def test_import_warns_nobody() -> None:
    """audioop's deprecation in 3.11 and 3.12 is ours to deal with, not the operator's."""
    subprocess.run([sys.executable, "-W", "error", "-c", "import mediaserver.rtp.codec"], check=True)
