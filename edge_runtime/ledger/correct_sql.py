"""Corrections on disk: what a call really cost, beside the row that guessed.

Rules
- A correction is one transaction with the change of the budgets: after a crash there is both, or
  the guess.
- A row is corrected once. The first number of the frontier's own stays.
"""

from __future__ import annotations

import sqlite3

from edge_runtime.ledger import budget_sql
from edge_runtime.ledger.rows import Correction

OPEN = "money_source IN ('worst_case', 'estimate') AND call_id <> ''"
"""SQL of rows that may be corrected, as the index on them says it."""


def correct(connection: sqlite3.Connection, correction: Correction) -> int:
    """Keep a correction; the number of the attempt. See `LedgerLike.correct`."""
    row = connection.execute(
        f"SELECT id FROM attempts WHERE call_id = ? AND {OPEN} "  # noqa: S608  # a constant
        "AND NOT EXISTS (SELECT 1 FROM corrections WHERE attempt_id = attempts.id)",
        (correction.call_id,),
    ).fetchone()
    if row is None:
        raise ValueError(f"no open attempt has the call id {correction.call_id}")
    tokens = correction.tokens
    counts = (
        (None, None, None)
        if tokens is None
        else (tokens.tokens_in, tokens.tokens_cached, tokens.tokens_out)
    )
    connection.execute(
        "INSERT INTO corrections (attempt_id, at_us, tokens_in, tokens_cached, tokens_out, "
        "frontier_nano, money_source) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (row["id"], correction.at_us, *counts, correction.frontier_nano, correction.money_source),
    )
    budget_sql.rebook(connection, correction.call_id, correction.frontier_nano)
    return int(row["id"])
