"""`MemoryStore`: the in-memory twin of `SemanticStore`, for tests and dry runs.

Compares with every entry, and forgets everything at the end.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from edge_runtime.cache.answers import Answer, decode, encode
from edge_runtime.cache.contract import CLOCK_STEP_S, MAX_TAGS, CacheSize, size_of
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
from edge_runtime.cache.semantic.partitions import NEAREST, pack, unpack
from edge_runtime.cache.semantic.score import Scorer
from edge_runtime.cache.semantic.tally import Tally


@dataclass(slots=True)
class _Entry:
    asked: Asked
    vector: Vector
    data: bytes
    tags: frozenset[str]
    epoch: int
    kept_s: int
    ttl_s: int
    size: int
    evidence: Evidence = field(default_factory=Evidence)


@dataclass
class MemoryStore:
    """See `SemanticStoreLike`."""

    scorer: Scorer
    clock: Callable[[], int]
    limits: SemanticLimits = field(default_factory=SemanticLimits)
    least_score: float | None = None
    _entries: OrderedDict[int, _Entry] = field(default_factory=OrderedDict)
    _tallies: dict[tuple[str, str], Tally] = field(default_factory=dict)
    _made: int = 0
    _generation: int = 0
    _epoch: int = 1

    def lookup(self, asked: Asked, vector: Vector, *, audit: bool) -> SemanticHit | SemanticTicket:
        """See `SemanticStoreLike.lookup`."""
        if self.audited(*asked.judged).suspended:
            return SemanticTicket(asked, vector, self._generation)
        least = self.scorer.threshold if self.least_score is None else self.least_score
        choice = choose(asked.text, self._candidates(asked, vector), self.scorer, least)
        ticket = SemanticTicket(asked, vector, self._generation, choice.score)
        if choice.chosen is None:
            return ticket
        found = choice.chosen
        self._entries.move_to_end(found.entry)
        answer = decode(self._entries[found.entry].data)
        return SemanticHit(
            answer, found.age_s, choice.score, found.text, found.entry, audit, ticket
        )

    def _candidates(self, asked: Asked, vector: Vector) -> Iterator[Candidate]:
        own = [
            (number, entry, float(entry.vector @ vector))
            for number, entry in self._entries.items()
            if entry.asked.partition == asked.partition and entry.epoch == self._epoch
        ]
        own.sort(key=lambda one: -one[2])
        for number, entry, cosine in own[:NEAREST]:
            age_s = self.clock() - entry.kept_s
            if -CLOCK_STEP_S <= age_s < entry.ttl_s:
                least = entry.evidence.least_score
                yield Candidate(number, entry.asked.text, cosine, least, max(age_s, 0))

    def keep(self, ticket: SemanticTicket, answer: Answer, *, ttl_s: int) -> bool:
        """See `SemanticStoreLike.keep`."""
        data, vector, asked = encode(answer), pack(ticket.vector), ticket.asked
        size = size_of(data, answer.tags) + len(vector) + len(asked.text.encode())
        if ttl_s <= 0 or size > self.limits.max_entry_bytes or len(answer.tags) > MAX_TAGS:
            return False
        if ticket.generation != self._generation:
            return False
        for number, entry in list(self._entries.items()):
            if (entry.asked.partition, entry.asked.text) == (asked.partition, asked.text):
                del self._entries[number]
        self._evict(size)
        self._made += 1
        self._entries[self._made] = _Entry(
            asked, unpack(vector), data, answer.tags, self._epoch, self.clock(), ttl_s, size
        )
        return True

    def report_audit(self, hit: SemanticHit, *, correct: bool) -> None:
        """See `SemanticStoreLike.report_audit`."""
        judged = hit.ticket.asked.judged
        tally = self._tallies.setdefault(judged, Tally.new(self.limits.alpha, self.limits.level))
        tally.observe(wrong=not correct)
        entry = self._entries.get(hit.entry)
        if entry is None:
            return
        evidence = after_audit(entry.evidence, hit.score, correct=correct)
        if evidence is None:
            del self._entries[hit.entry]
        else:
            entry.evidence = evidence

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
        """See `SemanticStoreLike.purge`."""
        self._generation += 1
        gone = [
            number
            for number, entry in self._entries.items()
            if key in (None, number)
            and (tag is None or tag in entry.tags)
            and tenant in (None, entry.asked.tenant)
            and model_digest in (None, entry.asked.model_digest)
        ]
        for number in gone:
            del self._entries[number]
        if key is None and tag is None and tenant is None:
            for judged in list(self._tallies):
                if model_digest in (None, judged[0]):
                    del self._tallies[judged]
        return len(gone)

    def new_epoch(self) -> int:
        """See `SemanticStoreLike.new_epoch`."""
        self._generation += 1
        self._epoch += 1
        return self._epoch

    def size(self) -> CacheSize:
        """See `SemanticStoreLike.size`."""
        held = sum(entry.size for entry in self._entries.values())
        return CacheSize(len(self._entries), held, self._epoch)

    def close(self) -> None:
        """Nothing to write."""

    def _evict(self, room: int) -> None:
        now = self.clock()
        entries = self._entries.items()
        ended = [(one.kept_s + one.ttl_s, number) for number, one in entries]
        outdated = [(one.epoch, number) for number, one in entries]
        order = [number for at, number in sorted(ended) if at <= now]
        order += [number for epoch, number in sorted(outdated) if epoch < self._epoch]
        order += list(self._entries)  # in the order of last use
        for number in order:
            held = self.size()
            fits = held.bytes + room <= self.limits.max_bytes
            if fits and held.entries < self.limits.max_entries:
                return
            self._entries.pop(number, None)
