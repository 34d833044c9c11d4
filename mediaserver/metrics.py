"""Prometheus metrics: read from the counters that the parts keep anyway, at the time of a scrape."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator

import structlog
from prometheus_client import CollectorRegistry, disable_created_metrics, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from mediaserver.call.counts import leg_counts
from mediaserver.calls import Calls
from mediaserver.config import MetricsConfig
from mediaserver.rtp.pacer import LATENESS_BOUNDS
from sip.stats import SipStats
from tts_engine.engine import Engine
from tts_engine.measures import Counter as CounterMeasure
from tts_engine.measures import Gauge, Histogram, Measure

_log = structlog.get_logger("metrics")

_Labelled = tuple[Measure, dict[str, str]]
"A measure and all its labels."

_SUMS = {
    "rtp_packets_sent": "RTP packets sent",
    "rtp_send_errors": "RTP packets that the socket refused",
    "rtp_packets_received": "RTP packets taken",
    "rtp_packets_lost": "RTP packets that never came",
    "rtp_strangers": "Packets on media ports from addresses that a call does not listen to",
    "rtp_malformed": "Datagrams on RTP ports that were no RTP",
    "rtp_oversized": "Datagrams on RTP ports that were longer than any packet of audio",
    "rtp_wrong_type": "RTP packets of a payload type that was not agreed on",
    "rtp_overflowed": "Datagrams that came faster than the sockets had room for",
    "rtp_ssrc_collisions": "Streams that came with our own SSRC",
    "rtp_underruns": "Gaps in the middle of an utterance",
    "rtp_underrun_frames": "Frames without speech sent in those gaps",
    "rtp_inbound_late": "Packets that came too late for the jitter buffer, where somebody listens",
    "rtp_inbound_concealed": "Frames of received audio that were made up, where somebody listens",
    "rtcp_received": "RTCP packets taken",
    "rtcp_malformed": "Of them, those that were not valid",
    "rtcp_strangers": "Of them, those of somebody who is not of the call",
    "rtcp_refused": "Of them, those that came too often to be read",
    "dtmf_malformed": "Telephone-event packets that were no digit",
    "dtmf_too_fast": "Digits that came faster than anybody presses them",
    "dtmf_received": "Digits that callers pressed",
    "dtmf_sent": "Digits sent to callers",
    "dtmf_failed": "Digits that a peer refused by INFO",
    "interruptions_speech": "Speech that callers interrupted by speaking",
    "interruptions_digit": "Speech that callers interrupted by a digit",
    "speech_utterances": "Texts taken to be spoken",
    "speech_played": "Utterances played to their end",
    "speech_cleared": "Utterances cleared before their end",
    "speech_failed": "Utterances that the engine failed on",
    "speech_unspeakable": "Texts with nothing speakable in them",
    "speech_waited": "Utterances that the engine had no room for at first",
    "sounds_failed": "Recorded sounds that an error ended early",
    "underruns_engine": "Underruns for want of audio from the engine",
    "underruns_engine_busy": "Of those, while the engine had no room for the text",
    "underruns_event_loop": "Underruns because the event loop was late with audio that was there",
    "underruns_sound": "Underruns for want of audio from the source of a recorded sound",
}
"Keys of leg_counts()."

_SIP = {
    "datagrams_malformed": "Datagrams that were no SIP",
    "datagrams_forbidden": "Datagrams from addresses that are not allowed",
    "datagrams_unmatched": "Responses and ACKs that belong to nothing",
    "responses_received": "Responses received",
    "accepted_retransmissions": "200s sent again for want of an ACK",
    "acks_missing": "Calls given up for want of an ACK",
    "send_errors": "Datagrams that the SIP socket refused",
}


class _ServerCollector(Collector):
    def __init__(self, calls: Calls, sip: SipStats) -> None:
        self._calls = calls
        self._sip = sip

    def collect(self) -> Iterator[Metric]:
        """All families; called by the exporter's thread, which may see a counter a moment old."""
        yield from self._collect_calls()
        yield from self._collect_sip()
        yield from self._collect_pacer()
        yield from self._collect_engines()

    def _collect_calls(self) -> Iterator[Metric]:
        calls = self._calls
        yield GaugeMetricFamily("chatterline_calls", "Calls now", len(calls.legs))
        yield CounterMetricFamily("chatterline_calls_offered", "INVITEs for new calls", calls.totals.offered)
        yield _labelled("chatterline_calls_refused", "Calls refused", "code", calls.totals.refused)
        yield _labelled("chatterline_calls_ended", "Calls ended", "reason", calls.totals.ended)
        yield CounterMetricFamily("chatterline_calls_placed", "INVITEs of ours for new calls", calls.totals.placed)
        text = "Of them, those that were answered"
        yield CounterMetricFamily("chatterline_calls_placed_answered", text, calls.totals.placed_answered)
        text = "Of them, those that were not, by the status code"
        yield _labelled("chatterline_calls_placed_failed", text, "code", calls.totals.placed_failed)
        text = "Calls given to the overflow engine, by what the configured one was"
        yield _labelled("chatterline_calls_overflowed", text, "reason", calls.engines.overflowed)
        sums = Counter(calls.totals.sums)
        for leg in calls.legs:
            sums.update(leg_counts(leg))
        for key, text in _SUMS.items():
            yield CounterMetricFamily(f"chatterline_{key}", text, sums[key])

    def _collect_sip(self) -> Iterator[Metric]:
        sip = self._sip
        yield _labelled("chatterline_sip_requests", "SIP requests received", "method", sip.requests_received)
        yield _labelled("chatterline_sip_responses_sent", "SIP responses sent", "code", sip.responses_sent)
        yield _labelled("chatterline_sip_requests_sent", "SIP requests sent", "method", sip.requests_sent)
        for key, text in _SIP.items():
            yield CounterMetricFamily(f"chatterline_sip_{key}", text, getattr(sip, key))

    def _collect_pacer(self) -> Iterator[Metric]:
        metrics = self._calls.pacer.metrics
        text = "How late the pacer woke, in seconds"
        total, buckets = 0, []
        for bound, count in zip([*map(str, LATENESS_BOUNDS), "+Inf"], list(metrics.lateness), strict=True):
            total += count
            buckets.append((bound, float(total)))
        # No sum: it is not kept.
        yield HistogramMetricFamily("chatterline_pacer_lateness_seconds", text, buckets=buckets, sum_value=None)
        text = "Share of the last second that the media thread was at work"
        yield GaugeMetricFamily("chatterline_pacer_load", text, self._calls.pacer.load)
        text = "Packets not sent because they were due for too long"
        yield CounterMetricFamily("chatterline_pacer_skipped", text, metrics.skipped_intervals)
        text = "Calls taken off the pacer because sending failed"
        yield CounterMetricFamily("chatterline_pacer_failures", text, metrics.failures)

    def _collect_engines(self) -> Iterator[Metric]:
        engines = self._calls.engines
        ready = GaugeMetricFamily("chatterline_engine_ready", "Whether the engine takes requests", labels=["engine"])
        for engine in engines.all:
            ready.add_metric([engine.name], engine.ready)
        yield ready
        yield from _families("chatterline_engine_", [pair for engine in engines.all for pair in _measures_of(engine)])
        measures = [*engines.speech_measures, *self._calls.quality.measures]
        yield from _families("chatterline_", [(measure, dict(measure.labels)) for measure in measures])


def _measures_of(engine: Engine) -> Iterator[_Labelled]:
    for measure in engine.measures:
        yield measure, {"engine": engine.name, **measure.labels}


def _families(prefix: str, labelled: Iterable[_Labelled]) -> Iterator[Metric]:
    """Measures of one name and kind together, as the format demands."""
    families: dict[tuple[str, str], Metric] = {}
    for measure, labels in labelled:
        name, kind = prefix + measure.name, type(measure).__name__.lower()
        family = families.setdefault((name, kind), Metric(name, measure.text, kind))
        for suffix, extra, value in _samples(measure):
            family.add_sample(name + suffix, {**labels, **extra}, value)
    yield from families.values()


def _samples(measure: Measure) -> Iterator[tuple[str, dict[str, str], float]]:
    """What is exported of a measure: (suffix of the name, further labels, value)."""
    if isinstance(measure, Histogram):
        counts = measure.cumulative()
        for bound, count in zip([*map(str, measure.bounds), "+Inf"], counts, strict=True):
            yield "_bucket", {"le": bound}, count
        yield "_count", {}, counts[-1]
        yield "_sum", {}, measure.sum
    else:
        yield "_total" if isinstance(measure, CounterMeasure) else "", {}, _value(measure)


def _value(measure: CounterMeasure | Gauge) -> float:
    try:
        return measure.value
    except Exception:  # noqa: BLE001  an engine's own code: after a GPU fault a reading may raise anything
        _log.warning("measure_unreadable", measure=measure.name)
        return math.nan


def _labelled(name: str, text: str, label: str, counts: Counter[str] | Counter[int]) -> Metric:
    family = CounterMetricFamily(name, text, labels=[label])
    for key, count in list(counts.items()):
        family.add_metric([str(key)], count)
    return family


def make_registry(calls: Calls, sip: SipStats) -> CollectorRegistry:
    """A registry of its own: nothing of the process's default one."""
    disable_created_metrics()  # type: ignore[no-untyped-call]  # the library leaves it untyped
    registry = CollectorRegistry()
    registry.register(_ServerCollector(calls, sip))
    ProcessCollector(registry=registry)
    return registry


class MetricsServer:
    """Serves /metrics from a thread of its own; nothing at port 0."""

    def __init__(self, config: MetricsConfig, registry: CollectorRegistry) -> None:
        """Raises OSError if the address cannot be bound."""
        self._server = None
        if config.port:
            self._server, self._thread = start_http_server(config.port, config.host, registry)

    def close(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()
