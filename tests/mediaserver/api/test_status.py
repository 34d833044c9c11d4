"""The node: health, status, drain."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from mediaserver.api import status
from mediaserver.api.state import ApiState, make_state
from mediaserver.api.status import histograms_of, status_of
from mediaserver.call.engines import CallEngines
from mediaserver.config import Config
from tests.mediaserver.api.conftest import client_of, token_of
from tests.mediaserver.api.fake_calls import FakeCalls
from tests.mediaserver.fake_engine import FakeEngine


class NodeMetrics(Collector):
    """As the server's own registry has them."""

    def __init__(self) -> None:
        self.load = 0.25
        self.asked = 0

    def collect(self) -> Iterator[Metric]:
        self.asked += 1
        yield GaugeMetricFamily("chatterline_pacer_load", "a", self.load)
        yield CounterMetricFamily("chatterline_underruns_engine", "a", 3)
        yield CounterMetricFamily("chatterline_underruns_event_loop", "a", 1)
        ended = CounterMetricFamily("chatterline_calls_ended", "a", labels=["reason"])
        ended.add_metric(["caller"], 5)
        ended.add_metric(["drained"], 2)
        yield ended
        first = HistogramMetricFamily("chatterline_speech_first_packet_seconds", "a", labels=["engine", "queued"])
        first.add_metric(["fake", "no"], [("0.1", 2), ("0.2", 3), ("+Inf", 4)], sum_value=0.9)
        first.add_metric(["fake", "yes"], [("0.1", 0), ("0.2", 1), ("+Inf", 1)], sum_value=0.15)
        yield first
        yield GaugeMetricFamily("chatterline_engine_memory_bytes", "a", float("nan"))


@pytest.fixture
def metrics() -> NodeMetrics:
    return NodeMetrics()


@pytest.fixture
async def state(config: Config, calls: FakeCalls, engine: FakeEngine, metrics: NodeMetrics) -> ApiState:
    registry = CollectorRegistry()
    registry.register(metrics)
    return make_state(config, calls, CallEngines(engine, FakeEngine("spare")), registry)


async def test_the_status(client: httpx.AsyncClient, calls: FakeCalls, engine: FakeEngine, state: ApiState) -> None:
    calls.arrive()
    calls.arrive().hold()
    calls.arrive(answered=False)
    calls.arrive().end()
    engine.busy = True
    state.counts["unauthorized"] = 3
    told = (await client.get("/v1/status")).json()
    assert told["calls"] == {"running": 3, "max": 200, "by_state": {"answered": 1, "held": 1, "ringing": 1}}
    assert (told["load"], told["draining"]) == (0.25, False)
    assert told["engines"] == [
        {
            "name": "fake",
            "ready": True,
            "available": "the fake engine is busy",
            "voices": ["heart", "other"],
            "default_voice": "heart",
            "features": [],
        },
        {
            "name": "spare",
            "ready": True,
            "available": None,
            "voices": ["heart", "other"],
            "default_voice": "heart",
            "features": [],
        },
    ]
    assert told["first_audio"] == [
        {"labels": {"engine": "fake", "queued": "no"}, "bounds": [0.1, 0.2], "counts": [2, 3, 4], "sum": 0.9},
        {"labels": {"engine": "fake", "queued": "yes"}, "bounds": [0.1, 0.2], "counts": [0, 1, 1], "sum": 0.15},
    ]
    assert told["underruns"] == {"engine": 3, "event_loop": 1}
    assert told["metrics"]["calls_ended"] == [
        {"labels": {"reason": "caller"}, "value": 5},
        {"labels": {"reason": "drained"}, "value": 2},
    ]
    assert told["metrics"]["engine_memory_bytes"] == [{"labels": {}, "value": None}]
    assert told["api"] == {"unauthorized": 3, "watchers": 0}
    assert told["started_at"] <= told["now"]


async def test_however_many_look_the_metrics_are_read_once(
    client: httpx.AsyncClient, metrics: NodeMetrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = metrics.asked
    monkeypatch.setattr(status, "FRESH_S", 60)
    told = [(await client.get("/v1/status")).json() for _ in range(5)]
    assert metrics.asked == before + 1
    assert told[0] == told[-1]
    monkeypatch.setattr(status, "FRESH_S", -1)
    metrics.load = 0.5
    assert (await client.get("/v1/status")).json()["load"] == 0.5


async def test_a_node_without_metrics_has_a_status(config: Config, calls: FakeCalls) -> None:
    told = status_of(make_state(config, calls, CallEngines(FakeEngine())), [])
    assert (told.load, told.underruns, told.first_audio, told.metrics) == (None, {}, [], {})


def test_histograms_without_a_sum() -> None:
    family = HistogramMetricFamily("a", "a", buckets=[("1", 2.0), ("+Inf", 3.0)], sum_value=None)
    (one,) = histograms_of(family)
    assert (one.bounds, one.counts, one.sum) == ([1.0], [2.0, 3.0], None)


async def test_drain_and_its_end(client: httpx.AsyncClient, calls: FakeCalls) -> None:
    calls.arrive()
    response = await client.post("/v1/drain")
    assert (response.status_code, response.json()) == (202, {"draining": True, "calls": 1})
    assert calls.draining
    assert (await client.get("/v1/status")).json()["draining"] is True
    assert (await client.post("/v1/drain")).status_code == 202
    response = await client.delete("/v1/drain")
    assert (response.status_code, response.json()) == (200, {"draining": False, "calls": 1})
    assert not calls.draining
    assert (await client.get("/v1/status")).json()["draining"] is False


async def test_who_may_see_may_not_drain(state: ApiState, calls: FakeCalls) -> None:
    async with client_of(state, token_of(state, "calls:read", "calls:write")) as client:
        assert (await client.post("/v1/drain")).status_code == 403
    assert not calls.draining


@pytest.mark.parametrize(
    ("draining", "ready", "spare_ready", "code", "told"),
    [
        (False, True, True, 200, "ok"),
        (False, False, True, 200, "ok"),
        (False, False, False, 503, "engine_down"),
        (True, True, True, 503, "draining"),
    ],
)
async def test_health(
    state: ApiState, calls: FakeCalls, draining: bool, ready: bool, spare_ready: bool, code: int, told: str
) -> None:
    """A load balancer asks without a token."""
    calls.draining = draining
    first, spare = state.engines.all
    first.ready, spare.ready = ready, spare_ready  # type: ignore[misc]  # of fakes it may be set
    async with client_of(state, None) as client:
        response = await client.get("/healthz")
    assert (response.status_code, response.json()) == (code, {"status": told})
