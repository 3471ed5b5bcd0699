"""The semantic cache on disk: bounds, purges, restarts, indexes, audits; and its twin in memory."""

from __future__ import annotations

import random
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from edge_runtime.cache.answers import Answer
from edge_runtime.cache.file import _connect
from edge_runtime.cache.key import Question
from edge_runtime.cache.semantic import partitions
from edge_runtime.cache.semantic.cache import (
    SemanticCache,
    open_semantic_store,
    semantic_cache_of,
)
from edge_runtime.cache.semantic.contract import (
    Asked,
    SemanticHit,
    SemanticLimits,
    SemanticStoreLike,
    SemanticTicket,
    Vector,
    similar_question,
)
from edge_runtime.cache.semantic.memory import MemoryStore
from edge_runtime.cache.semantic.partitions import Partitions
from edge_runtime.cache.semantic.score import shipped
from edge_runtime.cache.semantic.settings import SemanticCacheSettings
from edge_runtime.cache.semantic.store import SemanticStore
from edge_runtime.cache.semantic.tables import SEMANTIC
from edge_runtime.errors import ConfigError
from edge_runtime.router.contract import SimilarQuestion

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
    assert isinstance(store, SemanticStore | MemoryStore)
    return store._generation


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "semantic.db"


def opened(path: Path, clock: Clock, **limits: int) -> SemanticStore:
    bounds = SemanticLimits(**limits)  # type: ignore[arg-type]
    return SemanticStore.open(path, scorer=shipped(), clock=clock, limits=bounds)


def is_hit(found: SemanticHit | SemanticTicket) -> bool:
    return isinstance(found, SemanticHit)


def test_a_paraphrase_gets_the_answer_and_a_lookalike_does_not(path: Path, clock: Clock) -> None:
    store = opened(path, clock)
    assert keep(store, "what is my balance")
    clock.s += 7
    found = ask(store, "please what is my balance?")
    assert isinstance(found, SemanticHit)
    assert found.answer.body["choices"][0]["message"]["content"] == "answer to what is my balance"
    assert found.age_s == 7
    assert found.question == "what is my balance"
    assert not is_hit(ask(store, "what is not my balance"))
    assert not is_hit(ask(store, "what is my balance", tenant="other"))
    assert not is_hit(ask(store, "what is my balance", digest="other"))
    store.close()


def test_nothing_is_served_past_its_time_or_from_a_wrong_clock(path: Path, clock: Clock) -> None:
    store = opened(path, clock)
    keep(store, "what is my balance", ttl_s=10)
    clock.s += 10
    assert not is_hit(ask(store, "what is my balance"))
    clock.s -= 30
    assert not is_hit(ask(store, "what is my balance"))
    assert not keep(store, "what is my limit", ttl_s=0)
    store.close()


def test_it_survives_a_restart_and_the_same_question_is_kept_once(path: Path, clock: Clock) -> None:
    store = opened(path, clock)
    keep(store, "what is my balance")
    keep(store, "what is my balance")
    assert store.size().entries == 1
    store.close()
    again = opened(path, clock)
    assert is_hit(ask(again, "what is my balance please"))
    again.close()


def test_purges_by_key_tag_tenant_and_model_void_tickets(path: Path, clock: Clock) -> None:
    store = opened(path, clock)
    keep(store, "what is my balance", tags=frozenset({"money"}))
    keep(store, "what is my limit", tenant="other")
    keep(store, "what is my refund", digest="old")
    hit = ask(store, "what is my balance")
    assert isinstance(hit, SemanticHit)
    ticket = ask(store, "what is my passcode")
    assert isinstance(ticket, SemanticTicket)
    assert store.purge(tag="money", tenant="other") == 0
    assert store.purge(tag="money") == 1
    assert store.purge(tenant="other") == 1
    assert store.purge(model_digest="old") == 1
    assert not store.keep(ticket, answer("late"), ttl_s=10)
    keep(store, "what is my balance")
    fresh = ask(store, "what is my balance")
    assert isinstance(fresh, SemanticHit)
    assert store.purge(key=fresh.entry) == 1
    assert store.size().entries == 0
    assert store.size().bytes == 0
    store.close()


def test_a_new_epoch_hides_everything(path: Path, clock: Clock) -> None:
    store = opened(path, clock)
    keep(store, "what is my balance")
    assert store.new_epoch() == 2
    assert not is_hit(ask(store, "what is my balance"))
    assert store.size().entries == 1
    store.close()


def test_bounds_hold_and_the_least_used_goes_first(path: Path, clock: Clock) -> None:
    store = opened(path, clock, max_entries=3)
    for word in WORDS[:3]:
        keep(store, f"what is my {word}")
    assert is_hit(ask(store, f"what is my {WORDS[0]}"))
    keep(store, f"what is my {WORDS[3]}")
    assert store.size().entries == 3
    assert is_hit(ask(store, f"what is my {WORDS[0]}"))
    assert not is_hit(ask(store, f"what is my {WORDS[1]}"))
    store.close()
    smaller = opened(path, clock, max_entries=1)
    assert smaller.size().entries == 1
    smaller.close()


def test_an_answer_that_is_too_large_is_not_kept(path: Path, clock: Clock) -> None:
    store = opened(path, clock, max_entry_bytes=4096)
    ticket = SemanticTicket(asked("what is my balance"), vector_of("a"), 0)
    assert not store.keep(ticket, answer("x" * 5000), ttl_s=10)
    with pytest.raises(ValueError, match="not JSON"):
        store.keep(ticket, Answer({"choices": object()}), ttl_s=10)
    store.close()


class TestIndex:
    @pytest.fixture(autouse=True)
    def small(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(partitions, "SMALL", 10)

    def filled(self, path: Path, clock: Clock) -> SemanticStore:
        store = opened(path, clock)
        for first in WORDS:
            for second in WORDS[:3]:
                keep(store, f"what is the {first} of {second}")
        return store

    def index_files(self, path: Path) -> list[Path]:
        return sorted(path.with_name(path.name + ".index").glob("*.usearch"))

    def test_a_large_partition_is_found_by_its_index(self, path: Path, clock: Clock) -> None:
        store = self.filled(path, clock)
        assert len(store._partitions._indexes) == 1
        hit = ask(store, "tell me what is the refund of balance")
        assert isinstance(hit, SemanticHit)
        assert hit.question == "what is the refund of balance"
        assert store.purge(key=hit.entry) == 1
        gone = ask(store, "tell me what is the refund of balance")
        assert not isinstance(gone, SemanticHit) or gone.entry != hit.entry
        store.close()

    @pytest.mark.parametrize("harm", ["none", "missing", "damaged", "behind"])
    def test_a_file_is_used_only_if_it_is_right(
        self, path: Path, clock: Clock, harm: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.filled(path, clock).close()
        (file,) = self.index_files(path)
        if harm == "missing":
            file.unlink()
        elif harm == "damaged":
            data = bytearray(file.read_bytes())
            data[len(data) // 2] ^= 1
            file.write_bytes(bytes(data))
        elif harm == "behind":
            other = sqlite3.connect(path)
            other.execute("DELETE FROM entries WHERE text = 'what is the refund of balance'")
            other.commit()
            other.close()
        made: list[bytes] = []
        make = Partitions._make
        monkeypatch.setattr(
            Partitions,
            "_make",
            staticmethod(
                lambda connection, one, epoch: made.append(one) or make(connection, one, epoch)
            ),
        )
        store = opened(path, clock)
        assert len(made) == (0 if harm == "none" else 1)
        assert is_hit(ask(store, "tell me what is the limit of transfer"))
        found = ask(store, "tell me what is the refund of balance")
        exact = isinstance(found, SemanticHit) and found.question == "what is the refund of balance"
        assert exact == (harm != "behind")
        store.close()

    def test_purging_most_of_a_partition_drops_its_index(self, path: Path, clock: Clock) -> None:
        store = self.filled(path, clock)
        assert store.purge(tenant="t") == 24
        assert not store._partitions._indexes
        assert keep(store, "what is my balance")
        assert is_hit(ask(store, "what is my balance"))
        store.close()
        assert not self.index_files(path)

    def test_an_epoch_or_an_eviction_reaches_the_index(self, path: Path, clock: Clock) -> None:
        self.filled(path, clock).close()
        store = opened(path, clock, max_entries=12)
        assert store.size().entries == 12
        assert len(next(iter(store._partitions._indexes.values()))) == 12
        keep(store, "what is my balance of today")
        keep(store, "what is the passcode of refund")
        assert store.size().entries == 12
        store.new_epoch()
        assert not is_hit(ask(store, "what is the limit of transfer"))
        store.close()


class TestAudits:
    def test_wrong_audits_raise_what_an_entry_asks_for_then_drop_it(
        self, path: Path, clock: Clock
    ) -> None:
        store = opened(path, clock)
        keep(store, "what is my balance")
        hit = ask(store, "please what is my balance", audit=True)
        assert isinstance(hit, SemanticHit)
        assert hit.audit
        store.report_audit(hit, correct=True)
        store.report_audit(hit, correct=False)
        assert not is_hit(ask(store, "please what is my balance"))
        store.report_audit(hit, correct=False)
        assert store.size().entries == 0
        shown = store.audited("d")
        assert (shown.n, shown.wrong, shown.suspended) == (3, 2, False)
        store.close()

    def test_a_contradicted_certificate_suspends_the_model_until_its_purge(
        self, path: Path, clock: Clock
    ) -> None:
        store = opened(path, clock)
        keep(store, "what is my balance")
        hit = ask(store, "what is my balance")
        assert isinstance(hit, SemanticHit)
        for _ in range(6):
            store.report_audit(hit, correct=False)
        assert store.audited("d").suspended
        keep(store, "what is my limit")
        assert not is_hit(ask(store, "what is my limit"))
        store.close()
        again = opened(path, clock)
        assert again.audited("d").suspended
        again.purge(model_digest="d")
        keep(again, "what is my limit")
        assert is_hit(ask(again, "what is my limit"))
        again.close()


def test_a_damaged_file_is_made_anew_and_another_kind_refused(path: Path, clock: Clock) -> None:
    store = opened(path, clock)
    keep(store, "what is my balance")
    store.close()
    data = bytearray(path.read_bytes())
    data[100:6000] = b"\0" * 5900
    path.write_bytes(bytes(data))
    again = opened(path, clock)
    assert again.size().entries == 0
    again.close()
    other = path.with_name("text.db")
    other.write_text("not a database, but somebody's notes" * 30)
    with pytest.raises(ConfigError, match="not an SQLite file"):
        opened(other, clock)


def test_a_damaged_answer_is_dropped(path: Path, clock: Clock) -> None:
    store = opened(path, clock)
    keep(store, "what is my balance")
    store._connection.execute("UPDATE entries SET answer = x'00'")
    assert not is_hit(ask(store, "what is my balance"))
    assert store.size().entries == 0
    store.close()


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


class Twins(RuleBasedStateMachine):
    """Whatever is done, the file and its twin in memory answer alike and stay in bounds."""

    texts = st.sampled_from(
        [f"{start} my {word}" for start in ("what is", "please what is") for word in WORDS[:4]]
    )

    @initialize()
    def start(self) -> None:
        self.clock = Clock()
        connection = _connect(Path(":memory:"), SEMANTIC)
        limits = SemanticLimits(max_entries=4, max_bytes=6000, max_entry_bytes=5000)
        scorer = shipped()
        self.disk = SemanticStore(
            connection,
            connection,
            Partitions(None),
            scorer=scorer,
            least_score=scorer.threshold,
            limits=limits,
            clock=self.clock,
        )
        self.memory = MemoryStore(scorer, self.clock, limits)

    @rule(text=texts, ttl_s=st.integers(0, 50), tenant=st.sampled_from("ab"))
    def keep(self, text: str, ttl_s: int, tenant: str) -> None:
        kept = [keep(one, text, ttl_s=ttl_s, tenant=tenant) for one in (self.disk, self.memory)]
        assert kept[0] == kept[1]

    @rule(text=texts, tenant=st.sampled_from("ab"), correct=st.sampled_from([None, True, False]))
    def look_up(self, text: str, tenant: str, correct: bool | None) -> None:
        found = [ask(one, text, tenant=tenant) for one in (self.disk, self.memory)]
        one, other = found
        assert is_hit(one) == is_hit(other)
        if isinstance(one, SemanticHit) and isinstance(other, SemanticHit):
            assert one.answer == other.answer
            assert one.score == pytest.approx(other.score, abs=1e-4)
            if correct is not None:
                self.disk.report_audit(one, correct=correct)
                self.memory.report_audit(other, correct=correct)

    @rule(tenant=st.sampled_from([None, "a"]))
    def purge(self, tenant: str | None) -> None:
        assert self.disk.purge(tenant=tenant) == self.memory.purge(tenant=tenant)

    @rule(seconds=st.integers(0, 30))
    def wait(self, seconds: int) -> None:
        self.clock.s += seconds

    @rule()
    def epoch(self) -> None:
        assert self.disk.new_epoch() == self.memory.new_epoch()

    @invariant()
    def same_size_in_bounds(self) -> None:
        if hasattr(self, "disk"):
            assert self.disk.size() == self.memory.size()
            assert self.disk.size().entries <= 4
            assert self.disk.size().bytes <= 6000
            assert self.disk.audited("d") == self.memory.audited("d")


TestTwins = Twins.TestCase
TestTwins.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
