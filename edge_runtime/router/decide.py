"""The router's decision: what is known of one question in, the next step out. Pure.

Rules
- `next_step` is asked again after every step, with what came of it, until it says how to end.
- A text that must never leave is never escalated, whatever fails.
- Without a valid certificate nothing local-first is kept as confident: it escalates and says why.
  The local model is then only tried when no frontier can answer, or the text must not leave.
- Where an alarm suspends the certificate and the settings say `hold`, what cannot be sent is
  refused, not answered.
- An answer given though it should have been escalated says so: `degraded` or `never-leave`.
- A fault of one local model leads to the next of the ladder, then to a frontier, if the switch
  of that fault is on; otherwise the fault is the answer.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from edge_runtime.router.contract import FrontierWhy, Policy, Privacy, Reason

FAULTS: frozenset[Reason] = frozenset(
    {
        Reason.CONTEXT_TOO_LONG,
        Reason.TASK_NOT_SERVED,
        Reason.OVERLOAD,
        Reason.DEADLINE,
        Reason.LOCAL_FAULT,
        Reason.SCHEMA_INVALID,
    }
)


class Trust(enum.StrEnum):
    """What the certificate of a local model for this task is worth now."""

    VALID = "valid"
    NONE = "none"  # there is none, or it does not hold for this question
    SUSPENDED = "suspended"  # a drift alarm stands


@dataclass(frozen=True, slots=True)
class Candidate:
    """One rung of the ladder. `fault` is why it cannot be tried, where that is known before."""

    trust: Trust
    fault: Reason | None = None


@dataclass(frozen=True, slots=True)
class Tried:
    """What came of a local try: a fault, or an answer and whether its score reached lambda.

    `confident` is None where no certificate judged. `whole` is false for an answer that is not
    of the wanted schema: `fault` says so, and it is no answer to fall back on.
    """

    fault: Reason | None = None
    confident: bool | None = None

    def __post_init__(self) -> None:
        if self.fault is not None and self.fault not in FAULTS:
            raise ValueError(f"{self.fault} is not a fault of a local model")


class Frontier(enum.StrEnum):
    """What is known of the frontiers for this question."""

    UNTRIED = "untried"
    ABSENT = "absent"  # none is configured, or all would refuse at once
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Rules:
    """What the settings and the request say. `fallbacks` are the faults that may escalate.

    `kept_reason` is the reason of an answer that no certificate had to judge.
    """

    policy: Policy
    privacy: Privacy = Privacy.MAY_LEAVE
    fallbacks: frozenset[Reason] = FAULTS
    hold_on_drift: bool = False
    degraded_answers: bool = True
    kept_reason: Reason = Reason.LOCAL_ONLY

    @property
    def needs_certificate(self) -> bool:
        """Whether any local answer is judged."""
        return self.policy is Policy.LOCAL_FIRST


@dataclass(frozen=True, slots=True)
class Situation:
    """All that is known of one question now; `tried` by rung."""

    cached: Reason | None = None
    ladder: Sequence[Candidate] = ()
    tried: Mapping[int, Tried] = field(default_factory=dict)
    frontier: Frontier = Frontier.UNTRIED
    why: FrontierWhy | None = None


@dataclass(frozen=True, slots=True)
class UseCache:
    """Give the kept answer."""

    reason: Reason


@dataclass(frozen=True, slots=True)
class TryLocal:
    """Ask rung `rung`. `final`: whatever it answers is kept for `reason`, so it may stream."""

    rung: int
    final: bool = False
    reason: Reason | None = None


@dataclass(frozen=True, slots=True)
class Escalate:
    """Ask the frontiers."""

    reason: Reason


@dataclass(frozen=True, slots=True)
class Keep:
    """Give the local answer of rung `rung`."""

    rung: int
    reason: Reason

    @property
    def degraded(self) -> bool:
        """True when a better answer was wanted and could not be had."""
        return self.reason in (Reason.DEGRADED, Reason.NEVER_LEAVE)


@dataclass(frozen=True, slots=True)
class Refuse:
    """Give no answer. `fault_of` is the rung whose fault the caller is told, if it is one."""

    reason: Reason
    status: int
    fault_of: int | None = None


Step = UseCache | TryLocal | Escalate | Keep | Refuse


def next_step(rules: Rules, situation: Situation) -> Step:
    """What to do now. Costs a look at every rung."""
    if situation.cached is not None:
        return UseCache(situation.cached)
    if rules.policy is Policy.LOCAL_ONLY:
        return _stay_here(rules, situation, rules.kept_reason)
    why, step = _wanted(rules, situation)
    if step is not None:
        return step
    if rules.privacy is Privacy.NEVER_LEAVE:
        return _held_or(rules, situation, why, Reason.NEVER_LEAVE)
    if situation.frontier is Frontier.UNTRIED:
        return Escalate(why)
    if situation.why is FrontierWhy.BAD_REQUEST and not situation.ladder:
        return Refuse(why, 400)
    return _held_or(rules, situation, why, Reason.DEGRADED)


def _wanted(rules: Rules, situation: Situation) -> tuple[Reason, Step | None]:
    """Why the question should escalate, or the step before that is known."""
    if rules.policy is Policy.FRONTIER_ONLY:
        return Reason.FRONTIER_ONLY, None
    if rules.policy is Policy.SHADOW:
        return Reason.SHADOW, None
    why: Reason | None = None
    for rung, candidate in enumerate(situation.ladder):
        fault = candidate.fault
        tried = situation.tried.get(rung)
        if fault is None and candidate.trust is not Trust.VALID:
            why = Reason.DRIFT if candidate.trust is Trust.SUSPENDED else _or_missing(why)
            continue
        if fault is None and tried is None:
            return Reason.LOW_CONFIDENCE, TryLocal(rung)
        if tried is not None and tried.fault is None and tried.confident:
            return Reason.CONFIDENT, Keep(rung, Reason.CONFIDENT)
        fault = fault or (tried.fault if tried is not None else None)
        if fault is not None and fault not in rules.fallbacks:
            return fault, Refuse(fault, _status(fault), rung)
        why = fault or Reason.LOW_CONFIDENCE
    return why or Reason.TASK_NOT_SERVED, None


def _or_missing(why: Reason | None) -> Reason:
    """An earlier rung that was tried says more than a later one without a certificate."""
    return why or Reason.NO_CERTIFICATE


def _held_or(rules: Rules, situation: Situation, why: Reason, reason: Reason) -> Step:
    """What cannot be sent: held back while an alarm stands and the settings say so."""
    if rules.hold_on_drift and why is Reason.DRIFT:
        return Refuse(Reason.NEVER_CERTIFIED, 503)
    if reason is Reason.DEGRADED and not rules.degraded_answers:
        return Refuse(why, 503)
    return _stay_here(rules, situation, reason, why)


def _stay_here(
    rules: Rules, situation: Situation, reason: Reason, why: Reason | None = None
) -> Step:
    """Answer from the ladder without a certificate; the latest answer there is wins.

    A rung without a fault is tried before one is given up; faults go up the ladder.
    """
    answered = [rung for rung, one in situation.tried.items() if one.fault is None]
    if answered:
        return Keep(max(answered), reason)
    blocked: int | None = None
    for rung, candidate in enumerate(situation.ladder):
        tried = situation.tried.get(rung)
        fault = candidate.fault or (tried.fault if tried is not None else None)
        if fault is None:
            return TryLocal(rung, final=True, reason=reason)
        blocked = rung
        if fault not in rules.fallbacks:
            break
    if blocked is None:
        if reason is Reason.NEVER_LEAVE:
            return Refuse(reason, 403)  # for ever, as no local model serves it
        return Refuse(why or Reason.TASK_NOT_SERVED, 503)
    found = situation.tried.get(blocked)
    fault = situation.ladder[blocked].fault or (found.fault if found is not None else None)
    assert fault is not None
    if reason is Reason.DEGRADED:
        return Refuse(why or fault, 503)
    return Refuse(fault, _status(fault), blocked)


def _status(fault: Reason) -> int:
    if fault is Reason.OVERLOAD:
        return 429
    if fault is Reason.DEADLINE:
        return 503
    if fault in (Reason.LOCAL_FAULT, Reason.SCHEMA_INVALID):
        return 500
    return 400
