"""Calls of frontiers as the ledger has them, and what a statement settles, on disk."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator

from edge_runtime.ledger import budget_sql, correct_sql
from edge_runtime.ledger.ledger import insert_attempt
from edge_runtime.ledger.prices import FrontierPrice
from edge_runtime.ledger.reconcile import Call, Match, row_of
from edge_runtime.ledger.rows import OPEN_SOURCES
from edge_runtime.ledger.statement import correction_of

SURELY_OVER_US = 3 * 3600 * 1_000_000
"""Older than any call can last, so that no process still means to settle it."""


def calls(connection: sqlite3.Connection, since_us: int, now_us: int) -> Iterator[Call]:
    """Every call since then. Costs a pass over the while's rows."""
    rows = connection.execute(
        "SELECT call_id, remote_id, model, frontier_nano, money_source FROM booked "
        "WHERE at_us >= ? AND call_id <> ''",
        (since_us,),
    )
    for row in rows:
        yield Call(
            row["call_id"],
            row["remote_id"],
            row["model"],
            row["frontier_nano"],
            row["money_source"] in OPEN_SOURCES,
        )
    for lost in budget_sql.unsettled(connection, since_us, now_us - SURELY_OVER_US):
        yield Call(lost.reservation_id, "", "", lost.worst_nano, open=True, lost=lost)


def apply(
    connection: sqlite3.Connection,
    found: Match,
    price_of: Callable[[str], FrontierPrice | None],
    *,
    model: str,
    now_us: int,
) -> int:
    """Settle what the statement settles, in one transaction; how many calls that were.

    `model` names the frontier of calls that have no row. One that was settled meanwhile is left
    as it is.
    """
    settled = 0
    connection.execute("BEGIN IMMEDIATE")
    try:
        for call, line in found.settle:
            name = model if call.lost is not None else call.model
            correction = correction_of(line, call.call_id, now_us, price_of(name))
            try:
                if call.lost is None:
                    correct_sql.correct(connection, correction)
                else:
                    budget_sql.settle_reservation(
                        connection, call.call_id, correction.frontier_nano
                    )
                    insert_attempt(connection, row_of(call, model, correction))
            except ValueError:
                continue
            settled += 1
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")
    return settled
