"""`MemoryCache`: the in-memory twin of `ExactCache`, for tests and dry runs."""

from __future__ import annotations

from collections.abc import Callable

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
from edge_runtime.cache.key import Question, cache_key
from edge_runtime.cache.memory_entries import Kept, MemoryEntries
from edge_runtime.cache.policy import Use


class MemoryCache:
    """See `ExactCacheLike`."""

    def __init__(self, clock: Callable[[], int], limits: CacheLimits | None = None) -> None:
        self._limits = limits or CacheLimits()
        self._held: MemoryEntries[bytes, Kept] = MemoryEntries(clock)

    def lookup(self, question: Question, use: Use) -> Hit | Ticket:
        """See `ExactCacheLike.lookup`."""
        key = cache_key(question)
        ticket = Ticket(key, question, self._held.generation)
        entry = self._held.entries.get(key)
        if not use.read or entry is None:
            return ticket
        age_s = self._held.clock() - entry.kept_s
        if entry.epoch != self._held.epoch or not fresh_enough(age_s, entry.ttl_s, use):
            return ticket
        self._held.entries.move_to_end(key)
        return Hit(decode(entry.data), max(age_s, 0), key)

    def keep(self, ticket: Ticket, answer: Answer, use: Use) -> bool:
        """See `ExactCacheLike.keep`."""
        if not use.keep:
            return False
        data = encode(answer)
        size = size_of(data, answer.tags)
        if size > self._limits.max_entry_bytes or len(answer.tags) > MAX_TAGS:
            return False
        held = self._held
        if ticket.generation != held.generation:
            return False
        held.entries.pop(ticket.key, None)
        held.evict(self._limits.max_bytes - size)
        held.entries[ticket.key] = Kept(
            tenant=ticket.question.tenant,
            model_digest=ticket.question.model_digest,
            data=data,
            tags=answer.tags,
            epoch=held.epoch,
            kept_s=held.clock(),
            ttl_s=use.ttl_s,
            size=size,
            number=held.next_number(),
        )
        return True

    def purge(
        self,
        *,
        key: bytes | None = None,
        tag: str | None = None,
        tenant: str | None = None,
        model_digest: str | None = None,
    ) -> int:
        """See `ExactCacheLike.purge`."""
        return self._held.purge(key, tag, tenant, model_digest)

    def new_epoch(self) -> int:
        """See `ExactCacheLike.new_epoch`."""
        return self._held.new_epoch()

    def size(self) -> CacheSize:
        """See `ExactCacheLike.size`."""
        return self._held.size()
