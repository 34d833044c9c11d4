import asyncio
import contextlib
import gc
import weakref
from collections.abc import Callable, Iterator

import pytest

from mediaserver import garbage
from mediaserver.call.control import CallControl
from mediaserver.call.events import CallEvent
from mediaserver.garbage import IDLE_S, LONGEST_S, FullCollections
from mediaserver.speech.script import Mark, Pause, Words
from tests.mediaserver.callee import Callee, running_callee
from tests.mediaserver.caller import Caller, running_caller


class Collector:
    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> None:
        self.times += 1


@pytest.fixture
def collector() -> Collector:
    return Collector()


def test_nothing_is_collected_while_calls_are_up(collector: Collector) -> None:
    collections = FullCollections(0.0, collector)
    for second in range(3600):
        collections.look(float(second), 1 + second % 7)
    assert collector.times == 0


def test_the_quiet_after_calls_is_used_once(collector: Collector) -> None:
    collections = FullCollections(0.0, collector)
    collections.look(1.0, 5)
    collections.look(2.0, 0)
    collections.look(2.0 + IDLE_S - 0.1, 0)
    assert collector.times == 0
    for late in range(5):
        collections.look(2.0 + IDLE_S + late, 0)
    assert collector.times == 1


def test_a_call_in_between_begins_the_quiet_anew(collector: Collector) -> None:
    collections = FullCollections(0.0, collector)
    for calls in (5, 0, 3, 0):
        collections.look(1.0, calls)
    collections.look(1.0 + IDLE_S - 0.1, 0)
    assert collector.times == 0


def test_an_idle_server_does_not_collect_again_and_again(collector: Collector) -> None:
    collections = FullCollections(0.0, collector)
    for second in range(600):
        collections.look(float(second), 0)
    assert collector.times == 0


def test_calls_without_end_put_it_off_only_so_long(collector: Collector) -> None:
    collections = FullCollections(0.0, collector)
    for minute in range(int(2.5 * LONGEST_S) // 60):
        collections.look(minute * 60.0, 200)
    assert collector.times == 2


def test_settling_leaves_young_collections_alone() -> None:
    before = gc.get_threshold()
    try:
        garbage.settle()
        assert gc.get_threshold()[:2] == before[:2]
        assert gc.get_threshold()[2] > 1_000_000
        assert gc.get_freeze_count() > 0
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


async def _one_call(caller: Caller, number: int) -> weakref.ref[object]:
    caller.call_id, caller.cseq = f"call-{number}", 1
    await caller.call("one", X_TTS_Barge_In="either")
    await caller.packets(3)
    leg = weakref.ref(next(iter(caller.calls.legs)))
    await caller.in_dialog("BYE")
    await caller.ended()
    return leg


async def test_a_call_that_has_ended_is_freed_without_the_collector() -> None:
    async with running_caller(dtmf={"detect_inband": True}) as caller:
        for number in range(2):  # what is made once is made
            await _one_call(caller, number)
        gc.collect()
        gc.disable()
        try:
            leg = await _one_call(caller, 9)
            async with asyncio.timeout(10):
                while leg() is not None:  # events that are on their way hold it
                    await asyncio.sleep(0.01)
            found = gc.collect()
        finally:
            gc.enable()
        assert found < 20, "objects in cycles"


async def test_requests_within_a_call_leave_no_cycles() -> None:
    """Their transactions stay for 64 x T1; then nothing of them does."""
    async with running_caller() as caller:
        await caller.call("one")
        await caller.info("two")
        with _no_collector() as found:
            for _ in range(20):
                await caller.info("two")
                await caller.in_dialog("INVITE", caller.sdp("0 101"), Content_Type="application/sdp")
            await _transactions_over(caller)
            assert found() < 20, "objects in cycles"


async def _is_hung_up(callee: Callee) -> None:
    await callee.takes_the_call("one")
    await callee.in_dialog("BYE")


async def _hangs_up(callee: Callee) -> None:
    call = await callee.takes_the_call("one two")
    call.hang_up()
    await callee.caller.request("BYE")


async def _is_busy(callee: Callee) -> None:
    callee.place("one")
    await callee.invite()
    callee.reply(486)


async def _cancels(callee: Callee) -> None:
    call = callee.place("one")
    await callee.ringing()
    call.hang_up()
    callee.reply(200, to=await callee.next("CANCEL"))
    callee.reply(487)


async def _holds_and_transfers(callee: Callee) -> None:
    call = await callee.takes_the_call("one two")
    call.hold()
    callee.reply(200, callee.caller.sdp("0 101", "recvonly"), to=await callee.next("INVITE"))
    await callee.next("ACK")
    call.transfer("sip:carol@127.0.0.1")
    callee.reply(202, to=await callee.next("REFER"))
    await callee.notify(200, "terminated;reason=noresource")
    await callee.caller.request("BYE")


async def _is_rung(callee: Callee) -> None:
    caller = callee.caller
    await caller.call("one")
    await caller.in_dialog("BYE")


async def _hangs_up_on_who_rang(callee: Callee) -> None:
    await callee.caller.call("one", X_TTS_Hangup="yes")
    await callee.caller.request("BYE")


CALLS = (_is_hung_up, _hangs_up, _is_busy, _cancels, _holds_and_transfers, _is_rung, _hangs_up_on_who_rang)


async def test_calls_both_ways_leave_no_cycles_however_they_end() -> None:
    async with running_callee() as callee:
        await _round(callee, "first")  # what is made once is made
        with _no_collector() as found:
            await _round(callee, "second")
            await _transactions_over(callee.caller)
            assert found() < 2 * len(CALLS), "objects in cycles"


async def _round(callee: Callee, name: str) -> None:
    for take in CALLS:
        callee.cseq, callee.caller.cseq = 0, 1
        callee.tag = callee.caller.call_id = f"{take.__name__}-{name}"
        await take(callee)
        await callee.caller.ended()


async def test_turns_and_listeners_of_a_call_leave_no_cycles() -> None:
    async with running_callee() as callee:
        call = await callee.takes_the_call()
        await _turn(call)
        with _no_collector() as found:
            for number in range(8):
                await _turn(call, cut=bool(number % 2))
            assert found() < 8, "objects in cycles"


async def _turn(call: CallControl, *, cut: bool = False) -> None:
    def heard(_pcm: bytes, _due_ms: int) -> None: ...

    def told(_event: CallEvent) -> None: ...

    stops = [call.listen("outbound", heard), call.listen("inbound", heard), call.on_event(told)]
    turn = call.open_turn(barge_in="either")
    turn.add(Words("one"), Mark("m"), Pause(20))
    await asyncio.sleep(0.03)
    if cut:
        call.clear()
    else:
        turn.add(Words("two"))
        turn.end()
    async with asyncio.timeout(5):
        while not call.idle:
            await asyncio.sleep(0.01)
    for stop in stops:
        stop()


@contextlib.contextmanager
def _no_collector() -> Iterator[Callable[[], int]]:
    """Gives what the collector would find of what was left since."""
    gc.collect()
    gc.disable()
    try:
        yield gc.collect
    finally:
        gc.enable()


async def _transactions_over(caller: Caller) -> None:
    layer = caller.agent._layer
    async with asyncio.timeout(20):
        while layer.servers or layer.clients:
            caller.transport.sent.clear()
            await asyncio.sleep(0.05)
