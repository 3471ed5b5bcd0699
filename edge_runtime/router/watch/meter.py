"""The watch's metrics."""

from __future__ import annotations

from dataclasses import dataclass

from edge_runtime.metrics import Metrics
from edge_runtime.router.watch.contract import AuditEnd, EventKind, WatchEvent


@dataclass(frozen=True, slots=True)
class MeteredListener:
    """A `WatchListener` that counts into the daemon's metrics."""

    metrics: Metrics

    def event(self, event: WatchEvent) -> None:
        """See `WatchListener.event`."""
        self.metrics.count("edge_watch_events_total", event.kind.value)
        if event.kind is EventKind.ALARM:
            signal, method = str(event.values["signal"]), str(event.values["method"])
            self.metrics.count("edge_drift_alarms_total", event.subject, signal, method)

    def audited(self, task: str, end: AuditEnd) -> None:
        """See `WatchListener.audited`."""
        self.metrics.count("edge_audits_total", task, end.value)

    def audits_waiting(self, count: int) -> None:
        """See `WatchListener.audits_waiting`."""
        self.metrics.gauge("edge_audits_waiting", value=count)
