"""The semantic cache as the router sees it: embedding, audits by draws, fresh answers."""

from __future__ import annotations

import random
import sqlite3
from pathlib import Path

import pytest

from edge_runtime.cache.key import Question
from edge_runtime.cache.semantic.cache import (
    SemanticCache,
    open_semantic_store,
    semantic_cache_of,
)
from edge_runtime.cache.semantic.contract import (
    SemanticStoreLike,
    Vector,
    similar_question,
)
from edge_runtime.cache.semantic.memory import MemoryStore
from edge_runtime.cache.semantic.score import shipped
from edge_runtime.cache.semantic.settings import SemanticCacheSettings
from edge_runtime.router.contract import SimilarQuestion
from tests.support.semantic import Clock, answer, opened, vector_of


class TestCache:
    """The side of the router: embedding, audits by draws, fresh answers judged."""

    def question(self, text: str) -> SimilarQuestion:
        messages = [{"role": "user", "content": text}]
        similar = similar_question(Question("chat", "d", "t", {"messages": messages}))
        assert similar is not None
        return similar

    def cache(self, store: SemanticStoreLike, share: float) -> SemanticCache:
        async def embed(text: str) -> Vector | None:
            return None if len(text) > 100 else 3 * vector_of(text)

        return SemanticCache(store, embed, encoder="e", audit_share=share, rng=random.Random(1))

    async def test_it_keeps_and_finds_and_purges(self, path: Path, clock: Clock) -> None:
        cache = self.cache(opened(path, clock), 0.0)
        assert await cache.lookup(self.question("what is my balance")) is None
        await cache.keep(self.question("what is my balance"), answer("5"), ttl_s=10)
        hit = await cache.lookup(self.question("please what is my balance"))
        assert hit is not None
        assert not hit.explore
        assert hit.similarity >= shipped().threshold
        await cache.keep(self.question("what is my limit"), answer("6"), ttl_s=10)  # no lookup
        assert await cache.purge(tenant="t") == 2
        assert await cache.lookup(self.question("what is my balance")) is None
        assert await cache.new_epoch() == 2

    async def test_what_cannot_be_embedded_is_left_alone(self, clock: Clock) -> None:
        store = MemoryStore(shipped(), clock)
        cache = self.cache(store, 0.0)
        long = self.question("what is my balance " * 10)
        assert await cache.lookup(long) is None
        await cache.keep(long, answer("5"), ttl_s=10)
        assert store.size().entries == 0

    @pytest.mark.parametrize(("fresh", "wrong"), [("5", 0), ("7", 1)])
    async def test_an_audited_hit_is_judged_by_the_fresh_answer(
        self, clock: Clock, fresh: str, wrong: int
    ) -> None:
        cache = self.cache(MemoryStore(shipped(), clock), 1.0)
        await cache.keep(self.question("what is my balance"), answer("5"), ttl_s=10)
        hit = await cache.lookup(self.question("please what is my balance"))
        assert hit is not None
        assert hit.explore
        await cache.keep(self.question("please what is my balance"), answer(fresh), ttl_s=10)
        assert (cache.audited("d").n, cache.audited("d").wrong) == (1, wrong)

    async def test_it_opens_from_settings(self, path: Path) -> None:
        async def embed(text: str) -> Vector | None:
            return vector_of(text)

        settings = SemanticCacheSettings(path=path, ttl_s=5)
        store = open_semantic_store(settings)
        cache = semantic_cache_of(store, settings, embed, encoder="e")
        asked = self.question("what is my balance")
        assert await cache.lookup(asked) is None
        await cache.keep(asked, answer("5"), ttl_s=3600)
        assert await cache.lookup(asked) is not None
        store.close()
        rows = sqlite3.connect(path)
        assert rows.execute("SELECT expires_s - kept_s FROM entries").fetchall() == [(5,)]
        rows.close()
