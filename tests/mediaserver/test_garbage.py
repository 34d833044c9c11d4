import asyncio
import gc
import weakref

import pytest

from mediaserver import garbage
from mediaserver.garbage import IDLE_S, LONGEST_S, FullCollections
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
        for _ in range(2):
            await caller.info("two")
        await _transactions_over(caller)
        gc.collect()
        gc.disable()
        try:
            for _ in range(20):
                await caller.info("two")
                await caller.in_dialog("INVITE", caller.sdp("0 101"), Content_Type="application/sdp")
            await _transactions_over(caller)
            found = gc.collect()
        finally:
            gc.enable()
        assert found < 20, "objects in cycles"


async def _transactions_over(caller: Caller) -> None:
    async with asyncio.timeout(20):
        while caller.agent._layer.servers:
            caller.transport.sent.clear()
            await asyncio.sleep(0.05)
