"""A semantic store with made-up vectors: alike where the words are alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edge_runtime.cache.answers import Answer
from edge_runtime.cache.semantic.contract import (
    Asked,
    SemanticHit,
    SemanticLimits,
    SemanticStoreLike,
    SemanticTicket,
    Vector,
)
from edge_runtime.cache.semantic.memory import MemoryStore
from edge_runtime.cache.semantic.score import shipped
from edge_runtime.cache.semantic.store import SemanticStore

WIDTH = 64
WORDS = ["balance", "transfer", "refund", "cheque", "passcode", "statement", "limit", "delivery"]


class Clock:
    def __init__(self) -> None:
        self.s = 1_000_000

    def __call__(self) -> int:
        return self.s


def vector_of(text: str) -> Vector:
    """A unit vector by the words of a text, so that alike texts are near."""
    total = np.zeros(WIDTH, np.float32)
    for word in text.lower().strip("?.").split():
        total += np.random.default_rng(list(word.encode())).normal(size=WIDTH).astype(np.float32)
    return total / np.float32(np.linalg.norm(total))


def asked(text: str, tenant: str = "t", digest: str = "d") -> Asked:
    return Asked(tenant, digest, (tenant + digest).encode().ljust(32), text)


def answer(text: str, tags: frozenset[str] = frozenset()) -> Answer:
    return Answer({"choices": [{"message": {"content": text}}]}, tags=tags)


def ask(
    store: SemanticStoreLike, text: str, *, audit: bool = False, **whose: str
) -> SemanticHit | SemanticTicket:
    return store.lookup(asked(text, **whose), vector_of(text), audit=audit)


def keep(
    store: SemanticStoreLike,
    text: str,
    *,
    ttl_s: int = 100,
    tags: frozenset[str] = frozenset(),
    **whose: str,
) -> bool:
    ticket = SemanticTicket(asked(text, **whose), vector_of(text), _generation(store))
    return store.keep(ticket, answer(f"answer to {text}", tags), ttl_s=ttl_s)


def _generation(store: SemanticStoreLike) -> int:
    if isinstance(store, MemoryStore):
        return store._held.generation
    assert isinstance(store, SemanticStore)
    return store._generation


def opened(path: Path, clock: Clock, **limits: int) -> SemanticStore:
    bounds = SemanticLimits(**limits)  # type: ignore[arg-type]
    return SemanticStore.open(path, scorer=shipped(), clock=clock, limits=bounds)


def is_hit(found: SemanticHit | SemanticTicket) -> bool:
    return isinstance(found, SemanticHit)
