"""Audits of the semantic cache: entries that were wrong, and models that are."""

from __future__ import annotations

from pathlib import Path

from edge_runtime.cache.semantic.contract import (
    SemanticHit,
)
from tests.support.semantic import Clock, ask, is_hit, keep, opened


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
