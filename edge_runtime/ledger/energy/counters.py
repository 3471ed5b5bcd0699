"""Energy counters as values: what a reading means and how two of them differ. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Counter:
    """One hardware counter's state: microjoules, and the value after which it starts at 0.

    `range_uj` None: it does not wrap in practice, so a smaller value means it was reset.
    """

    energy_uj: int
    range_uj: int | None = None


@dataclass(frozen=True, slots=True)
class Delta:
    """Energy between two readings. `gaps` names counters whose part is not known: they were
    reset, or were absent from one of the two readings, so the sum is a lower bound.
    """

    energy_uj: int
    gaps: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Unavailable:
    """There is no such counter to read here, and what would change that."""

    reason: str


class EnergyReader(Protocol):
    """Reads the counters of one kind of hardware."""

    def read(self) -> Mapping[str, Counter] | Unavailable:
        """Every counter's state now, by name. Costs a file read or driver call a counter."""
        ...


def difference(before: Mapping[str, Counter], after: Mapping[str, Counter]) -> Delta:
    """Energy used between two readings of the same reader.

    A counter that went down by its range's end wrapped once; more than one wrap cannot be
    seen, so read more often than `longest_gap_s`.
    """
    total = 0
    gaps = sorted(set(before) ^ set(after))
    for name in sorted(set(before) & set(after)):
        first, last = before[name], after[name]
        step = last.energy_uj - first.energy_uj
        if step < 0:
            if last.range_uj is None or first.energy_uj > last.range_uj:
                gaps.append(name)
                continue
            step += last.range_uj
        total += step
    return Delta(total, tuple(gaps))


def longest_gap_s(counters: Mapping[str, Counter], watts: float) -> float:
    """Seconds between readings within which no counter can wrap twice at `watts` each."""
    ranges = [one.range_uj for one in counters.values() if one.range_uj is not None]
    return min(ranges) / 1e6 / watts if ranges else float("inf")
