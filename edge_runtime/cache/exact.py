"""The exact cache: answers by key, in SQLite, bounded in bytes.

Rules
- Room, purges and what a crash leaves: see `entries`. `bytes` never exceeds `max_bytes`, and an
  answer larger than `max_entry_bytes` is not kept.
- An entry is served until its time is over, and never when it was kept under another epoch.
- A purge also stops answers that were being made when it came: `keep` needs the ticket that
  `lookup` gave, and a ticket from before a purge keeps nothing. A damaged file is made anew.
- A lookup writes nothing. Uses are remembered in memory and written with the next answers kept,
  64 at a time, and at close. So with more than that between two answers kept, "least recently"
  is approximate; past 65,536 the oldest uses are forgotten.

A lookup takes some tens of microseconds and may be made on the event loop: it has a connection of
its own and never waits for a writer. `keep` and purges may take 10 ms and more, when SQLite moves
its log into the file: give them to a thread. One process per file, any number of threads.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Self

from edge_runtime.cache.answers import Answer, decode, encode
from edge_runtime.cache.contract import (
    MAX_TAGS,
    CacheLimits,
    Hit,
    Ticket,
    fresh_enough,
    size_of,
)
from edge_runtime.cache.entries import Entries, count, explained, wall_clock_s
from edge_runtime.cache.file import open_file, open_reader
from edge_runtime.cache.key import Question, cache_key
from edge_runtime.cache.policy import Use


class ExactCache(Entries):
    """See `ExactCacheLike`."""

    KEY = "key"

    def __init__(
        self,
        connection: sqlite3.Connection,
        reader: sqlite3.Connection,
        limits: CacheLimits,
        clock: Callable[[], int],
    ) -> None:
        super().__init__(connection, reader, clock)
        self._limits = limits

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
            cache._evict(cache._limits.max_bytes)  # the limit may have become smaller since
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
        return Hit(answer, max(age_s, 0), ticket.key)

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
                    self._evict(self._limits.max_bytes - size)
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
        with self._lock, explained("purged"):
            return count(self._purge(key, tag, tenant, model_digest))

    def limit(self, limits: CacheLimits) -> None:
        """Keep so much from now on; what is over goes with the next answer kept."""
        self._limits = limits

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
