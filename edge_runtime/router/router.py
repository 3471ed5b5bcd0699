"""The router of a daemon: what all questions share, and one `Case` for each question.

Read it in the order of a question: `plan` (who may answer) -> `Case.next` (what to do now, by
`decide.next_step`) -> the route does it and tells the case what came of it -> `Case.kept`,
`Case.escalated`, `Case.from_cache` or `Case.refusal` ends it. The routes are in
`edge_runtime.server`; nothing here knows HTTP.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, Final

import structlog

from edge_runtime.bundle.certificate import Decision, decide
from edge_runtime.cache.answers import Answer
from edge_runtime.cache.contract import ExactCacheLike, Hit, Ticket
from edge_runtime.cache.key import Question
from edge_runtime.cache.policy import Use
from edge_runtime.core import ModelInfo
from edge_runtime.errors import CapacityError, EngineError, TransportError, UsageError
from edge_runtime.ledger.money import NANO
from edge_runtime.ledger.rows import Attempt, Purpose, Tier
from edge_runtime.metrics import Metrics
from edge_runtime.router.booking import Bill
from edge_runtime.router.contract import (
    Accept,
    FrontierCall,
    FrontierError,
    FrontierLike,
    FrontierReply,
    FrontierWhy,
    Payer,
    Policy,
    Reason,
    SemanticCacheLike,
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
from edge_runtime.router.plan import Directory, Plan, Wishes
from edge_runtime.router.settings import RouterSettings
from edge_runtime.router.till import Till
from edge_runtime.router.told import Told
from edge_runtime.router.trust import CertificateBook, Holding
from edge_runtime.router.watch.contract import TrialPlan, WatchLike, terms_of

log: Final = structlog.get_logger("edge_runtime.router")

RETRY_S = 5.0
DEFAULT_TENANT = "default"

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
class Router:
    """What all questions of a daemon share; parts that are None are not configured."""

    directory: Directory
    till: Till
    metrics: Metrics
    book: CertificateBook = field(default_factory=CertificateBook)
    settings: RouterSettings = field(default_factory=RouterSettings)
    frontiers: FrontierLike | None = None
    watch: WatchLike | None = None
    exact: ExactCacheLike | None = None
    exact_ttl_s: int = 0
    semantic: SemanticCacheLike | None = None
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def caches(self) -> bool:
        """Whether any cache is there."""
        return self.exact is not None or self.semantic is not None

    def plan(self, asked: str, wishes: Wishes, *, served: bool) -> Plan | None:
        """See `Directory.plan`."""
        return self.directory.plan(asked, wishes, served=served)

    def trial(self, plan: Plan) -> TrialPlan | None:
        """What a trial of the ladder's first model makes of a request; None in most cases.

        Only requests that a certificate judges and that may leave take part: of any other nobody
        could say which of two answers was right.
        """
        judged = plan.rules.policy is Policy.LOCAL_FIRST and plan.may_leave
        if self.watch is None or not plan.ladder or not judged:
            return None
        return self.watch.plan_trial(plan.ladder[0])

    def told(self, payer: Payer) -> Told:
        """A fresh account of one question."""
        return Told(Bill(self.till, payer))

    def open_case(self, plan: Plan, told: Told) -> Case:
        """A question to decide; the ladder is filled by `Case.rung`."""
        return Case(self, plan, told, frontier=self._frontier(plan))

    def _frontier(self, plan: Plan) -> Frontier:
        if self.frontiers is None or not plan.may_leave:
            return Frontier.ABSENT
        return Frontier.UNTRIED if self.frontiers.available(plan.order) else Frontier.ABSENT

    def tell_watch(self) -> None:
        """Name the certificates in force to the watch, and count them."""
        known = self.book.all()
        if self.watch is not None:
            for one in known:
                self.watch.certified(terms_of(one.certificate))
        self.metrics.gauge("edge_certificates", "known", value=len(known))
        self.metrics.gauge("edge_certificates", "refused", value=len(self.book.problems))

    def counts_endpoint(self, endpoint: str) -> str:
        """The endpoint as a metric label: configured names only."""
        return endpoint if endpoint in self.directory.endpoints else ""

    def look_up(self, question: Question, use: Use) -> Hit | Ticket | None:
        """The exact cache's answer; None where there is no cache, or it may not be used."""
        if self.exact is None or not (use.read or use.keep):
            return None
        found = self.exact.lookup(question, use)
        result = "hit" if isinstance(found, Hit) else "miss"
        self.metrics.count("edge_cache_lookups_total", "exact", result)
        return found

    def keep(self, ticket: Ticket, answer: Answer, use: Use) -> None:
        """Keep a fresh answer, in the background."""
        if self.exact is None or not use.keep:
            return
        keep = self.exact.keep

        async def run() -> None:
            try:
                await asyncio.to_thread(keep, ticket, answer, use)
            except ValueError as error:
                log.warning("answer not kept", action="cache_keep_failed", reason=str(error))

        self.background("keep", run())

    def background(self, name: str, work: Coroutine[Any, Any, None]) -> bool:
        """Run `work` beside the requests; False when too much runs already."""
        if len(self._tasks) >= self.settings.max_background_tasks:
            work.close()
            self.metrics.count("edge_background_dropped_total", name)
            return False
        task = asyncio.create_task(work, name=f"router-{name}")
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return True

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error(
                "background work failed",
                action="background_failed",
                task=task.get_name(),
                reason=repr(error),
            )

    async def finish_background(self, *, cancel: bool) -> None:
        """Wait until nothing runs beside the requests; cancel it first when asked."""
        tasks = list(self._tasks)
        for task in tasks:
            if cancel:
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def account(self, told: Told, endpoint: str) -> None:
        """Count a question that ended."""
        label = self.counts_endpoint(endpoint)
        if told.answered_by:
            self.metrics.count("edge_decisions_total", label, told.tier, told.reason)
        else:
            self.metrics.count("edge_refusals_total", label, told.reason or "error")
        for entry in told.bill.rows:
            if entry.cost_nano:
                self.metrics.count(
                    "edge_cost_total", str(entry.tier), amount=entry.cost_nano / NANO
                )
            if entry.saved_nano:
                self.metrics.count("edge_saved_total", amount=entry.saved_nano / NANO)
            if entry.energy_uj:
                source = str(entry.energy_source)
                self.metrics.count("edge_joules_total", source, amount=entry.energy_uj / 1e6)
        if told.bill.frontier_nano:
            cost = told.bill.frontier_nano / NANO
            self.metrics.count("edge_cost_total", str(Tier.FRONTIER), amount=cost)


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
            holding = self.router.book.holding(
                info.model_digest, task, info.kind, self.plan.alpha
            )
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
