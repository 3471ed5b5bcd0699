"""Writing the store's rows: in, out, and out for want of room. Called inside a transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from edge_runtime.cache.semantic.contract import Asked
from edge_runtime.cache.semantic.tables import EVICT, INSERT

Gone = dict[bytes, list[int]]
"""Entries that went, by partition."""


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


def delete(
    connection: sqlite3.Connection, condition: str, values: Sequence[str | int | bytes]
) -> Gone:
    """Delete, and say which entries went. `condition` is a text of this package."""
    rows = connection.execute(
        f"DELETE FROM entries WHERE {condition} RETURNING partition, entry",  # noqa: S608
        values,
    ).fetchall()
    gone: Gone = {}
    for partition, entry in rows:
        gone.setdefault(partition, []).append(entry)
    return gone


def evict(
    connection: sqlite3.Connection, *, now: int, epoch: int, max_bytes: int, max_entries: int
) -> Gone:
    """Come down to so many bytes and entries; no more goes than must."""
    every: Gone = {}
    for statement, values in zip(EVICT, ([now], [epoch], []), strict=True):
        while True:
            held, count = connection.execute("SELECT bytes, entries FROM state").fetchone()
            gone: Gone = {}
            for entry, size, partition in connection.execute(statement, values):
                if held <= max_bytes and count <= max_entries:
                    break
                gone.setdefault(partition, []).append(entry)
                held, count = held - size, count - 1
            if not gone:
                break
            connection.executemany(
                "DELETE FROM entries WHERE entry = ?",
                [(entry,) for some in gone.values() for entry in some],
            )
            merge(every, gone)
    return every


def merge(into: Gone, other: Gone) -> None:
    """Add the entries of `other`."""
    for partition, entries in other.items():
        into.setdefault(partition, []).extend(entries)
