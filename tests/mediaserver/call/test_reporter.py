"""Events of one call."""

from __future__ import annotations

from mediaserver.call.events import CallEvent, EventHub
from mediaserver.call.reporter import CallReporter


def test_events_go_to_the_hub_and_to_the_calls_own_listeners() -> None:
    hub = EventHub()
    all_of_them: list[CallEvent] = []
    hub.listen(all_of_them.append)
    one, other = CallReporter(hub, "CA1"), CallReporter(hub, "CA2")
    own: list[CallEvent] = []
    stop = one.listen(own.append)
    one.publish("call.ringing", status=180)
    other.publish("call.ringing", status=183)
    stop()
    stop()
    one.publish("call.answered", codec="PCMU")
    assert [(event.call_id, event.data, event.number) for event in own] == [("CA1", {"status": 180}, 1)]
    assert [event.call_id for event in all_of_them] == ["CA1", "CA2", "CA1"]


def test_a_listener_that_fails_stops_nobody() -> None:
    hub = EventHub()
    reporter = CallReporter(hub, "CA1")
    seen: list[str] = []
    reporter.listen(lambda _event: 1 // 0)  # type: ignore[arg-type, return-value]
    reporter.listen(lambda event: seen.append(event.type))
    reporter.publish("call.held")
    assert seen == ["call.held"]


def test_a_listener_may_stop_itself_while_it_is_told() -> None:
    reporter = CallReporter(EventHub(), "CA1")
    seen: list[str] = []

    def once(event: CallEvent) -> None:
        seen.append(event.type)
        stop()

    stop = reporter.listen(once)
    reporter.publish("call.held")
    reporter.publish("call.resumed")
    assert seen == ["call.held"]


def test_after_the_end_only_the_hub_is_told() -> None:
    hub = EventHub()
    reporter = CallReporter(hub, "CA1")
    seen: list[CallEvent] = []
    reporter.listen(seen.append)
    reporter.close()
    reporter.publish("stream.stopped")
    assert not seen
    assert hub.published == 1
