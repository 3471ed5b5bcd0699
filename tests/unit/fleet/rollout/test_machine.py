"""The rollout machine: a table of what follows from what, and what never does."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.errors import UsageError
from edge_runtime.stats.verdict import Verdict
from fleet.rollout.machine import Rules, decide, recall
from fleet.rollout.states import (
    ENDED,
    LIVE,
    Action,
    Aim,
    Command,
    Counts,
    Decision,
    Enlist,
    Judgement,
    Offer,
    Phase,
    Recall,
    Reopen,
    RolloutState,
    SetWant,
    Tick,
    View,
)

RULES = Rules(
    not_before_s=0,
    bake_s=100,
    wave_deadline_s=1000,
    settled_share=0.9,
    confirmed_share=0.8,
    bytes_per_s=10,
    rollback_bytes_per_s=20,
    hold_back_s=500,
    rollback_on_fail=True,
    by_another=False,
)
GOOD = Judgement(Verdict.PASS, "all guards pass", (4,))
BAD = Judgement(Verdict.FAIL, "guard broken: 5 of 20", (5,))
OPEN = Judgement(Verdict.INSUFFICIENT, "guard quality: 3 pairs", (6,))


def at(phase: Phase, **more: object) -> RolloutState:
    return replace(RolloutState(phase=phase, version=9), **more)  # type: ignore[arg-type]


def view(now_s: float = 0, **more: object) -> View:
    return replace(View(now_s=now_s, waves=4, candidates=100), **more)  # type: ignore[arg-type]


def tick(state: RolloutState, seen: View, rules: Rules = RULES) -> Decision:
    return decide(rules, state, seen, Tick())


def order(state: RolloutState, action: Action, seen: View | None = None) -> Decision:
    return decide(RULES, state, seen or view(), Command(action, "ada", "because"))


def offers(count: int, size: int = 100) -> tuple[Offer, ...]:
    return tuple(Offer(f"box-{n}", size) for n in range(count))


def test_an_approved_rollout_begins_by_freezing_who_takes_part() -> None:
    decision = tick(at(Phase.APPROVED), view(7))
    assert decision.state.phase is Phase.RUNNING
    assert decision.state.wave_since_s == 7
    assert decision.effects == (Enlist(),)
    assert decision.state.version == 10


def test_it_waits_for_its_date() -> None:
    decision = tick(at(Phase.APPROVED), view(7), replace(RULES, not_before_s=8))
    assert decision == Decision(at(Phase.APPROVED))


def test_it_ends_at_once_where_no_box_can_run_it() -> None:
    decision = tick(at(Phase.APPROVED), view(7, candidates=0))
    assert decision.state.phase is Phase.CANCELLED
    assert decision.effects == ()


def test_boxes_are_offered_as_fast_as_the_bytes_allow() -> None:
    state = at(Phase.RUNNING)
    counts = Counts(waiting=5)
    first = tick(state, view(1, offers=offers(5), wave_counts=counts))
    assert [effect.box for effect in first.effects if isinstance(effect, SetWant)] == ["box-0"]
    # 100 bytes were taken and 10 a second come in: at 9 s the account is still overdrawn.
    assert tick(first.state, view(9, offers=offers(4), wave_counts=counts)).effects == ()
    later = tick(first.state, view(25, offers=offers(4), wave_counts=counts))
    assert len(later.effects) == 2
    assert all(effect.aim is Aim.NEW for effect in later.effects if isinstance(effect, SetWant))


def test_a_control_host_that_slept_does_not_flood() -> None:
    decision = tick(at(Phase.RUNNING), view(1e6, offers=offers(50), wave_counts=Counts(50)))
    assert len(decision.effects) == 7  # a minute's 600 bytes, and the one that overdraws


@pytest.mark.parametrize(
    ("counts", "now_s", "phase"),
    [
        (Counts(confirmed=20), 5, Phase.BAKING),
        (Counts(open=3, confirmed=17), 5, Phase.RUNNING),
        (Counts(open=2, confirmed=15, lost=3), 5, Phase.BAKING),
        (Counts(open=10, confirmed=10), 999, Phase.RUNNING),
        (Counts(open=10, confirmed=10), 1000, Phase.BAKING),
        (Counts(waiting=1, confirmed=19), 1000, Phase.RUNNING),
    ],
)
def test_a_wave_is_settled_when_its_boxes_ended_or_time_is_up(
    counts: Counts, now_s: float, phase: Phase
) -> None:
    assert tick(at(Phase.RUNNING), view(now_s, wave_counts=counts)).state.phase is phase


@pytest.mark.parametrize(
    ("judgement", "confirmed", "wave", "phase", "gate"),
    [
        (GOOD, 20, 0, Phase.RUNNING, Verdict.PASS),
        (GOOD, 20, 3, Phase.COMPLETED, Verdict.PASS),
        (GOOD, 15, 0, Phase.HOLDING, Verdict.INSUFFICIENT),
        (OPEN, 20, 0, Phase.HOLDING, Verdict.INSUFFICIENT),
        (BAD, 20, 0, Phase.HALTED, Verdict.FAIL),
    ],
)
def test_the_gate_has_three_ways_out(
    judgement: Judgement, confirmed: int, wave: int, phase: Phase, gate: Verdict
) -> None:
    counts = Counts(confirmed=confirmed, lost=20 - confirmed)
    seen = view(100, wave_counts=counts, judgement=judgement)
    decision = tick(at(Phase.BAKING, wave=wave), seen)
    assert decision.state.phase is phase
    assert decision.transitions[-1].gate is gate
    assert decision.transitions[-1].records == judgement.records
    assert decision.state.wave == (wave + 1 if phase is Phase.RUNNING else wave)


def test_the_gate_is_not_asked_before_the_bake_time_is_over() -> None:
    seen = view(99, wave_counts=Counts(confirmed=20), judgement=GOOD)
    assert tick(at(Phase.BAKING), seen) == Decision(at(Phase.BAKING))


def test_a_held_gate_is_asked_again_and_says_nothing_twice() -> None:
    held = at(Phase.HOLDING)
    seen = view(500, wave_counts=Counts(confirmed=20), judgement=OPEN)
    assert tick(held, seen) == Decision(held)
    assert tick(held, replace(seen, judgement=GOOD)).state.phase is Phase.RUNNING


@pytest.mark.parametrize("phase", sorted(LIVE))
def test_a_failing_guard_halts_every_live_phase(phase: Phase) -> None:
    decision = tick(at(phase, paused_from=Phase.RUNNING), view(1, judgement=BAD, offers=offers(3)))
    assert decision.state.phase is Phase.HALTED
    assert decision.effects == ()  # no box more
    assert decision.transitions[-1].reason == BAD.reason


def test_what_a_guard_halted_goes_back_by_itself_when_the_plan_says_so() -> None:
    halted = tick(at(Phase.RUNNING), view(1, judgement=BAD)).state
    assert tick(halted, view(2)).state.phase is Phase.ROLLING_BACK
    stay = tick(halted, view(2, returns=offers(1)), replace(RULES, rollback_on_fail=False))
    assert stay.state.phase is Phase.HALTED
    assert stay.effects == (SetWant("box-0", Aim.OLD),)  # what is under way is called back
    by_hand = order(at(Phase.RUNNING), Action.HALT).state
    assert tick(by_hand, view(2)).state.phase is Phase.HALTED


def test_rolling_back_ends_when_all_said_so_or_time_is_up() -> None:
    state = at(Phase.ROLLING_BACK)
    asked = tick(state, view(0, returns=offers(2, size=0), returning=3))
    assert [effect.aim for effect in asked.effects if isinstance(effect, SetWant)] == [Aim.OLD] * 2
    assert asked.state.phase is Phase.ROLLING_BACK
    assert tick(state, view(999, returning=1)).state.phase is Phase.ROLLING_BACK
    assert tick(state, view(5)).state.phase is Phase.ROLLED_BACK
    late = tick(state, view(1000, returning=1))
    assert late.state.phase is Phase.ROLLED_BACK
    assert "1 boxes have not said so" in late.transitions[-1].reason


def test_those_held_back_follow_after_their_time() -> None:
    done = at(Phase.COMPLETED)
    waiting = offers(2, size=0)
    assert tick(done, view(499, held_back=waiting)) == Decision(done)
    assert len(tick(done, view(500, held_back=waiting)).effects) == 2


def test_a_pause_keeps_the_phase_and_its_clock() -> None:
    baking = at(Phase.BAKING, since_s=40)
    paused = order(baking, Action.PAUSE, view(60)).state
    assert paused.phase is Phase.PAUSED
    assert tick(paused, view(70, offers=offers(3))) == Decision(paused)
    resumed = order(paused, Action.RESUME, view(130)).state
    assert (resumed.phase, resumed.since_s) == (Phase.BAKING, 40)


def test_a_person_may_go_on_in_spite_of_a_held_gate_and_it_is_on_record() -> None:
    decision = order(at(Phase.HOLDING), Action.RESUME, view(1, judgement=OPEN))
    assert (decision.state.phase, decision.state.wave) == (Phase.RUNNING, 1)
    entry = decision.transitions[0]
    assert (entry.actor, entry.gate) == ("ada", Verdict.INSUFFICIENT)
    assert "because" in entry.reason
    assert OPEN.reason in entry.reason


def test_nobody_goes_past_a_gate_that_failed_meanwhile() -> None:
    decision = order(at(Phase.HOLDING), Action.RESUME, view(1, judgement=BAD))
    assert (decision.state.phase, decision.state.by_guard) == (Phase.HALTED, True)


def test_retry_reopens_and_runs_the_wave_again() -> None:
    decision = order(at(Phase.HOLDING, wave=2), Action.RETRY, view(50))
    assert decision.effects == (Reopen(),)
    assert (decision.state.phase, decision.state.wave_since_s) == (Phase.RUNNING, 50)
    paused = order(at(Phase.PAUSED, paused_from=Phase.BAKING), Action.RETRY).state
    assert (paused.phase, paused.paused_from) == (Phase.PAUSED, Phase.RUNNING)


def test_a_rollback_by_hand_passes_through_halted() -> None:
    decision = order(at(Phase.COMPLETED, wave=3), Action.ROLLBACK)
    assert [entry.after for entry in decision.transitions] == [Phase.HALTED, Phase.ROLLING_BACK]
    assert recall(decision.state) is Recall.ALL
    assert not decision.state.by_guard


def test_a_cancel_calls_back_what_is_under_way() -> None:
    state = order(at(Phase.RUNNING), Action.CANCEL).state
    assert (state.phase, recall(state)) == (Phase.CANCELLED, Recall.UNFINISHED)
    assert tick(state, view(3, returns=offers(1))).effects == (SetWant("box-0", Aim.OLD),)


def test_who_filed_a_plan_may_not_approve_it_where_the_plan_says_so() -> None:
    rules = replace(RULES, by_another=True)
    seen = view(filed_by="ada")
    with pytest.raises(UsageError, match="another person"):
        decide(rules, at(Phase.DRAFT), seen, Command(Action.APPROVE, "ada"))
    approved = decide(rules, at(Phase.DRAFT), seen, Command(Action.APPROVE, "grace"))
    assert approved.state.phase is Phase.APPROVED


ALLOWED = {
    Action.APPROVE: {Phase.DRAFT},
    Action.PAUSE: {Phase.RUNNING, Phase.BAKING, Phase.HOLDING},
    Action.RESUME: {Phase.HOLDING, Phase.PAUSED},
    Action.HALT: set(LIVE),
    Action.ROLLBACK: LIVE | {Phase.HALTED, Phase.COMPLETED},
    Action.RETRY: LIVE | {Phase.COMPLETED},
    Action.CANCEL: LIVE | {Phase.DRAFT, Phase.APPROVED, Phase.HALTED},
}


@pytest.mark.parametrize("phase", list(Phase))
@pytest.mark.parametrize("action", list(Action))
def test_orders_are_refused_where_they_make_no_sense(action: Action, phase: Phase) -> None:
    state = at(phase, paused_from=Phase.RUNNING if phase is Phase.PAUSED else None)
    if phase in ALLOWED[action]:
        assert order(state, action).state.version == 10
    else:
        with pytest.raises(UsageError, match=f"cannot {action} a rollout that is"):
            order(state, action)


small = st.integers(0, 3)
judgements = st.sampled_from([GOOD, OPEN, BAD])


@given(
    st.lists(
        st.tuples(
            st.sampled_from([*Action, None]), small, small, small, small, judgements,
            st.floats(0, 2000),
        ),
        max_size=30,
    )
)  # fmt: skip
def test_whatever_happens_the_history_hangs_together(
    steps: list[tuple[Action | None, int, int, int, int, Judgement, float]],
) -> None:
    state, now, history = RolloutState(), 0.0, []
    for action, waiting, under_way, confirmed, lost, judgement, wait in steps:
        now += wait
        seen = view(
            now,
            wave_counts=Counts(waiting, under_way, confirmed, lost),
            judgement=judgement,
            offers=offers(waiting),
            returns=offers(under_way),
        )
        cause = Tick() if action is None else Command(action, "ada")
        try:
            decision = decide(RULES, state, seen, cause)
        except UsageError:
            continue
        assert decision == decide(RULES, state, seen, cause)
        changed = decision.state != state or decision.effects
        assert (decision.state.version == state.version + 1) == bool(changed)
        aims = {effect.aim for effect in decision.effects if isinstance(effect, SetWant)}
        assert Aim.NEW not in aims or state.phase in (Phase.RUNNING, Phase.COMPLETED)
        assert Aim.OLD not in aims or recall(state) is not Recall.NONE
        # A transition past a gate that was asked by the machine needs a pass.
        for entry in decision.transitions:
            if entry.after is Phase.COMPLETED or entry.wave > state.wave:
                assert entry.gate is Verdict.PASS or entry.actor == "ada" or entry.wave == 0
        history += decision.transitions
        state = decision.state
        assert 0 <= state.wave < 4
    for earlier, later in pairwise(history):
        assert earlier.after is later.before
        if earlier.after in ENDED - {Phase.COMPLETED}:
            pytest.fail("something followed an end")
