"""One question on its way to an answer: what was tried, what is next, how it ended.

The routes do the steps and tell the case; `decide.next_step` says which comes next. What a case
shares with all others is its router's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edge_runtime.bundle.certificate import Decision, decide
from edge_runtime.core import ModelInfo
from edge_runtime.errors import CapacityError, EngineError, TransportError, UsageError
from edge_runtime.ledger.rows import Attempt, Purpose, Tier
from edge_runtime.router.contract import (
    Accept,
    FrontierCall,
    FrontierError,
    FrontierReply,
    FrontierWhy,
    Reason,
)
from edge_runtime.router.decide import (
    Candidate,
    Frontier,
    Keep,
    Refuse,
    Situation,
    Step,
    Tried,
    Trust,
    next_step,
)
from edge_runtime.router.frontier.tokens import prompt_bound
from edge_runtime.router.plan import Plan
from edge_runtime.router.told import Told
from edge_runtime.router.trust import Holding

if TYPE_CHECKING:
    from edge_runtime.router.router import Router

RETRY_S = 5.0

_FAULT_OF_CODE = {
    "context_length_exceeded": Reason.CONTEXT_TOO_LONG,
    "max_tokens_exceeded": Reason.CONTEXT_TOO_LONG,
    "no_chat_template": Reason.TASK_NOT_SERVED,
    "field_not_served": Reason.TASK_NOT_SERVED,
    "model_not_found": Reason.TASK_NOT_SERVED,
    "wrong_model_kind": Reason.TASK_NOT_SERVED,
}


def fault_of(error: Exception, *, late: bool = False) -> Reason | None:
    """The fault an error of a local try stands for; None for errors that are the caller's.

    `late` says that the caller's deadline has passed.
    """
    match error:
        case UsageError():
            return _FAULT_OF_CODE.get(error.code)
        case CapacityError():
            deadline = late or error.reason == "deadline"
            return Reason.DEADLINE if deadline else Reason.OVERLOAD
        case EngineError():
            return Reason.LOCAL_FAULT
        case _:
            return None


@dataclass(slots=True)
class Case:
    """One question on its way to an answer. The route does the steps; this keeps the score."""

    router: Router
    plan: Plan
    told: Told
    ladder: list[Candidate] = field(default_factory=list)
    infos: list[ModelInfo | None] = field(default_factory=list)
    holdings: list[Holding] = field(default_factory=list)
    scores: dict[int, float] = field(default_factory=dict)
    tried: dict[int, Tried] = field(default_factory=dict)
    errors: dict[int, Exception] = field(default_factory=dict)
    frontier: Frontier = Frontier.UNTRIED
    failure: FrontierError | None = None
    counted: bool = False
    """Whether the watch has this question."""

    def rung(
        self, info: ModelInfo | None, *, uncovered: str = "", error: Exception | None = None
    ) -> None:
        """Add the next local model of the ladder.

        `uncovered` says why no certificate could speak for this question; `error` why the model
        cannot be tried at all: then `info` may be None.
        """
        at = len(self.ladder)
        fault = None if error is None else fault_of(error)
        if error is not None:
            self.errors[at] = error
            if fault is None:
                raise error
        holding = Holding(None, uncovered)
        trust = Trust.NONE
        if info is not None and not uncovered and self.plan.rules.needs_certificate:
            task = self.plan.task_of(info.name)
            holding = self.router.book.holding(info.model_digest, task, info.kind, self.plan.alpha)
            trust = Trust.NONE if holding.known is None else Trust.VALID
            watch = self.router.watch
            if holding.known is not None and watch is not None:
                why = watch.suspended(holding.known.digest)
                if why is not None:
                    trust, holding = Trust.SUSPENDED, Holding(holding.known, why)
        self.ladder.append(Candidate(trust, fault))
        self.infos.append(info)
        self.holdings.append(holding)

    def next(self) -> Step:
        """What to do now."""
        why = None if self.failure is None else self.failure.why
        situation = Situation(None, self.ladder, self.tried, self.frontier, why)
        return next_step(self.plan.rules, situation)

    def info(self, rung: int) -> ModelInfo:
        """The model of a rung that may be tried."""
        info = self.infos[rung]
        assert info is not None, "a rung without a model was to be tried"
        return info

    def certificate_at(self, rung: int) -> Holding | None:
        """The certificate that judges a rung's answer; None where none holds."""
        return self.holdings[rung] if self.ladder[rung].trust is Trust.VALID else None

    def failed(self, rung: int, fault: Reason, error: Exception) -> None:
        """A local try ended in a fault."""
        self.errors[rung] = error
        self.tried[rung] = Tried(fault)

    def answered(self, rung: int, score: float | None) -> None:
        """A local try gave an answer, with its score where a certificate needs one."""
        holding = self.certificate_at(rung)
        confident: bool | None = None
        if score is not None and holding is not None and holding.known is not None:
            certificate = holding.known.certificate
            confident = decide(score, certificate) is Decision.KEEP
            self.scores[rung] = score
            self.told.score, self.told.threshold = score, certificate.threshold
            self.told.certificate = holding.known.digest
        self.tried[rung] = Tried(confident=confident)

    def escalating(self, reason: Reason) -> None:
        """The question is about to be sent to a frontier."""
        self._say_why(reason)
        label = self.router.counts_endpoint(self.plan.endpoint)
        self.router.metrics.count("edge_escalations_total", label, str(reason))

    def frontier_failed(self, error: FrontierError) -> None:
        """No frontier answered."""
        self.frontier, self.failure = Frontier.FAILED, error
        self.told.bill.frontier_failed(error)
        self.told.detail = f"{error.why}: {error}"
        self.router.metrics.count("edge_frontier_failures_total", str(error.why))

    def announce(self, step: Keep) -> None:
        """A local answer is about to be given: headers may go out."""
        info = self.info(step.rung)
        self.told.degraded = step.degraded
        if step.degraded and not self.told.detail:
            self._say_why(step.reason)
        if step.reason is Reason.DEGRADED and self.failure is None:
            self.told.detail = "no frontier can be asked now"
        self.told.answered(tier=str(Tier.LOCAL), reason=str(step.reason), by=info.full_name)

    def kept(self, step: Keep) -> None:
        """A local answer is given: rows are closed."""
        self.announce(step)
        self.told.bill.close(rung=step.rung, reason=step.reason)

    def escalated(self, reason: Reason, reply: FrontierReply) -> None:
        """A frontier's answer is given."""
        self.told.bill.frontier(reply)
        self.told.bill.close(rung=None, reason=reason)
        self.told.answered(tier=str(Tier.FRONTIER), reason=str(reason), by=reply.frontier)

    def from_cache(self, reason: Reason, row: Attempt, *, by: str) -> None:
        """A kept answer is given."""
        self.told.bill.cached(row)
        self.told.bill.close(rung=None, reason=reason)
        self.told.cache = "hit"
        self.told.answered(tier=str(Tier.CACHE), reason=str(reason), by=by)

    def refusal(self, step: Refuse) -> Exception:
        """The error to raise; the case is closed."""
        self.told.bill.close(rung=None, reason=step.reason)
        self.told.reason = str(step.reason)
        if step.fault_of is not None and step.fault_of in self.errors:
            return self.errors[step.fault_of]
        return refusal_of(step, self.failure)

    def _say_why(self, reason: Reason) -> None:
        if reason in (Reason.NO_CERTIFICATE, Reason.DRIFT, Reason.NEVER_LEAVE):
            details = [one.detail for one in self.holdings if one.detail]
            self.told.detail = details[-1] if details else ""

    def call(
        self,
        body: dict[str, Any],
        reason: Reason,
        *,
        max_output_tokens: int,
        deadline_s: float | None = None,
        accept: Accept | None = None,
    ) -> FrontierCall:
        """The call that would escalate this question."""
        return FrontierCall(
            body=body,
            payer=self.told.bill.payer,
            order=self.plan.order,
            prompt_tokens=prompt_bound(body),
            max_output_tokens=max_output_tokens,
            reason=str(reason),
            first_attempt=self.told.bill.attempts,
            purpose=Purpose.SERVE,
            deadline_s=deadline_s,
            accept=accept,
        )


def refusal_of(step: Refuse, failure: FrontierError | None) -> Exception:
    """The error for a question that nobody may or can answer."""
    because = "" if failure is None else f" ({failure.why}: {failure})"
    if step.status == 403:
        return UsageError(
            "the request must not leave the box, and no local model serves it; "
            "send x-edge-privacy: may-leave, or install a model",
            code="must_not_leave",
            status=403,
        )
    if step.reason is Reason.NEVER_CERTIFIED:
        return CapacityError(
            "an alarm suspends the model's certificate, and the request cannot be sent to a "
            f"frontier{because}; see the box's events, or set router.drift",
            retry_after_s=_retry_s(failure),
            status=503,
            reason="held_back",
        )
    if failure is not None and failure.why is FrontierWhy.BAD_REQUEST:
        return UsageError(f"the frontier refuses the request: {failure}", code="frontier_refused")
    return CapacityError(
        f"this needs a frontier ({step.reason}), and none can answer{because}; try again later",
        retry_after_s=_retry_s(failure),
        status=503,
        reason="no_frontier",
    )


def _retry_s(failure: TransportError | None) -> float:
    wait_s = getattr(failure, "retry_after_s", None)
    return RETRY_S if wait_s is None else float(wait_s)
