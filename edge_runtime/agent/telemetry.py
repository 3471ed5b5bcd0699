"""The daemon's metrics as rows: what changed since the row before.

Rules
- A row is the difference of two snapshots of the registry, so no count is told twice and none is
  lost between them.
- A row ends when a model is swapped: within one, a model's name means one digest.
- Series whose labels could carry text are left out (see the protocol's alphabet).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from prometheus_client import CollectorRegistry
from pydantic import ValidationError

from edge_runtime.agent.protocol import CostReport, ModelAtWork, Sample, Sketch, TelemetryRow
from edge_runtime.core import ModelInfo
from edge_runtime.metric_specs import SPECS, MetricKind, MetricSpec

STREAM: Final = "serve"
MAX_SERIES: Final = 2048
_LEFT_OUT = frozenset({"edge_model_info"})  # a row's `models` say it better

Labels = tuple[tuple[str, str], ...]
Key = tuple[str, Labels]


@dataclass(frozen=True, slots=True)
class Buckets:
    """A histogram since the daemon started: observations by bucket, and their sum."""

    counts: tuple[int, ...]
    total: float


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Every series of the registry at one moment."""

    counters: Mapping[Key, float] = field(default_factory=dict)
    gauges: Mapping[Key, float] = field(default_factory=dict)
    histograms: Mapping[Key, Buckets] = field(default_factory=dict)

    def total(self, metric: str, **labels: str | Iterable[str]) -> float:
        """The sum of a counter over series whose labels have one of these values."""
        wanted = {name: {v} if isinstance(v, str) else set(v) for name, v in labels.items()}
        return sum(
            value
            for (name, pairs), value in self.counters.items()
            if name == metric
            and all(dict(pairs).get(label) in values for label, values in wanted.items())
        )


def take_snapshot(registry: CollectorRegistry) -> Snapshot:
    """Read the registry. Costs about a millisecond."""
    counters: dict[Key, float] = {}
    gauges: dict[Key, float] = {}
    cumulative: dict[Key, list[int]] = {}
    totals: dict[Key, float] = {}
    for family in registry.collect():
        for sample in family.samples:
            spec = _SPEC_OF_SAMPLE.get(sample.name)
            if spec is None:
                continue
            pairs = tuple(sorted((k, v) for k, v in sample.labels.items() if k != "le"))
            key = (spec.name, pairs)
            if spec.kind is MetricKind.COUNTER:
                counters[key] = sample.value
            elif spec.kind is MetricKind.GAUGE:
                gauges[key] = sample.value
            elif sample.name.endswith("_bucket"):
                cumulative.setdefault(key, []).append(int(sample.value))
            elif sample.name.endswith("_sum"):
                totals[key] = sample.value
    histograms = {key: Buckets(_apart(counts), totals[key]) for key, counts in cumulative.items()}
    return Snapshot(counters, gauges, histograms)


def row_between(
    before: Snapshot,
    after: Snapshot,
    *,
    seq: int,
    uptime_s: float,
    length_s: float,
    clock_s: int,
    models: Iterable[ModelInfo] = (),
    cost: CostReport | None = None,
) -> TelemetryRow:
    """What happened between two snapshots. Pure. Series that did not move are left out."""
    counts = []
    for key, value in after.counters.items():
        increase = value - before.counters.get(key, 0.0)
        if increase > 0 and (sample := _sample(key, increase)) is not None:
            counts.append(sample)
    gauges = [_sample(key, value) for key, value in after.gauges.items()]
    sketches = [
        _sketch(key, buckets, before.histograms.get(key))
        for key, buckets in after.histograms.items()
    ]
    return TelemetryRow(
        seq=seq,
        uptime_ms=int(uptime_s * 1000),
        length_ms=max(0, int(length_s * 1000)),
        clock_s=clock_s,
        models={
            info.name: ModelAtWork(
                version=info.version,
                bundle_digest=info.bundle_digest,
                model_digest=info.model_digest,
            )
            for info in models
        },
        counts=tuple(counts[:MAX_SERIES]),
        gauges=tuple(gauge for gauge in gauges if gauge is not None)[:MAX_SERIES],
        sketches=tuple(sketch for sketch in sketches if sketch is not None)[:MAX_SERIES],
        cost=cost,
    )


@dataclass(slots=True)
class Collector:
    """Makes rows of one boot, one after another. `uptime_s` is the daemon's, `clock_s` UTC."""

    registry: CollectorRegistry
    models: Callable[[], Iterable[ModelInfo]]
    uptime_s: Callable[[], float]
    clock_s: Callable[[], int]
    _seq: int = 0
    _before: Snapshot = field(default_factory=Snapshot)
    _since_s: float | None = None

    def cut(
        self, models: Iterable[ModelInfo] | None = None, cost: CostReport | None = None
    ) -> TelemetryRow:
        """End the row that is open and begin the next.

        `models` are those that were at work in it, where that is not what is active now. `cost`
        is what the ledger booked since it was last asked.
        """
        now_s = self.uptime_s()
        after = take_snapshot(self.registry)
        self._seq += 1
        row = row_between(
            self._before,
            after,
            seq=self._seq,
            uptime_s=now_s,
            length_s=now_s - (self._since_s or 0.0),
            clock_s=self.clock_s(),
            models=self.models() if models is None else models,
            cost=cost,
        )
        self._before, self._since_s = after, now_s
        return row


def _apart(cumulative: list[int]) -> tuple[int, ...]:
    return tuple(
        count - before for count, before in zip(cumulative, [0, *cumulative[:-1]], strict=True)
    )


def _sample(key: Key, value: float) -> Sample | None:
    name, pairs = key
    if name in _LEFT_OUT:
        return None
    try:
        return Sample(metric=name, labels=dict(pairs), value=value)
    except ValidationError:
        return None  # a label that is not from a closed set stays on the box


def _sketch(key: Key, after: Buckets, before: Buckets | None) -> Sketch | None:
    counts = after.counts
    if before is not None:
        counts = tuple(now - then for now, then in zip(counts, before.counts, strict=True))
    if not any(counts):
        return None
    name, pairs = key
    try:
        return Sketch(
            metric=name,
            labels=dict(pairs),
            bounds=tuple(float(bound) for bound in _BOUNDS[name]),
            counts=counts,
            total=after.total - (0.0 if before is None else before.total),
        )
    except ValidationError:
        return None


def _sample_names(spec: MetricSpec) -> tuple[str, ...]:
    if spec.kind is MetricKind.HISTOGRAM:
        return (f"{spec.name}_bucket", f"{spec.name}_sum")
    return (spec.name,)


_SPEC_OF_SAMPLE = {name: spec for spec in SPECS for name in _sample_names(spec)}
_BOUNDS = {spec.name: spec.buckets for spec in SPECS}
