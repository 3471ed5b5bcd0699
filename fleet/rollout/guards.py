"""What follows from the evidence: one finding a guard.

Rules
- The box is the unit. Safety guards count boxes that showed their event among those exposed
  (`edge_runtime.stats.exposure`); quality guards compare a box with itself and with a partner
  (`edge_runtime.stats.difference`). Both may be asked after every row.
- FAIL is final for a rollout. A quality guard that never had a usable pair is INSUFFICIENT, and
  so is a safety guard without a box: silence is not health.
- A guard is fed rows in their order and looks at nothing else, so feeding them again gives the
  same finding.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol

from edge_runtime.stats.difference import DifferenceInDifferences
from edge_runtime.stats.exposure import ExposureProcess, harmed_until_alarm
from edge_runtime.stats.verdict import Verdict
from fleet.expr import UnknownValueError, compile_expression
from fleet.rollout.evidence import Evidence, Pair, Sort
from fleet.rollout.plan import Guards, QualityGuard, SafetyGuard
from fleet.rollout.signals import EVENT_NAMES, EVENTS, FIGURE_NAMES, Figures, with_derived
from fleet.rollout.states import Judgement

MAX_NAMED: Final = 20
"""Boxes named in a finding; all of them are in the evidence."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one guard says. `numbers` are for people and pages; `upto` is the last row it saw."""

    guard: str
    sort: Literal["safety", "quality"]
    verdict: Verdict
    reason: str
    numbers: Mapping[str, Any]
    upto: int


class Guard(Protocol):
    """A guard at work."""

    name: str

    @property
    def verdict(self) -> Verdict:
        """The finding's, at less cost."""

    def feed(self, row: Evidence) -> None:
        """Take the next row."""

    def finding(self) -> Finding:
        """What it says now."""


@dataclass(slots=True)
class SafetyRun:
    """One safety guard over the rows of one rollout."""

    name: str
    spec: SafetyGuard
    process: ExposureProcess
    events: dict[str, dict[str, bool]] = field(default_factory=dict)
    strata: dict[str, str] = field(default_factory=dict)
    harmed: list[str] = field(default_factory=list)
    alarm_at: tuple[int, int, int] | None = None  # exposed, harmed, row
    upto: int = 0

    def feed(self, row: Evidence) -> None:
        """Rows of pairs are not its business."""
        self.upto = max(self.upto, row.seq)
        before = self.process.alarmed
        if row.sort is Sort.EXPOSED and row.box not in self.events:
            stratum = str(row.data.get("stratum", ""))
            self.events[row.box] = dict.fromkeys(EVENTS, False)
            self.strata[row.box] = stratum
            self.process.expose(stratum)
        elif row.sort is Sort.EVENT and row.box in self.events:
            self.events[row.box][str(row.data["event"])] = True
            expression = compile_expression(self.spec.event, EVENT_NAMES)
            if row.box not in self.harmed and expression.holds(self.events[row.box]):
                self.harmed.append(row.box)
                self.process.harm(self.strata[row.box])
        if self.process.alarmed and not before:
            self.alarm_at = (self.process.exposed, self.process.harmed, row.seq)

    @property
    def verdict(self) -> Verdict:
        """That of the finding."""
        if self.process.alarmed:
            return Verdict.FAIL
        return Verdict.PASS if self.process.exposed else Verdict.INSUFFICIENT

    def finding(self) -> Finding:
        """FAIL after an alarm, PASS without one, INSUFFICIENT without a box."""
        process = self.process
        numbers: dict[str, Any] = {
            "exposed": process.exposed,
            "harmed": process.harmed,
            "limit": process.p0,
            "level": process.level,
            "evidence": round(math.exp(min(process.peak, 50.0)), 3),
            "needed": round(1 / process.level, 3),
            "boxes": self.harmed[:MAX_NAMED],
            "by_stratum": {
                part: list(counts)
                for part, counts in sorted(process.counts.items(), key=lambda item: item[0] or "")
                if part is not None and counts[1]
            },
        }
        if process.alarmed and self.alarm_at is not None:
            exposed, harmed, row = self.alarm_at
            numbers |= {"alarm_exposed": exposed, "alarm_harmed": harmed, "alarm_row": row}
            reason = (
                f"{harmed} of {exposed} boxes: {self.spec.event}; that more than "
                f"{self.spec.limit:.1%} of boxes do has evidence {numbers['evidence']:.0f} : 1, "
                f"{numbers['needed']:.0f} : 1 is needed"
            )
            return self._finding(Verdict.FAIL, reason, numbers)
        if not process.exposed:
            return self._finding(Verdict.INSUFFICIENT, "no box has begun yet", numbers)
        needed = harmed_until_alarm(process.exposed, process.p0, process.level)
        reason = f"{process.harmed} of {process.exposed} boxes" + (
            f"; {needed} would halt" if needed is not None else "; too few to halt on"
        )
        return self._finding(Verdict.PASS, reason, numbers)

    def _finding(self, verdict: Verdict, reason: str, numbers: Mapping[str, Any]) -> Finding:
        return Finding(self.name, "safety", verdict, reason, numbers, self.upto)


@dataclass(slots=True)
class QualityRun:
    """One quality guard over the rows of one rollout."""

    name: str
    spec: QualityGuard
    test: DifferenceInDifferences
    unusable: int = 0
    values: list[float] = field(default_factory=list)
    upto: int = 0

    def feed(self, row: Evidence) -> None:
        """Only rows of pairs are its business."""
        self.upto = max(self.upto, row.seq)
        if row.sort is Sort.UNPAIRED:
            self.unusable += 1
        if row.sort is not Sort.PAIR:
            return
        values = pair_values(self.spec, Pair.of(row.data))
        if values is None:
            self.unusable += 1
            return
        changed, control = values
        self.test.observe(changed=changed, control=control)
        self.values.append((changed[1] - changed[0]) - (control[1] - control[0]))

    @property
    def verdict(self) -> Verdict:
        """That of the finding."""
        return self.test.verdict

    def finding(self) -> Finding:
        """The verdict of the sequential test."""
        test = self.test
        effect = sum(self.values) / len(self.values) if self.values else None
        spread = None
        if effect is not None and len(self.values) > 1:
            squares = sum((value - effect) ** 2 for value in self.values)
            spread = math.sqrt(squares / (len(self.values) - 1))
        numbers = {
            "pairs": test.pairs,
            "unusable": self.unusable,
            "effect": effect,
            "spread": spread,
            "tolerance": self.spec.tolerance,
            "level": test.fail_level,
            "evidence_harm": round(math.exp(min(test.harm_evidence, 50.0)), 3),
            "evidence_safe": round(math.exp(min(test.safe_evidence, 50.0)), 3),
            "needed": round(1 / test.fail_level, 3),
        }
        return Finding(self.name, "quality", test.verdict, self._reason(effect), numbers, self.upto)

    def _reason(self, effect: float | None) -> str:
        if effect is None:
            return f"no usable pair of boxes yet ({self.unusable} not usable)"
        shown = {
            Verdict.FAIL: "shown to be worse than the tolerance",
            Verdict.PASS: "shown to be within the tolerance",
            Verdict.INSUFFICIENT: "not enough to tell",
        }[self.test.verdict]
        moved = (
            f"{effect:+.4f}" if self.spec.scale == "difference" else f"{math.expm1(effect):+.1%}"
        )
        return (
            f"{self.spec.figure} moved by {moved} (more is better) over {self.test.pairs} pairs, "
            f"tolerance {self.spec.tolerance}: {shown}"
        )


def pair_values(
    spec: QualityGuard, pair: Pair
) -> tuple[tuple[float, float], tuple[float, float]] | None:
    """(before, after) of the changed box and of its partner, so that more is better.

    None where one of the four windows has too little, or no such figure.
    """
    found = [
        _value(spec, window)
        for window in (
            pair.changed_before, pair.changed_after, pair.control_before, pair.control_after
        )
    ]  # fmt: skip
    values = [value for value in found if value is not None]
    if len(values) != len(found):
        return None
    return (values[0], values[1]), (values[2], values[3])


def _value(spec: QualityGuard, window: Figures) -> float | None:
    names = with_derived(window)
    try:
        least = compile_expression(spec.least, FIGURE_NAMES, returns=float).evaluate(names)
        figure = compile_expression(spec.figure, FIGURE_NAMES, returns=float).evaluate(names)
    except UnknownValueError:
        return None
    if least < spec.least_count or not math.isfinite(figure):
        return None
    if spec.scale == "ratio":
        if figure <= 0:
            return None
        figure = math.log(figure)
    return float(figure if spec.better == "higher" else -figure)


def step_of(guard: QualityGuard) -> float:
    """The tolerance in the scale of the test: of shares as it is, of ratios its logarithm."""
    return guard.tolerance if guard.scale == "difference" else -math.log1p(-guard.tolerance)


def runs_of(guards: Guards, strata: Sequence[str]) -> tuple[Guard, ...]:
    """Fresh guards of a plan; `strata` are those of the boxes that take part."""
    found: list[Guard] = [
        SafetyRun(name, spec, ExposureProcess(spec.limit, guards.level(name), tuple(strata)))
        for name, spec in sorted(guards.safety.items())
    ]
    for name, quality in sorted(guards.quality.items()):
        level = guards.level(name)
        test = DifferenceInDifferences(step_of(quality), fail_level=level, pass_level=level)
        found.append(QualityRun(name, quality, test))
    return tuple(found)


def findings(
    guards: Guards, strata: Sequence[str], rows: Iterable[Evidence]
) -> tuple[Finding, ...]:
    """What all guards say of these rows."""
    runs = runs_of(guards, strata)
    for row in rows:
        for run in runs:
            run.feed(row)
    return tuple(run.finding() for run in runs)


def judge(
    guards: Guards, found: Sequence[Finding], wave: int, records: Sequence[int] = ()
) -> Judgement:
    """All findings together, at the gate of `wave` (from 0)."""
    failed = [one for one in found if one.verdict is Verdict.FAIL]
    if failed:
        return Judgement(Verdict.FAIL, _said(failed), tuple(records))
    open_ = [
        one
        for one in found
        if one.verdict is Verdict.INSUFFICIENT
        and not (one.sort == "quality" and wave + 1 < guards.quality[one.guard].from_wave)
    ]
    if open_:
        return Judgement(Verdict.INSUFFICIENT, _said(open_), tuple(records))
    return Judgement(Verdict.PASS, "all guards pass", tuple(records))


def _said(found: Sequence[Finding]) -> str:
    return "; ".join(f"guard {one.guard}: {one.reason}" for one in found)
