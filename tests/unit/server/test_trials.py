"""Who was heard in a trial, and who still has to answer."""

from __future__ import annotations

import pytest

from edge_runtime.errors import CapacityError, EngineError, UsageError
from edge_runtime.router.contract import Policy, Reason
from edge_runtime.router.decide import Rules, Tried
from edge_runtime.router.plan import Plan
from edge_runtime.router.watch.contract import Side, TrialPlan
from edge_runtime.server.trials import Heard, heard, lost_by, missing, plan_of

LADDER = Plan("intents", ("intent", "big"), Rules(Policy.LOCAL_FIRST))
SHADOW = TrialPlan("t", "intent", "next", Side.OLD)
SERVES = TrialPlan("t", "intent", "next", Side.NEW)


def test_a_candidate_that_serves_leads_the_ladder_for_the_old_ones_task() -> None:
    assert plan_of(LADDER, None) is plan_of(LADDER, SHADOW) is LADDER
    led = plan_of(LADDER, SERVES)
    assert led.ladder == ("next", "intent", "big")
    assert [led.task_of(name) for name in led.ladder] == ["intent", "intent", "big"]
    from_the_ladder = LADDER.led_by("big")
    assert from_the_ladder.ladder == ("big", "intent")


def test_who_answered_who_failed_and_who_was_not_asked() -> None:
    answers = {1: "balance"}
    fault = {0: Tried(Reason.LOCAL_FAULT)}
    led = plan_of(LADDER, SERVES)
    assert heard(led, "intent", answers, fault) == Heard("balance")
    assert heard(led, "next", answers, fault) == Heard(None)
    assert heard(led, "big", answers, fault) is None
    assert heard(LADDER, "next", answers, fault) is None
    full = {0: Tried(Reason.OVERLOAD)}
    assert heard(led, "next", answers, full) is None, "a full box says nothing of a bundle"


def test_one_of_two_has_to_answer_still_or_nobody() -> None:
    said = Heard("x")
    assert missing(SHADOW, said, None) == "next"
    assert missing(SHADOW, None, Heard(None)) == "intent"
    assert missing(SHADOW, None, None) is None
    assert missing(SHADOW, said, said) is None


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (EngineError("it broke"), True),
        (UsageError("too long", code="context_length_exceeded"), True),
        (UsageError("gone", code="model_not_found"), False),
        (CapacityError("full", retry_after_s=1.0), False),
    ],
)
def test_only_a_bundles_own_faults_lose(error: Exception, lost: bool) -> None:
    assert lost_by(error) is lost
