"""What the fleet is told of a box's ledger: increments by endpoint, owner and tier, and budgets.

Rules
- The ledger is read from a mark. The mark moves when the row that holds what was read is on the
  disk, in the spool's own transaction: a crash tells nothing twice and leaves nothing out.
- Without a mark, as when a box joins, what was booked before is not told.
- The number of lines is bounded; what is left over is summed up by tier.
- A ledger that cannot be read costs a row its cost, never the row. The next one has both.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import structlog
from pydantic import TypeAdapter, ValidationError

from edge_runtime.agent.protocol import OTHER, BudgetState, CostLine, CostReport
from edge_runtime.agent.protocol.cost import CostName
from edge_runtime.errors import EdgeError
from edge_runtime.ledger.budget import Limit, Usage, Window, window_of
from edge_runtime.ledger.budget_sql import usage_of
from edge_runtime.ledger.database import open_reader
from edge_runtime.ledger.since import NAMES, Booked, Group, Mark, booked_since, last_booked

log: Final = structlog.get_logger("edge_runtime.agent")

TOP_LINES: Final = 40
TOP_BUDGETS: Final = 40
READ_AT_ONCE: Final = 20_000
_ATTEMPTS, _OUTCOMES, _CORRECTIONS = "ledger_attempts", "ledger_outcomes", "ledger_corrections"
_NAME = TypeAdapter(CostName)


@dataclass(frozen=True, slots=True)
class Taken:
    """What to tell, the marks to keep with it, and whom to tell that they were kept."""

    report: CostReport | None
    marks: dict[str, int]
    stored: Callable[[], None]


@dataclass(slots=True)
class Costs:
    """Reads one ledger. `take` blocks on the disk: milliseconds, or some 100 after a pause."""

    path: Path
    currency: str
    limits: tuple[Limit, ...]
    now_us: Callable[[], int]
    mark: Mark
    _told: tuple[BudgetState, ...] | None = field(default=None, init=False)

    @classmethod
    def begin(
        cls,
        path: Path,
        currency: str,
        limits: Iterable[Limit],
        now_us: Callable[[], int],
        marks: Mapping[str, int],
    ) -> Costs:
        """From `marks` on, or from now on where there are none. Raises `EdgeError`."""
        if _ATTEMPTS in marks:
            mark = Mark(marks[_ATTEMPTS], marks.get(_OUTCOMES, 0), marks.get(_CORRECTIONS, 0))
        else:
            with open_reader(path) as reader:
                mark = last_booked(reader)
        return cls(path, currency, tuple(limits), now_us, mark)

    def limit(self, limits: Iterable[Limit]) -> None:
        """Tell of these budgets from now on."""
        self.limits = tuple(limits)

    def take(self) -> Taken | None:
        """What was booked since the mark; None when the ledger cannot be read now."""
        try:
            with open_reader(self.path) as reader:
                mark, found = booked_since(reader, self._mark(reader), limit=READ_AT_ONCE)
                budgets = self._budgets(reader)
            report = None
            if found or budgets != self._told:
                report = CostReport(currency=self.currency, lines=lines_of(found), budgets=budgets)
        except (EdgeError, sqlite3.Error, ValidationError) as error:
            log.warning("cost not told", action="cost_unread", reason=str(error))
            return None

        def stored() -> None:
            self.mark, self._told = mark, budgets

        marks = {
            _ATTEMPTS: mark.attempts,
            _OUTCOMES: mark.outcomes,
            _CORRECTIONS: mark.corrections,
        }
        return Taken(report, marks, stored)

    def _mark(self, reader: sqlite3.Connection) -> Mark:
        """The mark; the beginning when this is another ledger than the one it is of."""
        end = last_booked(reader)
        behind = (
            end.attempts < self.mark.attempts
            or end.outcomes < self.mark.outcomes
            or end.corrections < self.mark.corrections
        )
        return Mark() if behind else self.mark

    def _budgets(self, reader: sqlite3.Connection) -> tuple[BudgetState, ...]:
        at_us = self.now_us()
        windows = {limit: window_of(limit.scope, limit.period, at_us) for limit in self.limits}
        return budgets_of(windows, usage_of(reader, set(windows.values())))


def lines_of(found: Mapping[Group, Booked], top: int = TOP_LINES) -> tuple[CostLine, ...]:
    """The `top` groups that cost most, and the rest by tier under `OTHER`. Pure.

    A name that could carry text is `OTHER` as well.
    """
    named: dict[Group, Booked] = {}
    for group, sums in found.items():
        safe = Group(_safe(group.endpoint), _safe(group.tenant), group.tier)
        named[safe] = named.get(safe, Booked()) + sums
    order = sorted(
        named, key=lambda group: (-named[group].cost_nano, -named[group].requests, group)
    )
    kept = {group: named[group] for group in order[:top]}
    for group in order[top:]:
        rest = Group(OTHER, OTHER, group.tier)
        kept[rest] = kept.get(rest, Booked()) + named[group]
    return tuple(_line(group, sums) for group, sums in kept.items())


def _line(group: Group, sums: Booked) -> CostLine:
    numbers: dict[str, Any] = {name: getattr(sums, name) for name in NAMES}
    return CostLine(
        endpoint=group.endpoint,
        owner=group.tenant,
        tier=group.tier,
        **numbers,
    )


def _safe(name: str) -> str:
    try:
        return _NAME.validate_python(name)
    except ValidationError:
        return OTHER


def budgets_of(
    windows: Mapping[Limit, Window], usage: Mapping[Window, Usage], top: int = TOP_BUDGETS
) -> tuple[BudgetState, ...]:
    """Limits with what is used of them, the fullest first and at most `top`. Pure."""
    found = []
    for limit, window in windows.items():
        used = usage.get(window, Usage())
        if _safe(limit.scope) == limit.scope:
            found.append(
                BudgetState(
                    scope=limit.scope,
                    period=limit.period.value,
                    window=window.name,
                    limit_nano=limit.limit_nano,
                    spent_nano=used.spent_nano,
                    held_nano=used.held_nano,
                )
            )
    found.sort(key=lambda one: (-_share(one), one.scope, one.period))
    return tuple(found[:top])


def _share(budget: BudgetState) -> float:
    return (budget.spent_nano + budget.held_nano) / max(1, budget.limit_nano)
