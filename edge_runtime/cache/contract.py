"""What callers of the exact cache see, and the rules its two forms share. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from edge_runtime.cache.answers import Answer
from edge_runtime.cache.key import Question
from edge_runtime.cache.policy import Use
from edge_runtime.errors import ConfigError

OVERHEAD_BYTES = 512  # a row's part of tables and indices, counted with its answer
CLOCK_STEP_S = 5  # an entry from further ahead was kept by a clock that was wrong
MAX_TAGS = 16


@dataclass(frozen=True, slots=True)
class CacheLimits:
    """How much is kept, in bytes of answers and of their rows."""

    max_bytes: int = 256 << 20
    max_entry_bytes: int = 1 << 20

    def __post_init__(self) -> None:
        if not OVERHEAD_BYTES < self.max_entry_bytes <= self.max_bytes:
            raise ConfigError(
                f"max_entry_bytes must be more than {OVERHEAD_BYTES} and at most max_bytes"
            )


@dataclass(frozen=True, slots=True)
class Ticket:
    """Allows one answer to be kept, unless something is purged before."""

    key: bytes
    question: Question
    generation: int


@dataclass(frozen=True, slots=True)
class Hit:
    """A kept answer, its age, and the key it is kept under; empty for one found by likeness."""

    answer: Answer
    age_s: int
    key: bytes = b""


@dataclass(frozen=True, slots=True)
class CacheSize:
    """What the cache holds; `bytes` counts answers and their rows."""

    entries: int
    bytes: int
    epoch: int


class ExactCacheLike(Protocol):
    """What the router needs of an exact cache; `memory.MemoryCache` is the twin for tests."""

    def lookup(self, question: Question, use: Use) -> Hit | Ticket:
        """The kept answer, or a ticket to keep the fresh one with."""
        ...

    def keep(self, ticket: Ticket, answer: Answer, use: Use) -> bool:
        """Keep a fresh answer; False when the rules forbid it."""
        ...

    def purge(
        self,
        *,
        key: bytes | None = None,
        tag: str | None = None,
        tenant: str | None = None,
        model_digest: str | None = None,
    ) -> int:
        """Drop entries that match everything given; with nothing given, all of them."""
        ...

    def new_epoch(self) -> int:
        """Make every entry invisible at once; the number of the new epoch."""
        ...

    def size(self) -> CacheSize:
        """What is held now."""
        ...


def fresh_enough(age_s: int, ttl_s: int, use: Use) -> bool:
    """True when an entry of this age may still be served."""
    if not -CLOCK_STEP_S <= age_s < ttl_s:
        return False
    return use.max_age_s is None or age_s <= use.max_age_s


def size_of(data: bytes, tags: Iterable[str]) -> int:
    """Bytes an entry counts for."""
    return len(data) + OVERHEAD_BYTES + sum(len(tag.encode()) for tag in tags)
