"""Trials of two bundles: who is asked, who wins, what is reverted."""

from __future__ import annotations

from typing import Any

from edge_runtime.router.contract import (
    FrontierError,
)
from edge_runtime.router.watch.contract import (
    EventKind,
    HowToCompare,
    Outcome,
    Pair,
)
from edge_runtime.router.watch.settings import (
    TrialSettings,
)
from tests.support.watch import (
    Box,
    call,
    read,
)


def trial_box(*script: str | FrontierError, **changes: Any) -> Box:
    settings = TrialSettings(**{"candidate": "intent-new", "share": 1.0, **changes})
    box = Box(*script, trial={"intent": settings})
    box.digests.update({"intent": "1" * 64, "intent-new": "2" * 64})
    return box


def pair(trial: str, old: str | None, new: str | None, **changes: Any) -> Pair:
    fine: dict[str, Any] = {
        "request_id": "r1", "how": HowToCompare.LABEL, "read": read, "call": call(),
        "may_leave": True,
    }  # fmt: skip
    return Pair(trial=trial, old=old, new=new, **{**fine, **changes})


async def test_a_trial_asks_the_frontier_only_where_answers_differ_and_reverts_by_itself() -> None:
    box = trial_box(*["balance"] * 50)
    plan = box.watch.plan_trial("intent")
    assert plan is not None
    assert (plan.old, plan.new) == ("intent", "intent-new")
    async with box.watch.running():
        assert box.watch.pair(pair(plan.trial, "balance", "balance")) is Outcome.CONTINUE
        assert box.watch.pair(pair(plan.trial, "balance", "x", may_leave=False)) is Outcome.CONTINUE
        for _ in range(20):
            box.watch.pair(pair(plan.trial, "balance", "transfer"))
        await box.until(lambda: bool(box.listener.events))
    state = box.watch.trials()[0]
    assert (state.outcome, state.wins, state.unjudged) == (Outcome.REVERT, 0, 1)
    assert box.listener.events[0].kind is EventKind.TRIAL_REVERT
    assert box.listener.events[0].values["candidate"] == "intent-new"
    assert box.watch.plan_trial("intent") is None
    again = Box(store=box.store, trial={"intent": TrialSettings(candidate="intent-new")})
    again.digests.update(box.digests)
    assert again.watch.plan_trial("intent") is None
    again.digests["intent-new"] = "3" * 64
    assert again.watch.plan_trial("intent") is not None


async def test_a_candidate_that_fails_loses_without_a_judge() -> None:
    box = trial_box()
    plan = box.watch.plan_trial("intent")
    assert plan is not None
    outcomes = [box.watch.pair(pair(plan.trial, "balance", None)) for _ in range(20)]
    assert outcomes[-1] is Outcome.REVERT
    assert box.frontiers.calls == []
    assert len(box.listener.events) == 1


async def test_a_trial_needs_both_bundles() -> None:
    box = trial_box()
    del box.digests["intent-new"]
    assert box.watch.plan_trial("intent") is None
    assert box.watch.plan_trial("other") is None
    assert box.watch.pair(pair("unknown", "a", "b")) is Outcome.CONTINUE
