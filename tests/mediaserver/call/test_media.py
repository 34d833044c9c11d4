"""Digits, interruptions and time-outs of a call, with the fake engine, over loopback."""

from __future__ import annotations

import asyncio
import itertools
import struct

import pytest

from mediaserver.call.end import EndReason
from mediaserver.call.events import CallEvent
from mediaserver.rtp.barge_in import TALKSPURT_GAP_MS
from mediaserver.rtp.codec import PCMU
from mediaserver.rtp.dtmf_event import DIGITS
from mediaserver.rtp.packet import FIRST_OCTET, pack_header
from mediaserver.rtp.voice_activity import FRAME_MS
from mediaserver.speech.script import Words
from tests.mediaserver.caller import Caller, running_caller
from tests.mediaserver.fake_engine import pcm_of

EVENT = 101


def as_heard(*words: str) -> bytes:
    return PCMU.decode(PCMU.encode(b"".join(map(pcm_of, words))))


class Keypad:
    """Sends telephone-events to the server."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self._sequences = itertools.count(100)
        self._timestamp = 16_000

    def press(self, digit: str) -> None:
        """A whole press, with its end three times."""
        self._timestamp += 8000
        for duration, end in ((160, 0), (320, 0), (480, 0x80), (480, 0x80), (480, 0x80)):
            payload = struct.pack("!BBH", DIGITS.index(digit), end | 10, duration)
            header = pack_header(FIRST_OCTET, EVENT, next(self._sequences), self._timestamp, 77)
            self._caller.rtp.sendto(header + payload, self._caller.server_rtp())

    def talk(self, count: int = 3) -> None:
        """Silent audio, so that the stream is known."""
        for _ in range(count):
            header = pack_header(FIRST_OCTET, 0, next(self._sequences), self._timestamp, 77)
            self._timestamp += 160
            self._caller.rtp.sendto(header + b"\xff" * 160, self._caller.server_rtp())


async def until(condition, seconds: float = 5.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


async def speech_level(caller: Caller) -> set[bytes]:
    """The samples that the next packet has."""
    pcm = PCMU.decode((await caller.packet()).payload)
    return {pcm[n : n + 2] for n in range(0, len(pcm), 2)}


LONG = " ".join(["one", "two", "three", "four", "five"] * 6)


async def test_a_digit_interrupts_where_the_policy_says_so() -> None:
    async with running_caller(barge_in={"policy": "digit"}) as caller:
        await caller.call(LONG)
        keypad = Keypad(caller)
        keypad.talk()
        await caller.speech_packets(5)
        keypad.press("5")
        (leg,) = caller.calls.legs
        await until(lambda: leg.interruptions.digit == 1)
        assert leg.speech.idle
        await caller.info("six")
        assert await caller.speech(0.2) != b""
        assert leg.digits.counters.received == 1


@pytest.mark.parametrize("policy", ["none", "speech"])
async def test_a_digit_interrupts_nothing_under_another_policy(policy: str) -> None:
    async with running_caller(barge_in={"policy": policy}) as caller:
        await caller.call(LONG)
        keypad = Keypad(caller)
        keypad.talk()
        await caller.speech_packets(3)
        keypad.press("5")
        (leg,) = caller.calls.legs
        await until(lambda: leg.digits.counters.received == 1)
        await caller.packets(5)
        assert not leg.speech.idle
        assert leg.interruptions.digit == 0


async def test_the_policy_of_a_call_goes_before_the_configurations() -> None:
    async with running_caller(barge_in={"policy": "digit"}) as caller:
        await caller.call(LONG, X_TTS_Barge_In="none")
        (leg,) = caller.calls.legs
        assert leg.media.hearing.barge_in_policy == "none"
        assert not leg.media.inbound.listening
        await caller.info(X_TTS_Barge_In="either")
        assert leg.media.hearing.barge_in_policy == "either"
        assert leg.media.inbound.listening
        await caller.info(X_TTS_Barge_In="digit")
        assert not leg.media.inbound.listening, "audio costs nothing again"


async def test_a_digit_while_the_caller_holds_cuts_nothing() -> None:
    """The speech is paused, not played: it goes on where it was."""
    async with running_caller(barge_in={"policy": "either"}) as caller:
        await caller.call(LONG)
        keypad = Keypad(caller)
        keypad.talk()
        await caller.speech_packets(5)
        await caller.in_dialog("INVITE", caller.sdp("0 101", "sendonly"), Content_Type="application/sdp")
        keypad.press("5")
        (leg,) = caller.calls.legs
        await until(lambda: leg.digits.counters.received == 1)
        await caller.info(None, Content_Type="application/dtmf-relay")  # 400: it has no digit
        await caller.in_dialog("INVITE", caller.sdp("0 101"), Content_Type="application/sdp")
        assert leg.interruptions.digit == 0
        assert not leg.speech.idle
        assert await caller.speech_packets(3)


@pytest.mark.parametrize("by", ["audio", "info"])
async def test_a_pause_of_who_is_speaking_can_be_interrupted(by: str) -> None:
    """Between two clauses of an agent that is slow: silence, but its turn is not over."""
    async with running_caller(calls={"greeting": ""}, barge_in={"policy": "digit"}) as caller:
        events: list[CallEvent] = []
        caller.calls.hub.listen(events.append)
        await caller.call()
        keypad = Keypad(caller)
        keypad.talk()
        (leg,) = caller.calls.legs
        turn = leg.speech.open_turn()
        assert not leg.media.hearing.speaking, "not before it is heard"
        turn.add(Words("one two"))
        await caller.speech(0.4)
        await until(lambda: not leg.playout.playing)
        assert not leg.speech.idle
        if by == "audio":
            keypad.press("5")
        else:
            assert await send_relay(caller, "5") == 200
        await until(lambda: leg.digits.counters.received == 1 or by == "info")
        (cut,) = [event.data for event in events if event.type == "speech.interrupted"]
        assert (cut["utterance"], cut["heard_text"], cut["played_ms"]) == (turn.number, "one two", 400)
        assert leg.interruptions.digit == 1
        assert not turn.open
        assert leg.speech.idle
        assert not leg.media.hearing.speaking


async def test_after_its_last_word_a_turn_that_has_ended_is_not_interrupted() -> None:
    async with running_caller(calls={"greeting": ""}, barge_in={"policy": "digit"}) as caller:
        await caller.call()
        keypad = Keypad(caller)
        keypad.talk()
        (leg,) = caller.calls.legs
        turn = leg.speech.open_turn()
        turn.add(Words("one"))
        await caller.speech(0.2)
        turn.end()
        await until(lambda: leg.speech.idle)
        assert not leg.media.hearing.speaking
        keypad.press("5")
        await until(lambda: leg.digits.counters.received == 1)
        assert leg.interruptions.digit == 0


async def test_the_hold_off_does_not_begin_again_with_each_clause_of_a_turn() -> None:
    async with running_caller(calls={"greeting": ""}, barge_in={"policy": "speech"}) as caller:
        await caller.call()
        (leg,) = caller.calls.legs
        turn = leg.speech.open_turn()
        turn.add(Words("one"))
        await caller.speech(0.2)
        heard: list[bool] = []
        stop = leg.media.inbound.listen(lambda _pcm, _at: heard.append(leg.media.hearing.speaking))
        await until(lambda: len(heard) * FRAME_MS > 2 * TALKSPURT_GAP_MS)
        stop()
        assert all(heard), "one talkspurt"
        assert not leg.playout.playing


async def send_relay(caller: Caller, digit: str) -> int:
    body = f"Signal={digit}\r\nDuration=160\r\n".encode()
    return (await caller.in_dialog("INFO", body, Content_Type="application/dtmf-relay")).code


async def test_a_digit_by_info_interrupts_and_the_same_press_in_the_audio_spares_the_reply() -> None:
    async with running_caller(barge_in={"policy": "digit"}) as caller:
        await caller.call(LONG)
        keypad = Keypad(caller)
        keypad.talk()
        await caller.speech_packets(5)
        assert await send_relay(caller, "7") == 200
        (leg,) = caller.calls.legs
        assert leg.interruptions.digit == 1
        await caller.info("six seven eight")
        await caller.speech_packets(2)
        keypad.press("7")
        await until(lambda: leg.digits.counters.repeated == 1)
        assert not leg.speech.idle
        assert (leg.digits.counters.received, leg.interruptions.digit) == (1, 1)


async def test_a_body_that_is_no_digit_is_refused(caller_of_digits: Caller) -> None:
    caller = caller_of_digits
    await caller.call("one two three")
    assert await send_relay(caller, "Q") == 400
    assert (await caller.in_dialog("INFO", b"", Content_Type="application/dtmf")).code == 400
    assert await caller.speech(0.6) == as_heard("one", "two", "three")


@pytest.fixture
async def caller_of_digits():
    async with running_caller() as caller:
        yield caller


async def events(caller: Caller, ends: int) -> list[tuple[int, int]]:
    """The telephone-events that come, as (digit, timestamp), until so many have ended."""
    found: list[tuple[int, int]] = []
    async with asyncio.timeout(8):
        while len(found) < ends:
            packet = await caller.packet()
            if packet.payload_type == EVENT and packet.payload[1] & 0x80:
                event = (packet.payload[0], packet.timestamp)
                if event not in found:
                    found.append(event)
    return found


async def test_digits_are_sent_once_the_speech_is_over_and_before_the_end(caller_of_digits: Caller) -> None:
    caller = caller_of_digits
    await caller.call("one", X_TTS_Digits="12#", X_TTS_Hangup="yes")
    assert await caller.speech(0.2) == as_heard("one")
    assert [digit for digit, _ in await events(caller, 3)] == [1, 2, 11]
    await caller.request("BYE")
    await caller.ended()
    assert caller.calls.totals.ended == {EndReason.PLAYED.value: 1}
    assert caller.calls.totals.sums["dtmf_sent"] == 3


async def test_cleared_digits_are_not_sent(caller_of_digits: Caller) -> None:
    caller = caller_of_digits
    await caller.call("one two three", X_TTS_Digits="1234567890")
    await caller.speech_packets(3)
    await caller.info("six", X_TTS_Action="clear", X_TTS_Digits="9", X_TTS_Hangup="yes")
    assert [digit for digit, _ in await events(caller, 1)] == [9]
    await caller.request("BYE")
    await caller.ended()


async def test_digits_by_info_wait_for_their_answers() -> None:
    """Those of a batch that was cleared count for nothing."""
    async with running_caller(dtmf={"method": "info"}) as caller:
        await caller.call("one", X_TTS_Digits="12")
        first = await caller.message(lambda message: getattr(message, "method", "") == "INFO")
        assert b"Signal=1" in first.body
        await caller.info(X_TTS_Action="clear", X_TTS_Digits="7", X_TTS_Hangup="yes")
        (leg,) = caller.calls.legs
        caller.receive(_answer(first))
        seen = b""
        while b"Signal=7" not in seen:
            request = await caller.request("INFO")
            seen = request.body
        await caller.request("BYE")
        await caller.ended()
        assert leg.end_reason is EndReason.PLAYED


def _answer(request) -> bytes:
    from tests.sip.doubles import answer

    return answer(request, 200)


async def test_a_peer_of_whom_nothing_comes_is_given_up() -> None:
    async with running_caller(rtp={"start_timeout_s": 0.4}) as caller:
        await caller.call(LONG)
        bye = await caller.request("BYE")
        assert bye.headers["Reason"] == 'Q.850;cause=102;text="RTP timeout"'
        await caller.ended()
        assert caller.calls.totals.ended == {EndReason.NO_MEDIA.value: 1}


async def test_a_peer_that_falls_silent_is_given_up_but_not_on_hold() -> None:
    async with running_caller(rtp={"stop_timeout_s": 0.6, "silence_timeout_s": 0.6}) as caller:
        await caller.call(LONG, caller.sdp("0 101"))
        Keypad(caller).talk()
        await caller.speech_packets(2)
        await caller.in_dialog("INVITE", caller.sdp("0 101", "sendonly"), Content_Type="application/sdp")
        await asyncio.sleep(1.5)
        assert caller.calls.legs
        await caller.in_dialog("INVITE", caller.sdp("0 101"), Content_Type="application/sdp")
        Keypad(caller).talk()
        await caller.request("BYE")
        await caller.ended()
        assert caller.calls.totals.ended == {EndReason.MEDIA_STOPPED.value: 1}


async def test_a_caller_on_the_last_port_of_all_is_served_and_freed() -> None:
    """There is no port above 65535 for its reports."""
    async with running_caller() as caller:
        await caller.call("one", caller.sdp("0", port=65535))
        (leg,) = caller.calls.legs
        assert leg.rtp.rtcp is not None
        await until(lambda: leg.rtp.began is not None)
        leg.rtp.rtcp.next_due = 0.0
        await asyncio.sleep(0.7)
        assert caller.calls.legs
        await caller.in_dialog("BYE")
        await caller.ended()
        assert caller.calls.totals.ended == {EndReason.CALLER_HUNG_UP.value: 1}


async def test_a_call_whose_end_fails_is_over_all_the_same(
    caller_of_digits: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    caller = caller_of_digits
    await caller.call("one")
    (leg,) = caller.calls.legs

    def fail() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(leg.rtp, "say_goodbye", fail)
    await caller.in_dialog("BYE")
    await caller.ended()
    assert leg.media._endpoint._descriptor == -1
    assert len(caller.calls.pacer) == 0


async def test_a_flood_of_reports_is_not_read(caller_of_digits: Caller) -> None:
    caller = caller_of_digits
    await caller.call("one two three")
    (leg,) = caller.calls.legs
    report = bytes.fromhex("80c9000100000007")
    host, port = caller.server_rtp()
    for _ in range(200):
        caller.rtp.sendto(report, (host, port + 1))
    await until(lambda: leg.rtp.receiving.counters.rtcp_refused > 150)
    assert leg.rtp.rtcp is not None
    assert leg.rtp.rtcp.received <= 8
    assert await caller.speech(0.2) != b""


async def test_a_call_tells_its_quality_at_the_end(caller_of_digits: Caller) -> None:
    caller = caller_of_digits
    await caller.call("one two three")
    Keypad(caller).talk(50)
    await caller.packets(30)
    await caller.in_dialog("BYE")
    await caller.ended()
    (measure, _) = caller.calls.quality.measures
    assert measure.cumulative()[-1] == 1
