"""Telemetry that nobody has taken yet, on disk, within a limit.

Rules
- A row is deleted when the control host said it committed it, never because it was sent.
- Rows are numbered from 1 in each boot and stream; a number is never given twice.
- Past `max_bytes` the oldest rows go, and are counted for good.
- A damaged file is set aside and begun anew: telemetry must never keep a box from serving.

SQLite in WAL with synchronous FULL: `add` returns once its row is on the disk, together with the
marks of what the row was made from. So nothing is told twice or left out by a power cut. That is
one fsync a row, which is a minute. All calls block on the disk; make them from one thread at a
time.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from edge_runtime.agent.protocol import (
    MAX_BATCH_ROWS,
    Ack,
    BatchHeader,
    SpoolState,
    TelemetryRow,
    encode_batch,
)
from edge_runtime.errors import BundleError

log: Final = structlog.get_logger("edge_runtime.agent")

MAX_BATCH_JSON_BYTES = 512 * 1024
_SCHEMA = """
CREATE TABLE IF NOT EXISTS rows (
    boot TEXT NOT NULL, stream TEXT NOT NULL, seq INTEGER NOT NULL,
    size INTEGER NOT NULL, data BLOB NOT NULL,
    PRIMARY KEY (boot, stream, seq)
) STRICT;
CREATE TABLE IF NOT EXISTS totals (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS marks (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT;
"""


@dataclass(frozen=True, slots=True)
class Batch:
    """One message to send: rows `first_seq` to `last_seq` of a stream of a boot."""

    boot: str
    stream: str
    first_seq: int
    last_seq: int
    message: bytes


class Spool:
    """See the module. Use `Spool.open`."""

    def __init__(self, connection: sqlite3.Connection, max_bytes: int) -> None:
        self._connection = connection
        self._max_bytes = max_bytes
        self._mutex = threading.Lock()
        self._evicted = self._total("evicted")
        (self._rows, self._bytes) = connection.execute(
            "SELECT count(*), coalesce(sum(size), 0) FROM rows"
        ).fetchone()

    @classmethod
    @contextlib.contextmanager
    def open(cls, path: Path, max_bytes: int) -> Iterator[Spool]:
        """The spool at `path`; one that is damaged is replaced by an empty one."""
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            connection = _connect(path)
        except sqlite3.DatabaseError as error:
            log.exception("spool damaged; begun anew", action="spool_lost", reason=str(error))
            for suffix in ("", "-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
            connection = _connect(path)
        try:
            yield cls(connection, max_bytes)
        finally:
            connection.close()

    def state(self) -> SpoolState:
        """How much waits, and what was thrown away."""
        return SpoolState(rows=self._rows, bytes=self._bytes, evicted_rows=self._evicted)

    def marks(self) -> dict[str, int]:
        """How far the sources of rows were read, as `add` was told."""
        return dict(self._connection.execute("SELECT name, value FROM marks").fetchall())

    def add(
        self, boot: str, stream: str, row: TelemetryRow, marks: Mapping[str, int] | None = None
    ) -> None:
        """Keep one row and, with it, `marks`; its `seq` must be higher than those before it."""
        data = row.to_bytes()
        with self._mutex, self._transaction():
            self._connection.execute(
                "INSERT INTO rows VALUES (?, ?, ?, ?, ?)",
                (boot, stream, row.seq, len(data), data),
            )
            self._connection.executemany(
                "INSERT INTO marks VALUES (?, ?) "
                "ON CONFLICT (name) DO UPDATE SET value = excluded.value",
                (marks or {}).items(),
            )
            self._rows, self._bytes = self._rows + 1, self._bytes + len(data)
            self._evict()

    def acknowledge(self, ack: Ack) -> int:
        """Delete what was committed elsewhere; the number of rows."""
        deleted = 0
        with self._mutex, self._transaction():
            for key, mark in ack.marks.items():
                boot, _, stream = key.partition("/")
                where, values = "boot = ? AND stream = ? AND seq <= ?", (boot, stream, mark)
                deleted += self._delete(where, values)
        return deleted

    def batches(
        self, after: dict[tuple[str, str], int], clock_s: int, limit: int = 8
    ) -> list[Batch]:
        """Up to `limit` messages of rows beyond `after` (sent already), oldest boots first."""
        found: list[Batch] = []
        with self._mutex:
            streams = self._connection.execute(
                "SELECT boot, stream, min(seq) FROM rows GROUP BY boot, stream ORDER BY min(rowid)"
            ).fetchall()
            for boot, stream, oldest in streams:
                sent = after.get((boot, stream), 0)
                while len(found) < limit:
                    batch = self._batch(boot, stream, sent, oldest, clock_s)
                    if batch is None:
                        break
                    found.append(batch)
                    sent = batch.last_seq
        return found

    def _batch(self, boot: str, stream: str, sent: int, oldest: int, clock_s: int) -> Batch | None:
        rows: list[TelemetryRow] = []
        size = 0
        cursor = self._connection.execute(
            "SELECT size, data FROM rows WHERE boot = ? AND stream = ? AND seq > ? "
            "ORDER BY seq LIMIT ?",
            (boot, stream, sent, MAX_BATCH_ROWS),
        )
        for row_size, data in cursor:
            if rows and size + row_size > MAX_BATCH_JSON_BYTES:
                break
            rows.append(TelemetryRow.from_bytes(data))
            size += row_size
        while rows:
            header = BatchHeader(
                boot=boot,
                stream=stream,
                first_seq=rows[0].seq,
                last_seq=rows[-1].seq,
                oldest_seq=oldest,
                rows=len(rows),
                clock_s=clock_s,
                evicted_rows=self._evicted,
            )
            try:
                message = encode_batch(header, tuple(rows))
            except BundleError:
                if len(rows) > 1:
                    rows = rows[: len(rows) // 2]
                    continue
                self._drop(boot, stream, rows[0].seq)
                return None
            return Batch(boot, stream, rows[0].seq, rows[-1].seq, message)
        return None

    def _drop(self, boot: str, stream: str, seq: int) -> None:
        """A row that fits no message would block its stream for ever."""
        with self._transaction():
            where = "boot = ? AND stream = ? AND seq = ?"
            self._count_evicted(self._delete(where, (boot, stream, seq)))

    def _evict(self) -> None:
        if self._bytes <= self._max_bytes:
            return
        # A tenth at once, or every further row would evict one of its own.
        goal, freed, last = self._bytes - self._max_bytes * 9 // 10, 0, 0
        for rowid, size in self._connection.execute("SELECT rowid, size FROM rows ORDER BY rowid"):
            freed, last = freed + size, rowid
            if freed >= goal:
                break
        self._count_evicted(self._delete("rowid <= ?", (last,)))

    def _delete(self, where: str, values: tuple[object, ...]) -> int:
        count, size = self._connection.execute(
            f"SELECT count(*), coalesce(sum(size), 0) FROM rows WHERE {where}",  # noqa: S608 - ours
            values,
        ).fetchone()
        if count:
            self._connection.execute(f"DELETE FROM rows WHERE {where}", values)  # noqa: S608
            self._rows, self._bytes = self._rows - count, self._bytes - size
        return int(count)

    def _count_evicted(self, rows: int) -> None:
        if rows:
            self._evicted += rows
            self._connection.execute(
                "INSERT INTO totals VALUES ('evicted', ?) "
                "ON CONFLICT (name) DO UPDATE SET value = excluded.value",
                (self._evicted,),
            )

    def _total(self, name: str) -> int:
        row = self._connection.execute("SELECT value FROM totals WHERE name = ?", (name,))
        found = row.fetchone()
        return 0 if found is None else int(found[0])

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        before = (self._rows, self._bytes, self._evicted)
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK")
            self._rows, self._bytes, self._evicted = before
            raise
        self._connection.execute("COMMIT")


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA journal_size_limit = 4194304")
        connection.executescript(_SCHEMA)
        found = [row[0] for row in connection.execute("PRAGMA quick_check(1)")]
        if found != ["ok"]:
            raise sqlite3.DatabaseError(found[0])
    except BaseException:
        connection.close()
        raise
    return connection
