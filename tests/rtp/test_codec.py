import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediaserver.rtp.codec import CODECS, G722, PCMA, PCMU, Codec, rms

codecs = pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
g711 = pytest.mark.parametrize("codec", [PCMU, PCMA], ids=["PCMU", "PCMA"])


def test_static_payload_types() -> None:
    """RFC 3551 table 4."""
    assert {name: (codec.payload_type, codec.clock_rate) for name, codec in CODECS.items()} == {
        "PCMU": (0, 8000),
        "PCMA": (8, 8000),
        "G722": (9, 8000),
    }
    assert G722.sample_rate == 16000, "its clock rate is an error of RFC 1890 that stayed"


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


@g711
def test_silence_is_what_zero_encodes_to(codec: Codec) -> None:
    assert codec.encode(bytes(320)) == codec.silence * 160
    level = np.frombuffer(codec.decode(codec.silence), "<i2")
    assert abs(int(level[0])) <= 8  # A-law has no zero; its smallest step is 8


@g711
def test_every_code_survives_decoding_and_encoding(codec: Codec) -> None:
    codes = bytes(range(256))
    again = codec.encode(codec.decode(codes))
    # mu-law has two zeros: 0x7f (minus nought) comes back as 0xff.
    assert again.replace(b"\xff", b"\x7f") == codes.replace(b"\xff", b"\x7f")


@g711
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
    with pytest.raises(Exception, match=r"not a whole number of frames|not a multiple of item size"):
        codec.encode(bytes(3))


@codecs
@pytest.mark.parametrize("ptime_ms", [10, 20, 30, 40, 60])
def test_a_packet_has_an_octet_for_each_tick_of_the_clock(codec: Codec, ptime_ms: int) -> None:
    payload = codec.new_encoder()(bytes(2 * codec.sample_rate * ptime_ms // 1000))
    assert len(payload) == codec.clock_rate * ptime_ms // 1000
    assert len(codec.new_decoder()(payload)) == 2 * codec.sample_rate * ptime_ms // 1000
    assert len(codec.new_narrowband_decoder()(payload)) == 2 * 8 * ptime_ms


@g711
def test_g711_has_no_state(codec: Codec) -> None:
    assert codec.new_encoder() is codec.new_encoder()
    assert codec.new_decoder() is codec.new_decoder() is codec.new_narrowband_decoder()


def tone(hertz: float, rate: int = 16000) -> np.ndarray:
    return (8000 * np.sin(2 * np.pi * hertz * np.arange(rate) / rate)).astype("<i2")


def in_frames(convert, data: bytes, size: int) -> bytes:
    return b"".join(convert(data[start : start + size]) for start in range(0, len(data), size))


def test_g722_comes_back_22_samples_later() -> None:
    sent = tone(1000)
    payload = in_frames(G722.new_encoder(), sent.tobytes(), 640)
    heard = np.frombuffer(in_frames(G722.new_decoder(), payload, 160), "<i2").astype(float)
    error = heard[1022:15000] - sent[1000 : 15000 - 22]
    assert 10 * np.log10((sent.astype(float) ** 2).mean() / (error**2).mean()) > 35


def test_g722_agrees_with_another_implementation() -> None:
    av = pytest.importorskip("av")
    frame = av.AudioFrame.from_ndarray(tone(700)[np.newaxis, :320], format="s16", layout="mono")
    frame.sample_rate = 16000
    theirs = av.CodecContext.create("g722", "w")
    theirs.sample_rate, theirs.layout, theirs.format, theirs.time_base = 16000, "mono", "s16", Fraction(1, 16000)
    payload = b"".join(bytes(packet) for packet in [*theirs.encode(frame), *theirs.encode(None)])
    decoder = av.CodecContext.create("g722", "r")
    decoder.sample_rate, decoder.layout = 16000, "mono"
    ours = G722.encode(tone(700)[:320].tobytes())
    packet = av.Packet(ours)
    decoded = np.concatenate([frame.to_ndarray().ravel() for frame in decoder.decode(packet)])
    assert len(payload) >= len(ours) == 160
    assert np.abs(decoded - np.frombuffer(G722.decode(ours), "<i2").astype(int)).max() <= 2


def test_g722_is_continuous_across_packets_and_streams_are_apart() -> None:
    sent = tone(440).tobytes()
    encode, other = G722.new_encoder(), G722.new_encoder()
    whole = G722.encode(sent)
    parts = []
    for start in range(0, len(sent), 640):
        parts.append(encode(sent[start : start + 640]))
        other(bytes(640))
    assert b"".join(parts) == whole
    assert in_frames(G722.new_decoder(), whole, 80) == G722.decode(whole)


@pytest.mark.parametrize(
    ("hertz", "low", "high"), [(300, -0.5, 0.5), (1000, -0.5, 0.5), (3000, -0.5, 0.5), (6000, -99, -40)]
)
def test_g722_at_8_khz_keeps_the_telephone_band(hertz: int, low: float, high: float) -> None:
    heard = np.frombuffer(G722.new_narrowband_decoder()(G722.encode(tone(hertz).tobytes())), "<i2").astype(float)
    gain = 20 * np.log10(heard[500:].std() / (8000 / np.sqrt(2)))
    assert low < gain < high
    if hertz < 4000:
        spectrum = np.abs(np.fft.rfft(heard[1000:5000]))
        assert np.argmax(spectrum) * 2 == pytest.approx(hertz, abs=3), "at its own pitch"


def test_g722_is_loaded_only_if_used() -> None:
    code = (
        "import sys\nimport mediaserver.rtp.codec as codec\nassert 'G722' not in sys.modules\n"
        "codec.G722.new_encoder()\nassert 'G722' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_rms() -> None:
    assert rms(bytes(320)) == 0
    assert rms(tone(1000).tobytes()) == pytest.approx(8000 / 2**0.5, rel=0.01)


def test_import_warns_nobody() -> None:
    """audioop's deprecation in 3.11 and 3.12 is ours to deal with, not the operator's."""
    subprocess.run([sys.executable, "-W", "error", "-c", "import mediaserver.rtp.codec"], check=True)
