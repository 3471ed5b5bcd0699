"""The decider, step by step: what a box does with what is wanted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from edge_runtime.agent.decide import (
    ActionKind,
    Broken,
    Done,
    Facts,
    GaveUp,
    HealthFacts,
    ItemRecord,
    Offer,
    Outcome,
    Policy,
    TryAgain,
    cancel,
    next_step,
    observe,
    report,
    resume,
    take,
    withdraw,
)
from edge_runtime.agent.protocol import (
    BoxState,
    DeferReason,
    Failure,
    FailureCode,
    FailureKind,
    ProbationRules,
    WantItem,
    Window,
)
from tests.support.wants import NEW, NEWER, OLD, want_item

S = BoxState
NOW_S = 1_799_625_600  # a Monday, 00:00 UTC
FACTS = Facts(boot="b-1", uptime_s=1000.0, now_s=NOW_S, active=OLD)
SERVING = replace(FACTS, active=NEW, previous=OLD, staged=True)
POLICY = Policy()
CONDEMNED = Failure(kind=FailureKind.REVERTED, code=FailureCode.ERRORS)


def record_in(state: BoxState, item: WantItem | None = None, **fields: Any) -> ItemRecord:
    return ItemRecord(item=item or want_item(5), state=state, **fields)


def after(
    record: ItemRecord, action: ActionKind, outcome: Outcome, facts: Facts = FACTS
) -> ItemRecord:
    return observe(record, action, record.generation, outcome, facts=facts, policy=POLICY)


def test_a_good_bundle_goes_all_the_way() -> None:
    record, facts, seen = take(None, want_item(1)).record, FACTS, []
    while record.state is not S.CONFIRMED:
        plan = next_step(record, facts, POLICY)
        record = plan.record
        seen.append(record.state)
        if plan.action is ActionKind.FETCH:
            facts = replace(facts, staged=True)
        if plan.action is ActionKind.ACTIVATE:
            facts = replace(facts, active=NEW, previous=OLD)
        if plan.action is None and record.state is S.PROBATION:
            assert plan.wake_s is not None
            facts = replace(facts, uptime_s=facts.uptime_s + plan.wake_s)
        elif plan.action is not None:
            record = after(record, plan.action, Done(), facts)
            seen.append(record.state)
        assert len(seen) < 60
    assert list(dict.fromkeys(seen)) == [
        S.OFFERED, S.ACCEPTED, S.FETCHING, S.STAGED, S.ACTIVATING, S.PROBATION, S.CONFIRMED,
    ]  # fmt: skip
    assert record.before == OLD


# Generations


def test_only_a_higher_generation_is_taken() -> None:
    record = record_in(S.CONFIRMED)
    assert take(record, record.item).offer is Offer.KNOWN
    assert take(record, want_item(5, NEWER)).offer is Offer.OLD
    assert take(record, want_item(4, NEWER)).offer is Offer.OLD
    for offer in (record.item, want_item(5, NEWER), want_item(4, NEWER)):
        assert take(record, offer).record == record
    taken = take(record, want_item(6, NEWER))
    assert (taken.offer, taken.record.state) == (Offer.TAKEN, S.OFFERED)


@pytest.mark.parametrize("state", [S.OFFERED, S.FETCHING, S.DEFERRED, S.FAILED, S.REVERTED])
def test_a_new_generation_starts_over(state: BoxState) -> None:
    record = record_in(state, tries=3, attempts=2, failure=CONDEMNED)
    assert take(record, want_item(6, NEWER)).record == ItemRecord(item=want_item(6, NEWER))


def test_a_release_below_the_floor_is_refused() -> None:
    for floor, item in ((4, want_item(6)), (1, want_item(6, release=3, release_floor=4))):
        record = take(record_in(S.CONFIRMED), item, floor).record
        assert record.state is S.FAILED
        assert record.failure is not None
        assert record.failure.code is FailureCode.BELOW_FLOOR
        assert record.failure.kind is FailureKind.NO_CHANGE
    assert take(None, want_item(6, release=4), 4).record.state is S.OFFERED


def test_going_back_for_quality_is_an_ordinary_generation() -> None:
    serving = record_in(S.CONFIRMED, want_item(5, NEW, release=4))
    record = take(serving, want_item(6, OLD, release=3), floor=3).record
    assert next_step(record, SERVING, POLICY).action is ActionKind.VERIFY


def test_the_same_bytes_under_a_new_number_keep_their_probation() -> None:
    record = record_in(S.PROBATION, served_s=400.0, boot="b-1", crashes=1)
    taken = take(record, want_item(6)).record
    assert (taken.state, taken.served_s, taken.crashes) == (S.PROBATION, 400.0, 1)
    assert taken.generation == 6


def test_what_serves_already_is_confirmed_without_work() -> None:
    plan = next_step(take(None, want_item(1, OLD)).record, FACTS, POLICY)
    assert (plan.record.state, plan.action) == (S.CONFIRMED, None)


@pytest.mark.parametrize("state", [S.ACTIVATING, S.PROBATION, S.REVERTING])
def test_what_serves_unproven_is_watched_before_it_is_confirmed(state: BoxState) -> None:
    there = take(record_in(state), want_item(6, NEWER)).record
    back = take(there, want_item(7, NEW)).record
    assert next_step(back, SERVING, POLICY).record.state is S.PROBATION
    assert next_step(back, FACTS, POLICY).action is ActionKind.VERIFY


def test_a_withdrawn_want_stops_work_but_not_service() -> None:
    for state in (S.OFFERED, S.ACCEPTED, S.FETCHING, S.STAGED, S.DEFERRED):
        assert withdraw(record_in(state)).state is S.SUPERSEDED
    for state in (S.ACTIVATING, S.PROBATION, S.CONFIRMED, S.REVERTING, S.FAILED):
        assert withdraw(record_in(state)).state is state


def test_a_cancel_order_meets_only_its_generation() -> None:
    assert cancel(record_in(S.FETCHING), 4).state is S.FETCHING
    assert cancel(record_in(S.PROBATION), 5).state is S.PROBATION
    record = cancel(record_in(S.FETCHING), 5)
    assert record.failure is not None
    assert record.failure.code is FailureCode.CANCELLED
    assert after(record, ActionKind.FETCH, Done()) == record  # what ends later changes nothing


# Deferral


def fetch_plan(item: WantItem, facts: Facts = FACTS, policy: Policy = POLICY) -> Any:
    return next_step(record_in(S.ACCEPTED, item), facts, policy)


@pytest.mark.parametrize(
    ("item", "facts", "reason", "until_s"),
    [
        (want_item(5), replace(FACTS, turn=False), DeferReason.TURN, None),
        (want_item(5), replace(FACTS, metered=True), DeferReason.METERED, None),
        (want_item(5), replace(FACTS, disk_free_bytes=999), DeferReason.DISK, None),
        (
            want_item(5, not_before_s=NOW_S + 9),
            FACTS,
            DeferReason.NOT_BEFORE,
            NOW_S + 9,
        ),
        (want_item(5, not_before_s=NOW_S), replace(FACTS, now_s=None), DeferReason.CLOCK, None),
    ],
)
def test_what_keeps_a_box_from_downloading(
    item: WantItem, facts: Facts, reason: DeferReason, until_s: int | None
) -> None:
    plan = fetch_plan(item, facts)
    assert (plan.record.state, plan.action) == (S.DEFERRED, None)
    assert plan.record.deferral is not None
    assert (plan.record.deferral.reason, plan.record.deferral.until_s) == (reason, until_s)
    assert plan.wake_s > 0
    again = next_step(plan.record, facts, POLICY)
    assert again.record is plan.record  # nothing to store, nothing to report
    assert next_step(plan.record, replace(FACTS, now_s=NOW_S + 9), POLICY).action is (
        ActionKind.FETCH
    )


def test_metered_links_carry_what_is_allowed_or_here_already() -> None:
    metered = replace(FACTS, metered=True)
    assert fetch_plan(want_item(5, metered="allow"), metered).action is ActionKind.FETCH
    allowed = replace(POLICY, metered_allowed=True)
    assert fetch_plan(want_item(5), metered, allowed).action is ActionKind.FETCH
    here = replace(metered, staged=True, disk_free_bytes=0)
    assert fetch_plan(want_item(5), here).action is ActionKind.ACTIVATE


def test_a_download_in_progress_is_deferred_when_the_link_becomes_metered() -> None:
    plan = next_step(record_in(S.FETCHING), replace(FACTS, metered=True), POLICY)
    assert (plan.record.state, plan.action) == (S.DEFERRED, None)


NIGHT = Window(start_min=120, length_min=60)


@pytest.mark.parametrize(
    ("item", "facts", "reason", "until_s"),
    [
        (want_item(5, windows=(NIGHT,)), FACTS, DeferReason.WINDOW, NOW_S + 7200),
        (want_item(5, windows=(NIGHT,)), replace(FACTS, now_s=None), DeferReason.CLOCK, None),
        (
            want_item(5, deadline_s=NOW_S + 9),
            replace(FACTS, now_s=None),
            DeferReason.CLOCK,
            None,
        ),
        (want_item(5), replace(FACTS, load=0.95), DeferReason.LOAD, None),
        (want_item(5), replace(FACTS, turn=False), DeferReason.TURN, None),
        (
            want_item(5, not_before_s=NOW_S + 3),
            FACTS,
            DeferReason.NOT_BEFORE,
            NOW_S + 3,
        ),
    ],
)
def test_what_keeps_a_box_from_activating(
    item: WantItem, facts: Facts, reason: DeferReason, until_s: int | None
) -> None:
    staged = replace(facts, staged=True)
    plan = next_step(record_in(S.STAGED, item), staged, POLICY)
    assert (plan.record.state, plan.action) == (S.DEFERRED, None)
    assert plan.record.deferral is not None
    assert (plan.record.deferral.reason, plan.record.deferral.until_s) == (reason, until_s)
    opened = replace(FACTS, staged=True, now_s=NOW_S + 7200)
    late = item.deadline_s is not None
    assert next_step(plan.record, opened, POLICY).action is (None if late else ActionKind.ACTIVATE)


@pytest.mark.parametrize("state", [S.OFFERED, S.ACCEPTED, S.FETCHING, S.STAGED])
def test_past_its_deadline_nothing_is_started(state: BoxState) -> None:
    record = next_step(record_in(state, want_item(5, deadline_s=NOW_S)), FACTS, POLICY).record
    assert record.failure is not None
    assert record.failure.code is FailureCode.DEADLINE
    waiting = after(
        record_in(S.OFFERED, want_item(5, deadline_s=NOW_S + 5)),
        ActionKind.VERIFY,
        TryAgain(DeferReason.NETWORK, FailureCode.TRANSFER),
    )
    assert next_step(waiting, replace(FACTS, now_s=NOW_S + 5), POLICY).record.state is S.FAILED


@pytest.mark.parametrize("state", [S.ACTIVATING, S.PROBATION, S.REVERTING])
def test_a_deadline_stops_nothing_that_began(state: BoxState) -> None:
    item = want_item(5, deadline_s=NOW_S - 1, windows=(NIGHT,))
    plan = next_step(record_in(state, item), SERVING, POLICY)
    assert plan.record.state is state


# Trying again


def test_failures_that_may_pass_are_tried_again_ever_more_rarely() -> None:
    record, waits = record_in(S.FETCHING), []
    for _ in range(20):
        record = after(
            record, ActionKind.FETCH, TryAgain(DeferReason.NETWORK, FailureCode.TRANSFER, "gone")
        )
        assert record.deferral is not None
        until_s = record.deferral.until_uptime_s
        assert until_s is not None
        waits.append(until_s - FACTS.uptime_s)
        early = replace(FACTS, uptime_s=until_s - 1)
        assert next_step(record, early, POLICY).record is record
        assert next_step(record, early, POLICY).wake_s == pytest.approx(1)
        plan = next_step(record, replace(FACTS, uptime_s=until_s), POLICY)
        assert plan.action is ActionKind.FETCH
        record = plan.record
    assert waits[:3] == [10, 20, 40]
    assert waits[-1] == POLICY.retry_cap_s


def test_tries_end_and_jitter_halves_at_most() -> None:
    outcome = TryAgain(DeferReason.NETWORK, FailureCode.TRANSFER, "404")
    spent = record_in(S.FETCHING, tries=POLICY.max_tries)
    record = after(spent, ActionKind.FETCH, outcome)
    assert record.failure is not None
    assert (record.failure.kind, record.failure.code) == (
        FailureKind.NO_CHANGE,
        FailureCode.TRANSFER,
    )
    early = after(record_in(S.FETCHING), ActionKind.FETCH, outcome, replace(FACTS, jitter=0.0))
    assert early.deferral is not None
    assert early.deferral.until_uptime_s == FACTS.uptime_s + 5.0


def test_after_a_restart_a_retry_is_due_at_once() -> None:
    outcome = TryAgain(DeferReason.TRUST, FailureCode.UNTRUSTED, "expired")
    record = after(record_in(S.OFFERED), ActionKind.VERIFY, outcome)
    other = replace(FACTS, boot="b-2", uptime_s=1.0)
    resumed = resume(record, other, POLICY, clean=True)
    assert next_step(resumed, other, POLICY).action is ActionKind.VERIFY


def test_an_activation_that_lacked_room_goes_through_the_gates_again() -> None:
    begun = next_step(record_in(S.STAGED), replace(FACTS, staged=True), POLICY).record
    record = after(
        begun, ActionKind.ACTIVATE, TryAgain(DeferReason.DISK, FailureCode.NO_SPACE, "full")
    )
    later = replace(FACTS, staged=True, uptime_s=FACTS.uptime_s + 11, load=1.0)
    plan = next_step(record, later, POLICY)
    assert plan.record.deferral is not None
    assert plan.record.deferral.reason is DeferReason.LOAD
    assert record.attempts == 0  # it did not die with the daemon


@pytest.mark.parametrize(
    ("state", "action", "code"),
    [
        (S.OFFERED, ActionKind.VERIFY, FailureCode.UNTRUSTED),
        (S.FETCHING, ActionKind.FETCH, FailureCode.CORRUPT),
        (S.ACTIVATING, ActionKind.ACTIVATE, FailureCode.REFUSED),
    ],
)
def test_giving_up_before_the_swap_changes_nothing(
    state: BoxState, action: ActionKind, code: FailureCode
) -> None:
    record = after(record_in(state), action, GaveUp(code, "bad\x07 news"))
    assert record.failure == Failure(kind=FailureKind.NO_CHANGE, code=code, reason="bad  news")
    assert next_step(record, FACTS, POLICY).action is None


def test_outcomes_of_another_generation_or_state_are_dropped() -> None:
    record = record_in(S.FETCHING)
    assert observe(record, ActionKind.FETCH, 4, Done(), facts=FACTS, policy=POLICY) == record
    for action in (ActionKind.VERIFY, ActionKind.ACTIVATE, ActionKind.REVERT):
        assert after(record, action, Done()) == record


# Probation


def probation(**fields: Any) -> ItemRecord:
    return record_in(S.PROBATION, boot="b-1", since_uptime_s=FACTS.uptime_s, **fields)


@pytest.mark.parametrize(
    ("health", "crashes", "code"),
    [
        (HealthFacts(golden_ok=False), 0, FailureCode.GOLDEN),
        (HealthFacts(), 2, FailureCode.CRASHES),
        (HealthFacts(engine_failures=2), 0, FailureCode.CRASHES),
        (HealthFacts(engine_failures=1), 1, FailureCode.CRASHES),
        (HealthFacts(requests=50, errors=3), 0, FailureCode.ERRORS),
        (
            HealthFacts(routed=50, escalated=20, before_routed=50, before_escalated=9),
            0,
            FailureCode.ESCALATION,
        ),
    ],
)
def test_bad_health_takes_it_back(health: HealthFacts, crashes: int, code: FailureCode) -> None:
    facts = replace(SERVING, health=health)
    plan = next_step(probation(crashes=crashes), facts, POLICY)
    assert (plan.record.state, plan.action) == (S.REVERTING, ActionKind.REVERT)
    reverted = after(plan.record, ActionKind.REVERT, Done(), replace(FACTS, staged=True))
    assert reverted.state is S.REVERTED
    assert reverted.failure is not None
    assert (reverted.failure.kind, reverted.failure.code) == (FailureKind.REVERTED, code)


@pytest.mark.parametrize(
    "health",
    [
        HealthFacts(golden_ok=True),
        HealthFacts(engine_failures=1),
        HealthFacts(requests=49, errors=49),
        HealthFacts(requests=100, errors=5),
        HealthFacts(routed=49, escalated=49, before_routed=500),
        HealthFacts(routed=500, escalated=500, before_routed=49),
        HealthFacts(routed=50, escalated=10, before_routed=50),
    ],
)
def test_good_or_unproven_health_goes_on(health: HealthFacts) -> None:
    plan = next_step(probation(), replace(SERVING, health=health), POLICY)
    assert (plan.record.state, plan.action) == (S.PROBATION, None)


def test_probation_is_measured_in_time_that_it_served() -> None:
    record = probation()
    at = replace(SERVING, uptime_s=FACTS.uptime_s + 100)
    record = next_step(record, at, POLICY).record  # a checkpoint
    assert record.served_s == 100
    other = replace(SERVING, boot="b-2", uptime_s=5.0)
    record = resume(record, other, POLICY, clean=True)
    plan = next_step(record, replace(other, uptime_s=5 + 799), POLICY)
    assert plan.record.state is S.PROBATION
    assert plan.wake_s == pytest.approx(1)
    done = next_step(plan.record, replace(other, uptime_s=5 + 800), POLICY)
    assert done.record.state is S.CONFIRMED


def test_no_probation_confirms_at_once() -> None:
    item = want_item(5, probation=ProbationRules(length_s=0))
    record = after(record_in(S.ACTIVATING, item), ActionKind.ACTIVATE, Done(), SERVING)
    assert next_step(record, SERVING, POLICY).record.state is S.CONFIRMED


def test_nothing_to_go_back_to_is_said_aloud() -> None:
    facts = replace(SERVING, previous=None, health=HealthFacts(golden_ok=False))
    record = next_step(probation(), facts, POLICY).record
    assert record.failure is not None
    assert (record.failure.kind, record.failure.code) == (FailureKind.STUCK, FailureCode.GOLDEN)


def test_a_revert_that_fails_is_stuck() -> None:
    reverting = record_in(S.REVERTING, condemned=CONDEMNED)
    record = after(reverting, ActionKind.REVERT, GaveUp(FailureCode.DISK, "gone"), SERVING)
    assert record.failure is not None
    assert record.failure.kind is FailureKind.STUCK
    later = after(
        reverting, ActionKind.REVERT, TryAgain(DeferReason.DISK, FailureCode.NO_SPACE), SERVING
    )
    due = replace(SERVING, uptime_s=FACTS.uptime_s + 60)
    assert next_step(later, due, POLICY).action is ActionKind.REVERT


@pytest.mark.parametrize("state", [S.PROBATION, S.CONFIRMED])
@pytest.mark.parametrize(
    ("staged", "code"), [(True, FailureCode.CANCELLED), (False, FailureCode.DISK)]
)
def test_a_bundle_that_stopped_serving_by_other_hands_is_reported(
    state: BoxState, staged: bool, code: FailureCode
) -> None:
    facts = replace(FACTS, staged=staged)
    for record in (
        next_step(record_in(state), facts, POLICY).record,
        resume(record_in(state), facts, POLICY, clean=False),
    ):
        assert record.state is S.REVERTED
        assert record.failure is not None
        assert record.failure.code is code


# After a crash


@pytest.mark.parametrize(
    ("state", "facts", "then"),
    [
        (S.OFFERED, FACTS, S.OFFERED),
        (S.ACCEPTED, FACTS, S.ACCEPTED),
        (S.FETCHING, FACTS, S.ACCEPTED),
        (S.STAGED, FACTS, S.ACCEPTED),
        (S.STAGED, replace(FACTS, staged=True), S.STAGED),
        (S.ACTIVATING, FACTS, S.ACCEPTED),
        (S.ACTIVATING, replace(FACTS, staged=True), S.STAGED),
        (S.ACTIVATING, SERVING, S.PROBATION),
        (S.PROBATION, SERVING, S.PROBATION),
        (S.CONFIRMED, SERVING, S.CONFIRMED),
        (S.REVERTING, SERVING, S.REVERTING),
        (S.REVERTING, FACTS, S.REVERTED),
        (S.REVERTED, FACTS, S.REVERTED),
        (S.SUPERSEDED, FACTS, S.SUPERSEDED),
    ],
)
def test_a_start_goes_on_where_the_disk_says(state: BoxState, facts: Facts, then: BoxState) -> None:
    record = resume(record_in(state, condemned=CONDEMNED), facts, POLICY, clean=False)
    assert record.state is then
    assert resume(record, facts, POLICY, clean=True).state is then


def test_activations_that_kill_the_daemon_end() -> None:
    record = record_in(S.STAGED)
    facts = replace(FACTS, staged=True)
    for _ in range(POLICY.max_attempts):
        record = next_step(record, facts, POLICY).record
        assert record.state is S.ACTIVATING
        record = resume(record, facts, POLICY, clean=False)
    assert record.failure is not None
    assert (record.failure.kind, record.failure.code) == (
        FailureKind.NO_CHANGE,
        FailureCode.CRASHES,
    )


def test_only_unwanted_ends_count_as_crashes_on_probation() -> None:
    record = probation()
    for clean in (True, False, True, False):
        record = resume(record, SERVING, POLICY, clean=clean)
    assert record.crashes == 2
    assert next_step(record, SERVING, POLICY).action is ActionKind.REVERT


def test_a_broken_disk_is_settled_by_the_next_start() -> None:
    record = after(record_in(S.ACTIVATING), ActionKind.ACTIVATE, Broken("EIO"))
    assert record.failure is not None
    assert record.failure.kind is FailureKind.STUCK
    assert resume(record, SERVING, POLICY, clean=True).state is S.PROBATION
    old = resume(record, FACTS, POLICY, clean=True)
    assert old.failure is not None
    assert old.failure.kind is FailureKind.NO_CHANGE


# Reports


def test_a_report_says_where_the_box_is_and_why() -> None:
    plan = fetch_plan(want_item(5), replace(FACTS, metered=True))
    told = report(plan.record, FACTS, bytes_done=3, bytes_total=1000)
    assert (told.state, told.defer, told.generation) == (S.DEFERRED, DeferReason.METERED, 5)
    assert (told.wanted, told.active, told.bytes_done) == (NEW, OLD, 3)
    condemned = record_in(S.REVERTING, condemned=CONDEMNED)
    assert report(condemned, SERVING).failure == CONDEMNED


def test_records_survive_storage() -> None:
    for record in (
        probation(crashes=1),
        fetch_plan(want_item(5), replace(FACTS, metered=True)).record,
        record_in(S.REVERTED, failure=CONDEMNED, before=OLD),
    ):
        assert ItemRecord.model_validate_json(record.model_dump_json()) == record
