import errno
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediaserver.rtp.codec import G722, PCMA, PCMU, audioop
from mediaserver.rtp.dtmf_event import EventPayload
from mediaserver.rtp.dtmf_tones import digits_pcm
from mediaserver.rtp.playout import PlayoutBuffer
from mediaserver.rtp.send_stream import SendFormat, SendStream
from tests.rtp.memory_endpoint import REMOTE, SPEECH, MemoryEndpoint

ALTERNATING = b"".join((n * 37 % 20000 + 500).to_bytes(2, "little") for n in range(480))
EVENTS = SendFormat(PCMU, 0, event_type=101)


def make(wire: MemoryEndpoint, form: SendFormat | None = None, playout_rate: int = 8000) -> SendStream:
    playout = PlayoutBuffer(max_seconds=10, sample_rate=playout_rate)
    return SendStream(wire.send, playout, form or SendFormat(PCMU, 0), playout_rate)


@pytest.fixture
def wire() -> MemoryEndpoint:
    return MemoryEndpoint()


@pytest.fixture
def stream(wire: MemoryEndpoint) -> SendStream:
    return make(wire)


def speak(stream: SendStream, frames: int, tag: str = "a", pcm: bytes = SPEECH) -> None:
    stream.playout.begin(tag)
    stream.playout.write(pcm * frames)
    stream.playout.end()


def run(stream: SendStream, *due: int) -> list[bool]:
    return [stream.send(at, REMOTE) for at in due]


def steps(values: list[int], modulus: int) -> list[int]:
    return [(b - a) % modulus for a, b in itertools.pairwise(values)]


def timestamps(wire: MemoryEndpoint) -> list[int]:
    return steps([packet.timestamp for packet in wire.packets], 2**32)


def sequences(wire: MemoryEndpoint) -> list[int]:
    return steps([packet.sequence for packet in wire.packets], 2**16)


def test_a_packet_is_what_the_format_says(stream: SendStream, wire: MemoryEndpoint) -> None:
    speak(stream, 1)
    assert run(stream, 20) == [True]
    (packet,) = wire.packets
    assert packet.payload == PCMU.encode(SPEECH)
    assert (packet.payload_type, packet.marker, packet.ssrc) == (0, True, stream.ssrc)
    assert (packet.csrc, packet.extension_profile, packet.padding) == ((), None, 0)
    assert wire.addresses == [REMOTE]
    assert (stream.counters.packets, stream.counters.octets) == (1, 160)


def test_sequence_and_timestamp_follow_the_clock(stream: SendStream, wire: MemoryEndpoint) -> None:
    speak(stream, 3)
    run(stream, *range(5, 200, 20))
    assert sequences(wire) == [1] * 9
    assert timestamps(wire) == [160] * 9


def test_the_timestamp_of_a_moment_is_that_of_its_packet(stream: SendStream, wire: MemoryEndpoint) -> None:
    run(stream, 7, 27)
    assert [stream.timestamp(7), stream.timestamp(27)] == [packet.timestamp for packet in wire.packets]
    assert (stream.timestamp(27.5) - stream.timestamp(27)) % 2**32 == 4


def test_numbers_wrap(stream: SendStream, wire: MemoryEndpoint) -> None:
    stream._sequence = 0xFFFE
    stream._timestamp_base = 2**32 - 160
    run(stream, 0, 20, 40)
    assert [packet.sequence for packet in wire.packets] == [0xFFFF, 0, 1]
    assert [packet.timestamp for packet in wire.packets] == [2**32 - 160, 0, 160]


def test_timestamps_are_exact_after_a_month(stream: SendStream, wire: MemoryEndpoint) -> None:
    """The clock is that of the machine: it does not begin with the call."""
    start = 30 * 24 * 3600 * 1000 + 7
    run(stream, *range(start, start + 200, 20))
    assert timestamps(wire) == [160] * 9


def test_legs_start_at_random_numbers() -> None:
    streams = [make(MemoryEndpoint()) for _ in range(20)]
    assert len({stream.ssrc for stream in streams}) == 20
    assert len({stream._timestamp_base for stream in streams}) == 20
    assert len({stream._sequence for stream in streams}) > 15
    assert all(stream._sequence < 2**15 for stream in streams)


def test_marker_on_the_first_packet_of_a_talkspurt_only(stream: SendStream, wire: MemoryEndpoint) -> None:
    run(stream, 0)
    speak(stream, 2, "a")
    speak(stream, 1, "b")
    run(stream, *range(20, 120, 20))
    speak(stream, 1, "c")
    run(stream, 120)
    assert [packet.marker for packet in wire.packets] == [False, True, False, False, False, False, True]


def test_an_underrun_fades_and_ends_the_talkspurt(stream: SendStream, wire: MemoryEndpoint) -> None:
    stream.playout.begin("a")
    stream.playout.write(SPEECH)
    run(stream, 0, 20, 40)
    stream.playout.write(SPEECH)
    stream.playout.end()
    run(stream, 60)
    assert [packet.marker for packet in wire.packets] == [True, False, False, True]
    fade = audioop.ulaw2lin(wire.packets[1].payload, 2)
    assert audioop.rms(fade[:32], 2) > 500 > audioop.rms(fade[-32:], 2)
    assert wire.packets[2].payload == b"\xff" * 160
    assert stream.playout.underruns == 1


@pytest.mark.parametrize("ptime", [10, 20, 30, 40, 60])
@pytest.mark.parametrize(("codec", "silence"), [(PCMU, b"\xff"), (PCMA, b"\xd5")], ids=["PCMU", "PCMA"])
def test_silence_between_utterances(wire: MemoryEndpoint, codec, silence: bytes, ptime: int) -> None:
    stream = make(wire, SendFormat(codec, codec.payload_type, ptime))
    run(stream, 0, ptime)
    assert [packet.payload for packet in wire.packets] == [silence * (8 * ptime)] * 2
    assert timestamps(wire) == [8 * ptime]


def test_nothing_between_utterances_if_so_chosen(stream: SendStream, wire: MemoryEndpoint) -> None:
    stream.send_silence = False
    speak(stream, 1, "a")
    run(stream, *range(0, 100, 20))
    speak(stream, 1, "b")
    run(stream, 100)
    assert sequences(wire) == [1]
    assert timestamps(wire) == [800]
    assert [packet.marker for packet in wire.packets] == [True, True]


def test_hold_sends_nothing_and_keeps_the_audio(stream: SendStream, wire: MemoryEndpoint) -> None:
    speak(stream, 2)
    run(stream, 0)
    stream.paused = True
    assert run(stream, 20, 40) == [False, False]
    stream.paused = False
    run(stream, 60)
    assert wire.packets[1].payload == PCMU.encode(SPEECH)
    assert wire.packets[1].marker
    assert (sequences(wire), timestamps(wire)) == ([1], [480])
    assert stream.playout.underruns == 0


def test_skipped_intervals_move_the_timestamp_not_the_audio(stream: SendStream, wire: MemoryEndpoint) -> None:
    speak(stream, 2)
    run(stream, 0, 200)
    assert timestamps(wire) == [1600]
    assert wire.packets[1].payload == PCMU.encode(SPEECH)
    assert wire.packets[1].marker, "a gap in time but not in sequence is how a talkspurt begins"


def test_audio_waits_until_there_is_somewhere_to_send(stream: SendStream, wire: MemoryEndpoint) -> None:
    speak(stream, 1)
    assert not stream.send(0, None)
    assert stream.send(20, REMOTE)
    assert wire.packets[0].payload == PCMU.encode(SPEECH)


def test_codec_changes_between_packets(stream: SendStream, wire: MemoryEndpoint) -> None:
    speak(stream, 2)
    run(stream, 0)
    stream.set_form(SendFormat(PCMA, 101))
    run(stream, 20)
    assert [packet.payload_type for packet in wire.packets] == [0, 101]
    assert wire.packets[1].payload == PCMA.encode(SPEECH)
    assert not wire.packets[1].marker


def test_ptime_changes_without_losing_a_sample(stream: SendStream, wire: MemoryEndpoint) -> None:
    speak(stream, 1, pcm=ALTERNATING[:640] * 2)
    run(stream, 0)
    stream.set_form(SendFormat(PCMU, 0, ptime_ms=30))
    run(stream, 20, 50, 80)
    assert [len(packet.payload) for packet in wire.packets] == [160, 240, 240, 240]
    sent = b"".join(packet.payload for packet in wire.packets[:3])
    assert sent == PCMU.encode(ALTERNATING[:640] * 2)
    assert timestamps(wire) == [160, 240, 240]


def test_the_same_format_again_changes_nothing(stream: SendStream) -> None:
    """A session refresh; a G.722 encoder would lose its state."""
    before = stream._encode
    stream.set_form(SendFormat(PCMU, 0))
    assert stream._encode is before


def test_a_call_within_the_packet_before_sends_nothing(stream: SendStream, wire: MemoryEndpoint) -> None:
    """The leg was put back on the pacer at another phase."""
    speak(stream, 3)
    assert run(stream, 0, 12, 32) == [True, False, True]
    assert timestamps(wire) == [256]


@pytest.mark.parametrize("code", [errno.EAGAIN, errno.ENETUNREACH, errno.ECONNREFUSED, errno.EBADF])
def test_socket_errors_are_losses(stream: SendStream, wire: MemoryEndpoint, code: int) -> None:
    speak(stream, 3)
    run(stream, 0)
    wire.error = OSError(code, "refused")
    run(stream, 20)
    wire.error = None
    run(stream, 40)
    assert stream.counters.errors == 1
    assert stream.counters.packets == 2
    assert sequences(wire) == [2]


@pytest.mark.parametrize("wrong", [-1, 128])
def test_payload_types_have_seven_bits(wrong: int) -> None:
    with pytest.raises(ValueError, match="0-127"):
        SendFormat(PCMU, wrong)
    with pytest.raises(ValueError, match="0-127"):
        SendFormat(PCMU, 0, event_type=wrong)


def test_g722_goes_at_16_khz_with_a_clock_of_8(wire: MemoryEndpoint) -> None:
    """RFC 3551 section 4.5.2: the clock rate is 8000 for historical reasons."""
    stream = make(wire, SendFormat(G722, 9), playout_rate=16000)
    speech = ALTERNATING[:640]
    speak(stream, 3, pcm=speech)
    run(stream, *range(0, 100, 20))
    encode = G722.new_encoder()
    expected = [encode(pcm) for pcm in (speech, speech, speech, bytes(640), bytes(640))]
    assert [packet.payload for packet in wire.packets] == expected, "one encoder, through speech and silence"
    assert timestamps(wire) == [160] * 4
    assert {packet.payload_type for packet in wire.packets} == {9}


@pytest.mark.parametrize(("codec", "rate"), [(G722, 8000), (PCMU, 16000)], ids=["to wideband", "to narrowband"])
def test_a_codec_of_another_sample_rate_in_mid_call(wire: MemoryEndpoint, codec, rate: int) -> None:
    begins_with = PCMU if rate == 8000 else G722
    stream = make(wire, SendFormat(begins_with, begins_with.payload_type), playout_rate=rate)
    tone = b"".join((8000 if n * 400 % rate < rate // 2 else 55536).to_bytes(2, "little") for n in range(rate // 50))
    speak(stream, 4, pcm=tone)
    run(stream, 0)
    stream.set_form(SendFormat(codec, codec.payload_type))
    run(stream, *range(20, 120, 20))
    assert [len(packet.payload) for packet in wire.packets] == [160] * 6
    assert timestamps(wire) == [160] * 5
    decode = codec.new_decoder()
    loudness = [audioop.rms(decode(packet.payload), 2) for packet in wire.packets[1:]]
    assert all(6000 < rms < 9000 for rms in loudness[1:3])
    assert loudness[-1] < 100


def test_what_was_sent_is_told_frame_by_frame(stream: SendStream) -> None:
    told: list[tuple[bytes | None, int]] = []
    stream.on_frame = lambda pcm, due_ms: told.append((pcm, due_ms))
    speak(stream, 1)
    run(stream, 0, 20)
    stream.paused = True
    run(stream, 40)
    assert told == [(SPEECH, 0), (None, 20)]


def test_on_hold_by_our_wish_silence_is_sent_and_the_speech_waits(stream: SendStream, wire: MemoryEndpoint) -> None:
    speak(stream, 3)
    run(stream, 0)
    stream.held = True
    run(stream, 20, 40, 60)
    stream.held = False
    run(stream, 80, 100)
    speech = PCMU.encode(SPEECH)
    assert [packet.payload == speech for packet in wire.packets] == [True, False, False, False, True, True]
    assert [packet.marker for packet in wire.packets] == [True, False, False, False, True, False]
    assert timestamps(wire) == [160] * 5
    assert stream.playout.underruns == 0


def test_a_halt_silences_the_very_next_packet(stream: SendStream, wire: MemoryEndpoint) -> None:
    speak(stream, 5)
    run(stream, 0, 20)
    assert stream.playout.halt()
    run(stream, 40, 60)
    stream.playout.clear()
    speak(stream, 1)
    run(stream, 80)
    speech = [packet.payload != b"\xff" * 160 for packet in wire.packets]
    assert speech == [True, True, False, False, True]
    assert stream.playout.underruns == 0


class TestDigits:
    def events(self, wire: MemoryEndpoint) -> list[tuple[int, bool, int]]:
        """(duration, end, marker) of each telephone-event sent."""
        found = [(EventPayload.parse(packet.payload), packet) for packet in wire.packets if packet.payload_type == 101]
        return [(event.duration, event.end, packet.marker) for event, packet in found]

    def test_a_digit_is_sent_as_events(self, wire: MemoryEndpoint) -> None:
        stream = make(wire, EVENTS)
        stream.dtmf.send("5", duration_ms=60)
        run(stream, *range(0, 160, 20))
        assert self.events(wire) == [
            (160, False, True),
            (320, False, False),
            (480, True, False),
            (480, True, False),
            (480, True, False),
        ]
        events = [packet for packet in wire.packets if packet.payload_type == 101]
        assert {packet.timestamp for packet in events} == {events[0].timestamp}
        assert set(sequences(wire)) == {1}, "one sequence for events and audio"
        assert stream.counters.events == 5
        assert stream.counters.packets == len(wire.packets) == 8

    def test_speech_waits_for_a_digit_and_begins_a_talkspurt_after_it(self, wire: MemoryEndpoint) -> None:
        stream = make(wire, EVENTS)
        told: list[bytes | None] = []
        stream.on_frame = lambda pcm, _: told.append(pcm)
        speak(stream, 3)
        run(stream, 0)
        stream.dtmf.send("12", duration_ms=40)
        due = 20
        while stream.dtmf.active:
            run(stream, due)
            due += 20
        during = wire.packets[1:]
        assert [packet.payload_type for packet in during].count(101) == 8
        assert {packet.payload for packet in during if packet.payload_type == 0} == {b"\xff" * 160}, "no scraps of it"
        run(stream, due, due + 20, due + 40)
        after = wire.packets[-3:]
        assert [packet.payload for packet in after] == [PCMU.encode(SPEECH)] * 2 + [b"\xff" * 160]
        assert [packet.marker for packet in after] == [True, False, False]
        assert told == [SPEECH, *[None] * len(during), SPEECH, SPEECH, None]
        assert stream.playout.underruns == 0

    def test_digits_are_forgotten_when_the_peer_takes_events_no_more(self, wire: MemoryEndpoint) -> None:
        stream = make(wire, EVENTS)
        done: list[bool] = []
        stream.dtmf.on_done = lambda: done.append(True)
        stream.dtmf.send("123456")
        run(stream, 0, 20)
        stream.set_form(SendFormat(PCMU, 0))
        run(stream, *range(40, 400, 20))
        assert [packet.payload_type for packet in wire.packets] == [101, 101] + [0] * 18
        assert done == [True]
        assert not stream.dtmf.active

    def test_cleared_digits_end_at_once(self, wire: MemoryEndpoint) -> None:
        stream = make(wire, EVENTS)
        stream.dtmf.send("19", duration_ms=400)
        run(stream, 0, 20)
        stream.clear_digits()
        run(stream, *range(40, 400, 20))
        events = self.events(wire)
        assert [end for _, end, _ in events] == [False, False, True, True, True]

    def test_events_that_the_socket_refuses_are_lost(self, wire: MemoryEndpoint) -> None:
        stream = make(wire, EVENTS)
        stream.dtmf.send("1", duration_ms=60)
        wire.error = OSError(errno.EAGAIN, "full")
        run(stream, 0)
        wire.error = None
        run(stream, 20)
        assert self.events(wire) == [(320, False, False)]
        assert (stream.counters.errors, stream.counters.packets) == (1, 1)

    def test_nothing_is_sent_on_hold(self, wire: MemoryEndpoint) -> None:
        stream = make(wire, EVENTS)
        stream.dtmf.send("1")
        stream.paused = True
        assert run(stream, 0, 20) == [False, False]

    def test_tones_are_sent_whole_and_then_the_speech(self, stream: SendStream, wire: MemoryEndpoint) -> None:
        done: list[bool] = []
        stream.dtmf.on_done = lambda: done.append(True)
        speak(stream, 2)
        run(stream, 0)
        tones = digits_pcm("42", duration_ms=65, sample_rate=8000)
        stream.play_tones(tones[:1000])
        stream.play_tones(tones[1000:])
        at = 20
        while not done:
            run(stream, at)
            at += 20
        run(stream, at)
        sent = [packet.payload for packet in wire.packets]
        first = -(-1000 // 320) * 320
        expected = tones[:1000].ljust(first, b"\0") + tones[1000:]
        expected = expected.ljust(-(-len(expected) // 320) * 320, b"\0")
        assert b"".join(sent[1:-1]) == PCMU.encode(expected)
        assert sent[-1] == PCMU.encode(SPEECH)
        assert done == [True]
        assert timestamps(wire) == [160] * (len(sent) - 1)

    def test_cleared_tones_end_with_the_next_frame(self, stream: SendStream, wire: MemoryEndpoint) -> None:
        stream.play_tones(ALTERNATING * 10)
        run(stream, 0)
        stream.clear_digits()
        run(stream, 20)
        assert wire.packets[1].payload == b"\xff" * 160

    def test_a_clear_within_a_frame_leaves_no_tone_behind(self, stream: SendStream, wire: MemoryEndpoint) -> None:
        """The event loop clears while the media thread has a part of a tone in its hands."""

        class Interrupting(bytes):
            def __getitem__(self, key):
                if not cleared:
                    cleared.append(True)
                    stream.clear_digits()
                return bytes(self)[key]

        cleared: list[bool] = []
        stream.play_tones(Interrupting(ALTERNATING * 10))
        run(stream, 0, 20)
        assert wire.packets[1].payload == b"\xff" * 160


@given(
    st.sampled_from([10, 20, 30]),
    st.lists(
        st.sampled_from(["tick", "late", "hold", "resume", "speak", "clear", "quiet", "loud", "digit", "clear digits"]),
        max_size=60,
    ),
)
def test_whatever_happens_the_stream_is_well_formed(ptime: int, actions: list[str]) -> None:
    wire = MemoryEndpoint()
    stream = make(wire, SendFormat(PCMU, 0, ptime, event_type=101))
    base, silence = stream._timestamp_base, PCMU.silence * 8 * ptime
    due, sent_at = 0, []
    for number, action in enumerate(actions):
        if action in ("tick", "late"):
            due += ptime if action == "tick" else 6 * ptime
            before = len(wire.sent)
            sent = stream.send(due, REMOTE)
            assert sent == (len(wire.sent) > before)
            sent_at += [due] * (len(wire.sent) - before)
        elif action in ("hold", "resume"):
            stream.paused = action == "hold"
        elif action == "speak":
            speak(stream, 2, str(number))
        elif action == "clear":
            stream.playout.clear()
        elif action == "digit":
            stream.dtmf.send("7", duration_ms=60)
        elif action == "clear digits":
            stream.clear_digits()
        else:
            stream.send_silence = action == "loud"
    packets = wire.packets
    audio = [(packet, at) for packet, at in zip(packets, sent_at, strict=True) if packet.payload_type == 0]
    assert [packet.timestamp for packet, _ in audio] == [(base + 8 * at) % 2**32 for _, at in audio]
    assert set(steps([packet.sequence for packet in packets], 2**16)) <= {1}
    talking, previous = False, None
    for packet, at in zip(packets, sent_at, strict=True):
        if packet.payload_type == 0:
            speech = packet.payload != silence
            assert len(packet.payload) == 8 * ptime
            assert packet.marker == (speech and not (talking and at == previous + ptime))
            talking = speech
        else:
            talking = False
        previous = at
    counters = stream.counters
    assert counters.packets == len(packets)
    assert counters.events == len(packets) - len(audio)
    assert counters.octets == sum(len(packet.payload) for packet in packets)
