"""The health of what is on probation, counted from the daemon's own metrics.

Requests and errors are the model's, or for settings and daemon releases the box's; escalations
are the box's, because a route may ask several models. What was there before is the measure.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from edge_runtime.agent.decide import HealthFacts
from edge_runtime.agent.telemetry import Snapshot

FAILED: Final = tuple(str(status) for status in (500, 502, 504))


@dataclass(frozen=True, slots=True)
class _Watched:
    labels: dict[str, str | tuple[str, ...]]
    begun: Snapshot
    before: Snapshot


@dataclass(slots=True)
class HealthWatch:
    """Counts since each item's activation; `origin` is where the counts before it begin."""

    origin: Snapshot = field(default_factory=Snapshot)
    golden: dict[str, bool] = field(default_factory=dict)
    _watched: dict[str, _Watched] = field(default_factory=dict)

    def begin(self, key: str, model: str | None, now: Snapshot) -> None:
        """Item `key` was activated (or is watched again) now; as `model`, or for all of them."""
        labels: dict[str, str | tuple[str, ...]] = {} if model is None else {"model": model}
        self._watched[key] = _Watched(labels, now, self.origin)
        self.golden.pop(key, None)
        self.origin = now

    def end(self, key: str) -> None:
        """It is not on probation any more."""
        self._watched.pop(key, None)
        self.golden.pop(key, None)

    def watches(self, key: str) -> bool:
        """Whether counts of this item are kept."""
        return key in self._watched

    def facts(self, key: str, now: Snapshot, *, engine_failed: bool) -> HealthFacts:
        """The counts so far; nothing when the item is not watched."""
        watched = self._watched.get(key)
        if watched is None:
            return HealthFacts()
        begun = watched.begun

        def since(metric: str, **labels: str | tuple[str, ...]) -> int:
            return int(now.total(metric, **labels) - begun.total(metric, **labels))

        def earlier(metric: str) -> int:
            return int(begun.total(metric) - watched.before.total(metric))

        labels = watched.labels
        return HealthFacts(
            requests=since("edge_http_requests_total", **labels),
            errors=since("edge_http_requests_total", **labels, status=FAILED),
            routed=since("edge_decisions_total"),
            escalated=since("edge_escalations_total"),
            before_routed=earlier("edge_decisions_total"),
            before_escalated=earlier("edge_escalations_total"),
            engine_failures=int(engine_failed),
            golden_ok=self.golden.get(key),
        )
