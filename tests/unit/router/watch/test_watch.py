"""The watch as the router holds it: audits, alarms, trials, and restarts."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from edge_runtime.ledger.rows import ComparedBy, Purpose
from edge_runtime.router.contract import (
    FrontierError,
    FrontierWhy,
)
from edge_runtime.router.watch.contract import (
    AuditEnd,
    Compared,
    HowToCompare,
    WatchLike,
)
from edge_runtime.router.watch.judge import AUDIT_SCOPE, Again, after_failure
from edge_runtime.router.watch.settings import (
    AuditSettings,
)
from tests.support.watch import (
    CERTIFICATE,
    WHERE,
    Box,
    call,
    rows,
    sample,
)


async def test_a_kept_answer_that_is_drawn_is_held_against_the_frontier() -> None:
    box = Box("balance", "transfer", "garbage")
    held: WatchLike = box.watch
    async with box.watch.running():
        for number in range(3):
            assert held.maybe_audit(sample(number))
        await box.until(lambda: len(box.listener.ends) == 3)
    assert box.listener.ends == [AuditEnd.AGREED, AuditEnd.DIFFERED, AuditEnd.UNREADABLE]
    assert rows(box) == (0, 0, 2, 1)
    assert [(one.agreed, one.source, one.share_ppm, one.score_ppm, one.task)
            for one in box.ledger.comparisons] == [
        (True, ComparedBy.AUDIT, 500_000, 900_000, "intent"),
        (False, ComparedBy.AUDIT, 500_000, 900_000, "intent"),
    ]  # fmt: skip
    asked = box.frontiers.calls[0]
    assert (asked.purpose, asked.deadline_s, asked.accept) == (Purpose.AUDIT, None, None)
    assert asked.payer.scopes == ("box", "tenant:shop", "endpoint:search", AUDIT_SCOPE)
    assert box.listener.waiting[-1] == 0


async def test_what_is_not_drawn_or_must_not_leave_is_not_audited() -> None:
    box = Box()
    assert not box.watch.maybe_audit(sample(may_leave=False))
    box.draws[0] = 0.5
    assert not box.watch.maybe_audit(sample())
    async with box.watch.running():
        await asyncio.sleep(0)
    assert box.frontiers.calls == []


async def test_audits_wait_while_the_frontier_is_out() -> None:
    out = FrontierError(FrontierWhy.OUT_OF_CREDIT, "no credit", retry_after_s=99.0)
    box = Box(out, "balance", up=False)
    async with box.watch.running():
        box.watch.maybe_audit(sample())
        await box.until(lambda: box.sleeper.asked == [30.0])
        box.frontiers.up = True
        box.sleeper.wake.set()
        await box.until(lambda: box.listener.ends == [AuditEnd.AGREED])
    assert box.sleeper.asked == [30.0, 99.0]
    assert len(box.frontiers.calls) == 2


async def test_a_question_that_fails_otherwise_is_given_up_and_holds_nobody_up() -> None:
    slow = FrontierError(FrontierWhy.TIMEOUT, "too slow")
    wrong = FrontierError(FrontierWhy.BAD_REQUEST, "no such field")
    box = Box(slow, "balance", slow, wrong, audit=AuditSettings(share=1.0, max_tries=2))
    box.sleeper.wake.set()
    async with box.watch.running():
        for number in range(3):
            box.watch.maybe_audit(sample(number))
        await box.until(lambda: len(box.listener.ends) == 3)
    asked = [one.payer.request_id for one in box.frontiers.calls]
    assert asked == ["r0", "r1", "r2", "r0", "r2"]
    assert box.listener.ends == [AuditEnd.AGREED, AuditEnd.FAILED, AuditEnd.AGREED]


def test_outages_cost_no_try_and_the_last_try_is_the_last() -> None:
    settings = AuditSettings(max_tries=3, retry_s=30.0)
    out = FrontierError(FrontierWhy.BUDGET, "no money", retry_after_s=1e9)
    assert after_failure(out, 99, settings) == Again(3600.0, counts=False)
    cut = FrontierError(FrontierWhy.CUT, "cut off")
    assert after_failure(cut, 1, settings) == Again(30.0, counts=True)
    assert after_failure(cut, 2, settings) is None
    assert after_failure(FrontierError(FrontierWhy.NONE_CONFIGURED, ""), 0, settings) is None


async def test_a_fault_in_one_question_does_not_end_the_others() -> None:
    def broken(_: Mapping[str, Any]) -> str:
        raise RuntimeError("a bug")

    box = Box()
    async with box.watch.running():
        box.watch.maybe_audit(sample(read=broken))
        box.watch.maybe_audit(sample())
        await box.until(lambda: len(box.listener.ends) == 2)
    assert box.listener.ends == [AuditEnd.FAILED, AuditEnd.AGREED]


@pytest.mark.parametrize("bound", [{"max_waiting": 2}, {"max_waiting_tokens": 2047}])
async def test_more_audits_than_may_wait_are_dropped_and_counted(bound: dict[str, int]) -> None:
    box = Box(audit=AuditSettings(share=1.0, **bound))  # type: ignore[arg-type]
    queued = [box.watch.maybe_audit(sample(call=call(tokens=1000))) for _ in range(4)]
    assert queued == [True, True, False, False]
    assert box.listener.ends == [AuditEnd.DROPPED] * 2


async def test_escalated_answers_are_compared_for_the_ledger() -> None:
    box = Box()
    facts: dict[str, Any] = {
        "where": WHERE, "request_id": "r1", "certificate": CERTIFICATE, "model_digest": "d" * 64,
        "score": 0.1, "local": "balance", "how": HowToCompare.LABEL,
    }  # fmt: skip
    assert box.watch.compared(Compared(**facts, frontier="Balance"))
    assert not box.watch.compared(Compared(**facts, frontier="transfer"))
    assert [one.source for one in box.ledger.comparisons] == [ComparedBy.ESCALATED] * 2
    assert [one.share_ppm for one in box.ledger.comparisons] == [10**6] * 2
