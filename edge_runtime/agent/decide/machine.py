"""From what is wanted and what is there to the next action. Pure: no clock, no I/O.

Rules
- A generation is taken only when it is higher than the stored one; any other is only reported
  again.
- The record that says an action was begun is stored before the action begins, so after a crash
  `resume` knows what may have happened, and the store says what did.
- Every action may be done twice. Which bundle serves is the store's word, never the record's.
- An outcome belongs to a generation; one for another generation than the record's is dropped.
- What serves is never stopped by a date, a window, expired metadata or a lost network.
- Once a floor was verified for a name, no want can lower it again.

How it is used::

    taken = take(record, item, floor)
    plan = next_step(record, facts, policy)      # store plan.record, do plan.action
    record = observe(record, action, generation, outcome, facts=facts, policy=policy)
    record = resume(record, facts, policy, clean=...)   # once, at start, after the store recovered
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any

from edge_runtime.agent.decide.gates import Gate, before_activation, before_fetch, past_deadline
from edge_runtime.agent.decide.health import verdict
from edge_runtime.agent.decide.values import (
    ActionKind,
    Broken,
    Deferral,
    Done,
    Facts,
    GaveUp,
    ItemRecord,
    Outcome,
    Plan,
    Policy,
    TryAgain,
)
from edge_runtime.agent.protocol import (
    BoxState,
    Failure,
    FailureCode,
    FailureKind,
    ItemReport,
    WantItem,
)

S = BoxState

_UNTOUCHED = frozenset({S.OFFERED, S.ACCEPTED, S.FETCHING, S.STAGED, S.DEFERRED})
"""States in which nothing that serves was touched yet."""


_UNPROVEN = frozenset({S.ACTIVATING, S.PROBATION, S.REVERTING})
"""States in which the wanted bundle may serve without having been confirmed."""


class Offer(enum.StrEnum):
    """What became of an offered item."""

    TAKEN = "taken"
    KNOWN = "known"  # the very generation the box has: report it again
    OLD = "old"  # an older one, or another content under the same number


@dataclass(frozen=True, slots=True)
class Taken:
    """The record to store, and what became of the offer."""

    record: ItemRecord
    offer: Offer


def take(record: ItemRecord | None, item: WantItem, floor: int = 1) -> Taken:
    """Judge an offered item against the stored record; `floor` is the highest verified one."""
    if record is not None and item.generation <= record.generation:
        known = item == record.item
        return Taken(record, Offer.KNOWN if known else Offer.OLD)
    if item.release < max(floor, item.release_floor):
        reason = f"release {item.release} is below the floor {max(floor, item.release_floor)}"
        fresh = ItemRecord(item=item)
        return Taken(_fail(fresh, FailureCode.BELOW_FLOOR, reason), Offer.TAKEN)
    if record is None:
        return Taken(ItemRecord(item=item), Offer.TAKEN)
    if record.state is S.PROBATION and record.item.digest == item.digest:
        # The same bytes under a new number: what was watched so far still counts.
        return Taken(record.model_copy(update={"item": item}), Offer.TAKEN)
    unproven = record.item.digest if _where(record) in _UNPROVEN else record.unproven
    return Taken(ItemRecord(item=item, unproven=unproven), Offer.TAKEN)


def withdraw(record: ItemRecord) -> ItemRecord:
    """Nothing wants this any more: stop, unless it serves already."""
    if record.state in _UNTOUCHED:
        return _moved(record, S.SUPERSEDED)
    return record


def cancel(record: ItemRecord, generation: int) -> ItemRecord:
    """An order to stop now; like every order it may be late, and then means nothing."""
    if record.generation != generation or record.state not in _UNTOUCHED:
        return record
    return _fail(record, FailureCode.CANCELLED, "cancelled by an order")


def next_step(record: ItemRecord, facts: Facts, policy: Policy) -> Plan:
    """What to do now. Calling it again with the same facts gives the same answer."""
    at = record
    if at.state is S.DEFERRED:
        due_s = _due_in(at, facts)
        if not past_deadline(at.item, facts.now_s) and due_s > 0:
            return Plan(at, wake_s=due_s)
        assert at.deferral is not None
        at = _moved(at, at.deferral.back)
    if at.state in _UNTOUCHED:
        return _towards_serving(record, at, facts, policy)
    match at.state:
        case S.ACTIVATING:
            return Plan(at, ActionKind.ACTIVATE)
        case S.PROBATION:
            return _probation(at, facts, policy)
        case S.CONFIRMED:
            return Plan(_drifted(at, facts))
        case S.REVERTING:
            return _take_back(at, facts)
        case _:
            return Plan(at)


def observe(
    record: ItemRecord,
    action: ActionKind,
    generation: int,
    outcome: Outcome,
    *,
    facts: Facts,
    policy: Policy,
) -> ItemRecord:
    """The record after an action ended; store it before anything else is done."""
    if generation != record.generation or record.state is not _RUNS_IN[action]:
        return record  # superseded, cancelled or withdrawn meanwhile
    match outcome:
        case Done():
            return _done(record, action, facts)
        case GaveUp(code, reason):
            return _fail(record, code, reason)
        case TryAgain():
            return _retry(record, outcome, facts, policy)
        case Broken(reason):
            failure = Failure(kind=FailureKind.STUCK, code=FailureCode.DISK, reason=reason[:300])
            return _moved(record, S.FAILED, failure=failure)


def resume(record: ItemRecord, facts: Facts, policy: Policy, *, clean: bool) -> ItemRecord:
    """The record after a start; `clean`: the last run of the daemon ended as it was told to.

    The store has recovered already, so `facts.active` is what serves.
    """
    serves = facts.active == record.item.digest
    match record.state:
        case S.ACTIVATING if serves:
            return _on_probation(record, facts)
        case S.ACTIVATING if record.attempts >= policy.max_attempts:
            reason = f"the daemon ended in {record.attempts} attempts to activate it"
            return _fail(record, FailureCode.CRASHES, reason)
        case S.ACTIVATING:
            return _moved(record, S.STAGED if facts.staged else S.ACCEPTED)
        case S.PROBATION if serves:
            crashes = record.crashes + (0 if clean else 1)
            update = {"boot": facts.boot, "since_uptime_s": facts.uptime_s, "crashes": crashes}
            return record.model_copy(update=update)
        case S.PROBATION | S.CONFIRMED:
            return _drifted(record, facts)
        case S.REVERTING if not serves:
            return _moved(record, S.REVERTED, failure=record.condemned)
        case S.FETCHING:
            return _moved(record, S.ACCEPTED)
        case S.STAGED if not facts.staged:
            return _moved(record, S.ACCEPTED)
        case S.FAILED if _stuck(record) and record.condemned is None:
            return _settled(record, facts)
        case _:
            return record


def report(record: ItemRecord, facts: Facts, **extra: Any) -> ItemReport:
    """The record as the control host sees it; `extra` fields of `ItemReport` as they are."""
    deferral = record.deferral
    return ItemReport(
        kind=record.item.kind,
        name=record.item.name,
        generation=record.generation,
        rollout=record.item.rollout,
        state=record.state,
        wanted=record.item.digest,
        active=facts.active,
        previous=facts.previous,
        tries=record.tries,
        defer=None if deferral is None else deferral.reason,
        until_s=None if deferral is None else deferral.until_s,
        failure=record.failure or record.condemned,
        **extra,
    )


_RUNS_IN = {
    ActionKind.VERIFY: S.OFFERED,
    ActionKind.FETCH: S.FETCHING,
    ActionKind.ACTIVATE: S.ACTIVATING,
    ActionKind.REVERT: S.REVERTING,
}


def _towards_serving(stored: ItemRecord, at: ItemRecord, facts: Facts, policy: Policy) -> Plan:
    if past_deadline(at.item, facts.now_s):
        reason = "its deadline passed before it could be started"
        return Plan(_fail(at, FailureCode.DEADLINE, reason))
    if at.state is S.OFFERED:
        if facts.active == at.item.digest:
            unproven = at.unproven == at.item.digest
            return Plan(_on_probation(at, facts) if unproven else _moved(at, S.CONFIRMED))
        return Plan(at, ActionKind.VERIFY)
    if at.state in (S.ACCEPTED, S.FETCHING):
        gate = before_fetch(at.item, facts, policy)
        if gate is not None:
            return _deferred(stored, S.ACCEPTED, gate, at)
        if facts.staged:
            at = _moved(at, S.STAGED)
        else:
            return Plan(_moved(at, S.FETCHING), ActionKind.FETCH)
    gate = before_activation(at.item, facts, policy)
    if gate is not None:
        return _deferred(stored, S.STAGED, gate, at)
    begun = _moved(at, S.ACTIVATING, before=facts.active, attempts=at.attempts + 1)
    return Plan(begun, ActionKind.ACTIVATE)


def _probation(record: ItemRecord, facts: Facts, policy: Policy) -> Plan:
    if facts.active != record.item.digest:
        return Plan(_drifted(record, facts))
    condemned = verdict(record.item.probation, facts.health, record.crashes)
    if condemned is not None:
        return _take_back(_moved(record, S.REVERTING, condemned=condemned), facts)
    stretch_s = facts.uptime_s - record.since_uptime_s if record.boot == facts.boot else 0.0
    left_s = record.item.probation.length_s - record.served_s - stretch_s
    if left_s <= 0:
        return Plan(_moved(record, S.CONFIRMED))
    if record.boot != facts.boot or stretch_s >= policy.checkpoint_s:
        update = {
            "boot": facts.boot,
            "since_uptime_s": facts.uptime_s,
            "served_s": record.served_s + stretch_s,
        }
        record = record.model_copy(update=update)
    return Plan(record, wake_s=min(left_s, policy.checkpoint_s))


def _take_back(record: ItemRecord, facts: Facts) -> Plan:
    if facts.active != record.item.digest:
        return Plan(_moved(record, S.REVERTED, failure=record.condemned))
    if facts.previous is None:
        return Plan(_stuck_with(record, "there is nothing to go back to"))
    return Plan(record, ActionKind.REVERT)


def _done(record: ItemRecord, action: ActionKind, facts: Facts) -> ItemRecord:
    match action:
        case ActionKind.VERIFY:
            return _moved(record, S.ACCEPTED, tries=0)
        case ActionKind.FETCH:
            return _moved(record, S.STAGED, tries=0)
        case ActionKind.ACTIVATE:
            return _on_probation(record, facts)
        case _:
            return _moved(record, S.REVERTED, failure=record.condemned)


def _on_probation(record: ItemRecord, facts: Facts) -> ItemRecord:
    return _moved(
        record,
        S.PROBATION,
        unproven=None,
        tries=0,
        served_s=0.0,
        crashes=0,
        boot=facts.boot,
        since_uptime_s=facts.uptime_s,
    )


def _drifted(record: ItemRecord, facts: Facts) -> ItemRecord:
    """It served and does not any more, and this agent did not do it."""
    if facts.active == record.item.digest:
        return record
    if facts.staged:
        code, reason = FailureCode.CANCELLED, "another bundle was activated on the box itself"
    else:
        code, reason = FailureCode.DISK, "it was no longer whole on disk"
    failure = Failure(kind=FailureKind.REVERTED, code=code, reason=reason)
    return _moved(record, S.REVERTED, failure=failure)


def _settled(record: ItemRecord, facts: Facts) -> ItemRecord:
    """A failure that left the disk unknown, now that the store has recovered."""
    if facts.active == record.item.digest:
        return _on_probation(record, facts)
    assert record.failure is not None
    failure = record.failure.model_copy(update={"kind": FailureKind.NO_CHANGE})
    return _moved(record, S.FAILED, failure=failure)


def _retry(record: ItemRecord, outcome: TryAgain, facts: Facts, policy: Policy) -> ItemRecord:
    tries = record.tries + 1
    if tries > policy.max_tries:
        return _fail(record, outcome.code, f"given up after {tries} tries: {outcome.text}")
    wait_s = min(policy.retry_cap_s, policy.retry_first_s * 2.0 ** min(tries - 1, 40))
    wait_s *= 0.5 + 0.5 * facts.jitter
    # A revert waits too, but it stays a revert; an activation begins anew, gates and all.
    back = S.STAGED if record.state is S.ACTIVATING else record.state
    deferral = Deferral(
        reason=outcome.reason,
        back=back,
        until_s=None if facts.now_s is None else facts.now_s + int(wait_s),
        boot=facts.boot,
        until_uptime_s=facts.uptime_s + wait_s,
    )
    attempts = max(0, record.attempts - 1) if record.state is S.ACTIVATING else record.attempts
    return _moved(record, S.DEFERRED, deferral=deferral, tries=tries, attempts=attempts)


def _due_in(record: ItemRecord, facts: Facts) -> float:
    """Seconds until a retry is due; gates have no date and are looked at every time."""
    deferral = record.deferral
    if deferral is None or deferral.until_uptime_s is None or deferral.boot != facts.boot:
        return 0.0
    return max(0.0, deferral.until_uptime_s - facts.uptime_s)


def _deferred(stored: ItemRecord, back: BoxState, gate: Gate, at: ItemRecord) -> Plan:
    deferral = Deferral(reason=gate.reason, back=back, until_s=gate.until_s)
    if stored.state is S.DEFERRED and stored.deferral == deferral:
        return Plan(stored, wake_s=gate.wake_s)  # unchanged: nothing to store or to report
    return Plan(_moved(at, S.DEFERRED, deferral=deferral), wake_s=gate.wake_s)


def _where(record: ItemRecord) -> BoxState:
    """The state a record is in, or would go on in."""
    return record.state if record.deferral is None else record.deferral.back


def _stuck(record: ItemRecord) -> bool:
    return record.failure is not None and record.failure.kind is FailureKind.STUCK


def _stuck_with(record: ItemRecord, why: str) -> ItemRecord:
    cause = record.condemned
    code = FailureCode.INTERNAL if cause is None else cause.code
    reason = why if cause is None else f"{cause.reason}; {why}"
    failure = Failure(kind=FailureKind.STUCK, code=code, reason=reason[:300])
    return _moved(record, S.FAILED, failure=failure)


def _fail(record: ItemRecord, code: FailureCode, reason: str) -> ItemRecord:
    if record.state is S.REVERTING:
        return _stuck_with(record, f"taking it back failed: {reason}")
    failure = Failure(kind=FailureKind.NO_CHANGE, code=code, reason=_printable(reason))
    return _moved(record, S.FAILED, failure=failure)


def _printable(reason: str) -> str:
    return "".join(char if char.isprintable() else " " for char in reason)[:300]


def _moved(record: ItemRecord, state: BoxState, **update: Any) -> ItemRecord:
    return record.model_copy(update={"deferral": None, **update, "state": state})
