"""Prometheus metrics."""

from __future__ import annotations

import asyncio
import socket
import urllib.request

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from mediaserver.config import MetricsConfig
from mediaserver.metrics import MetricsServer, make_registry
from tests.mediaserver.caller import running_caller
from tests.sip.doubles import make_request


def samples(text: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f"{key}={value}" for key, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


async def test_a_calls_life_is_counted() -> None:
    async with running_caller() as caller:
        registry = make_registry(caller.calls, caller.agent.stats, caller.engine)

        def scrape() -> dict[str, float]:
            return samples(generate_latest(registry).decode())

        assert scrape()["chatterline_calls"] == 0
        await caller.call("one")
        await caller.packets(15)
        during = scrape()
        assert during["chatterline_calls"] == 1
        assert during["chatterline_engine_ready"] == 1
        assert during["chatterline_rtp_packets_sent_total"] >= 15
        assert during["chatterline_speech_played_total"] == 1
        assert during["chatterline_sip_requests_total{method=INVITE}"] == 1
        assert during["chatterline_pacer_lateness_seconds_bucket{le=+Inf}"] >= 15
        await caller.in_dialog("BYE")
        caller.receive(b"garbage\r\n\r\n")
        caller.call_id = "refused"
        await caller.invite(X_TTS_Voice="bob")
        after = scrape()
        assert after["chatterline_calls"] == 0
        assert after["chatterline_calls_offered_total"] == 2
        assert after["chatterline_calls_ended_total{reason=caller_hung_up}"] == 1
        assert after["chatterline_calls_refused_total{code=400}"] == 1
        assert after["chatterline_sip_datagrams_malformed_total"] == 1
        assert after["chatterline_rtp_packets_sent_total"] >= during["chatterline_rtp_packets_sent_total"]
        assert after["chatterline_rtp_underruns_total"] == 0


async def test_metrics_are_served_over_http() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    async with running_caller() as caller:
        caller.receive(make_request("OPTIONS"))
        server = MetricsServer(MetricsConfig(port=port), make_registry(caller.calls, caller.agent.stats, caller.engine))
        url = f"http://127.0.0.1:{port}/metrics"
        text = await asyncio.to_thread(lambda: urllib.request.urlopen(url, timeout=5).read().decode())
        assert samples(text)["chatterline_sip_requests_total{method=OPTIONS}"] == 1
        assert "process_resident_memory_bytes" in samples(text)
        with pytest.raises(OSError, match="in use"):
            MetricsServer(MetricsConfig(port=port), make_registry(caller.calls, caller.agent.stats, caller.engine))
        server.close()


async def test_port_0_is_off() -> None:
    async with running_caller() as caller:
        MetricsServer(MetricsConfig(), make_registry(caller.calls, caller.agent.stats, caller.engine)).close()
