"""The store's rows, in and out of its tables. Writing is called inside a transaction."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass

from edge_runtime.cache.semantic.contract import Asked, SemanticLimits
from edge_runtime.cache.semantic.tables import INSERT
from edge_runtime.cache.semantic.tally import Judged, Tally
from edge_runtime.stats.eprocess import BettingProcess


@dataclass(frozen=True, slots=True)
class Row:
    """What a row says beside its question and answer; `size` in bytes."""

    epoch: int
    kept_s: int
    ttl_s: int
    used: int
    size: int


def insert(
    connection: sqlite3.Connection,
    asked: Asked,
    blobs: tuple[bytes, bytes],
    tags: Iterable[str],
    *,
    row: Row,
) -> int:
    """Put an answer and a vector (`blobs`) in; the number of the new entry."""
    answer, vector = blobs
    values = (
        asked.partition,
        asked.tenant,
        asked.model_digest,
        row.epoch,
        row.kept_s,
        row.kept_s + row.ttl_s,
        row.used,
        row.size,
        asked.text,
        vector,
        answer,
    )
    entry = connection.execute(INSERT, values).lastrowid
    assert entry is not None
    connection.executemany("INSERT INTO tags VALUES (?, ?)", [(tag, entry) for tag in tags])
    return entry


def read_tallies(connection: sqlite3.Connection, limits: SemanticLimits) -> dict[Judged, Tally]:
    """What audits of earlier processes said."""
    found = {}
    rows = connection.execute("SELECT model_digest, encoder, n, wrong, capitals, peak FROM audits")
    for digest, encoder, n, wrong, capitals, peak in rows:
        process = BettingProcess(
            limits.alpha, limits.level, log_capitals=json.loads(capitals), peak=peak
        )
        found[digest, encoder] = Tally(n, wrong, process)
    return found


def write_tally(connection: sqlite3.Connection, judged: Judged, tally: Tally) -> None:
    """Put a tally in place of the one before."""
    process = tally.process
    connection.execute(
        "INSERT OR REPLACE INTO audits VALUES (?, ?, ?, ?, ?, ?)",
        (*judged, tally.n, tally.wrong, json.dumps(process.log_capitals), process.peak),
    )
