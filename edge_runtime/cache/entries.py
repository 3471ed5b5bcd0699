"""The table `entries` of a cache's file: written, counted, purged and evicted in one way.

Rules
- Writing is under one lock, in transactions that first write uses (`uses`). Reading has a
  connection of its own and never waits for a writer.
- Room is made in the transaction that needs it: what has ended goes first, then older epochs, then
  what was used least recently. No more goes than must: much may end at once, and dropping it all
  would take long.
- `_generation` rises with every purge and epoch. A ticket from before keeps nothing.
- Losing a cache loses no data, so commits are not fsynced; purges are, and stay after a crash.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import ClassVar, Self

from edge_runtime.cache.contract import CacheSize
from edge_runtime.cache.uses import Uses
from edge_runtime.errors import EngineError

Value = str | int | bytes
Gone = dict[bytes, list[int]]
"""Entries that went, by what `GROUP` says of them."""

_FIRST = ("WHERE expires_s <= ? ORDER BY expires_s, entry", "WHERE epoch < ? ORDER BY epoch, entry")
_LEAST_USED = "ORDER BY used"
_AT_ONCE = 256


def wall_clock_s() -> int:
    """Seconds since 1970-01-01, UTC."""
    return int(time.time())


class Entries:
    """What both caches do with their table. `KEY` and `GROUP` are columns of it, or constants."""

    KEY: ClassVar[str]
    GROUP: ClassVar[str] = "x''"

    def __init__(
        self,
        connection: sqlite3.Connection,
        reader: sqlite3.Connection,
        clock: Callable[[], int],
    ) -> None:
        """`connection` as `file.open_file` makes it; `reader` is used by lookups."""
        self._connection = connection
        self._reader = reader
        self._clock = clock
        self._lock = threading.Lock()  # of writing; a commit is made under it
        self._generation = 0
        self._epoch: int = connection.execute("SELECT epoch FROM state").fetchone()[0]
        self._uses = Uses(connection)

    def new_epoch(self) -> int:
        """Make every entry invisible at once. Takes the same time however much is kept."""
        with self._lock, explained("purged"):
            self._generation += 1
            with self._uses.transaction(durable=True):
                self._connection.execute("UPDATE state SET epoch = epoch + 1")
            self._epoch += 1
            self._forgotten()
            return self._epoch

    def size(self) -> CacheSize:
        """What is held now. Entries of older epochs count until they go."""
        with self._lock:
            return CacheSize(*self._held(), self._epoch)

    def close(self) -> None:
        """Write what is only in memory and close the file."""
        with self._lock:
            with (
                contextlib.suppress(sqlite3.Error, OSError),
                self._uses.transaction(everything=True),
            ):
                self._closing()
            self._reader.close()
            self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _closing(self) -> None:
        """What is written beside the uses, in the last transaction."""

    def _forgotten(self) -> None:
        """No entry is visible any more."""

    def _purge(
        self,
        key: Value | None,
        tag: str | None,
        tenant: str | None,
        model_digest: str | None,
        also: Callable[[], None] | None = None,
    ) -> Gone:
        """Drop what matches everything given, under the lock; `also` in the same transaction.

        Costs a read by an index and an fsync.
        """
        tests = {
            f"{self.KEY} = ?": key,
            "entry IN (SELECT entry FROM tags WHERE tag = ?)": tag,
            "tenant = ?": tenant,
            "model_digest = ?": model_digest,
        }
        given = {test: value for test, value in tests.items() if value is not None}
        self._generation += 1
        with self._uses.transaction(durable=True):
            gone = self._delete(" AND ".join(given) or "1", [*given.values()])
            if also is not None:
                also()
        return gone

    def _delete(self, condition: str, values: Sequence[Value]) -> Gone:
        """Delete inside a transaction, and say what went. `condition` is a text of this package."""
        gone: Gone = {}
        for group, entry in self._connection.execute(
            f"DELETE FROM entries WHERE {condition} RETURNING {self.GROUP}, entry",  # noqa: S608
            values,
        ).fetchall():
            gone.setdefault(group, []).append(entry)
        return gone

    def _evict(self, max_bytes: int, max_entries: int | None = None) -> Gone:
        """Come down to so much, inside a transaction."""
        every: Gone = {}
        order = (*zip(_FIRST, ([self._clock()], [self._epoch]), strict=True), (_LEAST_USED, []))
        for which, values in order:
            statement = f"SELECT entry, bytes, {self.GROUP} FROM entries {which} LIMIT {_AT_ONCE}"  # noqa: S608
            while gone := self._too_much(statement, values, max_bytes, max_entries):
                self._connection.executemany(
                    "DELETE FROM entries WHERE entry = ?", [(entry,) for entry, _ in gone]
                )
                for entry, group in gone:
                    every.setdefault(group, []).append(entry)
        return every

    def _too_much(
        self, statement: str, values: Sequence[int], max_bytes: int, max_entries: int | None
    ) -> list[tuple[int, bytes]]:
        """The next entries that have to go, at most `_AT_ONCE`."""
        count, held = self._held()
        gone = []
        for entry, size, group in self._connection.execute(statement, values):
            if held <= max_bytes and (max_entries is None or count <= max_entries):
                break
            gone.append((entry, group))
            held, count = held - size, count - 1
        return gone

    def _held(self) -> tuple[int, int]:
        """Entries and bytes."""
        count, held = self._connection.execute("SELECT entries, bytes FROM state").fetchone()
        return count, held


def count(gone: Gone) -> int:
    """How many entries went."""
    return sum(map(len, gone.values()))


def merge(into: Gone, other: Gone) -> None:
    """Add the entries of `other`."""
    for group, entries in other.items():
        into.setdefault(group, []).extend(entries)


@contextlib.contextmanager
def explained(done: str) -> Iterator[None]:
    """A purge or an audit that failed must not look like one that worked."""
    try:
        yield
    except sqlite3.Error as error:
        raise EngineError(
            f"the cache could not be {done}: {error}; free the disk, or stop and delete the file"
        ) from error
