"""Every combination of what the decider may know, walked to its end."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest

from edge_runtime.router.contract import FrontierWhy, Policy, Privacy, Reason
from edge_runtime.router.decide import (
    FAULTS,
    Candidate,
    Escalate,
    Frontier,
    Keep,
    Refuse,
    Rules,
    Situation,
    Step,
    Tried,
    Trust,
    TryLocal,
    UseCache,
    next_step,
)

SURE, UNSURE = Tried(confident=True), Tried(confident=False)
OVERLOADED = Tried(Reason.OVERLOAD)
VALID, NONE, SUSPENDED = (Candidate(trust) for trust in Trust)
FIRST = Rules(Policy.LOCAL_FIRST)


def walk(
    rules: Rules,
    ladder: Sequence[Candidate],
    outcomes: Sequence[Tried],
    frontier: Frontier = Frontier.UNTRIED,
    *,
    frontier_answers: bool = True,
    why: FrontierWhy = FrontierWhy.UNREACHABLE,
) -> list[Step]:
    """All steps until the question is decided; `outcomes` are what each rung would give."""
    situation = Situation(ladder=ladder, frontier=frontier, why=why)
    steps: list[Step] = []
    while True:
        step = next_step(rules, situation)
        assert step not in steps, f"{step} again after {steps}"
        steps.append(step)
        if isinstance(step, TryLocal):
            tried = outcomes[step.rung]
            if ladder[step.rung].trust is not Trust.VALID:
                tried = Tried(tried.fault)
            situation = replace(situation, tried={**situation.tried, step.rung: tried})
        elif isinstance(step, Escalate) and not frontier_answers:
            situation = replace(situation, frontier=Frontier.FAILED)
        else:
            return steps


def every_walk() -> Iterator[tuple[Rules, Sequence[Candidate], Frontier, bool, list[Step]]]:
    rungs = [VALID, NONE, SUSPENDED, Candidate(Trust.VALID, Reason.CONTEXT_TOO_LONG)]
    results = [SURE, UNSURE, *(Tried(fault) for fault in sorted(FAULTS))]
    few = [SURE, UNSURE, OVERLOADED]
    ladders = [(), *((one,) for one in rungs), *itertools.product(rungs, rungs)]
    for policy, privacy, hold, degraded, switches in itertools.product(
        Policy, Privacy, (False, True), (False, True), (FAULTS, frozenset())
    ):
        rules = Rules(policy, privacy, switches, hold, degraded)
        for ladder in ladders:
            for outcomes in itertools.product(
                few if len(ladder) > 1 else results, repeat=len(ladder)
            ):
                for frontier, answers in (
                    (Frontier.UNTRIED, True),
                    (Frontier.UNTRIED, False),
                    (Frontier.ABSENT, False),
                ):
                    steps = walk(rules, ladder, outcomes, frontier, frontier_answers=answers)
                    yield rules, ladder, frontier, answers, steps


def test_every_walk_ends_and_keeps_the_rules() -> None:
    count = 0
    for rules, ladder, frontier, answers, steps in every_walk():
        count += 1
        left = any(isinstance(step, Escalate) for step in steps)
        last = steps[-1]
        if rules.privacy is Privacy.NEVER_LEAVE or rules.policy is Policy.LOCAL_ONLY:
            assert not left, "what must not leave left"
        if frontier is Frontier.ABSENT:
            assert not left
        if rules.policy is Policy.FRONTIER_ONLY and answers and rules.privacy is Privacy.MAY_LEAVE:
            assert steps == [Escalate(Reason.FRONTIER_ONLY)]
        assert isinstance(last, Keep | Refuse | Escalate)
        if isinstance(last, Keep):
            tried = [step.rung for step in steps if isinstance(step, TryLocal)]
            assert last.rung in tried, "an answer nobody made"
            if last.reason is Reason.CONFIDENT:
                assert ladder[last.rung].trust is Trust.VALID
                assert rules.policy is Policy.LOCAL_FIRST
            elif rules.policy is not Policy.LOCAL_ONLY:
                assert last.degraded, "an answer without a certificate that does not say so"
            if last.reason is Reason.DEGRADED:
                assert rules.degraded_answers
                assert left or frontier is Frontier.ABSENT
        if isinstance(last, Refuse):
            assert 400 <= last.status < 600
    assert count > 10_000


def test_a_hit_is_used_before_anything_is_tried() -> None:
    situation = Situation(cached=Reason.SIMILAR, ladder=[VALID])
    assert next_step(FIRST, situation) == UseCache(Reason.SIMILAR)


def test_a_confident_answer_is_kept() -> None:
    assert walk(FIRST, [VALID], [SURE]) == [TryLocal(0), Keep(0, Reason.CONFIDENT)]


def test_an_unsure_answer_goes_up_the_ladder_and_then_out() -> None:
    steps = walk(FIRST, [VALID, VALID], [UNSURE, UNSURE])
    assert steps == [TryLocal(0), TryLocal(1), Escalate(Reason.LOW_CONFIDENCE)]


@pytest.mark.parametrize(
    ("rung", "reason"), [(NONE, Reason.NO_CERTIFICATE), (SUSPENDED, Reason.DRIFT)]
)
def test_without_a_valid_certificate_everything_escalates_untried(
    rung: Candidate, reason: Reason
) -> None:
    assert walk(FIRST, [rung], [SURE]) == [Escalate(reason)]


def test_a_dead_frontier_makes_the_local_answer_degraded() -> None:
    steps = walk(FIRST, [NONE], [SURE], frontier_answers=False)
    assert steps == [
        Escalate(Reason.NO_CERTIFICATE),
        TryLocal(0, final=True, reason=Reason.DEGRADED),
        Keep(0, Reason.DEGRADED),
    ]


def test_an_unsure_answer_that_lies_there_is_the_degraded_one() -> None:
    steps = walk(FIRST, [VALID], [UNSURE], frontier_answers=False)
    assert steps[-2:] == [Escalate(Reason.LOW_CONFIDENCE), Keep(0, Reason.DEGRADED)]


def test_a_dead_frontier_and_no_local_model_is_503() -> None:
    rules = Rules(Policy.FRONTIER_ONLY)
    assert walk(rules, [], [], frontier_answers=False)[-1] == Refuse(Reason.FRONTIER_ONLY, 503)


def test_a_wrong_request_is_400_where_no_local_model_serves_it() -> None:
    steps = walk(
        Rules(Policy.FRONTIER_ONLY), [], [], frontier_answers=False, why=FrontierWhy.BAD_REQUEST
    )
    assert steps[-1] == Refuse(Reason.FRONTIER_ONLY, 400)


def test_degraded_answers_can_be_switched_off() -> None:
    rules = replace(FIRST, degraded_answers=False)
    assert walk(rules, [VALID], [UNSURE], frontier_answers=False)[-1] == Refuse(
        Reason.LOW_CONFIDENCE, 503
    )


@pytest.mark.parametrize("privacy", Privacy)
def test_hold_refuses_what_an_alarm_covers_and_cannot_be_sent(privacy: Privacy) -> None:
    rules = Rules(Policy.LOCAL_FIRST, privacy, hold_on_drift=True)
    assert walk(rules, [SUSPENDED], [SURE], frontier_answers=False)[-1] == Refuse(
        Reason.NEVER_CERTIFIED, 503
    )


def test_never_leave_keeps_what_would_have_escalated_and_says_so() -> None:
    rules = Rules(Policy.LOCAL_FIRST, Privacy.NEVER_LEAVE)
    assert walk(rules, [VALID], [UNSURE])[-1] == Keep(0, Reason.NEVER_LEAVE)
    assert walk(rules, [NONE], [SURE])[-1] == Keep(0, Reason.NEVER_LEAVE)
    assert walk(rules, [VALID], [SURE])[-1] == Keep(0, Reason.CONFIDENT)


def test_never_leave_without_a_local_model_is_403() -> None:
    rules = Rules(Policy.FRONTIER_ONLY, Privacy.NEVER_LEAVE)
    assert walk(rules, [], []) == [Refuse(Reason.NEVER_LEAVE, 403)]


@pytest.mark.parametrize("fault", sorted(FAULTS))
def test_a_fault_escalates_only_where_its_switch_is_on(fault: Reason) -> None:
    assert walk(FIRST, [VALID], [Tried(fault)])[-1] == Escalate(fault)
    off = replace(FIRST, fallbacks=FAULTS - {fault})
    refused = walk(off, [VALID], [Tried(fault)])[-1]
    assert isinstance(refused, Refuse)
    assert (refused.reason, refused.fault_of) == (fault, 0)


def test_local_only_goes_up_the_ladder_and_never_out() -> None:
    rules = Rules(Policy.LOCAL_ONLY)
    steps = walk(rules, [NONE, NONE], [OVERLOADED, SURE])
    assert [step.rung for step in steps if isinstance(step, TryLocal)] == [0, 1]
    assert steps[-1] == Keep(1, Reason.LOCAL_ONLY)
    assert walk(rules, [NONE], [OVERLOADED])[-1] == Refuse(Reason.OVERLOAD, 429, 0)


def test_an_answer_of_the_wrong_form_is_none_to_fall_back_on() -> None:
    invalid = Tried(Reason.SCHEMA_INVALID)
    steps = walk(FIRST, [VALID], [invalid], frontier_answers=False)
    assert steps[-1] == Refuse(Reason.SCHEMA_INVALID, 503)


def test_only_faults_are_faults() -> None:
    with pytest.raises(ValueError, match="not a fault"):
        Tried(Reason.CONFIDENT)
