"""The hub of events: order, numbers, bounds, and subscribers that come back."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediaserver.call.events import EVENT_TYPES, MAX_WAITING, CallEvent, EventHub


def event(name: str = "mark.reached", call: str = "CA1", **data: object) -> CallEvent:
    assert name in EVENT_TYPES
    return CallEvent(name, call, data)  # type: ignore[arg-type]


def test_events_are_numbered_and_listeners_told_in_order() -> None:
    hub, heard = EventHub(), []
    hub.listen(lambda event: heard.append(("first", event.number)))
    hub.listen(lambda event: heard.append(("second", event.number)))
    assert hub.publish(event()).number == 1
    assert hub.publish(event()).number == 2
    assert heard == [("first", 1), ("second", 1), ("first", 2), ("second", 2)]
    assert hub.published == 2


def test_a_listener_that_stopped_is_not_told_and_may_stop_twice() -> None:
    hub, heard = EventHub(), []
    stop = hub.listen(heard.append)
    hub.publish(event())
    stop()
    stop()
    hub.publish(event())
    assert [told.number for told in heard] == [1]


def test_a_listener_that_fails_disturbs_nobody() -> None:
    hub, heard = EventHub(), []

    def fail(_event: CallEvent) -> None:
        raise LookupError("its own affair")

    hub.listen(fail)
    hub.listen(heard.append)
    hub.publish(event())
    assert len(heard) == 1


def test_a_listener_may_stop_itself_while_it_is_told() -> None:
    hub, heard = EventHub(), []

    def once(event: CallEvent) -> None:
        heard.append(event.number)
        stop()

    stop = hub.listen(once)
    hub.listen(lambda event: heard.append(-event.number))
    hub.publish(event())
    hub.publish(event())
    assert heard == [1, -1, -2]


async def test_a_subscriber_waits_for_what_it_wants() -> None:
    hub = EventHub()
    subscription = hub.subscribe(lambda event: event.call_id == "CA2")
    waiting = asyncio.ensure_future(anext(subscription))
    await asyncio.sleep(0)
    hub.publish(event(call="CA1"))
    hub.publish(event(call="CA2", name="dtmf.received"))
    assert (await waiting).number == 2


async def test_what_is_waiting_is_still_given_after_the_end() -> None:
    hub = EventHub()
    subscription = hub.subscribe()
    hub.publish(event())
    hub.close()
    hub.publish(event())
    assert [told.number async for told in subscription] == [1]
    subscription.close()


async def test_the_end_wakes_a_subscriber_that_waits() -> None:
    hub = EventHub()
    subscription = hub.subscribe()
    waiting = asyncio.ensure_future(anext(subscription))
    await asyncio.sleep(0)
    subscription.close()
    with pytest.raises(StopAsyncIteration):
        await waiting


async def test_a_slow_subscriber_loses_the_oldest_and_knows_how_many() -> None:
    hub = EventHub()
    slow, other = hub.subscribe(), hub.subscribe()
    for _ in range(MAX_WAITING):
        hub.publish(event())
        assert (await anext(other)).number == hub.published
    for _ in range(3):
        hub.publish(event())
    assert slow.lost == 3
    assert other.lost == 0
    assert (await anext(slow)).number == 4


@given(published=st.integers(0, 30), history=st.integers(1, 20), after=st.integers(-1, 40))
def test_one_that_comes_back_gets_what_it_missed(published: int, history: int, after: int) -> None:
    async def check() -> list[int]:
        hub = EventHub(history)
        for _ in range(published):
            hub.publish(event())
        subscription = hub.subscribe(after=after)
        hub.publish(event())
        hub.close()
        return [told.number async for told in subscription]

    numbers = asyncio.run(check())
    kept = [number for number in range(1, published + 1) if number > published - history]
    assert numbers == [number for number in kept if number > after] + [published + 1]


def test_the_data_is_not_in_the_representation() -> None:
    assert "secret words" not in repr(event(name="speech.interrupted", heard_text="secret words"))
