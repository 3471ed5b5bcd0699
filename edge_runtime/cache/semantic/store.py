"""The semantic cache's store: questions, vectors and answers in SQLite, bounded, with audits.

Rules
- SQLite is the truth; indexes of large partitions are made from it (`partitions`).
- Never more than `max_entries` and `max_bytes`. Room, purges and what a crash leaves: `entries`.
- An entry is served until its time is over, never from another epoch, and never past what audits
  say of it (`evidence`). When audits of a model contradict its certificate (a betting process
  against `alpha`), the model gets no hits until its entries are purged.
- A purge also stops answers that were being made: `keep` needs a ticket from after it.

A lookup takes a fraction of a millisecond and may be made on the event loop. Everything else may
take 10 ms and more: give it to a thread. One process per file, any number of threads.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

from edge_runtime.cache.answers import Answer, decode, encode
from edge_runtime.cache.contract import CLOCK_STEP_S, MAX_TAGS, size_of
from edge_runtime.cache.entries import Entries, Gone, count, explained, merge, wall_clock_s
from edge_runtime.cache.file import open_file, open_reader
from edge_runtime.cache.semantic.choose import Candidate, choose
from edge_runtime.cache.semantic.contract import (
    Asked,
    Audited,
    SemanticHit,
    SemanticLimits,
    SemanticTicket,
    Vector,
)
from edge_runtime.cache.semantic.evidence import Evidence, after_audit
from edge_runtime.cache.semantic.partitions import Partitions, pack, unpack
from edge_runtime.cache.semantic.rows import Row, insert, read_tallies, write_tally
from edge_runtime.cache.semantic.score import Scorer
from edge_runtime.cache.semantic.tables import ENTRY, SEMANTIC
from edge_runtime.cache.semantic.tally import Tallies


class SemanticStore(Entries):
    """See `SemanticStoreLike`."""

    KEY = "entry"
    GROUP = "partition"

    def __init__(
        self,
        connection: sqlite3.Connection,
        reader: sqlite3.Connection,
        partitions: Partitions,
        *,
        scorer: Scorer,
        least_score: float,
        limits: SemanticLimits,
        clock: Callable[[], int],
    ) -> None:
        super().__init__(connection, reader, clock)
        self._partitions = partitions
        self._scorer = scorer
        self._least = least_score
        self._limits = limits
        self._tallies = Tallies(read_tallies(connection, limits))

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        scorer: Scorer,
        least_score: float | None = None,
        limits: SemanticLimits | None = None,
        clock: Callable[[], int] = wall_clock_s,
    ) -> Self:
        """Open, or make anew when the file is damaged or of another version.

        `least_score` None takes the scorer's certified threshold. Raises `ConfigError` when the
        file cannot be made, or is something else.
        """
        store = cls(
            open_file(path, SEMANTIC),
            open_reader(path),
            Partitions(path.with_name(path.name + ".index")),
            scorer=scorer,
            least_score=scorer.threshold if least_score is None else least_score,
            limits=limits or SemanticLimits(),
            clock=clock,
        )
        with store._lock:
            with store._uses.transaction():
                store._make_room(0, 0)  # the limits may have become smaller since
            store._partitions.open(store._connection, store._epoch)
        return store

    def lookup(self, asked: Asked, vector: Vector, *, audit: bool) -> SemanticHit | SemanticTicket:
        """See `SemanticStoreLike.lookup`."""
        generation, epoch = self._generation, self._epoch
        if self._tallies.suspended(asked.judged):
            return SemanticTicket(asked, vector, generation)
        try:
            near = self._partitions.nearest(self._reader, asked.partition, epoch, vector)
            choice = choose(
                asked.text, self._candidates(near, epoch, vector), self._scorer, self._least
            )
            ticket = SemanticTicket(asked, vector, generation, choice.score)
            if choice.chosen is None:
                return ticket
            row = self._reader.execute(
                "SELECT answer FROM entries WHERE entry = ?", (choice.chosen.entry,)
            ).fetchone()
        except sqlite3.Error:
            return SemanticTicket(asked, vector, generation)  # no answer from what cannot be read
        if row is None:
            return ticket
        try:
            answer = decode(row[0])
        except ValueError:
            self.purge(key=choice.chosen.entry)
            return SemanticTicket(asked, vector, self._generation)
        self._uses.remember(choice.chosen.entry)
        found = choice.chosen
        return SemanticHit(
            answer, found.age_s, choice.score, found.text, found.entry, audit, ticket
        )

    def _candidates(self, near: list[int], epoch: int, vector: Vector) -> Iterator[Candidate]:
        """The entries that may still be served, as they are asked for."""
        now = self._clock()
        for entry in near:
            row = self._reader.execute(ENTRY, (entry,)).fetchone()
            if row is None or row[0] != epoch:
                continue
            _, kept_s, expires_s, least_score, text, data = row
            if now - kept_s < -CLOCK_STEP_S or now >= expires_s:
                continue
            if len(data) == 2 * len(vector):
                cosine = float(unpack(data) @ vector)
                yield Candidate(entry, text, cosine, least_score, max(now - kept_s, 0))

    def _make_room(self, size: int, entries: int) -> Gone:
        limits = self._limits
        return self._evict(limits.max_bytes - size, limits.max_entries - entries)

    def limit(self, limits: SemanticLimits, least_score: float | None) -> None:
        """Keep and serve by these from now on; what is over goes with the next answer kept."""
        self._limits = limits
        self._least = self._scorer.threshold if least_score is None else least_score

    def keep(self, ticket: SemanticTicket, answer: Answer, *, ttl_s: int) -> bool:
        """See `SemanticStoreLike.keep`. Raises `ValueError` for an answer that is not JSON."""
        data, vector = encode(answer), pack(ticket.vector)
        size = size_of(data, answer.tags) + len(vector) + len(ticket.asked.text.encode())
        if ttl_s <= 0 or size > self._limits.max_entry_bytes or len(answer.tags) > MAX_TAGS:
            return False
        asked = ticket.asked
        partition = asked.partition
        with self._lock:
            if ticket.generation != self._generation:
                return False
            try:
                with self._uses.transaction():
                    gone = self._delete("partition = ? AND text = ?", [partition, asked.text])
                    merge(gone, self._make_room(size, 1))
                    entry = insert(
                        self._connection,
                        asked,
                        (data, vector),
                        answer.tags,
                        row=Row(self._epoch, self._clock(), ttl_s, self._uses.next(), size),
                    )
            except sqlite3.Error:
                return False  # a full disk, most likely: then there is no cache, but an answer
            self._partitions.removed(self._connection, gone, self._epoch)
            self._partitions.added(self._connection, partition, self._epoch, entry)
        return True

    def report_audit(self, hit: SemanticHit, *, correct: bool) -> None:
        """See `SemanticStoreLike.report_audit`; counts also when the entry is gone by then."""
        judged = hit.ticket.asked.judged
        with self._lock, explained("audited"), self._uses.transaction(durable=not correct):
            tally = self._tallies.observe(judged, self._limits, wrong=not correct)
            write_tally(self._connection, judged, tally)
            row = self._connection.execute(
                "SELECT right, wrong, least_score FROM entries WHERE entry = ?", (hit.entry,)
            ).fetchone()
            if row is None:
                return
            evidence = after_audit(Evidence(*row), hit.score, correct=correct)
            if evidence is None:
                gone = self._delete("entry = ?", [hit.entry])
                self._partitions.removed(self._connection, gone, self._epoch)
            else:
                self._connection.execute(
                    "UPDATE entries SET right = ?, wrong = ?, least_score = ? WHERE entry = ?",
                    (evidence.right, evidence.wrong, evidence.least_score, hit.entry),
                )

    def audited(self, model_digest: str, encoder: str = "") -> Audited:
        """See `SemanticStoreLike.audited`."""
        return self._tallies.shown((model_digest, encoder))

    def purge(
        self,
        *,
        key: int | None = None,
        tag: str | None = None,
        tenant: str | None = None,
        model_digest: str | None = None,
    ) -> int:
        """See `SemanticStoreLike.purge`. A whole model's purge also ends its suspension."""
        whole = key is None and tag is None and tenant is None
        with self._lock, explained("purged"):
            gone = self._purge(
                key,
                tag,
                tenant,
                model_digest,
                also=(lambda: self._acquit(model_digest)) if whole else None,
            )
            self._partitions.removed(self._connection, gone, self._epoch)
        return count(gone)

    def _acquit(self, model_digest: str | None) -> None:
        self._connection.executemany(
            "DELETE FROM audits WHERE model_digest = ? AND encoder = ?",
            self._tallies.acquit(model_digest),
        )

    def _forgotten(self) -> None:
        self._partitions.forget()

    def _closing(self) -> None:
        """Write the indexes; a file that cannot be written is made anew later."""
        self._partitions.save(self._connection)
