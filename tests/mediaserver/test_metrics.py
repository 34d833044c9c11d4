"""Prometheus metrics."""

from __future__ import annotations

import asyncio
import math
import socket
import urllib.request
from collections.abc import AsyncIterator

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from mediaserver.call.engines import CallEngines
from mediaserver.calls import Calls
from mediaserver.config import Config, MetricsConfig
from mediaserver.metrics import MetricsServer, make_registry
from mediaserver.speech.measures import BOUNDS_S
from mediaserver.speech.script import Sound
from sip.stats import SipStats
from tests.mediaserver.callee import running_callee
from tests.mediaserver.caller import Caller, running_caller
from tests.mediaserver.fake_engine import FakeEngine
from tests.sip.doubles import make_request
from tts_engine.embedded import EmbeddedEngine
from tts_engine.engine import PcmChunk
from tts_engine.measures import Counter, Gauge, Histogram


def samples(text: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f"{key}={value}" for key, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


async def test_a_calls_life_is_counted() -> None:
    async with running_caller() as caller:
        registry = make_registry(caller.calls, caller.agent.stats)

        def scrape() -> dict[str, float]:
            return samples(generate_latest(registry).decode())

        assert scrape()["chatterline_calls"] == 0
        await caller.call("one")
        await caller.packets(15)
        during = scrape()
        assert during["chatterline_calls"] == 1
        assert during["chatterline_engine_ready{engine=fake}"] == 1
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


async def test_calls_that_we_place_are_counted() -> None:
    async with running_callee() as callee:
        await callee.takes_the_call("one", hang_up_after=True)
        await callee.caller.request("BYE")
        callee.place("one")
        await callee.invite()
        callee.reply(486)
        await callee.caller.ended()
        found = await scraped(callee.caller)
        assert found["chatterline_calls_placed_total"] == 2
        assert found["chatterline_calls_placed_answered_total"] == 1
        assert found["chatterline_calls_placed_failed_total{code=486}"] == 1
        assert found["chatterline_calls_ended_total{reason=busy}"] == 1
        assert found["chatterline_calls_offered_total"] == 0


async def test_recorded_sounds_that_break_are_counted() -> None:
    async def tune(sample_rate: int) -> AsyncIterator[PcmChunk]:
        yield PcmChunk(bytes(2 * sample_rate // 20), sample_rate)
        await asyncio.sleep(0.3)  # the gap
        raise OSError("connection lost")

    async with running_callee() as callee:
        call = await callee.takes_the_call()
        call.say((Sound(tune, "tune"),))
        async with asyncio.timeout(5):
            while not call.idle:
                await asyncio.sleep(0.01)
        found = await scraped(callee.caller)
        assert found["chatterline_sounds_failed_total"] == 1
        assert found["chatterline_underruns_sound_total"] == 1
        assert found["chatterline_underruns_engine_total"] == found["chatterline_speech_failed_total"] == 0


async def scraped(caller: Caller) -> dict[str, float]:
    return samples(generate_latest(make_registry(caller.calls, caller.agent.stats)).decode())


async def test_first_audio_is_measured() -> None:
    async with running_caller() as caller:
        await caller.call("one")
        await caller.info("two")
        await caller.speech(0.4)
        await caller.packets(5)
        found = await scraped(caller)
        pcm, packet = "chatterline_speech_first_pcm_seconds", "chatterline_speech_first_packet_seconds"
        for name in (pcm, packet):
            for queued in ("yes", "no"):
                assert found[f"{name}_count{{engine=fake,queued={queued}}}"] == 1
                assert found[f"{name}_bucket{{engine=fake,le=+Inf,queued={queued}}}"] == 1
                assert found[f"{name}_bucket{{engine=fake,le=4.0,queued={queued}}}"] == 1
                assert 0 <= found[f"{name}_sum{{engine=fake,queued={queued}}}"] < 1
        buckets = [
            value for key, value in found.items() if key.startswith(f"{packet}_bucket") and key.endswith("queued=no}")
        ]
        assert len(buckets) == len(BOUNDS_S) + 1
        assert buckets == sorted(buckets)


async def test_a_caller_who_does_not_listen_does_not_wait() -> None:
    """Neither the time to the ACK nor a hold is ours."""
    async with running_caller() as caller:
        key = "chatterline_speech_first_packet_seconds_{}{{engine=fake,queued=no}}"
        await caller.invite(X_TTS_Text="one")
        await asyncio.sleep(0.3)
        caller.ack()
        await caller.speech(0.2)
        await caller.packets(2)
        found = await scraped(caller)
        assert found[key.format("count")] == 1
        assert found[key.format("sum")] < 0.25
        held = await caller.in_dialog("INVITE", caller.sdp("0", "sendonly"), Content_Type="application/sdp")
        assert held.code == 200
        await caller.info("two")
        await asyncio.sleep(0.5)
        await caller.in_dialog("INVITE", caller.sdp("0"), Content_Type="application/sdp")
        await caller.speech(0.2)
        found = await scraped(caller)
        assert found[key.format("count")] == 2
        assert found[key.format("sum")] < 0.45


async def test_what_engines_measure() -> None:
    """Each under its name, families in one piece, whatever labels their members have."""
    overflow = FakeEngine("plain")
    async with running_caller(overflow) as caller:
        steps = [Counter("steps", "Steps of T3", labels={"device": f"cuda:{number}"}) for number in range(2)]
        seconds = Histogram("step_seconds", "Time of a step", [0.001, 0.01], labels={"device": "cuda:0"})
        broken = Gauge("memory_bytes", "Memory", lambda: 1 / 0)
        caller.engine.measures = [steps[0], seconds, broken, steps[1], Gauge("streams", "Utterances", lambda: 3)]
        overflow.measures = [Gauge("streams", "Utterances", lambda: 1), Counter("steps", "Steps of another kind")]
        steps[0].add(5)
        steps[1].add(7)
        seconds.observe(0.002)
        seconds.observe(1)
        text = generate_latest(make_registry(caller.calls, caller.agent.stats)).decode()
        found = samples(text)
        prefix = "chatterline_engine_"
        expected = {
            "ready{engine=fake}": 1,
            "ready{engine=plain}": 1,
            "steps_total{device=cuda:0,engine=fake}": 5,
            "steps_total{device=cuda:1,engine=fake}": 7,
            "steps_total{engine=plain}": 0,
            "step_seconds_bucket{device=cuda:0,engine=fake,le=0.001}": 0,
            "step_seconds_bucket{device=cuda:0,engine=fake,le=0.01}": 1,
            "step_seconds_bucket{device=cuda:0,engine=fake,le=+Inf}": 2,
            "step_seconds_count{device=cuda:0,engine=fake}": 2,
            "step_seconds_sum{device=cuda:0,engine=fake}": 1.002,
            "streams{engine=fake}": 3,
            "streams{engine=plain}": 1,
        }
        ours = {key.removeprefix(prefix): value for key, value in found.items() if key.startswith(prefix)}
        assert math.isnan(ours.pop("memory_bytes{engine=fake}")), "one that cannot be read spoils no other"
        assert ours == pytest.approx(expected)
        described = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE ")]
        assert len(described) == len(set(described))


async def test_the_embedded_engines_own_measures_are_exported() -> None:
    engine = EmbeddedEngine()  # not started: nothing is loaded
    calls = Calls(Config(), CallEngines(engine), lambda peer: "127.0.0.1")
    found = samples(generate_latest(make_registry(calls, SipStats())).decode())
    assert found["chatterline_engine_ready{engine=embedded}"] == 0
    assert found["chatterline_engine_streams{engine=embedded}"] == 0
    assert found["chatterline_engine_streams_limit{engine=embedded}"] == 200
    assert found["chatterline_engine_workers{engine=embedded}"] == 2
    assert found["chatterline_engine_synthesis_seconds_total{engine=embedded}"] == 0


async def test_readiness_overflow_and_waits_are_told_at_once() -> None:
    async with running_caller(FakeEngine("plain")) as caller:
        assert (await scraped(caller))["chatterline_engine_ready{engine=fake}"] == 1
        caller.engine.ready = False
        assert (await scraped(caller))["chatterline_engine_ready{engine=fake}"] == 0
        await caller.call("one")
        found = await scraped(caller)
        assert found["chatterline_calls_overflowed_total{reason=not_ready}"] == 1
        assert found["chatterline_engine_ready{engine=plain}"] == 1
        caller.engine.ready = True
        caller.call_id = "second"
        await caller.call("one")
        caller.engine.busy = True
        await caller.info("two")
        await asyncio.sleep(0.05)
        found = await scraped(caller)
        assert found["chatterline_calls_overflowed_total{reason=not_ready}"] == 1
        assert found["chatterline_speech_waited_total"] == 1
        caller.call_id = "third"
        await caller.call("one")
        assert (await scraped(caller))["chatterline_calls_overflowed_total{reason=busy}"] == 1


async def test_metrics_are_served_over_http() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    async with running_caller() as caller:
        caller.receive(make_request("OPTIONS"))
        server = MetricsServer(MetricsConfig(port=port), make_registry(caller.calls, caller.agent.stats))
        url = f"http://127.0.0.1:{port}/metrics"
        text = await asyncio.to_thread(lambda: urllib.request.urlopen(url, timeout=5).read().decode())
        assert samples(text)["chatterline_sip_requests_total{method=OPTIONS}"] == 1
        assert "process_resident_memory_bytes" in samples(text)
        with pytest.raises(OSError, match="in use"):
            MetricsServer(MetricsConfig(port=port), make_registry(caller.calls, caller.agent.stats))
        server.close()


async def test_port_0_is_off() -> None:
    async with running_caller() as caller:
        MetricsServer(MetricsConfig(), make_registry(caller.calls, caller.agent.stats)).close()
