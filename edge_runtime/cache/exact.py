"""The exact cache: answers by key, in SQLite, bounded in bytes.

Rules
- `bytes` never exceeds `max_bytes`: what was used least recently goes first, in the transaction
  that brings the new answer. An answer larger than `max_entry_bytes` is not kept.
- An entry is served until its time is over, and never when it was kept under another epoch.
- A purge also stops answers that were being made when it came: `keep` needs the ticket that
  `lookup` gave, and a ticket from before a purge keeps nothing.
- Losing the cache loses no data. So commits are not fsynced (synchronous NORMAL), and a file
  that is damaged is made anew. What was purged stays purged after a crash all the same: purges
  commit with fsync.
- A lookup writes nothing. Uses are remembered in memory and written with the next answers kept,
  64 at a time, and at close. So with more than that between two answers kept, "least recently"
  is approximate; past 65,536 the oldest uses are forgotten.

A lookup takes some tens of microseconds and may be made on the event loop: it has a connection of
its own and never waits for a writer. `keep` and purges may take 10 ms and more, when SQLite moves
its log into the file: give them to a thread. One process per file, any number of threads.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from edge_runtime.cache.answers import Answer, decode, encode
from edge_runtime.cache.contract import (
    MAX_TAGS,
    CacheLimits,
    CacheSize,
    Hit,
    Ticket,
    fresh_enough,
    size_of,
)
from edge_runtime.cache.file import open_file, open_reader
from edge_runtime.cache.key import Question, cache_key
from edge_runtime.cache.policy import Use
from edge_runtime.cache.uses import Uses
from edge_runtime.errors import EngineError

_ENDED = "SELECT entry, bytes FROM entries WHERE expires_s <= ? ORDER BY expires_s, entry LIMIT 256"
_OUTDATED = "SELECT entry, bytes FROM entries WHERE epoch < ? ORDER BY epoch, entry LIMIT 256"
_LEAST_USED = "SELECT entry, bytes FROM entries ORDER BY used LIMIT 256"


def wall_clock_s() -> int:
    """Seconds since 1970-01-01, UTC."""
    return int(time.time())


class ExactCache:
    """See `ExactCacheLike`."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        reader: sqlite3.Connection,
        limits: CacheLimits,
        clock: Callable[[], int],
    ) -> None:
        self._connection = connection
        self._reader = reader
        self._limits = limits
        self._clock = clock
        self._lock = threading.Lock()  # of writing; a commit is made under it
        self._generation = 0
        self._epoch: int = connection.execute("SELECT epoch FROM state").fetchone()[0]
        self._uses = Uses(connection)

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        limits: CacheLimits | None = None,
        clock: Callable[[], int] = wall_clock_s,
    ) -> Self:
        """Open, or make anew when the file is damaged or of another version.

        Raises `ConfigError` when the file cannot be made, or is something else.
        """
        cache = cls(open_file(path), open_reader(path), limits or CacheLimits(), clock)
        with cache._lock, cache._uses.transaction():
            cache._evict(0)  # the limit may have become smaller since
        return cache

    def lookup(self, question: Question, use: Use) -> Hit | Ticket:
        """See `ExactCacheLike.lookup`. One indexed read, and the decoding of the answer."""
        ticket = Ticket(cache_key(question), question, self._generation)
        if not use.read:
            return ticket
        try:
            row = self._reader.execute(
                "SELECT entry, epoch, kept_s, expires_s, answer FROM entries WHERE key = ?",
                (ticket.key,),
            ).fetchone()
        except sqlite3.Error:
            return ticket  # a cache that cannot be read has no answer
        if row is None:
            return ticket
        entry, epoch, kept_s, expires_s, data = row
        age_s = self._clock() - kept_s
        if epoch != self._epoch or not fresh_enough(age_s, expires_s - kept_s, use):
            return ticket
        try:
            answer = decode(data)
        except ValueError:
            self.purge(key=ticket.key)
            return Ticket(ticket.key, question, self._generation)
        self._uses.remember(entry)
        return Hit(answer, max(age_s, 0))

    def keep(self, ticket: Ticket, answer: Answer, use: Use) -> bool:
        """See `ExactCacheLike.keep`. Raises `ValueError` for an answer that is not JSON."""
        if not use.keep:
            return False
        data = encode(answer)
        size = size_of(data, answer.tags)
        if size > self._limits.max_entry_bytes or len(answer.tags) > MAX_TAGS:
            return False
        with self._lock:
            if ticket.generation != self._generation:
                return False
            try:
                with self._uses.transaction():
                    self._delete("key = ?", [ticket.key])
                    self._evict(size)
                    self._insert(ticket, answer, data, size, use.ttl_s)
            except sqlite3.Error:
                return False  # a full disk, most likely: then there is no cache, but an answer
        return True

    def purge(
        self,
        *,
        key: bytes | None = None,
        tag: str | None = None,
        tenant: str | None = None,
        model_digest: str | None = None,
    ) -> int:
        """See `ExactCacheLike.purge`. Costs a read by an index and an fsync."""
        tests = {
            "key = ?": key,
            "entry IN (SELECT entry FROM tags WHERE tag = ?)": tag,
            "tenant = ?": tenant,
            "model_digest = ?": model_digest,
        }
        given = {test: value for test, value in tests.items() if value is not None}
        with self._lock, _explained():
            self._generation += 1
            with self._uses.transaction(durable=True):
                return self._delete(" AND ".join(given) or "1", [*given.values()])

    def new_epoch(self) -> int:
        """See `ExactCacheLike.new_epoch`. Takes the same time however much is kept."""
        with self._lock, _explained():
            self._generation += 1
            with self._uses.transaction(durable=True):
                self._connection.execute("UPDATE state SET epoch = epoch + 1")
            self._epoch += 1
            return self._epoch

    def limit(self, limits: CacheLimits) -> None:
        """Keep so much from now on; what is over goes with the next answer kept."""
        self._limits = limits

    def size(self) -> CacheSize:
        """See `ExactCacheLike.size`. Entries of older epochs count until they go."""
        with self._lock:
            (count,) = self._connection.execute("SELECT count(*) FROM entries").fetchone()
            (held,) = self._connection.execute("SELECT bytes FROM state").fetchone()
            return CacheSize(count, held, self._epoch)

    def close(self) -> None:
        """Write what is remembered and close the file."""
        with self._lock:
            with self._uses.transaction(everything=True):
                pass
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

    def _insert(self, ticket: Ticket, answer: Answer, data: bytes, size: int, ttl_s: int) -> None:
        used = self._uses.next()
        now = self._clock()
        question = ticket.question
        entry = self._connection.execute(
            "INSERT INTO entries (key, tenant, model_digest, epoch, kept_s, expires_s, used, "
            "bytes, answer) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                ticket.key,
                question.tenant,
                question.model_digest,
                self._epoch,
                now,
                now + ttl_s,
                used,
                size,
                data,
            ),
        ).lastrowid
        self._connection.executemany(
            "INSERT INTO tags VALUES (?, ?)", [(tag, entry) for tag in answer.tags]
        )

    def _delete(self, condition: str, values: list[str | bytes]) -> int:
        # `condition` is one of this module's own texts.
        statement = f"DELETE FROM entries WHERE {condition}"  # noqa: S608
        return self._connection.execute(statement, values).rowcount

    def _evict(self, room: int) -> None:
        """Make room: first what may not be served any more, then what was used longest ago.

        No more goes than must: much may end at once, and dropping it all would take long.
        """
        for statement, values in (
            (_ENDED, [self._clock()]),
            (_OUTDATED, [self._epoch]),
            (_LEAST_USED, []),
        ):
            while (over := self._held() + room - self._limits.max_bytes) > 0:
                gone = []
                for entry, size in self._connection.execute(statement, values):
                    gone.append((entry,))
                    over -= size
                    if over <= 0:
                        break
                if not gone:
                    break
                self._connection.executemany("DELETE FROM entries WHERE entry = ?", gone)

    def _held(self) -> int:
        (held,) = self._connection.execute("SELECT bytes FROM state").fetchone()
        return int(held)


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """A purge that failed must not look like one that worked."""
    try:
        yield
    except sqlite3.Error as error:
        raise EngineError(
            f"the cache could not be purged: {error}; free the disk, or stop and delete the file"
        ) from error
