"""What telemetry rows add up to: counts, gauges and sketches by series. Pure.

Rules
- Sums of rows are the same in whatever order they are added.
- A series is `metric{label="value",...}` with labels in order. Where rows of one artefact are
  added up, the label `model` is left out: the artefact's digest says it better.
- There are at most `MAX_SERIES` series of a kind; what is beyond is counted, not kept.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from edge_runtime.agent.protocol import Sample, Sketch, TelemetryRow

MAX_SERIES: Final = 4096
BOX: Final = ""
"""The digest of what is the box's own and no artefact's."""

_LABEL = re.compile(r'([a-z][a-z0-9_]*)="([^"]*)"')


def series_key(metric: str, labels: Mapping[str, str]) -> str:
    """The name of a series."""
    if not labels:
        return metric
    pairs = [f'{name}="{labels[name]}"' for name in sorted(labels)]
    return f"{metric}{{{','.join(pairs)}}}"


def parse_key(key: str) -> tuple[str, dict[str, str]]:
    """Metric and labels of a series."""
    metric, _, rest = key.partition("{")
    return metric, dict(_LABEL.findall(rest))


@dataclass
class Gauge:
    """The last values of a gauge in the rows added up; `at_s` is the newest row's end."""

    readings: int
    total: float
    low: float
    high: float
    last: float
    at_s: float

    def merge(self, other: Gauge) -> None:
        """Add another's readings."""
        self.readings += other.readings
        self.total += other.total
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        if (other.at_s, other.last) > (self.at_s, self.last):
            self.last, self.at_s = other.last, other.at_s


@dataclass
class Distribution:
    """A merged sketch: `counts[i]` observations up to `bounds[i]`, the last above all."""

    bounds: list[float]
    counts: list[int]
    total: float

    def merge(self, other: Distribution) -> None:
        """Add another's. With other bounds, its buckets go where their upper bound belongs."""
        last = len(self.bounds)
        for index, count in enumerate(other.counts):
            if other.bounds == self.bounds:
                place = index
            elif index < len(other.bounds):
                place = bisect.bisect_left(self.bounds, other.bounds[index])
            else:
                place = last
            self.counts[place] += count
        self.total += other.total

    def sketch(self, metric: str) -> Sketch:
        """As the protocol's sketch, which knows quantiles."""
        return Sketch(
            metric=metric, bounds=tuple(self.bounds), counts=tuple(self.counts), total=self.total
        )


@dataclass
class Sums:
    """Everything some rows say. `length_ms` is the time they cover, added up."""

    rows: int = 0
    length_ms: int = 0
    dropped_series: int = 0
    counts: dict[str, float] = field(default_factory=dict)
    gauges: dict[str, Gauge] = field(default_factory=dict)
    sketches: dict[str, Distribution] = field(default_factory=dict)

    def merge(self, other: Sums) -> Sums:
        """Add another's, and give self."""
        self.rows += other.rows
        self.length_ms += other.length_ms
        self.dropped_series += other.dropped_series
        for key, value in other.counts.items():
            if self._fits(self.counts, key):
                self.counts[key] = self.counts.get(key, 0.0) + value
        for key, gauge in other.gauges.items():
            if key in self.gauges:
                self.gauges[key].merge(gauge)
            elif self._fits(self.gauges, key):
                self.gauges[key] = Gauge(**vars(gauge))
        for key, found in other.sketches.items():
            if key in self.sketches:
                self.sketches[key].merge(found)
            elif self._fits(self.sketches, key):
                self.sketches[key] = Distribution(
                    list(found.bounds), list(found.counts), found.total
                )
        return self

    def _fits(self, series: Mapping[str, object], key: str) -> bool:
        if key in series or len(series) < MAX_SERIES:
            return True
        self.dropped_series += 1
        return False

    def total(self, metric: str, label: str = "", value: str = "") -> float | None:
        """The sum of a counter's series; None when there is none of the metric at all.

        With `label`, only series with that `value` count; one that ends in `*` is a prefix.
        """
        found = [(parse_key(key)[1], amount) for key, amount in self._of(self.counts, metric)]
        if not found:
            return None
        return float(sum(amount for labels, amount in found if _fits_label(labels, label, value)))

    def distribution(self, metric: str) -> Sketch | None:
        """All series of a histogram as one."""
        merged: Distribution | None = None
        for _, found in self._of(self.sketches, metric):
            if merged is None:
                merged = Distribution(list(found.bounds), list(found.counts), found.total)
            else:
                merged.merge(found)
        return None if merged is None else merged.sketch(metric)

    @staticmethod
    def _of(series: Mapping[str, Any], metric: str) -> Iterable[tuple[str, Any]]:
        start = f"{metric}{{"
        return (
            (key, value) for key, value in series.items() if key == metric or key.startswith(start)
        )

    def document(self) -> dict[str, Any]:
        """As JSON, for the database."""
        return {
            "rows": self.rows,
            "length_ms": self.length_ms,
            "dropped_series": self.dropped_series,
            "counts": self.counts,
            "gauges": {key: vars(gauge) for key, gauge in self.gauges.items()},
            "sketches": {key: vars(found) for key, found in self.sketches.items()},
        }

    @classmethod
    def of_document(cls, document: Mapping[str, Any]) -> Sums:
        """From what `document` gave."""
        return cls(
            document["rows"],
            document["length_ms"],
            document["dropped_series"],
            dict(document["counts"]),
            {key: Gauge(**one) for key, one in document["gauges"].items()},
            {key: Distribution(**one) for key, one in document["sketches"].items()},
        )


def sums_of_row(row: TelemetryRow, at_s: float) -> dict[str, Sums]:
    """What a row says, by the digest of the artefact it is about; `BOX` holds the rest."""
    digests = {name: work.model_digest for name, work in row.models.items()}
    found: dict[str, Sums] = {BOX: Sums(rows=1, length_ms=row.length_ms)}

    def place(item: Sample | Sketch) -> tuple[Sums, str]:
        labels = dict(item.labels)
        digest = digests.get(labels.get("model", ""), BOX)
        if digest != BOX:
            del labels["model"]
        if digest not in found:
            found[digest] = Sums(rows=1, length_ms=row.length_ms)
        return found[digest], series_key(item.metric, labels)

    for sample in row.counts:
        sums, key = place(sample)
        sums.counts[key] = sums.counts.get(key, 0.0) + sample.value
    for sample in row.gauges:
        sums, key = place(sample)
        value = sample.value
        gauge = Gauge(1, value, value, value, value, at_s)
        sums.merge(Sums(gauges={key: gauge}))
    for sketch in row.sketches:
        sums, key = place(sketch)
        made = Distribution(list(sketch.bounds), list(sketch.counts), sketch.total)
        sums.merge(Sums(sketches={key: made}))
    return found


def add_part(total: Sums, digest: str, part: Sums) -> None:
    """Add what one artefact's part says to what the whole box says; rows count once."""
    if digest != BOX:
        part.rows = part.length_ms = 0
    total.merge(part)


def _fits_label(labels: Mapping[str, str], label: str, value: str) -> bool:
    if not label:
        return True
    given = labels.get(label)
    if given is None:
        return False
    return given.startswith(value[:-1]) if value.endswith("*") else given == value
