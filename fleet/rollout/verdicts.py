"""Verdicts as they are stored, told to a person, and tried again under another rule. Pure.

Rules
- A record holds the rule as it was, the number of the last row it rests on, a digest of all rows
  up to it, and the program's version: enough to reach it again or to show that something differs.
- A replay reads rows and writes nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edge_runtime import __version__
from edge_runtime.bundle.canonical import canonical_bytes
from edge_runtime.errors import UsageError
from edge_runtime.stats.verdict import Verdict
from fleet.rollout.evidence import Evidence, Sort
from fleet.rollout.guards import Finding, findings, runs_of
from fleet.rollout.plan import Guards


@dataclass(frozen=True, slots=True)
class Record:
    """One stored verdict. `id` is 0 until it is stored."""

    guard: str
    wave: int
    at_s: float
    verdict: Verdict
    reason: str
    numbers: Mapping[str, Any]
    rule: Mapping[str, Any]
    upto: int
    rows_sha256: str
    program: str = __version__
    id: int = 0


class Rows:
    """A running digest of rows of evidence, in their order."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self.last = 0

    def add(self, row: Evidence) -> None:
        """Take the next row."""
        self._digest.update(canonical_bytes(row_document(row)))
        self.last = row.seq

    def sha256(self) -> str:
        """Of all rows so far."""
        return self._digest.hexdigest()


def row_document(row: Evidence) -> dict[str, Any]:
    """A row as JSON."""
    return {
        "seq": row.seq,
        "sort": row.sort.value,
        "box": row.box,
        "wave": row.wave,
        "at_s": row.at_s,
        "data": dict(row.data),
    }


def rule_of(guards: Guards, name: str, strata: Sequence[str]) -> dict[str, Any]:
    """A guard as it was applied."""
    spec = guards.safety.get(name) or guards.quality[name]
    rule = spec.model_dump(mode="json") | {"level": guards.level(name)}
    return rule | ({"strata": list(strata)} if name in guards.safety else {})


def record_of(
    finding: Finding,
    guards: Guards,
    strata: Sequence[str],
    *,
    wave: int,
    at_s: float,
    rows_sha256: str,
) -> Record:
    """A finding, ready to be stored."""
    return Record(
        guard=finding.guard,
        wave=wave,
        at_s=at_s,
        verdict=finding.verdict,
        reason=finding.reason,
        numbers=finding.numbers,
        rule=rule_of(guards, finding.guard, strata),
        upto=finding.upto,
        rows_sha256=rows_sha256,
    )


@dataclass(frozen=True, slots=True)
class Turn:
    """A guard changed its mind at a row."""

    guard: str
    verdict: Verdict
    reason: str
    seq: int
    at_s: float
    exposed: int
    """Boxes that had the change by then."""


def replay(guards: Guards, strata: Sequence[str], rows: Iterable[Evidence]) -> tuple[Turn, ...]:
    """Every change of a verdict when these guards look at these rows one by one."""
    runs = runs_of(guards, strata)
    before: dict[str, Verdict] = {run.finding().guard: run.finding().verdict for run in runs}
    turns, boxes = [], set()
    for row in rows:
        if row.sort is Sort.EXPOSED:
            boxes.add(row.box)
        for run in runs:
            run.feed(row)
            if run.verdict is not before[run.name]:
                found = run.finding()
                before[run.name] = found.verdict
                turns.append(
                    Turn(run.name, found.verdict, found.reason, row.seq, row.at_s, len(boxes))
                )
    return tuple(turns)


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a rollout stands where it does."""

    record: Record
    reached_again: bool
    """Whether the same rule, on the stored rows, gives the same verdict and digest."""
    rows: tuple[Evidence, ...]
    """The rows of boxes that the finding names, for reading."""


def explain(
    guards: Guards, strata: Sequence[str], record: Record, rows: Iterable[Evidence]
) -> Explanation:
    """Check a record against the stored rows, and pick those that tell the story."""
    digest, used = Rows(), []
    for row in rows:
        if row.seq <= record.upto:
            digest.add(row)
            used.append(row)
    if not any(record.guard in part for part in (guards.safety, guards.quality)):
        raise UsageError(f"the plan has no guard {record.guard}", code="not_found", status=404)
    again = next(one for one in findings(guards, strata, used) if one.guard == record.guard)
    named = set(record.numbers.get("boxes", ()))
    return Explanation(
        record,
        again.verdict is record.verdict and digest.sha256() == record.rows_sha256,
        tuple(row for row in used if row.box in named and row.sort is Sort.EVENT),
    )
