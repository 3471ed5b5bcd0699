"""A trial of two bundles: who takes part, who was right, and when it ends."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from edge_runtime.router.watch.contract import (
    HowToCompare,
    Outcome,
    Side,
    TrialPlan,
    TrialState,
)
from edge_runtime.router.watch.settings import TrialSettings, WatchSettings
from edge_runtime.router.watch.trial import (
    Judged,
    after_pair,
    judged_alone,
    judged_by,
    plan,
    trial_name,
)

START = TrialState("t", "intent", "intent-new")
LABEL = HowToCompare.LABEL


def run(losses: float, wins: float, seed: int, settings: TrialSettings) -> TrialState:
    state, generator = START, np.random.default_rng(seed)
    while state.outcome is Outcome.CONTINUE:
        draw = generator.random()
        state = after_pair(
            state, Judged(not losses <= draw < losses + wins, draw >= losses), settings
        )
    return state


def test_a_worse_candidate_is_reverted_and_an_equal_one_seldom() -> None:
    settings = TrialSettings(candidate="intent-new")
    worse = [run(0.05, 0.02, seed, settings) for seed in range(30)]
    assert sum(one.outcome is Outcome.REVERT for one in worse) >= 26
    assert np.mean([one.pairs for one in worse]) < 900
    equal = [run(0.03, 0.03, seed, settings) for seed in range(30)]
    assert sum(one.outcome is Outcome.REVERT for one in equal) <= 5
    assert "lost" in worse[0].why


def test_a_trial_without_a_verdict_ends_and_reverts() -> None:
    settings = TrialSettings(candidate="intent-new", max_pairs=25)
    state = START
    for _ in range(25):
        assert state.outcome is Outcome.CONTINUE
        state = after_pair(state, Judged(True, True), settings)
    assert (state.outcome, state.pairs) == (Outcome.REVERT, 25)
    assert "no verdict in time" in state.why
    assert after_pair(state, Judged(True, False), settings) == state


def test_an_answer_beats_none_and_agreement_needs_no_judge() -> None:
    assert judged_alone("a", None, LABEL) == Judged(old_right=True, new_right=False)
    assert judged_alone(None, "a", LABEL) == Judged(old_right=False, new_right=True)
    assert judged_alone(None, None, LABEL) == Judged(old_right=True, new_right=True)
    assert judged_alone("a", "A ", LABEL) == Judged(old_right=True, new_right=True)
    assert judged_alone("a", "b", LABEL) is None
    assert judged_by("b", "a", "b", LABEL) == Judged(old_right=False, new_right=True)
    assert judged_by("c", "a", "b", LABEL) == Judged(old_right=False, new_right=False)


def test_draws_decide_who_takes_part_and_whose_answer_is_served() -> None:
    shadow = TrialSettings(candidate="intent-new", share=0.2)
    assert plan(START, shadow, 0.2, 0.0) is None
    found = plan(START, shadow, 0.19, 0.0)
    assert found is not None
    assert found.serve is Side.OLD
    ab = TrialSettings(candidate="intent-new", mode="ab", share=1.0, candidate_share=0.3)
    served = [plan(START, ab, 0.5, draw) for draw in (0.29, 0.3)]
    assert [one.serve for one in served if one is not None] == [Side.NEW, Side.OLD]


def test_an_outcome_is_final_a_promoted_bundle_serves_and_a_reverted_one_does_not() -> None:
    ab = TrialSettings(candidate="intent-new", mode="ab", share=0.1, candidate_share=0.3)
    shadow = TrialSettings(candidate="intent-new", share=1.0)
    promoted = TrialState("t", "a", "b", outcome=Outcome.PROMOTE)
    assert plan(promoted, ab, 0.9, 0.9) == TrialPlan("t", "a", "b", Side.NEW, paired=False)
    assert plan(promoted, shadow, 0.0, 0.0) is None, "nobody agreed to other answers"
    reverted = TrialState("t", "a", "b", outcome=Outcome.REVERT)
    assert plan(reverted, ab, 0.0, 0.0) is None


def test_other_artefacts_make_another_trial() -> None:
    names = {trial_name("a", "b", old, new) for old in ("1" * 64, "2" * 64) for new in ("3" * 64,)}
    assert len(names) == 2


def test_a_model_cannot_be_its_own_candidate() -> None:
    with pytest.raises(ValidationError, match="another model"):
        WatchSettings(trial={"a": TrialSettings(candidate="a")})
