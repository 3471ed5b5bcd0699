"""What boxes say they spent, as rows of the fleet's sums. `spent_of` and `within` are pure.

Rules
- A report is added to all work, and to every budget of its box that it falls under: so a budget's
  sums are those of the boxes that have it.
- An hour has at most `MAX_GROUPS` rows a currency. A box that makes up names cannot grow the
  database: what is beyond is summed up under `OTHER`, tier by tier.
- Of a box's budgets the newest row counts, in whatever order rows come.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from sqlalchemy import Connection, func, select

from edge_runtime.agent.protocol import COST_SUMS, OTHER, CostLine, CostReport
from fleet.db.tables_telemetry import box_budgets, cost_hours
from fleet.db.upsert import add_up, upsert

MAX_GROUPS: Final = 600
ALL_WORK: Final = ""
IDLE: Final = "idle"
_CHUNK: Final = 500


@dataclass(frozen=True, slots=True, order=True)
class CostKey:
    """One row of `cost_hours`; `scope` is `ALL_WORK` or a budget's."""

    hour_s: int
    currency: str
    scope: str
    endpoint: str
    owner: str
    tier: str


Spent = dict[CostKey, Counter[str]]


@dataclass(slots=True)
class CostWork:
    """The costs of one transaction in the making."""

    spent: Spent = field(default_factory=dict)
    budgets: dict[str, tuple[float, CostReport]] = field(default_factory=dict)

    def take(self, principal: str, report: CostReport, *, at_s: float, hour_s: int) -> None:
        """Add a box's report of a stretch that ended at `at_s`, in the hour `hour_s`."""
        for key, line in spent_of(report, hour_s):
            sums = self.spent.setdefault(key, Counter())
            for name in COST_SUMS:
                sums[name] += getattr(line, name)
        if at_s >= self.budgets.get(principal, (0.0, report))[0]:
            self.budgets[principal] = (at_s, report)

    def write(self, connection: Connection) -> None:
        """Put everything into the tables; the sums last, since others wait for those rows."""
        self._write_budgets(connection)
        bounded = _bounded(connection, self.spent)
        rows = [
            {
                **{name: getattr(key, name) for name in CostKey.__slots__},
                **{name: bounded[key][name] for name in COST_SUMS},
            }
            for key in sorted(bounded)
        ]
        add_up(connection, cost_hours, rows, COST_SUMS)

    def _write_budgets(self, connection: Connection) -> None:
        names, known = sorted(self.budgets), dict[str, float]()
        for start in range(0, len(names), _CHUNK):
            query = select(box_budgets.c.principal, box_budgets.c.at_s).where(
                box_budgets.c.principal.in_(names[start : start + _CHUNK])
            )
            known.update((row.principal, row.at_s) for row in connection.execute(query))
        rows = [
            {
                "principal": principal,
                "at_s": at_s,
                "currency": report.currency,
                "budgets": [one.model_dump(mode="json") for one in report.budgets],
            }
            for principal, (at_s, report) in sorted(self.budgets.items())
            # Most boxes have no budgets: nothing is written of those that never had any.
            if at_s >= known.get(principal, 0.0) and (report.budgets or principal in known)
        ]
        upsert(connection, box_budgets, rows)


def spent_of(report: CostReport, hour_s: int) -> Iterator[tuple[CostKey, CostLine]]:
    """Every row that a report adds to, with what it adds."""
    scopes = sorted({budget.scope for budget in report.budgets})
    for line in report.lines:
        yield (
            CostKey(hour_s, report.currency, ALL_WORK, line.endpoint, line.owner, line.tier),
            line,
        )
        for scope in scopes:
            if falls_under(line, scope):
                yield CostKey(hour_s, report.currency, scope, "", "", line.tier), line


def falls_under(line: CostLine, scope: str) -> bool:
    """Whether work counts for a budget's scope. What an audit cost cannot be told from a line."""
    if scope == "box":
        return True
    kind, _, name = scope.partition(":")
    named = {"tenant": line.owner, "endpoint": line.endpoint}.get(kind)
    return line.tier != IDLE and named == name


def within(spent: Mapping[CostKey, Counter[str]], known: Iterable[CostKey], room: int) -> Spent:
    """`spent` with at most `room` keys that are not `known`; the rest under `OTHER`."""
    known, bounded = set(known), Spent()
    for key in sorted(spent, key=lambda one: (one not in known, one)):
        place = key
        if key not in known and room <= 0:
            place = replace(
                key,
                scope=OTHER if key.scope else ALL_WORK,
                endpoint="" if key.scope else OTHER,
                owner="" if key.scope else OTHER,
            )
        elif key not in known:
            room -= 1
        bounded.setdefault(place, Counter()).update(spent[key])
    return bounded


def _bounded(connection: Connection, spent: Spent) -> Spent:
    """`spent` within the rows that its hours have left."""
    found = Spent()
    for hour_s in sorted({key.hour_s for key in spent}):
        mine = {key: sums for key, sums in spent.items() if key.hour_s == hour_s}
        table = cost_hours.c
        count = select(func.count()).select_from(cost_hours).where(table.hour_s == hour_s)
        room = MAX_GROUPS - connection.execute(count).scalar_one()
        if len(mine) > room:  # seldom: only then is it worth reading which rows are there
            columns = [table[name] for name in CostKey.__slots__]
            rows = connection.execute(select(*columns).where(table.hour_s == hour_s))
            mine = within(mine, (CostKey(*row) for row in rows), room)
        found.update(mine)
    return found
