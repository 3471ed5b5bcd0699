"""Read a ledger: sums by a label, and tasks one by one.

Details and roll-ups count together; a row is in exactly one of them. Roll-ups know days (older
ones months), so a start inside one takes what begins on or after its day.
"""

# ruff: noqa: S608  # only this module's own column names are put into its SQL
from __future__ import annotations

import enum
import sqlite3
from collections.abc import Iterator
from datetime import timedelta

from edge_runtime.ledger.budget import EPOCH
from edge_runtime.ledger.prices import FrontierPrice
from edge_runtime.ledger.report import Line, priced
from edge_runtime.ledger.rollup import LAST_ATTEMPTS, SUM_OF_ROWS, SUMS
from edge_runtime.ledger.rows import US_PER_DAY


class By(enum.StrEnum):
    """What a report is broken down by."""

    TOTAL = "total"
    ENDPOINT = "endpoint"
    MODEL = "model"
    TAG = "tag"
    TENANT = "tenant"
    TIER = "tier"
    DAY = "day"


_SUMMED = ", ".join(
    f"sum({name}) AS {name}" for name in SUMS if not name.startswith(("answered_", "tasks", "res"))
)
_MORE = """
    sum(answered_frontier_nano) AS answered_frontier_nano,
    sum((tier <> 'frontier') * answered_in) AS kept_in,
    sum((tier <> 'frontier') * answered_cached) AS kept_cached,
    sum((tier <> 'frontier') * answered_out) AS kept_out,
    sum((tier = 'cache') * answered) AS from_cache,
    sum((tier = 'local') * answered) AS from_local,
    sum((tier = 'frontier') * answered) AS from_frontier,
    sum((energy_source = 'counter') * energy_uj) AS counter_uj,
    sum((energy_source = 'model') * energy_uj) AS model_uj,
    sum((energy_source = 'assumption') * energy_uj) AS assumption_uj,
    sum((purpose = 'idle') * energy_uj) AS idle_uj,
    sum((purpose = 'idle') * energy_nano) AS idle_nano,
    sum((money_source = 'worst_case') * frontier_nano) AS unsettled_nano,
    sum(tasks) AS tasks, sum(resolved) AS resolved
"""
_LABELS = "tenant, endpoint, tag, tier, purpose, model, money_source, energy_source"
_OF_LAST = ", ".join(f"a.{name}" for name in _LABELS.split(", "))
_DETAILS = ", ".join(f"{SUM_OF_ROWS[name]} AS {name}" for name in SUMS if name in SUM_OF_ROWS)
_ROLLED = ", ".join(name for name in SUMS if name not in ("tasks", "resolved"))
_ZEROS = ", ".join(f"0 AS {name}" for name in SUMS if name not in ("tasks", "resolved"))


def lines(connection: sqlite3.Connection, by: By, since_us: int = 0) -> dict[str, Line]:
    """Sums by label, sorted by it; `total` has the one label ``""``.

    Costs a pass over the detailed rows.
    """
    label = _label(by, "start_day")
    rows = connection.execute(
        f"""
        SELECT {label} AS label, {_SUMMED}, {_MORE} FROM (
            SELECT a.at_us / {US_PER_DAY} AS start_day, {_LABELS}, {_DETAILS},
                0 AS tasks, 0 AS resolved
            FROM booked AS a WHERE a.at_us >= :since_us GROUP BY start_day, {_LABELS}
            UNION ALL
            SELECT a.at_us / {US_PER_DAY} AS start_day, {_OF_LAST}, {_ZEROS},
                1 AS tasks, coalesce(v.resolved, 0) AS resolved
            FROM ({LAST_ATTEMPTS}) AS last JOIN booked AS a ON a.id = last.id
            LEFT JOIN verdicts AS v ON v.tenant = a.tenant AND v.task_id = a.task_id
            WHERE a.at_us >= :since_us
            UNION ALL
            SELECT start_day, {_LABELS}, {_ROLLED}, tasks, resolved FROM rollups
            WHERE start_day >= :since_day
        ) GROUP BY label ORDER BY label
        """,
        {"since_us": since_us, "since_day": -(-since_us // US_PER_DAY)},
    )
    return {_text(by, row["label"]): _line(row) for row in rows}


def _label(by: By, day: str) -> str:
    if by is By.TOTAL:
        return "''"
    return day if by is By.DAY else by.value


def _text(by: By, label: str | int) -> str:
    if by is By.DAY:
        return (EPOCH + timedelta(days=int(label))).strftime("%Y-%m-%d")
    return str(label)


def _line(row: sqlite3.Row) -> Line:
    return Line(**{name: row[name] for name in row.keys() if name != "label"})  # noqa: SIM118


def task_costs(
    connection: sqlite3.Connection, price: FrontierPrice, since_us: int = 0
) -> Iterator[tuple[int, int]]:
    """(actual, all-frontier) nano-units of each task that has details; see `report.savings`."""
    rows = connection.execute(
        """
        SELECT sum(frontier_nano + energy_nano + hardware_nano),
            sum(answered * (tier <> 'frontier') * tokens_in),
            sum(answered * (tier <> 'frontier') * tokens_cached),
            sum(answered * (tier <> 'frontier') * tokens_out),
            sum(answered * (tier = 'frontier') * frontier_nano)
        FROM booked WHERE task_id <> '' AND at_us >= ? GROUP BY tenant, task_id
        """,
        (since_us,),
    )
    for actual, tokens_in, tokens_cached, tokens_out, frontier in rows:
        yield actual, frontier + priced(tokens_in, tokens_cached, tokens_out, price)
