"""What was booked since a mark: increments that add up to the ledger's own sums.

Rules
- Sums of one stretch after another equal the sums of the whole, whatever the stretches.
- A task counts where its last attempt to serve lies, with the verdict known then. When either
  changes, the next stretch takes it back where it was and counts it where it is: so `tasks` and
  `resolved` of a stretch may be negative.
- What a call really cost, learned after its row was read, comes as the difference.
- Attempts and outcomes are numbered without gaps that are filled later, so two numbers are a mark.
- Rows that were summed up before they were read are not seen again: read more often than days.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, fields
from typing import Self

IDLE_TIER = "idle"
"""Stands for the tier of idle energy, which belongs to no request."""


@dataclass(frozen=True, slots=True)
class Mark:
    """All attempts, outcomes and corrections up to these numbers were read."""

    attempts: int = 0
    outcomes: int = 0
    corrections: int = 0


@dataclass(frozen=True, slots=True, order=True)
class Group:
    """What sums are of. `tier` is a tier's name or `IDLE_TIER`."""

    endpoint: str
    tenant: str
    tier: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Booked:
    """Sums of one group. Money in nano-units, energy in microjoules."""

    requests: int = 0
    answered: int = 0
    tasks: int = 0
    resolved: int = 0
    tokens_in: int = 0
    tokens_cached: int = 0
    tokens_out: int = 0
    frontier_nano: int = 0
    energy_nano: int = 0
    hardware_nano: int = 0
    saved_nano: int = 0
    energy_uj: int = 0

    def __add__(self, other: Self) -> Self:
        return type(self)(**{name: getattr(self, name) + getattr(other, name) for name in NAMES})

    @property
    def cost_nano(self) -> int:
        """Everything spent."""
        return self.frontier_nano + self.energy_nano + self.hardware_nano


NAMES = tuple(one.name for one in fields(Booked))

_ATTEMPTS = f"""
    SELECT endpoint, tenant, CASE purpose WHEN 'idle' THEN '{IDLE_TIER}' ELSE tier END AS tier,
        sum(attempt = 0 AND purpose = 'serve') AS requests, sum(answered) AS answered,
        sum(tokens_in) AS tokens_in, sum(tokens_cached) AS tokens_cached,
        sum(tokens_out) AS tokens_out, sum(frontier_nano) AS frontier_nano,
        sum(energy_nano) AS energy_nano, sum(hardware_nano) AS hardware_nano,
        sum(saved_nano) AS saved_nano, sum(energy_uj) AS energy_uj
    FROM attempts WHERE id > :a0 AND id <= :a1 GROUP BY 1, 2, 3
"""  # noqa: S608 - a constant of this module

_CORRECTIONS = """
    SELECT a.endpoint, a.tenant, a.tier, sum(c.frontier_nano - a.frontier_nano) AS frontier_nano,
        sum(coalesce(c.tokens_in - a.tokens_in, 0)) AS tokens_in,
        sum(coalesce(c.tokens_cached - a.tokens_cached, 0)) AS tokens_cached,
        sum(coalesce(c.tokens_out - a.tokens_out, 0)) AS tokens_out
    FROM corrections AS c JOIN attempts AS a ON a.id = c.attempt_id
    WHERE c.id > :c0 AND c.id <= :c1 GROUP BY 1, 2, 3
"""

_LAST = """(SELECT max(id) FROM attempts AS a WHERE a.tenant = t.tenant
    AND a.task_id = t.task_id AND a.purpose = 'serve' AND a.id <= {})"""
_VERDICT = """(SELECT resolved FROM outcomes AS o WHERE o.tenant = t.tenant
    AND o.task_id = t.task_id AND o.id <= {} ORDER BY o.explicit DESC, o.id DESC LIMIT 1)"""
_TASKS = f"""
    WITH touched AS (
        SELECT tenant, task_id FROM attempts
        WHERE id > :a0 AND id <= :a1 AND purpose = 'serve' AND task_id <> ''
        UNION SELECT tenant, task_id FROM outcomes WHERE id > :o0 AND id <= :o1
    ), judged AS (
        SELECT {_LAST.format(":a0")} AS was, {_LAST.format(":a1")} AS now,
            {_VERDICT.format(":o0")} AS was_resolved, {_VERDICT.format(":o1")} AS now_resolved
        FROM touched AS t
    )
    SELECT endpoint, tenant, tier, sum(sign) AS tasks, sum(sign * coalesce(e.resolved, 0))
        AS resolved
    FROM (
        SELECT was AS id, -1 AS sign, was_resolved AS resolved FROM judged
        UNION ALL SELECT now, 1, now_resolved FROM judged
    ) AS e JOIN attempts USING (id) GROUP BY 1, 2, 3
"""  # noqa: S608 - constants of this module


def last_booked(connection: sqlite3.Connection) -> Mark:
    """The mark of everything there is now."""
    attempts, outcomes, corrections = (
        connection.execute(
            "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = ?", (name,)
        ).fetchone()[0]
        for name in ("attempts", "outcomes", "corrections")
    )
    return Mark(attempts, outcomes, corrections)


def booked_since(
    connection: sqlite3.Connection, mark: Mark, *, limit: int
) -> tuple[Mark, dict[Group, Booked]]:
    """What was booked after `mark`, of at most `limit` attempts and outcomes, and the new mark.

    Costs a pass over those rows and some index look-ups for each of their tasks.
    """
    end = last_booked(connection)
    attempts = min(end.attempts, mark.attempts + limit)
    # A correction of a row that is not read yet waits for it.
    corrections = min(end.corrections, mark.corrections + limit)
    if attempts < end.attempts:
        corrections = mark.corrections
    upto = Mark(attempts, min(end.outcomes, mark.outcomes + limit), corrections)
    bounds = {
        "a0": mark.attempts, "a1": upto.attempts, "o0": mark.outcomes, "o1": upto.outcomes,
        "c0": mark.corrections, "c1": upto.corrections,
    }  # fmt: skip
    found: dict[Group, Booked] = {}
    for statement in (_ATTEMPTS, _CORRECTIONS, _TASKS):
        for row in connection.execute(statement, bounds):
            group = Group(row["endpoint"], row["tenant"], row["tier"])
            sums = Booked(**{name: row[name] for name in row.keys() if name in NAMES})  # noqa: SIM118
            found[group] = found.get(group, Booked()) + sums
    return upto, {group: sums for group, sums in found.items() if sums != Booked()}
