"""Counts by task, language, length and tenant: where is the model weak? Pure.

Rules
- Each dimension has at most `max_values` values; the ones that come later count as `(other)`,
  so the sums of a dimension are always those of the whole.
- Errors are those that audits found among kept answers, against the frontier: a frontier that is
  wrong itself shows as an error here.
- Intervals are two-sided 95 %, exact (Clopper and Pearson), each for itself: of twenty slices one
  is outside its interval by chance.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from edge_runtime.router.watch.contract import Slice, SliceRow
from edge_runtime.router.watch.language import language_of
from edge_runtime.stats.clopper_pearson import lower_bound, upper_bound

OTHER = "(other)"
DIMENSIONS = ("task", "language", "length", "tenant")
_TAIL = 0.025
_LENGTHS = (16, 64, 256, 1024, 4096)


@dataclass(slots=True)
class Counts:
    """Of one slice: requests, those not kept, audits, and audits that found an error."""

    requests: int = 0
    escalated: int = 0
    audited: int = 0
    wrong: int = 0


@dataclass(frozen=True, slots=True)
class Labels:
    """One value for each of `DIMENSIONS`."""

    task: str
    language: str
    length: str
    tenant: str


def labels_of(where: Slice) -> Labels:
    """The slice a request is counted in. Costs a look at the first 400 characters."""
    return Labels(
        where.task or "(none)",
        language_of(where.text, where.language),
        length_bucket(where.prompt_tokens),
        where.tenant or "(none)",
    )


def length_bucket(tokens: int) -> str:
    """`1-16`, `17-64`, ... and `4097+`."""
    start = 1
    for end in _LENGTHS:
        if tokens <= end:
            return f"{start}-{end}"
        start = end + 1
    return f"{start}+"


@dataclass(slots=True)
class Slices:
    """The counters; `counts` [dimension][value] is the whole state."""

    max_values: int
    counts: dict[str, dict[str, Counts]] = field(
        default_factory=lambda: {name: {} for name in DIMENSIONS}
    )

    def decided(self, labels: Labels, *, escalated: bool) -> None:
        """One request was decided."""
        for counts in self._of(labels):
            counts.requests += 1
            counts.escalated += escalated

    def audited(self, labels: Labels, *, wrong: bool) -> None:
        """One kept answer was held against the frontier's."""
        for counts in self._of(labels):
            counts.audited += 1
            counts.wrong += wrong

    def rows(self) -> tuple[SliceRow, ...]:
        """The report: by dimension, the largest slices first."""
        return tuple(
            _row(dimension, value, counts)
            for dimension in DIMENSIONS
            for value, counts in sorted(
                self.counts[dimension].items(), key=lambda one: (-one[1].requests, one[0])
            )
        )

    def _of(self, labels: Labels) -> list[Counts]:
        found = []
        for dimension in DIMENSIONS:
            values = self.counts[dimension]
            value = getattr(labels, dimension)
            if value not in values and len(values) >= self.max_values:
                value = OTHER
            found.append(values.setdefault(value, Counts()))
        return found


def interval(k: int, n: int) -> tuple[float, float] | None:
    """The exact two-sided 95 % interval of a rate; None without observations."""
    if not n:
        return None
    return lower_bound(k, n, _TAIL), upper_bound(k, n, _TAIL)


def _row(dimension: str, value: str, counts: Counts) -> SliceRow:
    return SliceRow(
        dimension,
        value,
        counts.requests,
        counts.escalated,
        counts.escalated / counts.requests if counts.requests else None,
        interval(counts.escalated, counts.requests),
        counts.audited,
        counts.wrong,
        counts.wrong / counts.audited if counts.audited else None,
        interval(counts.wrong, counts.audited),
    )
