"""Events go from the hub to a real HTTP server."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from mediaserver.api.state import ApiState, make_state
from mediaserver.api.webhooks import WebhookSender, schedule
from mediaserver.api.webhooks import sender as sender_module
from mediaserver.api.webhooks.message import WebhookMessage
from mediaserver.api.webhooks.spool import Spool, SpoolError
from mediaserver.call.engines import CallEngines
from mediaserver.call.events import CallEvent
from mediaserver.config import Config
from tests.mediaserver.api.fake_calls import FakeCalls
from tests.mediaserver.api.webhooks.receiver import Answer, Received, Receiver
from tests.mediaserver.fake_engine import FakeEngine

SECRET = "whsec-1"


@pytest.fixture(autouse=True)
def _quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule, "FIRST_RETRY_S", 0.02)


def make(url: str, spool: Path, calls: FakeCalls | None = None, **settings: Any) -> tuple[FakeCalls, WebhookSender]:
    webhooks = {"url": url, "secret": SECRET, "spool_dir": str(spool), "timeout_s": 5.0, **settings}
    calls = calls or FakeCalls()
    return calls, WebhookSender(make_state(Config(webhooks=webhooks), calls, CallEngines(FakeEngine())))


@asynccontextmanager
async def running(url: str, spool: Path, **settings: Any) -> AsyncIterator[tuple[FakeCalls, WebhookSender]]:
    calls, sender = make(url, spool, **settings)
    await sender.start()
    try:
        yield calls, sender
    finally:
        await sender.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


async def test_a_call_is_told_event_by_event(tmp_path: Path) -> None:
    async with Receiver() as receiver, running(receiver.url, tmp_path) as (calls, sender):
        call = calls.arrive()
        call.press("5")
        call.end()
        requests = await receiver.wait_for(4)
        await until(lambda: sender.counts.delivered == 4)

        assert receiver.types == ["call.started", "call.answered", "dtmf.received", "call.ended"]
        assert {request.event["call_id"] for request in requests} == {call.id}
        assert [request.event["number"] for request in requests] == [1, 2, 3, 4]
        assert requests[2].event["data"] == {"digit": "5", "source": "rfc4733"}
        assert requests[0].path == "/hook?key=s3cret"


async def test_each_request_is_signed(tmp_path: Path) -> None:
    async with Receiver() as receiver, running(receiver.url, tmp_path) as (calls, _sender):
        calls.arrive(answered=False)
        [request] = await receiver.wait_for(1)

        fields = dict(part.split("=", 1) for part in request.headers["x-chatterline-signature"].split(","))
        signed = fields["t"].encode() + b"." + request.body
        assert fields["v1"] == hmac.new(SECRET.encode(), signed, hashlib.sha256).hexdigest()
        assert request.headers["x-chatterline-event"] == "call.started"
        assert request.headers["x-chatterline-delivery"] == request.event["id"]
        assert request.headers["content-type"] == "application/json"


async def test_only_the_types_asked_for(tmp_path: Path) -> None:
    async with Receiver() as receiver, running(receiver.url, tmp_path, events=["call.ended"]) as (calls, _):
        calls.arrive().end()
        calls.arrive().end()
        await receiver.wait_for(2)

    assert receiver.types == ["call.ended", "call.ended"]


async def test_a_failure_is_tried_again_in_order_with_the_same_id(tmp_path: Path) -> None:
    statuses = iter([500, 404, 302])

    def answer(_request: Received) -> Answer:
        return next(statuses, 200), {}

    async with Receiver(answer) as receiver, running(receiver.url, tmp_path) as (calls, sender):
        calls.arrive()
        requests = await receiver.wait_for(5)
        await until(lambda: sender.counts.delivered == 2)

        assert receiver.types == ["call.started"] * 4 + ["call.answered"]
        assert len({request.event["id"] for request in requests[:4]}) == 1
        assert len({request.body for request in requests[:4]}) == 1
        assert sender.counts.failed == 3


async def test_one_calls_trouble_is_not_anothers(tmp_path: Path) -> None:
    async with Receiver() as receiver, running(receiver.url, tmp_path) as (calls, sender):
        poisoned = calls.arrive(answered=False)
        receiver.answer = lambda request: (500 if request.event["call_id"] == poisoned.id else 200, {})
        await receiver.wait_for(1)
        healthy = [calls.arrive() for _ in range(5)]
        for call in healthy:
            call.end()
        await until(lambda: len({r.event["id"] for r in receiver.requests if r.event["call_id"] != poisoned.id}) == 15)

        for call in healthy:
            told = [request.event["type"] for request in receiver.requests if request.event["call_id"] == call.id]
            assert told == ["call.started", "call.answered", "call.ended"]
        receiver.answer = lambda _request: (200, {})
        await until(lambda: sender.counts.delivered == 16)


async def test_requests_at_once_are_bounded_and_one_for_a_call(tmp_path: Path) -> None:
    async with Receiver() as receiver, running(receiver.url, tmp_path) as (calls, sender):
        receiver.gate.clear()
        for _ in range(40):
            calls.arrive()
        await receiver.wait_for(16)
        assert receiver.at_once == 16
        receiver.gate.set()
        await until(lambda: sender.counts.delivered == 80)

        assert receiver.most_at_once == 16
        assert receiver.connections <= 20  # they are used again


async def test_an_application_that_comes_back_gets_everything(tmp_path: Path) -> None:
    async with Receiver() as receiver:
        url = receiver.url
        await receiver.stop()
        with capture_logs() as logs:
            async with running(url, tmp_path) as (calls, sender):
                for _ in range(5):
                    calls.arrive().end()
                await until(lambda: sender.counts.failed >= 4)
                await receiver.listen()
                await until(lambda: sender.counts.delivered == 15)

    for call in calls.calls:
        told = [request.event["type"] for request in receiver.requests if request.event["call_id"] == call.id]
        assert told == ["call.started", "call.answered", "call.ended"]
    names = [entry["event"] for entry in logs]
    assert names.count("webhooks_away") == 1
    assert "webhooks_back" in names
    assert "s3cret" not in str(logs)  # of the URL


async def test_what_an_earlier_run_left_is_delivered(tmp_path: Path) -> None:
    async with Receiver() as receiver:
        url = receiver.url
        await receiver.stop()
        async with running(url, tmp_path) as (calls, sender):
            calls.arrive().end()
            await until(lambda: sender.counts.failed >= 1)
        await receiver.listen()
        async with running(receiver.url, tmp_path) as (_, sender):
            await receiver.wait_for(3)
            assert receiver.types == ["call.started", "call.answered", "call.ended"]
            await until(lambda: sender.counts.delivered == 3)


async def test_close_delivers_what_was_published_a_moment_before(tmp_path: Path) -> None:
    async with Receiver() as receiver:
        async with running(receiver.url, tmp_path) as (calls, _):
            for _ in range(20):
                calls.arrive().end()

        assert receiver.types.count("call.ended") == 20


async def test_gone_ends_an_event(tmp_path: Path) -> None:
    def answer(request: Received) -> Answer:
        return (410 if request.event["type"] == "call.started" else 200), {}

    async with Receiver(answer) as receiver, running(receiver.url, tmp_path) as (calls, sender):
        calls.arrive()
        await until(lambda: sender.counts.delivered == 1)

        assert receiver.types == ["call.started", "call.answered"]
        assert sender.counts.dropped == {"refused": 1}


async def test_retry_after_is_heeded_for_all_calls(tmp_path: Path) -> None:
    later = Receiver(lambda _request: (503, {"Retry-After": "1"}))
    async with later as receiver, running(receiver.url, tmp_path) as (calls, sender):
        loop = asyncio.get_running_loop()
        calls.arrive(answered=False)
        await until(lambda: sender.counts.failed == 1)
        asked = loop.time()
        receiver.answer = lambda _request: (200, {})
        calls.arrive(answered=False)
        await until(lambda: sender.counts.delivered == 2)

        assert 0.9 < loop.time() - asked < 3.0
        assert len(receiver.requests) == 3


async def test_an_event_that_is_too_old_is_dropped_and_the_next_one_sent(tmp_path: Path) -> None:
    picky = Receiver(lambda request: (500 if request.event["type"] == "call.started" else 200, {}))
    async with picky as receiver, running(receiver.url, tmp_path, retry_hours=0) as (calls, sender):
        calls.arrive()
        await until(lambda: sender.counts.delivered == 1)

        assert receiver.types == ["call.started", "call.answered"]
        assert sender.counts.dropped == {"too_old": 1}


async def test_an_application_that_never_answers_is_given_up_in_time(tmp_path: Path) -> None:
    async with Receiver() as receiver, running(receiver.url, tmp_path, timeout_s=0.1) as (calls, sender):
        receiver.gate.clear()
        calls.arrive(answered=False)
        await until(lambda: sender.counts.failed >= 1)
        receiver.gate.set()
        await until(lambda: sender.counts.delivered == 1)

        assert len({request.event["id"] for request in receiver.requests}) == 1


async def test_an_application_that_drops_the_connection(tmp_path: Path) -> None:
    answers: list[Answer] = [None, None]

    rude = Receiver(lambda _request: answers.pop() if answers else (200, {}))
    async with rude as receiver, running(receiver.url, tmp_path) as (calls, sender):
        calls.arrive(answered=False)
        await until(lambda: sender.counts.delivered == 1)

        assert sender.counts.failed == 2


async def test_an_event_that_is_no_json_is_counted_and_others_go_on(tmp_path: Path) -> None:
    async with Receiver() as receiver, running(receiver.url, tmp_path) as (calls, sender):
        calls.hub.publish(CallEvent("call.started", "CA1", {"bad": object()}))
        calls.hub.publish(CallEvent("call.ended", "CA1", {}))
        await receiver.wait_for(1)

        assert receiver.types == ["call.ended"]
        assert sender.counts.dropped == {"not_json": 1}


async def test_a_full_spool_drops_the_oldest(tmp_path: Path) -> None:
    async with Receiver() as receiver:
        await receiver.stop()
        async with running(f"http://127.0.0.1:{receiver.port}/", tmp_path, spool_mb=1) as (calls, sender):
            for index in range(30):
                calls.hub.publish(CallEvent("speech.interrupted", f"CA{index}", {"heard_text": "x" * 50_000}))
            await until(lambda: sender.counts.dropped["no_room"] > 0)

            assert 9 <= sender.counts.dropped["no_room"] <= 11


async def test_a_disk_that_fails_for_a_while_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender_module, "SPOOL_RETRY_S", 0.02)
    failures = iter([SpoolError("disk is full"), SpoolError("disk is full")])
    append = Spool.append

    def append_or_fail(spool: Spool, messages: Sequence[WebhookMessage]) -> int:
        if (failure := next(failures, None)) is not None:
            raise failure
        return append(spool, messages)

    monkeypatch.setattr(Spool, "append", append_or_fail)
    async with Receiver() as receiver, running(receiver.url, tmp_path) as (calls, sender):
        calls.arrive().end()
        await receiver.wait_for(3)
        assert receiver.types == ["call.started", "call.answered", "call.ended"]
        assert sender.counts.dropped == {}


async def test_what_memory_has_no_room_for_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender_module, "MAX_UNWRITTEN", 5)
    async with Receiver() as receiver, running(receiver.url, tmp_path) as (calls, sender):
        for index in range(20):  # the loop has no time to write between them
            calls.hub.publish(CallEvent("call.started", f"CA{index}"))
        await receiver.wait_for(5)

        assert {request.event["number"] for request in receiver.requests} == {16, 17, 18, 19, 20}
        assert sender.counts.dropped == {"disk": 15}


async def test_what_is_counted_is_exported(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    async with Receiver(lambda request: (410 if request.event["type"] == "call.started" else 200, {})) as receiver:
        calls = FakeCalls()
        config = Config(webhooks={"url": receiver.url, "secret": SECRET, "spool_dir": str(tmp_path)})
        sender = WebhookSender(make_state(config, calls, CallEngines(FakeEngine()), registry))
        await sender.start()
        calls.arrive()
        await until(lambda: sender.counts.delivered == 1)
        await sender.close()

    assert registry.get_sample_value("chatterline_webhooks_delivered_total") == 1
    assert registry.get_sample_value("chatterline_webhooks_dropped_total", {"reason": "refused"}) == 1
    assert registry.get_sample_value("chatterline_webhooks_waiting") == 0


async def test_without_a_url_nothing_is_done(tmp_path: Path) -> None:
    calls = FakeCalls()
    state: ApiState = make_state(Config(webhooks={"spool_dir": str(tmp_path / "s")}), calls, CallEngines(FakeEngine()))
    sender = WebhookSender(state)
    await sender.start()
    calls.arrive()
    await sender.close()
    await sender.close()

    assert not (tmp_path / "s").exists()


async def test_a_spool_that_cannot_be_used_is_an_error_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    _, sender = make("http://127.0.0.1:9/", tmp_path / "file" / "spool")

    with pytest.raises(OSError, match="file"):
        await sender.start()
    await sender.close()
