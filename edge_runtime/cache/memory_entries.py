"""What the caches' twins in memory have in common: `Entries` without a file."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from edge_runtime.cache.contract import CacheSize


@dataclass(slots=True, kw_only=True)
class Kept:
    """One entry. `number` tells which came first; `size` in bytes."""

    tenant: str
    model_digest: str
    data: bytes
    tags: frozenset[str]
    epoch: int
    kept_s: int
    ttl_s: int
    size: int
    number: int


Key = TypeVar("Key")
Entry = TypeVar("Entry", bound=Kept)


@dataclass
class MemoryEntries(Generic[Key, Entry]):
    """Entries in the order of their last use."""

    clock: Callable[[], int]
    entries: OrderedDict[Key, Entry] = field(default_factory=OrderedDict)
    generation: int = 0
    epoch: int = 1
    _made: int = 0

    def next_number(self) -> int:
        """The number of a new entry."""
        self._made += 1
        return self._made

    def purge(
        self, key: Key | None, tag: str | None, tenant: str | None, model_digest: str | None
    ) -> int:
        """Drop what matches everything given; how many went."""
        self.generation += 1
        gone = [
            name
            for name, entry in self.entries.items()
            if key in (None, name)
            and (tag is None or tag in entry.tags)
            and tenant in (None, entry.tenant)
            and model_digest in (None, entry.model_digest)
        ]
        for name in gone:
            del self.entries[name]
        return len(gone)

    def new_epoch(self) -> int:
        """Make every entry invisible."""
        self.generation += 1
        self.epoch += 1
        return self.epoch

    def size(self) -> CacheSize:
        """What is held now."""
        held = sum(entry.size for entry in self.entries.values())
        return CacheSize(len(self.entries), held, self.epoch)

    def evict(self, max_bytes: int, max_entries: int | None = None) -> None:
        """Come down to so much: what has ended, older epochs, what was used least recently."""
        now = self.clock()
        entries = self.entries.items()
        ended = [(one.kept_s + one.ttl_s, one.number, key) for key, one in entries]
        outdated = [(one.epoch, one.number, key) for key, one in entries]
        order = [key for at, _, key in sorted(ended) if at <= now]
        order += [key for epoch, _, key in sorted(outdated) if epoch < self.epoch]
        order += list(self.entries)
        for key in order:
            held = self.size()
            if held.bytes <= max_bytes and (max_entries is None or held.entries <= max_entries):
                return
            self.entries.pop(key, None)
