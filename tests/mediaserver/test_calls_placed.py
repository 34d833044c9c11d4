"""Calls that the server places, and what control does with calls: SIP in memory, real RTP, a fake engine."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import weakref
from collections.abc import AsyncIterator, Callable
from ipaddress import ip_network

import pytest

from mediaserver.call.control import CallControl, CallEndedError, PlaceOrder
from mediaserver.call.engines import CallEngines
from mediaserver.call.events import CallEvent
from mediaserver.calls import Calls
from mediaserver.config import Config
from mediaserver.refusal import RefusedError
from mediaserver.rtp.codec import PCMU
from mediaserver.speech.script import Mark, Words
from sip.access import AccessList
from sip.timers import TimerValues
from sip.transport import UdpTransport
from sip.user_agent import UserAgent, UserAgentConfig
from tests.mediaserver.callee import Callee, direction_of, running_callee
from tests.mediaserver.caller import is_silence
from tests.mediaserver.fake_engine import FakeEngine, pcm_of
from tests.sip.doubles import make_request

LONG = " ".join(f"w{number}" for number in range(40))
DIGEST = ("Proxy-Authenticate", 'Digest realm="pbx", nonce="n1", qop="auth"')


@pytest.fixture
async def callee() -> AsyncIterator[Callee]:
    async with running_callee() as made:
        yield made


def as_heard(*words: str) -> bytes:
    return PCMU.decode(PCMU.encode(b"".join(map(pcm_of, words))))


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.002)


class TestTheBeginning:
    async def test_a_call_from_its_order_to_its_end(self, callee: Callee) -> None:
        call = callee.place("one two", hang_up_after=True, from_name="The Desk", headers=(("X-Job", "7"),))
        assert call.view().state == "ringing"
        invite = await callee.ringing()
        assert str(invite.uri) == "sip:bob@127.0.0.1:5070"
        assert invite.headers["From"].startswith('"The Desk" <sip:desk@127.0.0.1>;tag=')
        assert invite.headers["X-Job"] == "7"
        assert direction_of(invite) == "sendrecv"
        assert callee.caller.engine.streams, "synthesis begins while it rings"
        await callee.answer()
        assert await callee.caller.speech(0.4) == as_heard("one", "two")
        await callee.caller.request("BYE")
        await callee.caller.ended()
        assert callee.kinds() == ["call.started", "call.ringing", "call.answered", "call.ended"]
        (started,), (ended,) = callee.told("call.started"), callee.told("call.ended")
        assert started == {
            "direction": "outbound",
            "from": "sip:desk@127.0.0.1",
            "to": "sip:bob@127.0.0.1:5070",
            "trunk": "pbx",
            "sip_call_id": invite.headers["Call-ID"],
        }
        assert callee.told("call.ringing") == [{"status": 180}]
        assert callee.told("call.answered") == [{"codec": "PCMU"}]
        assert (ended["reason"], ended["status"]) == ("played", None)
        assert ended["counts"]["speech_played"] == 1
        assert 0 <= ended["first_audio_ms"] < 1000
        assert callee.kinds("speech.") == ["speech.queued", "speech.started", "speech.finished"]
        totals = callee.caller.calls.totals
        assert (totals.placed, totals.placed_answered, totals.placed_failed) == (1, 1, {})

    async def test_nothing_is_sent_while_it_rings(self, callee: Callee) -> None:
        """Early media may be a network's announcement: nobody is listening yet."""
        callee.place("one")
        await callee.ringing(183, callee.caller.sdp())
        assert await callee.caller.nothing_comes(0.1)
        await callee.answer()
        assert await callee.caller.speech(0.2) == as_heard("one")

    async def test_the_answer_may_have_come_with_the_ringing(self, callee: Callee) -> None:
        callee.place("one")
        await callee.ringing(183, callee.caller.sdp())
        await callee.answer(b"")
        assert await callee.caller.speech(0.2) == as_heard("one")

    @pytest.mark.parametrize("body", [b"", b"v=0\r\nrubbish"])
    async def test_an_answer_without_a_description_ends_the_call(self, callee: Callee, body: bytes) -> None:
        callee.place("one")
        await callee.invite()
        callee.reply(200, body)
        await callee.caller.request("BYE")
        assert callee.told("call.ended")[0]["reason"] == "bad_answer"
        assert "call.answered" not in callee.kinds()

    async def test_a_trunk_that_asks_for_a_password_gets_it(self) -> None:
        async with running_callee({"username": "desk", "password": "secret"}) as callee:
            callee.place("one")
            await callee.invite()
            callee.reply(407, headers=(DIGEST,))
            again = await callee.invite()
            assert 'username="desk"' in again.headers["Proxy-Authorization"]
            assert "secret" not in str(again)
            await callee.answer()
            assert await callee.caller.speech(0.2) == as_heard("one")

    async def test_the_domain_is_the_trunks(self) -> None:
        async with running_callee({"domain": "pbx.example"}) as callee:
            callee.place(to="+49 30 123")
            invite = await callee.invite()
            assert str(invite.uri) == "sip:+49%2030%20123@pbx.example"
            assert "sip:desk@pbx.example" in invite.headers["From"]

    async def test_a_host_that_does_not_resolve(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async def resolve(_address: object) -> tuple[str, int]:
            raise OSError("no such host")

        monkeypatch.setattr("mediaserver.call.outgoing_leg.resolve", resolve)
        async with running_callee({"host": "pbx.example"}) as callee:
            callee.place("one")
            await until(lambda: callee.told("call.ended"))
            ended = callee.told("call.ended")[0]
            assert (ended["reason"], ended["status"]) == ("unreachable", 503)
            assert callee.kinds() == ["call.started", "call.ended"]

    async def test_a_call_is_ended_while_its_host_is_looked_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        begun = asyncio.Event()

        async def resolve(_address: object) -> tuple[str, int]:
            begun.set()
            await asyncio.Event().wait()
            raise AssertionError

        monkeypatch.setattr("mediaserver.call.outgoing_leg.resolve", resolve)
        async with running_callee({"host": "pbx.example"}) as callee:
            call = callee.place("one")
            await begun.wait()
            call.hang_up()
            assert callee.told("call.ended")[0]["reason"] == "hung_up"
            assert not callee.caller.transport.sent

    async def test_an_error_of_ours_leaves_no_call_ringing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async def resolve(_address: object) -> tuple[str, int]:
            raise ZeroDivisionError

        monkeypatch.setattr("mediaserver.call.outgoing_leg.resolve", resolve)
        async with running_callee({"host": "pbx.example"}) as callee:
            callee.place("one")
            await until(lambda: callee.told("call.ended"))
            assert callee.told("call.ended")[0]["reason"] == "failed"

    async def test_a_name_is_resolved(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async def resolve(address: tuple[str, int]) -> tuple[str, int]:
            assert address == ("pbx.example", 5070)
            return "127.0.0.1", 5070

        monkeypatch.setattr("mediaserver.call.outgoing_leg.resolve", resolve)
        async with running_callee({"host": "pbx.example"}) as callee:
            await callee.takes_the_call("one")
            assert await callee.caller.speech(0.2) == as_heard("one")


class TestNoCall:
    @pytest.mark.parametrize(
        ("code", "reason"),
        [
            (486, "busy"),
            (600, "busy"),
            (480, "no_answer"),
            (404, "unreachable"),
            (503, "unreachable"),
            (403, "rejected"),
            (603, "rejected"),
            (302, "rejected"),
            (488, "rejected"),
        ],
    )
    async def test_a_refusal_says_why(self, callee: Callee, code: int, reason: str) -> None:
        callee.place("one")
        await callee.ringing()
        callee.reply(code)
        await callee.caller.ended()
        ended = callee.told("call.ended")[0]
        assert (ended["reason"], ended["status"]) == (reason, code)
        assert callee.caller.calls.totals.placed_failed == {code: 1}
        assert callee.caller.engine.streams[0].cancelled, "nothing is synthesised for nobody"

    async def test_nobody_answers(self, callee: Callee) -> None:
        callee.place("one", answer_timeout_s=1.0)
        await callee.ringing()
        cancel = await callee.next("CANCEL")
        callee.reply(200, to=cancel)
        callee.reply(487)
        await callee.caller.ended()
        ended = callee.told("call.ended")[0]
        assert (ended["reason"], ended["status"]) == ("no_answer", 408)

    async def test_hung_up_while_it_rings(self, callee: Callee) -> None:
        call = callee.place("one")
        await callee.ringing()
        call.hang_up()
        assert call.over
        cancel = await callee.next("CANCEL")
        callee.reply(200, to=cancel)
        callee.reply(487)
        await callee.next("ACK")
        assert callee.told("call.ended")[0]["reason"] == "hung_up"
        assert callee.caller.calls.totals.ended == {"hung_up": 1}
        await asyncio.wait_for(callee.caller.agent.wait_idle(), 5)

    async def test_what_cannot_be_called(self, callee: Callee) -> None:
        for code, order in (
            (404, {"trunk": "nobody"}),
            (400, {"to": ""}),
            (400, {"to": "sip:bob@host?X-Evil=1"}),
            (400, {"to": "bob\r\nX-Evil: 1"}),
            (400, {"to": "sips:bob@host"}),
            (400, {"to": "sip:bob@host;transport=tcp"}),
            (400, {"headers": (("Route", "<sip:x>"),)}),
            (400, {"headers": (("X-A", "1\r\nRoute: x"),)}),
            (400, {"voice": "nobody"}),
            (400, {"from_name": "a\r\nb"}),
            (400, {"answer_timeout_s": 0.0}),
            (413, {"script": (Words("x" * 3000),)}),
            (400, {"parameters": {"a": "x" * 300}}),
        ):
            with pytest.raises(RefusedError) as refused:
                callee.place(**{"text": "one", **order} if "script" not in order else order)
            assert refused.value.fault.code == code, order
        assert not callee.caller.calls.legs
        assert not callee.caller.transport.sent
        assert callee.caller.calls.totals.placed == 0

    async def test_its_beginning_is_told_first_though_the_trunk_has_to_be_found(self) -> None:
        async with running_callee({"host": "localhost"}) as callee:
            callee.place("one")
            await callee.ringing()
            assert callee.kinds("") == ["call.started", "speech.queued", "call.ringing"]

    async def test_admission_is_that_of_every_call(self) -> None:
        async with running_callee({"max_calls": 1}, calls={"max_calls": 2}) as callee:
            calls = callee.caller.calls
            first = callee.place("one")
            with pytest.raises(RefusedError, match="Trunk's Call Limit"):
                callee.place("one")
            callee.place("one", trunk="self")
            with pytest.raises(RefusedError, match="Call Limit Reached"):
                callee.place("one", trunk="self")
            first.hang_up()
            calls.begin_drain()
            assert calls.draining
            with pytest.raises(RefusedError, match="Draining"):
                callee.place("one")
            calls.end_drain()
            callee.place("one").hang_up()
            assert calls.totals.refused == {503: 3}


class TestHold:
    async def test_speech_pauses_and_goes_on_where_it_was(self, callee: Callee) -> None:
        call = await callee.takes_the_call("one two three four")
        heard = await callee.caller.speech(0.3)
        call.hold()
        reinvite = await callee.next("INVITE")
        assert direction_of(reinvite) == "sendonly"
        while not is_silence(packet := await callee.caller.packet()):
            heard += PCMU.decode(packet.payload)
        assert call.view().state == "answered"
        callee.reply(200, callee.caller.sdp("0 101", "recvonly"), to=reinvite)
        await callee.next("ACK")
        assert callee.told("call.held") == [{"by": "us"}]
        assert (call.view().state, call.view().held_by_us) == ("held", True)
        assert all(is_silence(packet) for packet in await callee.caller.packets(10)), "the line is kept alive"
        call.resume()
        reinvite = await callee.next("INVITE")
        assert direction_of(reinvite) == "sendrecv"
        callee.reply(200, callee.caller.sdp(), to=reinvite)
        await until(lambda: callee.told("call.resumed"))
        whole = as_heard("one", "two", "three", "four")
        heard += await callee.caller.speech((len(whole) - len(heard)) / 16_000)
        assert heard == whole
        assert callee.caller.calls.legs[0].playout.underruns == 0
        assert call.view().state == "answered"

    async def test_a_hold_that_is_refused_changes_nothing(self, callee: Callee) -> None:
        call = await callee.takes_the_call(LONG)
        await callee.caller.speech(0.1)
        call.hold()
        callee.reply(488, to=await callee.next("INVITE"))
        await callee.caller.speech(0.1)
        assert not callee.told("call.held")
        assert call.view().state == "answered"

    async def test_wishes_while_the_peer_thinks_are_not_lost(self, callee: Callee) -> None:
        call = await callee.takes_the_call(LONG)
        call.hold()
        reinvite = await callee.next("INVITE")
        call.resume()
        call.hold()
        call.resume()
        callee.reply(200, callee.caller.sdp("0 101", "recvonly"), to=reinvite)
        reinvite = await callee.next("INVITE")
        assert direction_of(reinvite) == "sendrecv"
        callee.reply(200, callee.caller.sdp(), to=reinvite)
        await until(lambda: callee.told("call.resumed"))
        assert not call.view().held_by_us

    async def test_the_peers_own_hold_is_told_too(self, callee: Callee) -> None:
        call = await callee.takes_the_call(LONG)
        sdp = callee.caller.sdp("0 101", "sendonly")
        assert (await callee.in_dialog("INVITE", sdp, Content_Type="application/sdp")).code == 200
        assert callee.told("call.held") == [{"by": "peer"}]
        assert (call.view().state, call.view().held_by_us) == ("held", False)

    async def test_a_peer_that_refreshes_while_it_is_held_stays_held(self, callee: Callee) -> None:
        call = await callee.takes_the_call(LONG)
        call.hold()
        callee.reply(200, callee.caller.sdp("0 101", "recvonly"), to=await callee.next("INVITE"))
        await callee.next("ACK")
        response = await callee.in_dialog("INVITE", callee.caller.sdp(), Content_Type="application/sdp")
        assert b"a=sendonly" in response.body
        assert call.view().held_by_us

    async def test_digits_wait_for_the_end_of_the_hold(self, callee: Callee) -> None:
        call = await callee.takes_the_call()
        call.hold()
        callee.reply(200, callee.caller.sdp("0 101", "recvonly"), to=await callee.next("INVITE"))
        await callee.next("ACK")
        call.send_digits("1")
        assert all(packet.payload_type == 0 for packet in await callee.caller.packets(8))
        call.resume()
        callee.reply(200, callee.caller.sdp(), to=await callee.next("INVITE"))
        await until(lambda: callee.told("dtmf.sent"))

    async def test_not_before_the_answer(self, callee: Callee) -> None:
        call = callee.place("one")
        for wish in (call.hold, call.resume, lambda: call.transfer("carol")):
            with pytest.raises(RefusedError) as refused:
                wish()
            assert refused.value.fault.code == 491


class TestTransfer:
    async def test_a_transfer_that_succeeds_ends_the_call(self, callee: Callee) -> None:
        call = await callee.takes_the_call(LONG)
        call.transfer("carol")
        refer = await callee.next("REFER")
        assert refer.headers["Refer-To"] == "<sip:carol@127.0.0.1:5070>"
        assert refer.headers["Referred-By"] == "<sip:desk@127.0.0.1>"
        callee.reply(202, to=refer)
        with pytest.raises(RefusedError, match="Under Way"):
            call.transfer("dave")
        assert (await callee.notify(100)).code == 200
        assert (await callee.notify(200, "terminated;reason=noresource")).code == 200
        await callee.caller.request("BYE")
        assert [event["status"] for event in callee.told("call.transferred")] == [100, 200]
        assert callee.told("call.ended")[0]["reason"] == "transferred"

    async def test_a_transfer_that_fails_leaves_the_call_as_it_is(self, callee: Callee) -> None:
        call = await callee.takes_the_call(LONG)
        call.transfer("sip:carol@elsewhere.example")
        callee.reply(202, to=await callee.next("REFER"))
        await callee.notify(486, "terminated;reason=noresource")
        await callee.caller.speech(0.1)
        assert [event["status"] for event in callee.told("call.transferred")] == [486]
        call.transfer("dave")
        callee.reply(603, to=await callee.next("REFER"))
        await until(lambda: len(callee.told("call.transferred")) == 2)
        assert not call.over

    async def test_a_call_that_ends_meanwhile_says_no_more_of_it(self, callee: Callee) -> None:
        call = await callee.takes_the_call(LONG)
        call.transfer("carol")
        callee.reply(202, to=await callee.next("REFER"))
        await callee.in_dialog("BYE")
        assert callee.kinds()[-1] == "call.ended"
        assert callee.told("call.ended")[0]["reason"] == "callee_hung_up"


class TestSaying:
    async def test_an_utterance_with_marks(self, callee: Callee) -> None:
        call = await callee.takes_the_call()
        number = call.say((Words("one"), Mark("middle"), Words("two")), mark="end")
        assert [view.number for view in call.view().speech] == [number]
        await callee.caller.speech(0.4)
        await until(lambda: callee.told("speech.finished"))
        assert callee.told("mark.reached") == [
            {"name": "middle", "utterance": number},
            {"name": "end", "utterance": number},
        ]
        assert callee.told("speech.finished") == [{"utterance": number, "played_ms": 400, "mark": "end"}]
        assert call.idle

    async def test_replacing_clears_first(self, callee: Callee) -> None:
        call = await callee.takes_the_call(LONG)
        await callee.caller.speech(0.1)
        call.say((Words("reply"),), replace=True)
        (cleared,) = callee.told("speech.cleared")
        assert cleared["played_ms"] >= 100
        async with asyncio.timeout(5):
            while PCMU.decode((await callee.caller.packet()).payload) != as_heard("reply")[:320]:
                pass

    async def test_what_is_refused_cuts_nothing(self, callee: Callee) -> None:
        call = await callee.takes_the_call(LONG)
        for order in ({"voice": "nobody"}, {"script": (Words("x" * 3000),)}):
            with pytest.raises(RefusedError):
                call.say(**{"script": (Words("one"),), "replace": True, **order})
        assert not callee.told("speech.cleared")
        assert not call.idle

    async def test_a_turn_is_spoken_as_it_is_written(self, callee: Callee) -> None:
        call = await callee.takes_the_call()
        turn = call.open_turn()
        with pytest.raises(RefusedError, match="Still Being Written"):
            call.open_turn()
        turn.add(Words("one"))
        assert await callee.caller.speech(0.2) == as_heard("one")
        call.hang_up_when_said()
        turn.add(Words("two"))
        assert await callee.caller.speech(0.2) == as_heard("two")
        with pytest.raises(RefusedError, match="Over The Limit"):
            turn.add(Words("x" * 3000))
        assert not call.over, "the turn is open"
        turn.end()
        await callee.caller.request("BYE")
        turn.add(Words("three"))
        assert callee.told("call.ended")[0]["reason"] == "played"

    async def test_digits_are_told_when_they_are_sent(self, callee: Callee) -> None:
        call = await callee.takes_the_call("one")
        call.send_digits("12")
        await until(lambda: callee.told("dtmf.sent"))
        assert callee.told("dtmf.sent") == [{"count": 2}]
        for digits in ("", "1x", "1" * 65):
            with pytest.raises(RefusedError):
                call.send_digits(digits)


class TestInterruptions:
    async def press(self, callee: Callee, digit: str) -> None:
        body = f"Signal={digit}\r\nDuration=100\r\n".encode()
        assert (await callee.in_dialog("INFO", body, Content_Type="application/dtmf-relay")).code == 200

    async def test_an_interruption_is_told_with_what_was_heard(self, callee: Callee) -> None:
        call = await callee.takes_the_call(LONG, barge_in="digit", hang_up_after=True)
        call.say((Words("more"),))
        await callee.caller.speech(0.5)
        seen: list[bool] = []
        call.on_event(lambda event: seen.append(call.idle) if event.type == "speech.interrupted" else None)
        await self.press(callee, "5")
        (cut,) = callee.told("speech.interrupted")
        assert (cut["cause"], cut["digit"], cut["utterance"], cut["utterances"]) == ("digit", "5", 1, 2)
        assert 400 <= cut["played_ms"] < 1500
        assert LONG.startswith(cut["heard_text"])
        assert seen == [True], "nothing is left of it when it is told"
        assert callee.told("dtmf.received") == [{"digit": "5", "source": "info"}]
        await callee.caller.nothing_comes(0.05)
        assert not call.over, "the wish to hang up belonged to what was cut"

    async def test_an_utterance_has_a_policy_of_its_own(self, callee: Callee) -> None:
        call = await callee.takes_the_call()
        (leg,) = callee.caller.calls.legs
        call.say((Words(LONG),), barge_in="none")
        call.say((Words(LONG),), barge_in="digit")
        await callee.caller.speech(0.1)
        await self.press(callee, "1")
        assert not callee.told("speech.interrupted")
        call.clear()
        assert leg.media.hearing.barge_in_policy == "none", "the call's"
        call.say((Words("one"),), barge_in="none")
        call.say((Words(LONG),), barge_in="either")
        assert not leg.media.inbound.listening
        await until(lambda: leg.media.hearing.barge_in_policy == "either")
        assert leg.media.inbound.listening
        await until(lambda: leg.media.hearing.speaking)
        await self.press(callee, "2")
        assert callee.told("speech.interrupted")
        assert leg.media.hearing.barge_in_policy == "none"
        assert not leg.media.inbound.listening

    async def test_while_the_peer_is_on_hold_nothing_is_cut(self, callee: Callee) -> None:
        call = await callee.takes_the_call(LONG, barge_in="digit")
        await callee.caller.speech(0.1)
        call.hold()
        await self.press(callee, "5")
        assert not callee.told("speech.interrupted")


class TestListening:
    async def test_what_is_sent_can_be_heard(self, callee: Callee) -> None:
        call = await callee.takes_the_call("one")
        (leg,) = callee.caller.calls.legs
        assert leg.rtp.sending.on_frame is None
        frames: list[tuple[bytes, int]] = []
        stop = call.listen("outbound", lambda pcm, at_ms: frames.append((pcm, at_ms)))
        await until(lambda: len(frames) > 15)
        stop()
        assert leg.rtp.sending.on_frame is None
        assert {len(pcm) for pcm, _ in frames} == {320}
        times = [at_ms for _, at_ms in frames]
        assert times == list(range(times[0], times[0] + 20 * len(times), 20))
        assert pcm_of("one")[:320] in [pcm for pcm, _ in frames]
        assert bytes(320) in [pcm for pcm, _ in frames], "silence is told too"

    async def test_the_caller_can_be_heard(self, callee: Callee) -> None:
        call = await callee.takes_the_call()
        heard: list[bytes] = []
        stop = call.listen("inbound", lambda pcm, _at_ms: heard.append(pcm))
        await until(lambda: len(heard) > 3)
        stop()
        (leg,) = callee.caller.calls.legs
        assert not leg.media.inbound.listening

    async def test_a_listener_that_fails_spares_the_call(self, callee: Callee) -> None:
        call = await callee.takes_the_call(LONG)
        call.listen("outbound", lambda _pcm, _at_ms: 1 // 0)
        await callee.caller.speech(0.5)
        assert not call.over


class TestTheRegister:
    async def test_whoever_attaches_to_calls_hears_all_of_them(self, callee: Callee) -> None:
        seen: list[CallControl] = []
        events: list[str] = []

        def attach(call: CallControl) -> None:
            seen.append(call)
            call.on_event(lambda event: events.append(event.type))

        callee.caller.calls.on_call += [lambda _call: 1 // 0, attach]
        call = callee.place("one", agent_url="ws://agent", parameters={"job": "7"})
        assert seen == [call]
        assert (call.agent_url, dict(call.parameters)) == ("ws://agent", {"job": "7"})
        assert events[:2] == ["call.started", "speech.queued"]
        call.hang_up()
        assert events[-1] == "call.ended"
        call.report("agent.disconnected", url="ws://agent", reason="call over")
        assert events[-1] == "call.ended", "this call's listeners are gone"
        assert callee.events[-1].type == "agent.disconnected"

    async def test_a_call_that_nobody_wants_is_not_dialled(self, callee: Callee) -> None:
        callee.caller.calls.on_call.append(lambda call: call.hang_up())
        call = callee.place("one")
        assert call.over
        assert not callee.caller.transport.sent
        assert callee.kinds("") == ["call.ended"]

    async def test_an_ended_call_is_found_and_does_nothing(self, callee: Callee) -> None:
        call = await callee.takes_the_call("one")
        calls = callee.caller.calls
        assert calls.find(call.id) is call
        assert calls.find(call.view().sip_call_id) is call
        assert list(calls.running()) == [call]
        call.hang_up()
        await callee.caller.request("BYE")
        assert calls.find(call.id) is call
        assert calls.find(call.view().sip_call_id) is call
        assert not calls.running()
        assert [view.id for view in calls.ended()] == [call.id]
        view = call.view()
        assert (view.state, view.end_reason, view.speech) == ("ended", "hung_up", ())
        assert view.ended_at is not None
        for wish in (
            lambda: call.say((Words("x"),)),
            call.open_turn,
            call.clear,
            call.hang_up_when_said,
            lambda: call.send_digits("1"),
            call.hold,
            call.resume,
            lambda: call.transfer("x"),
            call.hang_up,
            lambda: call.listen("inbound", lambda *_: None),
        ):
            with pytest.raises(CallEndedError):
                wish()
        assert call.over
        assert call.idle
        assert calls.find("CA0") is None


async def placed_and_ended(callee: Callee) -> weakref.ref[object]:
    call = await callee.takes_the_call("one", barge_in="either")
    leg = weakref.ref(callee.caller.calls.legs[0])
    call.listen("outbound", lambda *_: None)
    call.hold()
    callee.reply(200, callee.caller.sdp("0 101", "recvonly"), to=await callee.next("INVITE"))
    await callee.next("ACK")
    call.hang_up()
    await callee.caller.request("BYE")
    await asyncio.wait_for(callee.caller.agent.wait_idle(), 5)
    callee.events.clear()
    return leg


async def test_an_ended_call_leaves_only_what_it_was(callee: Callee) -> None:
    """Its media is freed without the cycle collector, though it can still be asked about."""
    await placed_and_ended(callee)
    gc.collect()
    gc.disable()
    try:
        leg = await placed_and_ended(callee)
        async with asyncio.timeout(5):
            while leg() is not None:  # transactions that absorb retransmissions, and events on their way
                await asyncio.sleep(0.01)
    finally:
        gc.enable()
    assert len(callee.caller.calls.ended()) == 2


class Node:
    """A server in this process, on sockets of its own."""

    def __init__(self, config: Config, allow: str) -> None:
        self.engine = FakeEngine()
        self.transport = UdpTransport()
        self.calls = Calls(config, CallEngines(self.engine), lambda peer: "127.0.0.1")
        access = AccessList([ip_network(allow)])
        timers = TimerValues(t1=0.05, t2=0.4)
        self.agent = UserAgent(self.calls, UserAgentConfig("Test/1", access, timers), self.transport)
        self.calls.connect(self.agent.invite, lambda: self.transport.local_address)
        self.events: list[CallEvent] = []
        self.calls.hub.listen(self.events.append)


@contextlib.asynccontextmanager
async def running_node(allow: str = "127.0.0.0/8", host: str = "127.0.0.1", **sections: object) -> AsyncIterator[Node]:
    node = Node(Config(**sections), allow)  # type: ignore[arg-type]
    node.calls.pacer.start()
    await node.transport.listen(host, 0)
    try:
        yield node
    finally:
        node.calls.end_all()
        node.agent.close()
        node.calls.pacer.stop()


class TestCallingOurselves:
    async def test_both_legs_live_and_end(self) -> None:
        async with running_node(calls={"greeting": "welcome home"}) as node:
            call = node.calls.place(PlaceOrder(to="me", trunk="self", script=(Words("one two"),)))
            frames: list[bytes] = []
            call.listen("inbound", lambda pcm, _at_ms: frames.append(pcm))
            await until(lambda: [event.type for event in node.events].count("speech.finished") == 2)
            placed, received = node.calls.running()
            assert placed is call
            assert (placed.view().direction, received.view().direction) == ("outbound", "inbound")
            assert placed.view().sip_call_id == received.view().sip_call_id
            assert received.view().to_uri.startswith("sip:me@127.0.0.1:")
            assert as_heard("welcome")[:320] in frames, "each hears the other"
            call.hold()
            await until(lambda: received.view().state == "held")
            call.resume()
            await until(lambda: received.view().state == "answered" and placed.view().state == "answered")
            call.hang_up()
            await until(lambda: not node.calls.running())
            reasons = {view.direction: view.end_reason for view in node.calls.ended()}
            assert reasons == {"outbound": "hung_up", "inbound": "caller_hung_up"}
            await asyncio.wait_for(node.agent.wait_idle(), 5)

    @pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
    async def test_though_nobody_else_may_call_from_here(self, host: str) -> None:
        async with running_node(allow="192.0.2.0/24", host=host) as node:
            node.calls.place(PlaceOrder(to="me", trunk="self", script=(Words("one"),), hang_up_after=True))
            await until(lambda: len(node.calls.ended()) == 2)
            assert {view.end_reason for view in node.calls.ended()} == {"played", "caller_hung_up"}
            stranger = UdpTransport()
            await stranger.listen("127.0.0.1", 0)
            stranger.send(make_request("OPTIONS", cseq=1), ("127.0.0.1", node.transport.local_address[1]))
            await until(lambda: node.agent.stats.datagrams_forbidden)
            stranger.close()

    async def test_a_refusal_of_our_own_is_told(self) -> None:
        async with running_node(calls={"max_calls": 1}) as node:
            node.calls.place(PlaceOrder(to="me", trunk="self"))
            await until(node.calls.ended)
            assert node.calls.ended()[0].end_reason == "unreachable"
            assert node.calls.totals.placed_failed == {503: 1}
