"""POST /v1/chat/completions: one request from its plan to its answer.

Rules
- What to do next is the case's to say (`edge_runtime.router`); here it is done: ask the cache,
  a local model, a frontier, and write the answer, whole or as a stream.
- An answer that a certificate has to judge is collected first and then given, as a stream if one
  was asked for. Once a token went out nothing is asked anew.
- A request with one local model and nothing to decide takes none of these turns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from aiohttp import web

from edge_runtime.cache.contract import Ticket
from edge_runtime.cache.key import Question
from edge_runtime.cache.policy import Use
from edge_runtime.core import Kind, ModelInfo
from edge_runtime.errors import CapacityError, EdgeError, EngineError, UsageError
from edge_runtime.router.contract import (
    FrontierCall,
    FrontierReply,
    Reason,
    SimilarQuestion,
)
from edge_runtime.router.decide import Escalate, Keep, Refuse, TryLocal, UseCache
from edge_runtime.router.escalate import chat_body
from edge_runtime.router.plan import Plan
from edge_runtime.router.router import Case, fault_of
from edge_runtime.router.watch.contract import TrialPlan
from edge_runtime.server import chat_cache, chat_frontier, chat_judged, chat_trial, chat_watch
from edge_runtime.server.body import parse_object, read_bytes, read_fields
from edge_runtime.server.chat import ChatBody, chat_job, need_chat_template
from edge_runtime.server.chat_asked import Asked, read_asked
from edge_runtime.server.context import RequestContext, Services, context_of, services_of
from edge_runtime.server.endings import Given, Live, Seeking
from edge_runtime.server.generation import (
    Collected,
    Job,
    Simply,
    collect,
    respond,
    respond_collected,
)
from edge_runtime.server.own_time import OwnTime
from edge_runtime.server.trials import plan_of


async def chat_completions(request: web.Request) -> web.StreamResponse:
    """Answer one chat request, whole or as a stream."""
    services, context = services_of(request), context_of(request)
    own = context.own_time(services)
    with own.away():
        raw = await read_bytes(request)
    data = parse_object(raw)
    name = data.get("model")
    if not isinstance(name, str) or not name:
        read_fields(request, data, ChatBody)
        raise UsageError("model must be a name", param="model")
    plan = services.plan(name, context.wishes)
    formed = plan.configured and data.get("response_format") is not None
    if plan.plain and not formed and not services.router.caches:
        own.observe(services.metrics, context.route)
        return await _plainly(request, data, plan)
    if plan.plain and not formed:
        read_fields(request, data, ChatBody)  # what is refused without a cache is refused with one
    course = ChatCourse(request, services, context, plan, read_asked(request, data, plan), own)
    return await course.run()


async def _plainly(request: web.Request, data: Mapping[str, Any], plan: Plan) -> web.StreamResponse:
    services, context = services_of(request), context_of(request)
    body = read_fields(request, data, ChatBody)
    info = context.info = services.model(plan.ladder[0], Kind.GENERATE)
    need_chat_template(info)
    services.bound_sequences(body.choices)
    job = await chat_job(services, context, info, body, cap=plan.max_output_tokens)
    told = context.simply(services.router, info, plan)
    try:
        return await respond(request, job, Simply(told, info))
    finally:
        services.router.account(told, plan.endpoint)


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
                    response = await self._live(rung, step.reason or Reason.LOCAL_ONLY)
                case TryLocal(rung=rung):
                    await self._collect(rung)
                case Escalate(reason=reason):
                    response = await chat_frontier.escalate(self, reason)
                case Keep():
                    return await self._give(step)
                case Refuse():
                    raise self.case.refusal(step)
                case UseCache():
                    raise AssertionError("hits are answered before the first step")
            if response is not None:
                return response

    # the local models

    async def _live(self, rung: int, reason: Reason) -> web.StreamResponse | None:
        """Stream from a model whose answer is kept whatever it is; None when it failed."""
        case = self.case
        step = Keep(rung, reason)
        info = case.info(rung)
        try:
            job = await self._job(info, scored=False)
            case.announce(step)
            self.context.keeps_answers = chat_cache.keeps(self, reason)
            response = await respond(
                self.request, job, Live(case, step, partial(chat_cache.remember, self))
            )
        except EdgeError as error:
            case.told.answered(tier="", reason="", by="")
            case.told.degraded = False
            self._failed(rung, error)
            return None
        chat_watch.tell_decided_by(self, sum(job.prompt_lens), None)
        return response

    async def _collect(self, rung: int) -> None:
        """Let a model answer without giving the answer; judge it."""
        case, asked = self.case, self.asked
        info = case.info(rung)
        holding = case.certificate_at(rung)
        retries = self.plan.schema_retries if asked.form is not None and holding is None else 0
        problem: EngineError | None = None
        for retry in range(retries + 1):
            try:
                job = await self._job(info, scored=holding is not None)
                job = chat_judged.redrawn(job, retry)
                found = await collect(self.services, self.context, job, Seeking(case, rung))
            except EdgeError as error:
                self._failed(rung, error)
                return
            work = found.figures.work(self.services.clock())
            problem = chat_judged.problem_of(found, asked.form)
            if problem is None:
                score = chat_judged.score_of(found, holding)
                task = self.plan.task_of(info.name)
                case.told.bill.local(info, work, rung=rung, score=score, task=task)
                case.answered(rung, score)
                self.collected[rung] = found
                return
            case.told.bill.local(info, work, rung=rung, reason=str(Reason.SCHEMA_INVALID))
        assert problem is not None, "no try was made"
        case.failed(rung, Reason.SCHEMA_INVALID, problem)

    async def _give(self, step: Keep) -> web.StreamResponse:
        """Give an answer that was collected."""
        found = self.collected[step.rung]
        self.case.announce(step)
        self.context.keeps_answers = chat_cache.keeps(self, step.reason)
        ending = Given(self.case, step, partial(chat_cache.remember, self))
        response = await respond_collected(self.request, found, ending)
        chat_judged.resolved(self)
        chat_watch.watch_kept(self, step, found)
        return response

    async def _job(self, info: ModelInfo, *, scored: bool) -> Job:
        assert self.asked.body is not None
        return await chat_job(
            self.services,
            self.context,
            info,
            self.asked.body,
            cap=self.plan.max_output_tokens,
            scored=scored,
        )

    def _failed(self, rung: int, error: EdgeError) -> None:
        """Book a fault; raise what is the caller's."""
        deadline_s = self.context.deadline_s
        late = deadline_s is not None and self.services.clock() >= deadline_s
        fault = fault_of(error, late=late)
        if fault is None:
            raise error
        self.case.failed(rung, fault, error)

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
