"""Delays from packets: when speech began, when it fell silent, what a stretch of time lost."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.load.analysis import PACKET_SIZE, RECORD
from benchmarks.load.control_hearing import Asked, Hearing, first_audio, interruptions, transport

MS = 1_000_000
FRAME = 20 * MS
START = 1_700_000_000_000_000_000
SILENCE, FAINT, LOUD = 0xFF, 0xFE, 0x80
"mu-law codes: zero, the smallest step beside it, the largest."


def packets(*payloads: int, since: int = START) -> NDArray[np.void]:
    """One packet each 20 ms, each of one value."""
    records = np.zeros(len(payloads), RECORD)
    records["stamp"] = since + np.arange(len(payloads)) * FRAME
    records["size"] = PACKET_SIZE
    records["vpxcc"] = 0x80
    records["sequence"] = np.arange(len(payloads))
    records["timestamp"] = np.arange(len(payloads)) * 160
    records["ssrc"] = 7
    records["payload"] = np.asarray(payloads, np.uint8)[:, None]
    return records


def at(packet: float) -> int:
    """The time of a packet by its number."""
    return START + int(packet * FRAME)


def test_first_audio_is_counted_from_asking() -> None:
    hearing = Hearing(packets(*[SILENCE] * 5, FAINT, LOUD, LOUD))

    found = first_audio([hearing], [Asked(0, at(3.5), answered_ms=4.0)])

    assert found["to_signal_ms"]["p50"] == 30.0
    assert found["to_audible_ms"]["p50"] == 50.0
    assert found["to_response_ms"]["max"] == 4.0
    assert (found["asked"], found["refused"], found["never_spoken"], found["not_counted"]) == (1, 0, 0, 0)


def test_each_call_has_its_own_packets() -> None:
    hearings = [Hearing(packets(*[SILENCE] * 10, LOUD)), Hearing(packets(*[SILENCE] * 5, LOUD))]

    found = first_audio(hearings, [Asked(0, at(4)), Asked(1, at(4))])

    assert found["to_audible_ms"]["max"] == 120.0
    assert found["to_audible_ms"]["p50"] == 20.0


def test_what_still_spoke_is_not_counted() -> None:
    hearing = Hearing(packets(*[SILENCE] * 3, LOUD, LOUD, *[SILENCE] * 25, LOUD))

    found = first_audio([hearing], [Asked(0, at(10)), Asked(0, at(29.5))])

    assert found["not_counted"] == 1
    assert found["to_audible_ms"]["count"] == 1
    assert found["to_audible_ms"]["p50"] == 10.0


def test_what_was_never_spoken_and_what_was_refused() -> None:
    hearing = Hearing(packets(*[SILENCE] * 5, *[FAINT] * 5))

    found = first_audio([hearing], [Asked(0, at(2), status=429)])

    assert found["never_spoken"] == found["refused"] == 1
    assert found["to_audible_ms"] == {"p50": None, "p95": None, "max": None, "count": 0}


def test_speech_after_three_seconds_has_not_come() -> None:
    hearing = Hearing(packets(*[SILENCE] * 160, LOUD))

    assert hearing.first(hearing.audible, at(0)) is None
    assert hearing.first(hearing.audible, at(20)) == at(160)


def test_interruption_to_silence_and_on_to_the_message() -> None:
    hearing = Hearing(packets(*[LOUD] * 20, *[SILENCE] * 20))

    found = interruptions([hearing], [(0, at(10.5))], [(0, at(20) + 3 * MS)])

    assert found["to_silence_ms"]["p95"] == 190.0
    assert found["to_message_ms"]["p95"] == 3.0
    assert (found["trials"], found["missed"], found["missed_share"]) == (1, 0, 0.0)


def test_silence_may_come_after_the_message() -> None:
    hearing = Hearing(packets(*[LOUD] * 20, *[SILENCE] * 20))

    found = interruptions([hearing], [(0, at(10.5))], [(0, at(17))])

    assert found["to_silence_ms"]["p95"] == 190.0
    assert found["to_message_ms"]["p95"] == -60.0


def test_a_pause_of_the_speech_is_no_silence() -> None:
    hearing = Hearing(packets(*[LOUD] * 12, *[SILENCE] * 4, *[LOUD] * 4, *[SILENCE] * 20))

    found = interruptions([hearing], [(0, at(10.5))], [(0, at(20))])

    assert found["to_silence_ms"]["p50"] == 190.0


def test_missed_interruptions_and_calls_that_say_nothing() -> None:
    speaking = Hearing(packets(*[LOUD] * 100))
    quiet = Hearing(packets(*[SILENCE] * 100))

    found = interruptions([speaking, quiet], [(0, at(20)), (1, at(20))], [(1, at(21))])

    assert (found["trials"], found["missed"], found["nothing_to_interrupt"]) == (2, 1, 1)
    assert found["missed_share"] == 0.5
    assert found["to_silence_ms"]["count"] == 0


def test_another_calls_message_is_no_answer() -> None:
    hearings = [Hearing(packets(*[LOUD] * 20, *[SILENCE] * 20)) for _ in range(2)]

    found = interruptions(hearings, [(0, at(10))], [(1, at(20)), (0, at(9)), (0, at(10) + 1600 * MS)])

    assert found["missed"] == 1


def test_speech_that_ends_as_the_caller_begins_counts_for_nothing() -> None:
    hearing = Hearing(packets(*[LOUD] * 10, *[SILENCE] * 20))

    found = interruptions([hearing], [(0, at(9.5))], [(0, at(18))])

    assert found["silent_anyway"] == 1


def test_transport_of_some_stretches_of_time() -> None:
    records = packets(*[LOUD] * 300)
    records["stamp"][250:] += 5 * MS  # outside
    lossy = np.delete(packets(*[SILENCE] * 300), 60)

    found = transport([records, lossy], [(at(0), at(100)), (at(150), at(200))])

    assert found["packets"] == 299
    assert found["lost"] == 1
    assert found["short"] == 0
    assert found["spacing_error_ms"]["max"] == 0.0
    assert found["audible_percent"] == 50.0


def test_a_call_that_stopped_sending_is_short_of_packets() -> None:
    found = transport([packets(*[LOUD] * 50)], [(at(0), at(100))])

    assert found["lost"] == 0
    assert found["short"] == 48


@pytest.mark.parametrize("since", [-50, 400])
def test_nothing_within_a_stretch(since: int) -> None:
    hearing = Hearing(packets(*[LOUD] * 10))

    assert hearing.is_quiet(at(since), at(since + 5))
    assert hearing.silence_after(at(since), at(since + 5)) is None
