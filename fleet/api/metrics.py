"""The control host's metrics in Prometheus' text format.

Counts of boxes come from the database at each scrape, so they are the fleet's and not this
process's; counters of ingest are this process's since its start.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from fleet.ingest.stats import MEANINGS, IngestStats
from fleet.registry.summary import Summary

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


def exposition(summary: Summary, open_alerts: int, stats: IngestStats) -> bytes:
    """The text of one scrape."""
    registry = CollectorRegistry()
    registry.register(_Collector(summary, open_alerts, stats))
    return bytes(generate_latest(registry))


class _Collector:
    def __init__(self, summary: Summary, open_alerts: int, stats: IngestStats) -> None:
        self._summary, self._open_alerts, self._stats = summary, open_alerts, stats

    def collect(self) -> Iterator[Metric]:
        """All families."""
        yield from self._boxes()
        yield from self._ingest()

    def _boxes(self) -> Iterator[Metric]:
        summary = self._summary
        health = GaugeMetricFamily("fleet_boxes", "Active boxes by health.", labels=["health"])
        for name, count in summary.health.items():
            health.add_metric([name.value], count)
        yield health
        failures = GaugeMetricFamily(
            "fleet_box_failures", "Boxes that gave something up, by what it left.", labels=["kind"]
        )
        for kind, count in summary.failures.items():
            failures.add_metric([kind], count)
        yield failures
        states = GaugeMetricFamily(
            "fleet_box_items", "Boxes by what they have in which state.",
            labels=["kind", "name", "state", "version"],
        )  # fmt: skip
        for item in summary.items:
            labels = [item.kind, item.name, item.state, item.version or ""]
            states.add_metric(labels, item.boxes)
        yield states
        yield GaugeMetricFamily(
            "fleet_enrolments_pending", "Boxes that wait to be let in.", value=summary.pending
        )
        yield GaugeMetricFamily("fleet_alerts_open", "Alerts that are out.", self._open_alerts)

    def _ingest(self) -> Iterator[Metric]:
        for name, meaning in MEANINGS.items():
            yield CounterMetricFamily(
                f"fleet_ingest_{name}", meaning, value=self._stats.counts[name]
            )
        dropped = CounterMetricFamily(
            "fleet_ingest_dropped", "Messages thrown away, by reason.", labels=["reason"]
        )
        for reason, count in sorted(self._stats.dropped().items()):
            dropped.add_metric([reason], count)
        yield dropped
        yield GaugeMetricFamily(
            "fleet_ingest_last_commit_seconds", "When the last one was, in UTC epoch seconds.",
            value=self._stats.last_commit_s,
        )  # fmt: skip
