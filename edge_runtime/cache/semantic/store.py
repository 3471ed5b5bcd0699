"""The semantic cache's store: questions, vectors and answers in SQLite, bounded, with audits.

Rules
- SQLite is the truth; indexes of large partitions are made from it (`partitions`).
- Never more than `max_entries` and `max_bytes`: what has ended goes first, then older epochs, then
  what was used least recently, in the transaction that brings the new answer.
- An entry is served until its time is over, never from another epoch, and never past what audits
  say of it (`evidence`). When audits of a model contradict its certificate (a betting process
  against `alpha`), the model gets no hits until its entries are purged.
- A purge also stops answers that were being made: `keep` needs a ticket from after it.
- Losing the cache loses no data, so commits are not fsynced; purges are.

A lookup takes a fraction of a millisecond and may be made on the event loop. Everything else may
take 10 ms and more: give it to a thread. One process per file, any number of threads.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

from edge_runtime.cache.answers import Answer, decode, encode
from edge_runtime.cache.contract import CLOCK_STEP_S, MAX_TAGS, CacheSize, size_of
from edge_runtime.cache.exact import wall_clock_s
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
from edge_runtime.cache.semantic.rows import Row, delete, evict, insert, merge
from edge_runtime.cache.semantic.score import Scorer
from edge_runtime.cache.semantic.tables import ENTRY, SEMANTIC
from edge_runtime.cache.semantic.tally import Tally
from edge_runtime.cache.uses import Uses
from edge_runtime.errors import EngineError
from edge_runtime.stats.eprocess import BettingProcess


class SemanticStore:
    """See `SemanticStoreLike`."""

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
        self._connection = connection
        self._reader = reader
        self._partitions = partitions
        self._scorer = scorer
        self._least = least_score
        self._limits = limits
        self._clock = clock
        self._lock = threading.Lock()  # of writing; a commit is made under it
        self._generation = 0
        self._epoch: int = connection.execute("SELECT epoch FROM state").fetchone()[0]
        self._uses = Uses(connection)
        self._tallies = {
            (digest, encoder): Tally(
                n,
                wrong,
                BettingProcess(
                    limits.alpha, limits.level, log_capitals=json.loads(capitals), peak=peak
                ),
            )
            for digest, encoder, n, wrong, capitals, peak in connection.execute(
                "SELECT * FROM audits"
            )
        }

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
                store._evict(0, 0)  # the limits may have become smaller since
            store._partitions.open(store._connection, store._epoch)
        return store

    def lookup(self, asked: Asked, vector: Vector, *, audit: bool) -> SemanticHit | SemanticTicket:
        """See `SemanticStoreLike.lookup`."""
        generation, epoch = self._generation, self._epoch
        tally = self._tallies.get(asked.judged)
        if tally is not None and tally.suspended:
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

    def _evict(self, room: int, entries: int) -> dict[bytes, list[int]]:
        limits = self._limits
        return evict(
            self._connection,
            now=self._clock(),
            epoch=self._epoch,
            max_bytes=limits.max_bytes - room,
            max_entries=limits.max_entries - entries,
        )

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
                    gone = delete(
                        self._connection, "partition = ? AND text = ?", [partition, asked.text]
                    )
                    merge(gone, self._evict(size, 1))
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
        with self._lock, _explained("audited"), self._uses.transaction(durable=not correct):
            tally = self._tallies.get(judged) or Tally.new(self._limits.alpha, self._limits.level)
            self._tallies[judged] = tally
            tally.observe(wrong=not correct)
            self._connection.execute(
                "INSERT OR REPLACE INTO audits VALUES (?, ?, ?, ?, ?, ?)",
                (
                    *judged,
                    tally.n,
                    tally.wrong,
                    json.dumps(tally.process.log_capitals),
                    tally.process.peak,
                ),
            )
            row = self._connection.execute(
                "SELECT right, wrong, least_score FROM entries WHERE entry = ?", (hit.entry,)
            ).fetchone()
            if row is None:
                return
            evidence = after_audit(Evidence(*row), hit.score, correct=correct)
            if evidence is None:
                gone = delete(self._connection, "entry = ?", [hit.entry])
                self._partitions.removed(self._connection, gone, self._epoch)
            else:
                self._connection.execute(
                    "UPDATE entries SET right = ?, wrong = ?, least_score = ? WHERE entry = ?",
                    (evidence.right, evidence.wrong, evidence.least_score, hit.entry),
                )

    def audited(self, model_digest: str, encoder: str = "") -> Audited:
        """See `SemanticStoreLike.audited`."""
        tally = self._tallies.get((model_digest, encoder))
        return Audited(0, 0, 1.0, suspended=False) if tally is None else tally.shown()

    def purge(
        self,
        *,
        key: int | None = None,
        tag: str | None = None,
        tenant: str | None = None,
        model_digest: str | None = None,
    ) -> int:
        """See `SemanticStoreLike.purge`. A whole model's purge also ends its suspension."""
        tests: dict[str, str | int | None] = {
            "entry = ?": key,
            "entry IN (SELECT entry FROM tags WHERE tag = ?)": tag,
            "tenant = ?": tenant,
            "model_digest = ?": model_digest,
        }
        given = {test: value for test, value in tests.items() if value is not None}
        with self._lock, _explained("purged"):
            self._generation += 1
            with self._uses.transaction(durable=True):
                gone = delete(self._connection, " AND ".join(given) or "1", [*given.values()])
                if not given or given.keys() == {"model_digest = ?"}:
                    self._acquit(model_digest)
            self._partitions.removed(self._connection, gone, self._epoch)
        return sum(map(len, gone.values()))

    def _acquit(self, model_digest: str | None) -> None:
        for judged in list(self._tallies):
            if model_digest in (None, judged[0]):
                self._connection.execute(
                    "DELETE FROM audits WHERE model_digest = ? AND encoder = ?", judged
                )
                del self._tallies[judged]

    def new_epoch(self) -> int:
        """See `SemanticStoreLike.new_epoch`. Takes the same time however much is kept."""
        with self._lock, _explained("purged"):
            self._generation += 1
            with self._uses.transaction(durable=True):
                self._connection.execute("UPDATE state SET epoch = epoch + 1")
            self._epoch += 1
            self._partitions.forget()
            return self._epoch

    def size(self) -> CacheSize:
        """See `SemanticStoreLike.size`. Entries of older epochs count until they go."""
        with self._lock:
            count, held = self._connection.execute("SELECT entries, bytes FROM state").fetchone()
            return CacheSize(count, held, self._epoch)

    def close(self) -> None:
        """Write the uses and the indexes; a file that cannot be written is made anew later."""
        with self._lock:
            with (
                contextlib.suppress(sqlite3.Error, OSError),
                self._uses.transaction(everything=True),
            ):
                self._partitions.save(self._connection)
            self._reader.close()
            self._connection.close()


@contextlib.contextmanager
def _explained(done: str) -> Iterator[None]:
    """A purge or an audit that failed must not look like one that worked."""
    try:
        yield
    except sqlite3.Error as error:
        raise EngineError(
            f"the cache could not be {done}: {error}; free the disk, or stop and delete the file"
        ) from error
