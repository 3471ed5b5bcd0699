"""When an entry was last used: remembered in memory, written with the next change of a cache.

Rules
- A lookup writes nothing; what it used goes to the file with the next transaction, `USES_AT_ONCE`
  at a time, and at close. Past `USES_REMEMBERED` the oldest uses are forgotten, so "least
  recently used" is approximate between two changes.
- `remember` and `next` may be called from any thread; `transaction` by whoever holds the right to
  write.
"""

from __future__ import annotations

import contextlib
import itertools
import sqlite3
import threading
from collections.abc import Iterator

USES_AT_ONCE = 64
USES_REMEMBERED = 65_536


class Uses:
    """The uses of the table `entries` (`entry`, `used`) of one file, open for writing."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()  # held for microseconds
        newest = connection.execute("SELECT coalesce(max(used), 0) FROM entries").fetchone()
        self._newest: int = newest[0]
        self._waiting: dict[int, int] = {}

    def __len__(self) -> int:
        """How many uses are not written yet."""
        return len(self._waiting)

    def next(self) -> int:
        """The number of a use that is written at once."""
        with self._lock:
            self._newest += 1
            return self._newest

    def remember(self, entry: int) -> None:
        """A lookup found `entry`."""
        with self._lock:
            self._newest += 1
            self._waiting.pop(entry, None)  # so that the dict stays in the order of last use
            self._waiting[entry] = self._newest
            if len(self._waiting) > USES_REMEMBERED:
                del self._waiting[next(iter(self._waiting))]

    @contextlib.contextmanager
    def transaction(self, *, durable: bool = False, everything: bool = False) -> Iterator[None]:
        """One transaction that first writes uses; `durable` commits it with fsync."""
        if durable:
            self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            self._connection.executemany(
                "UPDATE entries SET used = ? WHERE entry = ?",
                self._taken(USES_REMEMBERED if everything else USES_AT_ONCE),
            )
            yield
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        else:
            self._connection.execute("COMMIT")
        finally:
            if durable:
                self._connection.execute("PRAGMA synchronous = NORMAL")

    def _taken(self, most: int) -> list[tuple[int, int]]:
        with self._lock:
            some = list(itertools.islice(self._waiting.items(), most))
            for entry, _ in some:
                del self._waiting[entry]
        return [(used, entry) for entry, used in some]
