"""Whatever is done, the semantic cache on disk and its twin in memory answer alike."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from edge_runtime.cache.file import _connect
from edge_runtime.cache.semantic.contract import (
    SemanticHit,
    SemanticLimits,
)
from edge_runtime.cache.semantic.memory import MemoryStore
from edge_runtime.cache.semantic.partitions import Partitions
from edge_runtime.cache.semantic.score import shipped
from edge_runtime.cache.semantic.store import SemanticStore
from edge_runtime.cache.semantic.tables import SEMANTIC
from tests.support.semantic import WORDS, Clock, ask, is_hit, keep


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
