"""One chat from its plan to its answer.

Rules
- What to do next is the case's to say (`edge_runtime.router`); here it is done: ask the cache,
  a local model, a frontier, and write the answer, whole or as a stream.
- An answer that a certificate has to judge is collected first and then given, as a stream if one
  was asked for. Once a token went out nothing is asked anew.
- A request with one local model and nothing to decide takes none of these turns: `chat_route`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from aiohttp import web

from edge_runtime.cache.contract import Ticket
from edge_runtime.cache.key import Question
from edge_runtime.cache.policy import Use
from edge_runtime.core import Kind, ModelInfo
from edge_runtime.errors import CapacityError, UsageError
from edge_runtime.router.case import Case
from edge_runtime.router.contract import (
    FrontierCall,
    FrontierReply,
    Reason,
    SimilarQuestion,
)
from edge_runtime.router.decide import Escalate, Keep, Refuse, TryLocal, UseCache
from edge_runtime.router.escalate import chat_body
from edge_runtime.router.plan import Plan
from edge_runtime.router.watch.contract import TrialPlan
from edge_runtime.server import (
    chat_cache,
    chat_frontier,
    chat_judged,
    chat_local,
    chat_trial,
    chat_watch,
)
from edge_runtime.server.chat import need_chat_template
from edge_runtime.server.chat_asked import Asked
from edge_runtime.server.context import RequestContext, Services
from edge_runtime.server.generation import (
    Collected,
)
from edge_runtime.server.own_time import OwnTime
from edge_runtime.server.trials import plan_of


@dataclass(slots=True)
class ChatCourse:
    """See the module. One a request."""

    request: web.Request
    services: Services
    context: RequestContext
    plan: Plan
    asked: Asked
    own: OwnTime
    case: Case = field(init=False)
    use: Use = field(init=False)
    question: Question | None = None
    ticket: Ticket | None = None
    similar: SimilarQuestion | None = None
    collected: dict[int, Collected] = field(default_factory=dict)
    trial: TrialPlan | None = None
    reply: FrontierReply | None = None

    async def run(self) -> web.StreamResponse:
        """Answer, or raise what the caller is told."""
        router = self.services.router
        self.services.bound_sequences(self.asked.choices)
        self.trial = router.trial(self.plan)
        self.plan = plan_of(self.plan, self.trial)
        told = router.told(self.context.payer(self.plan))
        self.context.told = [told]
        self.case = router.open_case(self.plan, told)
        try:
            self._fill_ladder()
            hit = chat_cache.look_up(self)
            if hit is not None:
                return await chat_cache.from_cache(self, hit)
            with self.own.away():
                similar = await chat_cache.look_similar(self)
            if similar is not None:
                return await chat_cache.from_cache(self, similar, Reason.SIMILAR)
            if self.use.only_if_cached:
                raise UsageError("nothing is kept for this request", code="not_cached", status=504)
            response = await self._steps()
            chat_trial.pair(self)
            return response
        finally:
            self.own.observe(self.services.metrics, self.context.route)
            told.bill.cancel()
            router.account(told, self.plan.endpoint)

    def _fill_ladder(self) -> None:
        for name in self.plan.ladder:
            info: ModelInfo | None = None
            try:
                info = self.services.model(name, Kind.GENERATE)
                need_chat_template(info)
                if self.asked.problem is not None:
                    raise self.asked.problem
            except (UsageError, CapacityError) as error:
                if self.plan.plain:
                    raise
                self.case.rung(info, error=error)
                continue
            uncovered = self.asked.uncovered()
            if not uncovered and not self.asked.greedy(info):
                uncovered = "certificates cover greedy answers: send temperature 0"
            self.case.rung(info, uncovered=uncovered)
            if self.context.info is None:
                self.context.info = info

    async def _steps(self) -> web.StreamResponse:
        while True:
            self.own.go()
            step = self.case.next()
            self.own.stop()
            response: web.StreamResponse | None = None
            match step:
                case TryLocal(rung=rung, final=True) if self.asked.form is None:
                    response = await chat_local.live(self, rung, step.reason or Reason.LOCAL_ONLY)
                case TryLocal(rung=rung):
                    await chat_local.collect_and_judge(self, rung)
                case Escalate(reason=reason):
                    chat_watch.tell_scored(self)
                    response = await chat_frontier.escalate(self, reason)
                case Keep():
                    return await chat_local.give(self, step)
                case Refuse():
                    raise self.case.refusal(step)
                case UseCache():
                    raise AssertionError("hits are answered before the first step")
            if response is not None:
                return response

    def call(self, reason: Reason) -> FrontierCall:
        """The call that escalates this request."""
        info = self.own_info()
        escalation = info.escalation if info is not None else None
        body = chat_body(escalation, self.asked.fields(), self.asked.data["messages"])
        return self.case.call(
            body,
            reason,
            max_output_tokens=self.asked.output_tokens(self.plan, info),
            deadline_s=self.context.deadline_s,
            accept=chat_judged.acceptance(self.asked.form, escalation),
        )

    def own_info(self) -> ModelInfo | None:
        """The first model of the ladder that is there; a candidate under trial only if alone."""
        known = [one for one in self.case.infos if one is not None]
        own = [one for one in known if one.name != self.plan.candidate]
        return next(iter([*own, *known]), None)
