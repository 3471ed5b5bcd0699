"""The ledger of a box, open for writing: what the daemon calls.

Every call returns a future at once; its result is there once the row is on the disk. In
asyncio: `await asyncio.wrap_future(ledger.append(attempt))`.

Example::

    with Ledger.open(Path("ledger.db"), limits=[Limit("box", Period.DAY, 5 * NANO)]) as ledger:
        granted = ledger.reserve("r-1", worst_nano=20_000).result()
        if isinstance(granted, Refused):
            ...                                   # answer here, or refuse
        else:
            ...                                   # call the frontier
            ledger.settle("r-1", attempt).result()
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from edge_runtime.ledger import budget_sql, correct_sql
from edge_runtime.ledger.budget import BOX_SCOPE, Expiry, Limit, Refused, Reservation, Usage, Window
from edge_runtime.ledger.database import open_writer
from edge_runtime.ledger.rollup import Retention, coarsen, drop_strays, roll_up
from edge_runtime.ledger.rows import (
    ATTEMPT_FIELDS,
    COMPARISON_FIELDS,
    Attempt,
    Comparison,
    Correction,
    Outcome,
)
from edge_runtime.ledger.writer import GroupWriter

UPKEEP_EVERY_ROWS = 1000  # less than a chunk, so that upkeep gains on a backlog
FREE_PAGES_AT_ONCE = 2000
DEFAULT_HOLD_S = 86_400.0

_COLUMNS = ", ".join(ATTEMPT_FIELDS)
_MARKS = ", ".join("?" for _ in ATTEMPT_FIELDS)
_INSERT_ATTEMPT = f"INSERT INTO attempts ({_COLUMNS}) VALUES ({_MARKS})"  # noqa: S608  # constants
_INSERT_COMPARISON = (
    f"INSERT INTO comparisons ({', '.join(COMPARISON_FIELDS)}, after_id) "  # noqa: S608  # constants
    f"VALUES ({', '.join('?' for _ in COMPARISON_FIELDS)}, "
    "coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'attempts'), 0))"
)


class LedgerLike(Protocol):
    """What the router needs of a ledger; `memory.MemoryLedger` is the twin for tests."""

    def append(self, attempt: Attempt) -> Future[int]:
        """Keep an attempt; the result is its number."""
        ...

    def outcome(self, outcome: Outcome) -> Future[int]:
        """Keep what became of a task; the result is the event's number."""
        ...

    def compare(self, comparison: Comparison) -> Future[int]:
        """Keep whether a local answer and a frontier's agreed; the result is its number."""
        ...

    def reserve(
        self, reservation_id: str, *, worst_nano: int, scopes: Sequence[str] = (BOX_SCOPE,)
    ) -> Future[Reservation | Refused]:
        """Put worst-case money aside before a call, or be refused; one id a call."""
        ...

    def settle(self, reservation_id: str, attempt: Attempt) -> Future[int]:
        """Keep the attempt and pay its `frontier_nano` out of the reservation, both or neither.

        `ValueError` when the reservation is unknown or settled already.
        """
        ...

    def correct(self, correction: Correction) -> Future[int]:
        """Replace a guessed cost by the real one, in the sums and in the budgets, both or neither.

        The result is the attempt's number. `ValueError` when no open attempt has the call's id:
        it is corrected already, or summed up.
        """
        ...

    def release(self, reservation_id: str) -> Future[None]:
        """Give a reservation back whose call was never sent."""
        ...

    def usage(self, windows: Sequence[Window]) -> Future[dict[Window, Usage]]:
        """What budget windows have used."""
        ...


@dataclass(frozen=True, slots=True)
class BudgetRules:
    """Limits, and what becomes of reservations that nobody settles for `hold_s`."""

    limits: tuple[Limit, ...] = ()
    hold_s: float = DEFAULT_HOLD_S
    expiry: Expiry = Expiry.CHARGE


def now_us() -> int:
    """Microseconds since 1970-01-01, UTC."""
    return time.time_ns() // 1000


class Ledger:
    """See `LedgerLike`. One per file and box; a second one on the same file also counts right."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        path: Path,
        *,
        rules: BudgetRules,
        retention: Retention,
        clock: Callable[[], int],
    ) -> None:
        self._rules = rules
        self._retention = retention
        self._clock = clock
        self._rows_since_upkeep = 0
        self._writer = GroupWriter(connection, path, after_commit=self._after_commit)

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        limits: Sequence[Limit] = (),
        hold_s: float = DEFAULT_HOLD_S,
        expiry: Expiry = Expiry.CHARGE,
        retention: Retention | None = None,
        clock: Callable[[], int] = now_us,
    ) -> Self:
        """Open or create; reservations of a process that died are kept, or expire by the rule.

        Raises `ConfigError` or `EngineError`; see `database.open_writer`.
        """
        connection = open_writer(path)
        rules = BudgetRules(tuple(limits), hold_s, expiry)
        ledger = cls(connection, path, rules=rules, retention=retention or Retention(), clock=clock)
        try:
            ledger.expire().result()
        except BaseException:
            ledger.close()
            raise
        return ledger

    def budget(self, rules: BudgetRules) -> None:
        """Hold money by other rules from the next reservation on; what is held stays held."""
        self._rules = rules

    @property
    def commits(self) -> int:
        """Transactions so far; each cost one fsync, however many rows were in it."""
        return self._writer.commits

    def append(self, attempt: Attempt) -> Future[int]:
        """See `LedgerLike.append`."""
        return self._writer.submit(lambda connection: self._insert(connection, attempt))

    def outcome(self, outcome: Outcome) -> Future[int]:
        """See `LedgerLike.outcome`."""
        return self._writer.submit(lambda connection: _insert_outcome(connection, outcome))

    def compare(self, comparison: Comparison) -> Future[int]:
        """See `LedgerLike.compare`."""
        return self._writer.submit(lambda connection: _insert_comparison(connection, comparison))

    def reserve(
        self, reservation_id: str, *, worst_nano: int, scopes: Sequence[str] = (BOX_SCOPE,)
    ) -> Future[Reservation | Refused]:
        """See `LedgerLike.reserve`."""
        at_us = self._clock()
        request = Reservation(
            reservation_id, tuple(scopes), at_us, at_us + int(self._rules.hold_s * 1e6), worst_nano
        )
        limits = self._rules.limits
        return self._writer.submit(
            lambda connection: budget_sql.reserve(connection, request, limits)
        )

    def settle(self, reservation_id: str, attempt: Attempt) -> Future[int]:
        """See `LedgerLike.settle`."""

        def run(connection: sqlite3.Connection) -> int:
            budget_sql.settle_reservation(connection, reservation_id, attempt.frontier_nano)
            return self._insert(connection, attempt)

        return self._writer.submit(run)

    def correct(self, correction: Correction) -> Future[int]:
        """See `LedgerLike.correct`."""
        return self._writer.submit(lambda connection: correct_sql.correct(connection, correction))

    def release(self, reservation_id: str) -> Future[None]:
        """See `LedgerLike.release`."""

        def run(connection: sqlite3.Connection) -> None:
            budget_sql.settle_reservation(connection, reservation_id, 0)

        return self._writer.submit(run)

    def expire(self) -> Future[list[Reservation]]:
        """Book reservations whose time is over; also done at open and now and then."""
        now, rule = self._clock(), self._rules.expiry
        return self._writer.submit(lambda connection: budget_sql.expire(connection, now, rule))

    def usage(self, windows: Sequence[Window]) -> Future[dict[Window, Usage]]:
        """See `LedgerLike.usage`."""
        return self._writer.submit(lambda connection: budget_sql.usage_of(connection, windows))

    def maintain(self) -> Future[int]:
        """Roll one chunk up now; rows that went. Done by itself every few thousand rows."""
        now = self._clock()
        return self._writer.submit(lambda connection: self._maintain(connection, now))

    def close(self) -> None:
        """Commit what is queued and close the file."""
        self._writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _insert(self, connection: sqlite3.Connection, attempt: Attempt) -> int:
        self._rows_since_upkeep += 1
        return insert_attempt(connection, attempt)

    def _after_commit(self, connection: sqlite3.Connection) -> None:
        if self._rows_since_upkeep < UPKEEP_EVERY_ROWS:
            return
        self._rows_since_upkeep = 0
        now = self._clock()
        connection.execute("BEGIN IMMEDIATE")
        self._maintain(connection, now)
        budget_sql.expire(connection, now, self._rules.expiry)
        connection.execute("COMMIT")
        # It frees one page a step, so it is read to its end.
        connection.execute(f"PRAGMA incremental_vacuum({FREE_PAGES_AT_ONCE})").fetchall()

    def _maintain(self, connection: sqlite3.Connection, now: int) -> int:
        gone = roll_up(connection, now, self._retention)
        if not gone:
            drop_strays(connection, now, self._retention)
            coarsen(connection, now, self._retention)
            budget_sql.forget(connection, now)
        return gone


def insert_attempt(connection: sqlite3.Connection, attempt: Attempt) -> int:
    """Append one row inside the caller's transaction; its number."""
    row = connection.execute(_INSERT_ATTEMPT, [getattr(attempt, name) for name in ATTEMPT_FIELDS])
    assert row.lastrowid is not None
    return row.lastrowid


def _insert_outcome(connection: sqlite3.Connection, outcome: Outcome) -> int:
    row = connection.execute(
        "INSERT INTO outcomes (at_us, tenant, task_id, resolved, explicit, source) "
        "VALUES (?, ?, ?, ?, ?, ?)",
        (
            outcome.at_us,
            outcome.tenant,
            outcome.task_id,
            outcome.resolved,
            outcome.explicit,
            outcome.source,
        ),
    )
    assert row.lastrowid is not None
    return row.lastrowid


def _insert_comparison(connection: sqlite3.Connection, comparison: Comparison) -> int:
    values = [getattr(comparison, name) for name in COMPARISON_FIELDS]
    row = connection.execute(_INSERT_COMPARISON, values)
    assert row.lastrowid is not None
    return row.lastrowid
