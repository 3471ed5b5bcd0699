"""`MemoryStore`: the in-memory twin of `SemanticStore`, for tests and dry runs.

Compares with every entry, and forgets everything at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from edge_runtime.cache.answers import Answer, decode, encode
from edge_runtime.cache.contract import CLOCK_STEP_S, MAX_TAGS, CacheSize, size_of
from edge_runtime.cache.memory_entries import Kept, MemoryEntries
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
from edge_runtime.cache.semantic.tally import Tallies


@dataclass(slots=True, kw_only=True)
class _Entry(Kept):
    asked: Asked
    vector: Vector
    evidence: Evidence = field(default_factory=Evidence)


class MemoryStore:
    """See `SemanticStoreLike`."""

    def __init__(
        self,
        scorer: Scorer,
        clock: Callable[[], int],
        limits: SemanticLimits | None = None,
        least_score: float | None = None,
    ) -> None:
        self._scorer = scorer
        self._least = scorer.threshold if least_score is None else least_score
        self._limits = limits or SemanticLimits()
        self._held: MemoryEntries[int, _Entry] = MemoryEntries(clock)
        self._tallies = Tallies()

    def lookup(self, asked: Asked, vector: Vector, *, audit: bool) -> SemanticHit | SemanticTicket:
        """See `SemanticStoreLike.lookup`."""
        generation = self._held.generation
        if self._tallies.suspended(asked.judged):
            return SemanticTicket(asked, vector, generation)
        choice = choose(asked.text, self._candidates(asked, vector), self._scorer, self._least)
        ticket = SemanticTicket(asked, vector, generation, choice.score)
        if choice.chosen is None:
            return ticket
        found = choice.chosen
        self._held.entries.move_to_end(found.entry)
        answer = decode(self._held.entries[found.entry].data)
        return SemanticHit(
            answer, found.age_s, choice.score, found.text, found.entry, audit, ticket
        )

    def _candidates(self, asked: Asked, vector: Vector) -> Iterator[Candidate]:
        own = [
            (number, entry, float(entry.vector @ vector))
            for number, entry in self._held.entries.items()
            if entry.asked.partition == asked.partition and entry.epoch == self._held.epoch
        ]
        own.sort(key=lambda one: -one[2])
        for number, entry, cosine in own[:NEAREST]:
            age_s = self._held.clock() - entry.kept_s
            if -CLOCK_STEP_S <= age_s < entry.ttl_s:
                least = entry.evidence.least_score
                yield Candidate(number, entry.asked.text, cosine, least, max(age_s, 0))

    def keep(self, ticket: SemanticTicket, answer: Answer, *, ttl_s: int) -> bool:
        """See `SemanticStoreLike.keep`."""
        data, vector, asked = encode(answer), pack(ticket.vector), ticket.asked
        size = size_of(data, answer.tags) + len(vector) + len(asked.text.encode())
        if ttl_s <= 0 or size > self._limits.max_entry_bytes or len(answer.tags) > MAX_TAGS:
            return False
        held = self._held
        if ticket.generation != held.generation:
            return False
        for number, entry in list(held.entries.items()):
            if (entry.asked.partition, entry.asked.text) == (asked.partition, asked.text):
                del held.entries[number]
        held.evict(self._limits.max_bytes - size, self._limits.max_entries - 1)
        number = held.next_number()
        held.entries[number] = _Entry(
            asked=asked,
            vector=unpack(vector),
            tenant=asked.tenant,
            model_digest=asked.model_digest,
            data=data,
            tags=answer.tags,
            epoch=held.epoch,
            kept_s=held.clock(),
            ttl_s=ttl_s,
            size=size,
            number=number,
        )
        return True

    def report_audit(self, hit: SemanticHit, *, correct: bool) -> None:
        """See `SemanticStoreLike.report_audit`."""
        self._tallies.observe(hit.ticket.asked.judged, self._limits, wrong=not correct)
        entry = self._held.entries.get(hit.entry)
        if entry is None:
            return
        evidence = after_audit(entry.evidence, hit.score, correct=correct)
        if evidence is None:
            del self._held.entries[hit.entry]
        else:
            entry.evidence = evidence

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
        """See `SemanticStoreLike.purge`."""
        if key is None and tag is None and tenant is None:
            self._tallies.acquit(model_digest)
        return self._held.purge(key, tag, tenant, model_digest)

    def new_epoch(self) -> int:
        """See `SemanticStoreLike.new_epoch`."""
        return self._held.new_epoch()

    def size(self) -> CacheSize:
        """See `SemanticStoreLike.size`."""
        return self._held.size()

    def close(self) -> None:
        """Nothing to write."""
