"""What webhooks count, for Prometheus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from mediaserver.api.webhooks.spool import Spool

DropReason = Literal["too_old", "no_room", "refused", "disk", "not_json"]
"""too_old: [webhooks] retry_hours. no_room: spool_mb. refused: with 410. disk: it could not be written in time."""


@dataclass(slots=True)
class WebhookCounts:
    """Since the start. Written by the event loop."""

    delivered: int = 0
    failed: int = 0
    "Attempts, not events."
    dropped: Counter[DropReason] = field(default_factory=Counter)


class WebhookCollector(Collector):
    def __init__(self, counts: WebhookCounts, spool: Spool) -> None:
        self._counts = counts
        self._spool = spool

    def collect(self) -> Iterator[Metric]:
        """Called by the exporter's thread, which may see a value a moment old."""
        counts = self._counts
        yield CounterMetricFamily("chatterline_webhooks_delivered", "Events delivered by webhook", counts.delivered)
        text = "Attempts to deliver an event that failed"
        yield CounterMetricFamily("chatterline_webhook_attempts_failed", text, counts.failed)
        text = "Events that no webhook will deliver, by reason"
        dropped = CounterMetricFamily("chatterline_webhooks_dropped", text, labels=["reason"])
        for reason, count in counts.dropped.copy().items():
            dropped.add_metric([reason], count)
        yield dropped
        text = "Events that wait in the spool"
        yield GaugeMetricFamily("chatterline_webhooks_waiting", text, self._spool.messages)
        yield GaugeMetricFamily("chatterline_webhook_spool_bytes", "Bytes of those", self._spool.bytes)
