"""The semantic cache behind the router: hits say so, audits ask afresh, the encoder may be late."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge_runtime.cache.answers import Answer
from edge_runtime.cache.semantic.settings import SemanticCacheSettings
from edge_runtime.metrics import Metrics
from edge_runtime.router.contract import SimilarHit, SimilarQuestion
from edge_runtime.router.open import local_router
from edge_runtime.router.similar import embedder, semantic_cache
from edge_runtime.server.fake_host import FakeHost
from tests.support.routed import hold_against_ledger, routed

URL = "/v1/chat/completions"


@dataclass
class LowerCase:
    """Texts that differ in case only mean the same; `explore` asks for a fresh answer."""

    explore: bool = False
    kept: dict[str, Answer] = field(default_factory=dict)
    learned: list[str] = field(default_factory=list)

    async def lookup(self, question: SimilarQuestion) -> SimilarHit | None:
        answer = self.kept.get(question.text.lower())
        return None if answer is None else SimilarHit(answer, 0.97, 3, explore=self.explore)

    async def keep(self, question: SimilarQuestion, answer: Answer, *, ttl_s: int) -> None:
        self.learned.append(question.text)
        self.kept[question.text.lower()] = answer

    async def purge(
        self, *, tag: str | None = None, tenant: str | None = None, model_digest: str | None = None
    ) -> int:
        count = len(self.kept)
        self.kept.clear()
        return count


def asked(text: str) -> dict[str, Any]:
    return {"model": "echo", "messages": [{"role": "user", "content": text}]}


async def test_a_similar_question_gets_the_kept_answer_and_says_so() -> None:
    async with routed(None) as daemon:
        daemon.router.semantic = similar = LowerCase()
        daemon.router.exact_ttl_s = 60
        await daemon.post(URL, asked("wake me"))
        await daemon.router.finish_background(cancel=False)
        answer = await daemon.post(URL, asked("Wake me"))
        fresh = await daemon.post(URL, asked("WAKE ME"), cache_control="no-store")
        gone = await daemon.post("/v1/cache/purge", {})
    assert answer.body["choices"][0]["message"]["content"] == "wake me"
    assert (answer.edge["tier"], answer.edge["reason"]) == ("cache", "similar")
    rows = [row for row in daemon.rows if row.request_id == answer.headers["x-request-id"]]
    hold_against_ledger(answer.headers, answer.edge, rows)
    assert fresh.edge["tier"] == "local"
    assert similar.learned == ["wake me"]
    assert gone.body == {"purged": 1}


async def test_a_hit_to_be_checked_is_answered_afresh_and_learned_from() -> None:
    async with routed(None) as daemon:
        daemon.router.semantic = similar = LowerCase(explore=True)
        daemon.router.exact_ttl_s = 60
        for text in ("wake me", "Wake me"):
            answer = await daemon.post(URL, asked(text))
            await daemon.router.finish_background(cancel=False)
    assert answer.edge["tier"] == "local"
    assert similar.learned == ["wake me", "Wake me"]


async def test_texts_are_embedded_by_the_named_model() -> None:
    host = FakeHost()
    embed = embedder(host, host.info("bytes-embed"))
    vector = await embed("hey")
    assert vector is not None
    assert vector.shape == (8,)
    assert await embed("x" * 100) is None, "longer than the encoder's window"


async def opened() -> None:
    tasks = [one for one in asyncio.all_tasks() if one.get_name() == "semantic-cache"]
    assert len(tasks) == 1
    await asyncio.gather(*tasks)


async def test_the_cache_opens_once_its_encoder_is_there_and_closes(tmp_path: Path) -> None:
    settings = SemanticCacheSettings(
        enabled=True, path=tmp_path / "semantic.db", encoder="bytes-embed"
    )
    router = local_router(Metrics())
    async with semantic_cache(router, FakeHost(), settings):
        await opened()
        assert router.semantic is not None
        assert (tmp_path / "semantic.db").exists()
    assert router.semantic is None


async def test_without_such_an_encoder_there_is_no_semantic_cache(tmp_path: Path) -> None:
    for name in ("nobody", "letter-class"):
        settings = SemanticCacheSettings(enabled=True, path=tmp_path / "s.db", encoder=name)
        router = local_router(Metrics())
        async with semantic_cache(router, FakeHost(), settings):
            await opened()
            assert router.semantic is None
    assert not (tmp_path / "s.db").exists()
