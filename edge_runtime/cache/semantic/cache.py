"""The semantic cache as the router sees it: embeds, looks up, keeps, and judges audits.

Rules
- The store is asked on the event loop, and written to in threads.
- Between a lookup and the fresh answer, what the lookup found is remembered: `keep` uses its
  vector and its ticket, and judges the hit it gave if that was to be audited. At most
  `REMEMBERED` are; for one that fell out, the text is embedded again and nothing is judged.
- Which hits are audited is drawn from a generator that is handed in: the share is known, and
  nothing about a request can influence it.
"""

from __future__ import annotations

import asyncio
import random
from collections import OrderedDict
from pathlib import Path

import numpy as np

from edge_runtime.cache.answers import Answer
from edge_runtime.cache.semantic.agree import agree, same_words, text_of
from edge_runtime.cache.semantic.contract import (
    Asked,
    Audited,
    Embed,
    SemanticHit,
    SemanticLimits,
    SemanticStoreLike,
    SemanticTicket,
    Vector,
    asked_of,
)
from edge_runtime.cache.semantic.evidence import is_audited
from edge_runtime.cache.semantic.score import shipped
from edge_runtime.cache.semantic.settings import SemanticCacheSettings
from edge_runtime.cache.semantic.store import SemanticStore
from edge_runtime.router.contract import SimilarHit, SimilarQuestion

REMEMBERED = 1024


class SemanticCache:
    """See `SemanticCacheLike` of the router."""

    def __init__(
        self,
        store: SemanticStoreLike,
        embed: Embed,
        *,
        encoder: str,
        audit_share: float,
        max_text_chars: int = 600,
        ttl_s: int | None = None,
        rng: random.Random | None = None,
    ) -> None:
        """`encoder` is the digest of the model that `embed` runs: its vectors are comparable.

        `ttl_s` is the longest an answer is kept, whoever asks for more.
        """
        self._store = store
        self._embed = embed
        self._encoder = encoder
        self._share = audit_share
        self._max_chars = max_text_chars
        self._ttl_s = ttl_s
        self._rng = rng or random.SystemRandom()
        self._found: OrderedDict[tuple[bytes, str], SemanticHit | SemanticTicket] = OrderedDict()

    async def lookup(self, question: SimilarQuestion) -> SimilarHit | None:
        """See `SemanticCacheLike.lookup`. Costs an embedding and a fraction of a millisecond."""
        found = await self._find(question)
        if not isinstance(found, SemanticHit):
            return None
        return SimilarHit(found.answer, found.score, found.age_s, explore=found.audit)

    async def _find(self, question: SimilarQuestion) -> SemanticHit | SemanticTicket | None:
        if not 0 < len(question.text.strip()) <= self._max_chars:
            return None
        asked = asked_of(question, self._encoder)
        vector = await self._unit(asked.text)
        if vector is None:
            return None
        audit = is_audited(self._rng.random(), self._share)
        found = self._store.lookup(asked, vector, audit=audit)
        self._found[_key(asked)] = found
        self._found.move_to_end(_key(asked))
        if len(self._found) > REMEMBERED:
            self._found.popitem(last=False)
        return found

    async def keep(self, question: SimilarQuestion, answer: Answer, *, ttl_s: int) -> None:
        """See `SemanticCacheLike.keep`."""
        if not 0 < len(question.text.strip()) <= self._max_chars:
            return
        found = self._found.pop(_key(asked_of(question, self._encoder)), None)
        if found is None:
            found = await self._find(question)
            if found is None:
                return
            self._found.pop(_key(asked_of(question, self._encoder)), None)
        elif isinstance(found, SemanticHit) and found.audit:
            correct = await self._agree(found.answer, answer)
            hit = found
            await asyncio.to_thread(lambda: self._store.report_audit(hit, correct=correct))
        ticket = found.ticket if isinstance(found, SemanticHit) else found
        ttl_s = ttl_s if self._ttl_s is None else min(ttl_s, self._ttl_s)
        await asyncio.to_thread(lambda: self._store.keep(ticket, answer, ttl_s=ttl_s))

    async def _agree(self, served: Answer, fresh: Answer) -> bool:
        first, second = text_of(served), text_of(fresh)
        if first is None or second is None:
            return False
        if same_words(first, second):
            return True
        vectors = await self._unit(first), await self._unit(second)
        if vectors[0] is None or vectors[1] is None:
            return False
        return agree(first, second, (vectors[0], vectors[1]))

    async def _unit(self, text: str) -> Vector | None:
        vector = await self._embed(text)
        if vector is None:
            return None
        length = float(np.linalg.norm(vector))
        return None if length < 1e-6 else (vector / length).astype(np.float32)

    async def purge(
        self,
        *,
        tenant: str | None = None,
        model_digest: str | None = None,
        key: int | None = None,
        tag: str | None = None,
    ) -> int:
        """See `SemanticCacheLike.purge`; also by `key` (an entry's number) and `tag`."""
        return await asyncio.to_thread(
            lambda: self._store.purge(key=key, tag=tag, tenant=tenant, model_digest=model_digest)
        )

    async def new_epoch(self) -> int:
        """Make every entry invisible at once; the number of the new epoch."""
        return await asyncio.to_thread(self._store.new_epoch)

    def audited(self, model_digest: str) -> Audited:
        """How often hits of this model were wrong, as far as audits show."""
        return self._store.audited(model_digest, self._encoder)


def open_semantic_store(settings: SemanticCacheSettings) -> SemanticStore:
    """The store of the settings; reads and may index the whole file: call it in a thread.

    Raises `ConfigError` when the file cannot be used.
    """
    return SemanticStore.open(
        Path(settings.path),
        scorer=shipped(),
        least_score=settings.least_score,
        limits=limits_of(settings),
    )


def limits_of(settings: SemanticCacheSettings) -> SemanticLimits:
    """How much the settings let a store keep. Raises `ConfigError`."""
    return SemanticLimits(
        max_entries=settings.max_entries,
        max_bytes=settings.max_bytes,
        max_entry_bytes=settings.max_entry_bytes,
    )


def semantic_cache_of(
    store: SemanticStoreLike, settings: SemanticCacheSettings, embed: Embed, *, encoder: str
) -> SemanticCache:
    """The cache of the settings over an open store, for one encoder. No I/O."""
    return SemanticCache(
        store,
        embed,
        encoder=encoder,
        audit_share=settings.audit_share,
        max_text_chars=settings.max_text_chars,
        ttl_s=settings.ttl_s,
    )


def _key(asked: Asked) -> tuple[bytes, str]:
    return asked.scope, asked.text
