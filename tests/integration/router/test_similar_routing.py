"""The semantic cache behind the router: hits say so, audits ask afresh, the encoder may be late."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from edge_runtime.cache.answers import Answer
from edge_runtime.cache.semantic.cache import open_semantic_store
from edge_runtime.cache.semantic.contract import SemanticHit, SemanticTicket, asked_of
from edge_runtime.cache.semantic.settings import SemanticCacheSettings
from edge_runtime.config import Settings
from edge_runtime.metrics import Metrics
from edge_runtime.router.contract import SimilarHit, SimilarQuestion
from edge_runtime.router.live import Routing
from edge_runtime.router.open import local_router
from edge_runtime.router.router import Router
from edge_runtime.router.similar import embedder, semantic_cache
from edge_runtime.server.fake_host import FakeHost
from tests.support.routed import hold_against_ledger, routed

VECTOR = np.eye(1, 8, dtype=np.float32)[0]
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


def similar_by(path: Path, encoder: str) -> Settings:
    table = {"enabled": True, "path": str(path), "encoder": encoder}
    return Settings.model_validate({"cache": {"semantic": table}})


async def opened() -> None:
    tasks = [one for one in asyncio.all_tasks() if one.get_name() == "semantic-cache"]
    assert len(tasks) == 1
    await asyncio.gather(*tasks)


async def test_the_cache_opens_once_its_encoder_is_there_and_closes(tmp_path: Path) -> None:
    settings = similar_by(tmp_path / "semantic.db", "bytes-embed")
    router = local_router(Metrics())
    async with semantic_cache(Routing(settings, router), FakeHost()):
        await opened()
        assert router.semantic is not None
        assert (tmp_path / "semantic.db").exists()
    assert router.semantic is None


async def test_without_such_an_encoder_there_is_no_semantic_cache(tmp_path: Path) -> None:
    for name in ("nobody", "letter-class"):
        settings = similar_by(tmp_path / "s.db", name)
        router = local_router(Metrics())
        async with semantic_cache(Routing(settings, router), FakeHost()):
            await opened()
            assert router.semantic is None
    assert not (tmp_path / "s.db").exists()


def question(text: str) -> SimilarQuestion:
    return SimilarQuestion("t", "d" * 64, text, {"kind": "chat"})


async def kept(router: Router, text: str) -> str | None:
    assert router.semantic is not None
    hit = await router.semantic.lookup(question(text))
    return None if hit is None else str(hit.answer.body["said"])


async def keep(router: Router, text: str, said: str) -> None:
    assert router.semantic is not None
    answer = Answer(body={"said": said}, answered_by="m@1")
    await router.semantic.keep(question(text), answer, ttl_s=60)


async def test_each_encoder_finds_what_it_kept_also_when_it_comes_back(tmp_path: Path) -> None:
    settings = similar_by(tmp_path / "semantic.db", "bytes-embed")
    router, host = local_router(Metrics()), FakeHost()
    first = host.info("bytes-embed")
    second = replace(first, version="2.0", bundle_digest="8" * 64, model_digest="9" * 64)
    async with semantic_cache(Routing(settings, router), host):
        await opened()
        await keep(router, "wake me up", "by the first")
        assert await kept(router, "wake me up") == "by the first"
        host.swap(second)
        assert await kept(router, "wake me up") is None, "vectors of two models are not compared"
        await keep(router, "wake me up", "by the second")
        assert await kept(router, "wake me up") == "by the second"
        host.swap(first)
        assert await kept(router, "wake me up") == "by the first"
        host.swap(replace(first, name="other"))
        assert await kept(router, "wake me up") == "by the first", "another model is no matter"
    assert host.encoded_for[-1] == first.bundle_digest


async def test_what_audits_said_of_one_encoder_is_not_held_against_another(tmp_path: Path) -> None:
    store = open_semantic_store(SemanticCacheSettings(path=tmp_path / "semantic.db"))
    one, other = (asked_of(question("a"), name) for name in ("e1", "e2"))
    hit = SemanticHit(
        Answer(body={}, answered_by="m@1"), 0, 0.99, "a", 1, True, SemanticTicket(one, VECTOR, 0)
    )
    while not store.audited(*one.judged).suspended:
        store.report_audit(hit, correct=False)
    assert not store.audited(*other.judged).suspended
    store.close()
    again = open_semantic_store(SemanticCacheSettings(path=tmp_path / "semantic.db"))
    assert again.audited(*one.judged).suspended, "kept over a restart"
    assert again.audited(*other.judged).n == 0
    again.purge(model_digest=one.model_digest)
    assert not again.audited(*one.judged).suspended
    again.close()
