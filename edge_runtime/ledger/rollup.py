"""Keep the ledger small: sum old attempts up, exactly, and drop them.

Rules
- Rows are rolled up in the order of their ids, a chunk in one transaction that adds their sums
  to `rollups` and deletes them: at no moment does a row count twice or not at all.
- Scores and comparisons are not summed up: they go with the rows, and with them what a replay
  could say of that time.
- A row is summed up with its correction; one that comes later finds no row and is refused.
- A row goes when it is older than `detail_days`, or when more than `max_detail_rows` younger
  ones are kept.
- A task is counted where its last attempt to serve lies, with the verdict known then. So what
  is said of a task after its rows went counts for nothing.
- A day has at most `max_groups` lines for each tier and purpose; labels beyond are summed under
  `(other)`. After `day_rollup_days` days become months.
"""

# ruff: noqa: S608  # only this module's own column names are put into its SQL
from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from datetime import timedelta

from edge_runtime.ledger.budget import EPOCH
from edge_runtime.ledger.rows import US_PER_DAY

OTHER = "(other)"

LABELS = (
    "tenant", "endpoint", "tag", "tier", "purpose", "model", "model_digest", "money_source",
    "energy_source",
)  # fmt: skip
FREE_LABELS = ("tenant", "endpoint", "tag", "model", "model_digest")  # anything may stand there
SUMS = (
    "attempts", "requests", "answered", "tasks", "resolved", "tokens_in", "tokens_cached",
    "tokens_out", "frontier_nano", "energy_nano", "hardware_nano", "saved_nano", "energy_uj",
    "duration_us", "tokens_trimmed", "answered_in", "answered_cached", "answered_out",
    "answered_frontier_nano",
)  # fmt: skip

# How each sum is made of rows of `booked AS a`; tasks and resolved come from `LAST_ATTEMPTS`.
SUM_OF_ROWS = {
    "attempts": "count(*)",
    "requests": "sum(a.attempt = 0 AND a.purpose = 'serve')",
    "answered": "sum(a.answered)",
    **{
        name: f"sum(a.{name})"
        for name in SUMS[5:15]
    },
    "answered_in": "sum(a.answered * a.tokens_in)",
    "answered_cached": "sum(a.answered * a.tokens_cached)",
    "answered_out": "sum(a.answered * a.tokens_out)",
    "answered_frontier_nano": "sum(a.answered * a.frontier_nano)",
}  # fmt: skip

LAST_ATTEMPTS = """
    SELECT max(id) AS id FROM attempts WHERE purpose = 'serve' AND task_id <> ''
    GROUP BY tenant, task_id
"""


@dataclass(frozen=True, slots=True)
class Retention:
    """How much detail is kept; all of it is bounded."""

    detail_days: int = 92
    max_detail_rows: int = 1_000_000
    max_groups: int = 256
    day_rollup_days: int = 400
    chunk_rows: int = 2000

    def __post_init__(self) -> None:
        for name, least in (
            ("detail_days", 1),
            ("max_detail_rows", 1),
            ("max_groups", 1),
            ("day_rollup_days", 62),
            ("chunk_rows", 1),
        ):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}")


def roll_up(connection: sqlite3.Connection, now_us: int, keep: Retention) -> int:
    """Roll one chunk up, inside the caller's transaction; the number of rows that went.

    Call again while it returns something.
    """
    (start,) = connection.execute("SELECT rolled_to FROM rollup_mark").fetchone()
    end = _end_of_chunk(connection, start, now_us, keep)
    if end <= start:
        return 0
    select = ", ".join(f"{SUM_OF_ROWS[name]} AS {name}" for name in SUMS if name in SUM_OF_ROWS)
    labels = ", ".join(f"a.{name}" for name in LABELS)
    rows = connection.execute(
        f"SELECT a.at_us / {US_PER_DAY} AS day, {labels}, {select}, 0 AS tasks, 0 AS resolved "
        f"FROM booked AS a WHERE a.id <= ? GROUP BY day, {labels}",
        (end,),
    ).fetchall()
    tasks = connection.execute(
        f"SELECT a.at_us / {US_PER_DAY} AS day, {labels}, count(*) AS tasks, "
        "sum(coalesce(v.resolved, 0)) AS resolved "
        # Only tasks of the chunk, by the index; a later attempt of theirs keeps its task.
        "FROM (SELECT max(b.id) AS id FROM (SELECT DISTINCT tenant, task_id FROM attempts "
        "WHERE id <= ? AND purpose = 'serve' AND task_id <> '') AS t JOIN attempts AS b "
        "ON b.tenant = t.tenant AND b.task_id = t.task_id AND b.purpose = 'serve' "
        "GROUP BY b.tenant, b.task_id) AS last JOIN booked AS a ON a.id = last.id "
        f"LEFT JOIN {_VERDICTS} AS v ON v.tenant = a.tenant AND v.task_id = a.task_id "
        f"WHERE a.id <= ? GROUP BY day, {labels}",
        (end, end, end),
    ).fetchall()
    groups = _Groups(connection, keep.max_groups)
    for row in [*rows, *tasks]:
        groups.add("day", row["day"], row)
    connection.execute("UPDATE rollup_mark SET rolled_to = ?", (end,))
    connection.execute(
        "DELETE FROM outcomes WHERE id IN (SELECT o.id FROM (SELECT DISTINCT tenant, task_id "
        "FROM attempts WHERE id <= ?) AS t JOIN outcomes AS o "
        "ON o.tenant = t.tenant AND o.task_id = t.task_id WHERE NOT EXISTS (SELECT 1 FROM "
        "attempts AS a WHERE a.tenant = o.tenant AND a.task_id = o.task_id AND a.id > ?))",
        (end, end),
    )
    connection.execute("DELETE FROM comparisons WHERE after_id <= ?", (end,))
    connection.execute("DELETE FROM corrections WHERE attempt_id <= ?", (end,))
    return connection.execute("DELETE FROM attempts WHERE id <= ?", (end,)).rowcount


# Verdicts of the chunk's tasks only: the view itself would sort every outcome there is.
_VERDICTS = """(
    SELECT tenant, task_id, resolved FROM (
        SELECT o.tenant, o.task_id, o.resolved, row_number() OVER (
            PARTITION BY o.tenant, o.task_id ORDER BY o.explicit DESC, o.id DESC
        ) AS place FROM (SELECT DISTINCT tenant, task_id FROM attempts WHERE id <= ?) AS t
        JOIN outcomes AS o ON o.tenant = t.tenant AND o.task_id = t.task_id
    ) WHERE place = 1
)"""


def drop_strays(connection: sqlite3.Connection, now_us: int, keep: Retention) -> int:
    """Delete outcomes of tasks the ledger has no attempt of, once they are old."""
    return connection.execute(
        "DELETE FROM outcomes WHERE id IN (SELECT o.id FROM outcomes AS o WHERE o.at_us < ? AND "
        "NOT EXISTS (SELECT 1 FROM attempts AS a WHERE a.tenant = o.tenant "
        "AND a.task_id = o.task_id) LIMIT ?)",
        (now_us - keep.detail_days * US_PER_DAY, keep.chunk_rows),
    ).rowcount


def coarsen(connection: sqlite3.Connection, now_us: int, keep: Retention) -> int:
    """Sum whole months of days that are old into months; the number of lines that went."""
    oldest = EPOCH + timedelta(microseconds=now_us - keep.day_rollup_days * US_PER_DAY)
    limit = (oldest.replace(day=1, hour=0, minute=0, second=0, microsecond=0) - EPOCH).days
    rows = connection.execute(
        "SELECT * FROM rollups WHERE period = 'day' AND start_day < ?", (limit,)
    ).fetchall()
    groups = _Groups(connection, keep.max_groups)
    for row in rows:
        first = (EPOCH + timedelta(days=row["start_day"])).replace(day=1)
        groups.add("month", (first - EPOCH).days, row)
    connection.execute("DELETE FROM rollups WHERE period = 'day' AND start_day < ?", (limit,))
    return len(rows)


def _end_of_chunk(connection: sqlite3.Connection, start: int, now_us: int, keep: Retention) -> int:
    (last,) = connection.execute("SELECT coalesce(max(id), 0) FROM attempts").fetchone()
    horizon = now_us - keep.detail_days * US_PER_DAY
    young = connection.execute(
        "SELECT id FROM attempts WHERE at_us >= ? ORDER BY id LIMIT 1", (horizon,)
    ).fetchone()
    by_age = last if young is None else young["id"] - 1
    end: int = min(max(by_age, last - keep.max_detail_rows), start + keep.chunk_rows)
    return end


class _Groups:
    """Adds sums to `rollups`, under `(other)` once a period has too many lines."""

    def __init__(self, connection: sqlite3.Connection, max_groups: int) -> None:
        self._connection = connection
        self._max_groups = max_groups
        updates = ", ".join(f"{name} = {name} + excluded.{name}" for name in SUMS)
        marks = ", ".join("?" for _ in range(2 + len(LABELS) + len(SUMS)))
        self._upsert = (
            f"INSERT INTO rollups (period, start_day, {', '.join((*LABELS, *SUMS))}) "
            f"VALUES ({marks}) ON CONFLICT DO UPDATE SET {updates}"
        )

    def add(self, period: str, start_day: int, row: sqlite3.Row) -> None:
        names = set(row.keys())
        labels = {name: row[name] for name in LABELS}
        if not self._fits(period, start_day, labels):
            labels |= dict.fromkeys(FREE_LABELS, OTHER)
        sums = [row[name] if name in names else 0 for name in SUMS]
        self._connection.execute(self._upsert, [period, start_day, *labels.values(), *sums])

    def _fits(self, period: str, start_day: int, labels: dict[str, str]) -> bool:
        same = " AND ".join(f"{name} = ?" for name in LABELS)
        known = self._connection.execute(
            f"SELECT 1 FROM rollups WHERE period = ? AND start_day = ? AND {same}",
            [period, start_day, *labels.values()],
        ).fetchone()
        if known is not None:
            return True
        (count,) = self._connection.execute(
            "SELECT count(*) FROM rollups WHERE period = ? AND start_day = ? "
            "AND tier = ? AND purpose = ?",
            (period, start_day, labels["tier"], labels["purpose"]),
        ).fetchone()
        return bool(count < self._max_groups)
