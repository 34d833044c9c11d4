"""Calls from end to end within the process: SIP in memory, real RTP over loopback, a fake engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from mediaserver.call.end import EndReason
from mediaserver.rtp.codec import PCMA, PCMU
from sip.sdp import SessionDescription
from tests.mediaserver.caller import Caller, is_silence, running_caller
from tests.mediaserver.fake_engine import FakeEngine, pcm_of
from tests.sip.doubles import make_request
from tts_engine.errors import EngineNotReadyError


@pytest.fixture
async def caller() -> AsyncIterator[Caller]:
    async with running_caller() as made:
        yield made


def as_heard(*words: str) -> bytes:
    """What mu-law makes of the words."""
    return PCMU.decode(PCMU.encode(b"".join(pcm_of(word) for word in words)))


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


async def test_the_text_of_the_invite_is_heard(caller: Caller) -> None:
    response = await caller.call("one two")
    assert response.headers["Content-Type"] == "application/sdp"
    assert await caller.speech(0.4) == as_heard("one", "two")
    assert is_silence(await caller.packet())
    assert (await caller.in_dialog("BYE")).code == 200
    await caller.ended()
    assert caller.calls.totals.ended == {EndReason.CALLER_HUNG_UP.value: 1}
    assert caller.calls.totals.sums["rtp_underruns"] == 0
    assert caller.calls.totals.sums["speech_played"] == 1


async def test_synthesis_begins_before_the_ack(caller: Caller) -> None:
    await caller.invite(X_TTS_Text="one")
    assert caller.engine.streams


async def test_nothing_is_sent_before_the_ack(caller: Caller) -> None:
    """The first syllable would be clipped: the caller may not listen yet."""
    await caller.invite(X_TTS_Text="one")
    assert await caller.nothing_comes(0.1)
    caller.ack()
    assert await caller.speech(0.2) == as_heard("one")


async def test_the_greeting_is_said_when_nothing_is_asked() -> None:
    async with running_caller(calls={"greeting": "welcome"}) as caller:
        await caller.call()
        assert await caller.speech(0.2) == as_heard("welcome")


async def test_timestamps_go_on_and_only_a_talkspurt_has_a_marker(caller: Caller) -> None:
    await caller.call("one")
    packets = await caller.packets(20)
    await caller.info("two")
    packets += await caller.packets(30)
    first = packets[0]
    for number, packet in enumerate(packets):
        assert packet.sequence_number == (first.sequence_number + number) & 0xFFFF
        assert packet.timestamp == (first.timestamp + 160 * number) & 0xFFFFFFFF
        assert packet.ssrc == first.ssrc
        assert len(packet.payload) == 160
    starts = [
        number
        for number, packet in enumerate(packets)
        if not is_silence(packet) and (number == 0 or is_silence(packets[number - 1]))
    ]
    assert [number for number, packet in enumerate(packets) if packet.marker] == starts
    assert len(starts) == 2


async def test_nothing_between_utterances_if_so_configured() -> None:
    async with running_caller(rtp={"send_silence": False}) as caller:
        await caller.call("one")
        spoken = await caller.speech_packets(10)
        assert await caller.nothing_comes(0.1)
        await caller.info("two")
        again = await caller.packets(10)
        assert again[0].marker
        assert again[0].sequence_number == (spoken[-1].sequence_number + 1) & 0xFFFF
        gap = (again[0].timestamp - spoken[-1].timestamp) & 0xFFFFFFFF
        assert gap > 160 * 3  # time has passed
        assert gap % 160 == 0


async def test_more_text_is_queued(caller: Caller) -> None:
    await caller.call("one")
    assert (await caller.info("two three")).code == 200
    assert await caller.speech(0.6) == as_heard("one", "two", "three")


async def test_clear_stops_the_speech(caller: Caller) -> None:
    await caller.call(" ".join(f"w{number}" for number in range(20)))
    await caller.speech(0.1)
    assert (await caller.info(X_TTS_Action="clear")).code == 200
    following = await caller.packets(15)
    speech_left = [packet for packet in following if not is_silence(packet)]
    assert len(speech_left) <= 3  # what was on its way when the INFO came: loopback, and one frame
    assert all(is_silence(packet) for packet in following[len(speech_left) :])
    await caller.info("next")
    assert await caller.speech(0.2) == as_heard("next")


async def test_clear_and_new_text_in_one_request(caller: Caller) -> None:
    await caller.call(" ".join(f"w{number}" for number in range(20)))
    await caller.speech(0.1)
    assert (await caller.info("reply", X_TTS_Action="clear")).code == 200
    async with asyncio.timeout(5):
        while (await caller.packet()).payload != PCMU.encode(pcm_of("reply")[:320]):
            pass
    assert caller.engine.streams[0].cancelled


async def test_hang_up_when_all_has_been_played(caller: Caller) -> None:
    await caller.call("one two", X_TTS_Hangup="yes")
    assert await caller.speech(0.4) == as_heard("one", "two")
    await caller.request("BYE")
    await caller.ended()
    assert caller.calls.totals.ended == {EndReason.PLAYED.value: 1}
    await asyncio.wait_for(caller.agent.wait_idle(), 5)


async def test_text_that_comes_before_the_hang_up_is_heard_too(caller: Caller) -> None:
    await caller.call("one", X_TTS_Hangup="yes")
    await caller.info("two")
    assert await caller.speech(0.4) == as_heard("one", "two")
    await caller.request("BYE")


async def test_hang_up_asked_for_later(caller: Caller) -> None:
    await caller.call("one")
    await caller.speech(0.2)
    assert is_silence(await caller.packet())
    assert (await caller.info(X_TTS_Hangup="yes")).code == 200
    await caller.request("BYE")


async def test_clear_takes_back_the_hang_up_of_what_is_cleared(caller: Caller) -> None:
    await caller.call("one two three four", X_TTS_Hangup="yes")
    await caller.speech(0.1)
    await caller.info(X_TTS_Action="clear")
    await caller.info("five")
    assert await caller.speech(0.2) == as_heard("five")
    assert len(caller.calls.legs) == 1


async def test_nothing_speakable_is_answered_and_hung_up_on_request(caller: Caller) -> None:
    await caller.call("", X_TTS_Hangup="yes")
    await caller.request("BYE")
    await caller.ended()
    assert caller.calls.totals.sums["speech_unspeakable"] == 1


async def test_voices(caller: Caller) -> None:
    await caller.call("one", X_TTS_Voice="other")
    await caller.info("two")
    await caller.info("three", X_TTS_Voice="heart")
    await caller.speech(0.6)
    assert [stream.request.voice for stream in caller.engine.streams] == ["other", "other", "heart"]


@pytest.mark.parametrize(
    ("headers", "code", "said"),
    [
        ({"X_TTS_Voice": "bob"}, 400, "Unknown Voice 'bob'"),
        ({"X_TTS_Text": "x" * 2001}, 413, "Text Of 2001 Characters Is Over The Limit Of 2000"),
        ({"X_TTS_Hangup": "perhaps"}, 400, "X-TTS-Hangup"),
        ({"Content_Type": "application/json"}, 415, "application/json"),
        ({"body": b"v=0\r\nnonsense"}, 400, "Bad SDP"),
        ({"body": b"nonsense"}, 400, "Bad SDP"),
    ],
)
async def test_refused_invites_say_why_and_hold_nothing(
    caller: Caller, headers: dict[str, str], code: int, said: str
) -> None:
    files = open_files()
    response = await caller.invite(**headers)  # type: ignore[arg-type]
    assert response.code == code
    assert said in response.phrase
    assert not caller.calls.legs
    assert caller.calls.totals.refused == {code: 1}
    assert open_files() == files


async def test_no_common_codec(caller: Caller) -> None:
    response = await caller.invite(caller.sdp("18"))
    assert response.code == 488
    assert response.headers["Warning"].startswith("305 ")


@pytest.mark.parametrize(
    ("text", "headers", "code"),
    [
        ("x" * 2001, {}, 413),
        ("hello", {"X_TTS_Voice": "bob"}, 400),
        (None, {"X_TTS_Action": "dance"}, 400),
        (None, {"Content_Type": "application/dtmf-relay"}, 400),  # no digit in it
    ],
)
async def test_a_refused_info_disturbs_nothing(
    caller: Caller, text: str | None, headers: dict[str, str], code: int
) -> None:
    await caller.call("one two three")
    assert (await caller.info(text, **headers)).code == code
    assert await caller.speech(0.6) == as_heard("one", "two", "three")


async def test_a_full_queue_refuses_more() -> None:
    async with running_caller(calls={"max_text_chars": 100, "max_queued_chars": 100}) as caller:
        caller.engine.gate = asyncio.Semaphore(0)
        await caller.call("one")
        assert (await caller.info("a" * 90)).code == 200
        response = await caller.info("b" * 90)
        assert response.code == 413
        assert response.headers["Retry-After"]
        assert (await caller.info("c" * 90, X_TTS_Action="clear")).code == 200


async def test_the_call_limit() -> None:
    async with running_caller(calls={"max_calls": 1, "retry_after_s": 7}) as caller:
        await caller.call("one")
        caller.receive(make_request("INVITE", call_id="other", body=caller.sdp()))
        response = await caller.response()
        assert (response.code, response.headers["Retry-After"]) == (503, "7")
        assert await caller.speech(0.2) == as_heard("one")
        await caller.in_dialog("BYE")
        await caller.ended()
        caller.call_id = "third"
        assert (await caller.invite()).code == 200


async def test_no_call_without_an_engine(caller: Caller) -> None:
    caller.engine.ready = False
    response = await caller.invite()
    assert response.code == 503
    assert response.headers["Retry-After"]


async def options(caller: Caller) -> tuple[int, str, str | None]:
    caller.receive(make_request("OPTIONS", call_id="ping", branch=f"z9hG4bKo{caller.cseq}"))
    caller.cseq += 1
    response = await caller.response()
    return response.code, response.phrase, response.headers.get("Retry-After")


async def test_an_engine_without_room_refuses_calls_in_its_own_words() -> None:
    async with running_caller(calls={"retry_after_s": 7}) as caller:
        assert (await options(caller))[0] == 200
        caller.engine.busy = True
        response = await caller.invite()
        assert (response.code, response.phrase) == (503, "Speech Engine: the fake engine is busy")
        assert response.headers["Retry-After"] == "7"
        assert await options(caller) == (503, "Speech Engine: the fake engine is busy", "7")
        caller.engine.ready = False
        caller.call_id = "second"
        response = await caller.invite()
        assert response.phrase == "Speech Engine: the fake engine is starting again"
        assert response.headers["Retry-After"] == "7"
        assert caller.calls.totals.refused == {503: 2}
        caller.engine.ready, caller.engine.busy = True, False
        caller.call_id = "third"
        await caller.call("one")
        assert await caller.speech(0.2) == as_heard("one")


@pytest.mark.parametrize(
    ("told", "header"), [(1.2, "2"), (3.0, "3"), (0.0, "1"), (-4.0, "1"), (float("nan"), "10"), (float("inf"), "10")]
)
async def test_retry_after_is_the_engines(caller: Caller, told: float, header: str) -> None:
    """In whole seconds, rounded up."""
    caller.engine.busy, caller.engine.retry_after = True, told
    assert (await caller.invite()).headers["Retry-After"] == header


async def test_a_reason_of_several_lines_is_one_phrase(caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    fault = EngineNotReadyError("CUDA error\r\nX-Evil: yes\n")
    monkeypatch.setattr(caller.engine, "available", lambda: fault)
    response = await caller.invite()
    assert response.phrase.split() == ["Speech", "Engine:", "CUDA", "error", "X-Evil:", "yes"]
    assert response.headers.get("X-Evil") is None


@pytest.fixture
def overflow() -> FakeEngine:
    """An engine with other voices."""
    return FakeEngine("plain", ("heart", "slow"))


@pytest.fixture
async def backed(overflow: FakeEngine) -> AsyncIterator[Caller]:
    """A caller of a node with an engine for overflow."""
    async with running_caller(overflow) as made:
        yield made


def spoke(engine: FakeEngine) -> list[tuple[str, str | None]]:
    return [(stream.request.text, stream.request.voice) for stream in engine.streams]


async def test_overflow(backed: Caller, overflow: FakeEngine) -> None:
    backed.engine.busy = True
    assert (await options(backed))[0] == 200
    with capture_logs() as logs:
        await backed.call("one")
    assert await backed.speech(0.2) == as_heard("one")
    assert (spoke(overflow), spoke(backed.engine)) == ([("one", None)], [])
    assert backed.calls.engines.overflowed == {"busy": 1}
    assert backed.calls.totals.refused == {}
    (told,) = [entry for entry in logs if entry["event"] == "call_overflowed"]
    assert (told["engine"], told["reason"]) == ("plain", "the fake engine is busy")
    backed.engine.busy = False
    await backed.info("two")
    assert await backed.speech(0.2) == as_heard("two")
    assert spoke(overflow) == [("one", None), ("two", None)], "for the whole length of the call"


async def test_the_next_call_has_the_configured_engine_again(backed: Caller, overflow: FakeEngine) -> None:
    backed.engine.ready = False
    await backed.call("one", X_TTS_Hangup="yes")
    await backed.request("BYE")
    await backed.ended()
    assert backed.calls.engines.overflowed == {"not_ready": 1}
    backed.engine.ready = True
    backed.call_id = "second"
    await backed.call("two")
    await backed.speech(0.2)
    assert (spoke(overflow), spoke(backed.engine)) == ([("one", None)], [("two", None)])


async def test_a_call_keeps_its_engine_when_that_is_busy(backed: Caller, overflow: FakeEngine) -> None:
    await backed.call("one")
    await backed.speech(0.2)
    backed.engine.busy = True
    assert (await backed.info("two")).code == 200
    await asyncio.sleep(0.1)
    backed.engine.busy = False
    assert await backed.speech(0.2) == as_heard("two")
    assert spoke(overflow) == []


async def test_voices_that_the_overflow_engine_does_not_know(backed: Caller, overflow: FakeEngine) -> None:
    backed.engine.busy = True
    with capture_logs() as logs:
        await backed.call("one", X_TTS_Voice="other")
        await backed.info("two")
        await backed.info("three", X_TTS_Voice="slow")
        await backed.info("four", X_TTS_Voice="nobody")
        await backed.speech(0.8)
    assert spoke(overflow) == [("one", None), ("two", None), ("three", "slow"), ("four", None)]
    replaced = [(entry["voice"], entry["by"]) for entry in logs if entry["event"] == "voice_replaced"]
    assert replaced == [("other", "heart"), ("nobody", "heart")]


async def test_no_overflow_for_a_call_that_is_refused_anyway(backed: Caller, overflow: FakeEngine) -> None:
    backed.engine.busy = True
    assert (await backed.invite(b"nonsense")).code == 400
    assert backed.calls.engines.overflowed == {}


async def test_both_engines_full(backed: Caller, overflow: FakeEngine) -> None:
    backed.engine.busy, backed.engine.retry_after = True, 2.0
    overflow.busy, overflow.retry_after = True, 30.0
    response = await backed.invite()
    assert (response.code, response.phrase) == (503, "Speech Engine: the fake engine is busy")
    assert response.headers["Retry-After"] == "2"


async def test_an_engine_that_restarts_within_a_call_is_waited_for(caller: Caller) -> None:
    await caller.call("one")
    await caller.speech(0.2)
    caller.engine.ready = False
    assert (await caller.info("two")).code == 200
    await asyncio.sleep(0.15)
    caller.engine.ready = True
    assert await caller.speech(0.2) == as_heard("two")
    await caller.in_dialog("BYE")
    await caller.ended()
    sums = caller.calls.totals.sums
    assert (sums["speech_waited"], sums["speech_failed"], sums["rtp_underruns"]) == (1, 0, 0)


async def test_clear_while_the_engine_is_waited_for(caller: Caller) -> None:
    await caller.call("one")
    await caller.speech(0.2)
    caller.engine.busy = True
    await caller.info("two")
    await asyncio.sleep(0.05)
    await caller.info("three", X_TTS_Action="clear")
    await asyncio.sleep(0.05)
    caller.engine.busy = False
    assert await caller.speech(0.2) == as_heard("three")


async def test_the_wait_within_a_call_is_bounded() -> None:
    async with running_caller(calls={"speech_wait_s": 0.1}) as caller:
        await caller.call("one")
        await caller.speech(0.2)
        caller.engine.busy = True
        await caller.info("two", X_TTS_Hangup="yes")
        await caller.request("BYE")
        await caller.ended()
        assert caller.calls.totals.sums["speech_failed"] == 1


async def test_an_engine_that_fails_leaves_the_call_alone(caller: Caller) -> None:
    await caller.call("one CRASH")
    await caller.info("two")
    assert await caller.speech(0.4) == as_heard("one", "two")


async def test_no_ports_left() -> None:
    async with running_caller(rtp={"port_min": 29990, "port_max": 29991}) as caller:
        await caller.call("one")
        caller.call_id = "other"
        response = await caller.invite()
        assert (response.code, response.phrase) == (503, "No RTP Port Is Left")


async def test_a_law_and_another_ptime(caller: Caller) -> None:
    await caller.call("one", caller.sdp("8", "ptime:40"))
    packets = await caller.packets(5)
    assert {(packet.payload_type, len(packet.payload)) for packet in packets} == {(8, 320)}
    assert b"".join(PCMA.decode(packet.payload) for packet in packets) == PCMA.decode(PCMA.encode(pcm_of("one")))


async def test_an_invite_without_sdp(caller: Caller) -> None:
    """The offer is in the 200, the answer in the ACK."""
    response = await caller.invite(b"", X_TTS_Text="one")
    offered = SessionDescription.parse(response.body)
    assert offered.media[0].formats == ["0", "8", "13", "101"]
    caller.ack(caller.sdp("0"))
    assert await caller.speech(0.2) == as_heard("one")


@pytest.mark.parametrize("answer", [b"", b"nonsense", b"v=0\r\nc=IN IP4 127.0.0.1\r\nm=audio 0 RTP/AVP 0\r\n"])
async def test_an_ack_without_a_usable_answer_ends_the_call(caller: Caller, answer: bytes) -> None:
    await caller.invite(b"", X_TTS_Text="one")
    caller.ack(answer)
    await caller.request("BYE")
    await caller.ended()
    assert caller.calls.totals.ended == {EndReason.BAD_ANSWER.value: 1}


async def test_hold_and_resume(caller: Caller) -> None:
    """Speech waits for the caller to come back; timestamps do not."""
    await caller.call("one two")
    before = await caller.speech_packets(5)
    response = await caller.in_dialog("INVITE", caller.sdp("0", "sendonly"), Content_Type="application/sdp")
    assert b"a=recvonly" in response.body
    assert await caller.nothing_comes(0.2)
    assert len(caller.calls.legs) == 1
    response = await caller.in_dialog("INVITE", caller.sdp("0"), Content_Type="application/sdp")
    assert b"a=sendrecv" in response.body
    after = await caller.packets(5)
    gap = (after[0].timestamp - before[-1].timestamp) & 0xFFFFFFFF
    assert gap >= 0.2 * 8000
    heard = b"".join(PCMU.decode(packet.payload) for packet in [*before, *after])
    assert as_heard("one", "two")[: len(heard)].startswith(heard[: 5 * 320])
    assert heard[5 * 320 :] in as_heard("one", "two")


async def test_a_session_refresh_changes_nothing(caller: Caller) -> None:
    """An unchanged offer, as session timers send it: audio goes on to where the caller's packets came from."""
    nowhere = caller.sdp("0", port=9)
    await caller.call("one two three four five", nowhere)
    await send_rtp(caller, 3)
    await caller.speech_packets(1)
    response = await caller.in_dialog("INVITE", nowhere, Content_Type="application/sdp")
    assert response.code == 200
    packets = await caller.packets(10)
    assert [b.sequence_number - a.sequence_number for a, b in pairwise(packets)] == [1] * 9


async def test_a_refused_reinvite_leaves_the_call(caller: Caller) -> None:
    await caller.call("one two")
    response = await caller.in_dialog("INVITE", caller.sdp("18"), Content_Type="application/sdp")
    assert response.code == 488
    assert await caller.speech(0.4) == as_heard("one", "two")


async def test_a_changed_codec(caller: Caller) -> None:
    await caller.call("one two three four five")
    await caller.speech_packets(3)
    await caller.in_dialog("INVITE", caller.sdp("8"), Content_Type="application/sdp")
    async with asyncio.timeout(5):
        while (await caller.packet()).payload_type != 8:
            pass
    packet = await caller.packet()
    assert PCMA.decode(packet.payload)[:2] in {PCMA.decode(PCMA.encode(pcm_of(f"{w}")))[:2] for w in ["one", "two"]}


async def send_rtp(caller: Caller, count: int, payload_type: int = 0) -> None:
    from aiortc.rtp import RtpPacket

    for number in range(count):
        packet = RtpPacket(
            payload_type=payload_type, sequence_number=number, timestamp=160 * number, ssrc=1, payload=b"\xff" * 160
        )
        caller.rtp.sendto(packet.serialize(), caller.server_rtp())


async def test_audio_follows_the_callers_packets(caller: Caller) -> None:
    """Symmetric RTP: the SDP of a phone behind NAT names an address that is not its own."""
    await caller.call("one two three", caller.sdp("0", port=9))
    assert await caller.nothing_comes(0.06)
    await send_rtp(caller, 3)
    await caller.packet()
    (leg,) = caller.calls.legs
    assert leg.rtp.receiving.counters.packets == 3


def cancellable(caller: Caller) -> bytes:
    headers: dict[str, str | None] = {"Content-Type": "application/sdp"}
    return make_request("INVITE", branch="z9hG4bKc", body=caller.sdp(), headers=headers)


async def test_cancel_while_ringing() -> None:
    async with running_caller(calls={"answer_delay_ms": 60_000}) as caller:
        caller.receive(
            make_request("INVITE", branch="z9hG4bKc", body=caller.sdp(), headers={"Content-Type": "application/sdp"})
        )
        await caller.response(180)
        caller.receive(make_request("CANCEL", branch="z9hG4bKc"))
        await caller.response(487)
        await caller.ended()
        assert caller.calls.totals.ended == {EndReason.CANCELLED.value: 1}


async def test_cancel_at_once(caller: Caller) -> None:
    """It finds the call half made: the socket is not being listened to yet."""
    caller.receive(
        make_request("INVITE", branch="z9hG4bKc", body=caller.sdp(), headers={"Content-Type": "application/sdp"})
    )
    caller.receive(make_request("CANCEL", branch="z9hG4bKc"))
    await caller.response(487)
    await caller.ended()
    assert caller.calls.totals.ended == {EndReason.CANCELLED.value: 1}


async def test_ringing_then_answer() -> None:
    async with running_caller(calls={"answer_delay_ms": 50}) as caller:
        await caller.call("one")
        assert await caller.speech(0.2) == as_heard("one")


async def test_without_an_ack_the_call_is_given_up(caller: Caller) -> None:
    await caller.invite(X_TTS_Text="one")
    await caller.request("BYE")  # after 64 x T1 = 3.2 s
    await caller.ended()
    assert caller.calls.totals.ended == {EndReason.NO_ACK.value: 1}


async def test_calls_have_a_longest_duration() -> None:
    async with running_caller(calls={"max_duration_s": 0.1}) as caller:
        await caller.call("one")
        await caller.request("BYE")
        await caller.ended()
        assert caller.calls.totals.ended == {EndReason.TOO_LONG.value: 1}


async def test_drain_takes_no_calls_and_waits_for_the_running(caller: Caller) -> None:
    await caller.call("one two", X_TTS_Hangup="yes")
    draining = asyncio.ensure_future(caller.calls.drain(5))
    await asyncio.sleep(0)
    caller.receive(make_request("INVITE", call_id="late", body=caller.sdp()))
    response = await caller.response()
    assert (response.code, response.phrase) == (503, "Server Is Draining")
    assert not draining.done()
    assert await caller.speech(0.4) == as_heard("one", "two")
    await caller.request("BYE")
    await asyncio.wait_for(draining, 5)
    assert caller.calls.totals.ended == {EndReason.PLAYED.value: 1}


async def test_what_outlasts_the_drain_is_ended(caller: Caller) -> None:
    await caller.call("one")
    await caller.calls.drain(0.05)
    assert caller.calls.legs
    caller.calls.end_all()
    await caller.request("BYE")
    assert caller.calls.totals.ended == {EndReason.DRAINED.value: 1}


async def test_a_leg_whose_sending_fails_ends_alone(caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    await caller.call("one two")
    (leg,) = caller.calls.legs

    def fail(due_ms: int) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(leg.rtp, "tick", fail)
    await caller.request("BYE")
    await caller.ended()
    assert caller.calls.totals.ended == {EndReason.FAILED.value: 1}


async def test_many_calls_leave_nothing_behind(caller: Caller) -> None:
    files = open_files()
    for number in range(20):
        caller.call_id = f"call-{number}"
        caller.cseq = 1
        await caller.call("one")
        await caller.packets(2)
        await caller.in_dialog("BYE")
    await caller.ended()
    async with asyncio.timeout(5):
        while open_files() != files or len(asyncio.all_tasks()) > 1:  # tasks end in a later iteration
            await asyncio.sleep(0)
    assert len(caller.calls.pacer) == 0
    assert all(stream.cancelled or not stream._words for stream in caller.engine.streams)


async def test_a_media_thread_at_its_limit_takes_no_further_call(caller: Caller) -> None:
    caller.calls.pacer.load = 0.95
    await caller.call("one two three")  # there is no call yet: what was measured is over
    assert caller.calls.available() is not None
    caller.call_id = "other"
    response = await caller.invite()
    assert (response.code, response.phrase) == (503, "Media Load Limit Reached")
    assert response.headers["Retry-After"] == "10"
    caller.calls.pacer.load = 0.2
    assert caller.calls.available() is None
