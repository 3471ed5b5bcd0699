"""`MemoryCache`: the in-memory twin of `ExactCache`, for tests and dry runs."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

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
from edge_runtime.cache.policy import Use


@dataclass(frozen=True, slots=True)
class _Entry:
    question: Question
    data: bytes
    tags: frozenset[str]
    epoch: int
    kept_s: int
    ttl_s: int
    size: int
    number: int


@dataclass
class MemoryCache:
    """See `ExactCacheLike`."""

    clock: Callable[[], int]
    limits: CacheLimits = field(default_factory=CacheLimits)
    _entries: OrderedDict[bytes, _Entry] = field(default_factory=OrderedDict)
    _made: int = 0
    _generation: int = 0
    _epoch: int = 1

    def lookup(self, question: Question, use: Use) -> Hit | Ticket:
        """See `ExactCacheLike.lookup`."""
        key = cache_key(question)
        ticket = Ticket(key, question, self._generation)
        entry = self._entries.get(key)
        if not use.read or entry is None:
            return ticket
        age_s = self.clock() - entry.kept_s
        if entry.epoch != self._epoch or not fresh_enough(age_s, entry.ttl_s, use):
            return ticket
        self._entries.move_to_end(key)
        return Hit(decode(entry.data), max(age_s, 0))

    def keep(self, ticket: Ticket, answer: Answer, use: Use) -> bool:
        """See `ExactCacheLike.keep`."""
        if not use.keep:
            return False
        data = encode(answer)
        size = size_of(data, answer.tags)
        if size > self.limits.max_entry_bytes or len(answer.tags) > MAX_TAGS:
            return False
        if ticket.generation != self._generation:
            return False
        self._entries.pop(ticket.key, None)
        self._evict(size)
        self._made += 1
        self._entries[ticket.key] = _Entry(
            ticket.question,
            data,
            answer.tags,
            self._epoch,
            self.clock(),
            use.ttl_s,
            size,
            self._made,
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
        self._generation += 1
        gone = [
            name
            for name, entry in self._entries.items()
            if key in (None, name)
            and (tag is None or tag in entry.tags)
            and tenant in (None, entry.question.tenant)
            and model_digest in (None, entry.question.model_digest)
        ]
        for name in gone:
            del self._entries[name]
        return len(gone)

    def new_epoch(self) -> int:
        """See `ExactCacheLike.new_epoch`."""
        self._generation += 1
        self._epoch += 1
        return self._epoch

    def size(self) -> CacheSize:
        """See `ExactCacheLike.size`."""
        held = sum(entry.size for entry in self._entries.values())
        return CacheSize(len(self._entries), held, self._epoch)

    def _evict(self, room: int) -> None:
        now = self.clock()
        over = self.size().bytes + room - self.limits.max_bytes
        entries = self._entries.items()
        ended = [(one.kept_s + one.ttl_s, one.number, key) for key, one in entries]
        outdated = [(one.epoch, one.number, key) for key, one in entries]
        order = [key for at, _, key in sorted(ended) if at <= now]
        order += [key for epoch, _, key in sorted(outdated) if epoch < self._epoch]
        order += list(self._entries)  # in the order of last use
        for key in order:
            if over <= 0:
                return
            if key in self._entries:
                over -= self._entries.pop(key).size
