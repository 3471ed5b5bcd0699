"""POST /v1/chat/completions: one request from its plan to its answer.

Rules
- What to do next is the case's to say (`edge_runtime.router`); here it is done: ask the cache,
  a local model, a frontier, and write the answer, whole or as a stream.
- An answer that a certificate has to judge is collected first and then given, as a stream if one
  was asked for. Once a token went out nothing is asked anew.
- A request with one local model and nothing to decide takes none of these turns.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from edge_runtime.cache.answers import Answer
from edge_runtime.cache.contract import Hit, Ticket
from edge_runtime.cache.key import Question, answer_fields, cache_key
from edge_runtime.cache.policy import Use, is_whole, parse_cache_control, use_for
from edge_runtime.cache.semantic.contract import similar_question
from edge_runtime.core import Kind, ModelInfo
from edge_runtime.errors import CapacityError, EdgeError, EngineError, UsageError
from edge_runtime.router.contract import (
    FrontierCall,
    FrontierChunk,
    FrontierError,
    FrontierReply,
    FrontierWhy,
    Policy,
    Reason,
    SimilarQuestion,
)
from edge_runtime.router.decide import Escalate, Keep, Refuse, TryLocal, UseCache
from edge_runtime.router.escalate import chat_body
from edge_runtime.router.plan import Plan
from edge_runtime.router.router import Case, fault_of
from edge_runtime.router.watch.contract import TrialPlan
from edge_runtime.server import chat_judged, chat_trial
from edge_runtime.server.body import INERT, parse_object, read_bytes, read_fields
from edge_runtime.server.chat import ChatBody, chat_job, need_chat_template
from edge_runtime.server.chat_asked import Asked, read_asked
from edge_runtime.server.chat_stream import finish_reasons, kept_pieces, pieces_of
from edge_runtime.server.context import RequestContext, Services, context_of, new_id, services_of
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
from edge_runtime.server.replies import json_reply
from edge_runtime.server.sse import EventStream
from edge_runtime.server.trials import plan_of

NEVER_KEPT = frozenset({Reason.DEGRADED, Reason.NEVER_LEAVE})


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
            hit = self._look_up()
            if hit is not None:
                return await self._from_cache(hit)
            with self.own.away():
                similar = await self._look_similar()
            if similar is not None:
                return await self._from_cache(similar, Reason.SIMILAR)
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
                    response = await self._escalate(reason)
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
            self.context.keeps_answers = self._keeps(reason)
            response = await respond(self.request, job, Live(case, step, self._remember))
        except EdgeError as error:
            case.told.answered(tier="", reason="", by="")
            case.told.degraded = False
            self._failed(rung, error)
            return None
        chat_judged.tell_decided_by(self, sum(job.prompt_lens), None)
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
        self.context.keeps_answers = self._keeps(step.reason)
        ending = Given(self.case, step, self._remember)
        response = await respond_collected(self.request, found, ending)
        self._resolved()
        chat_judged.watch_kept(self, step, found)
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

    # the frontiers

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

    async def _escalate(self, reason: Reason) -> web.StreamResponse | None:
        """Ask the frontiers; None when none answered."""
        frontiers = self.services.router.frontiers
        assert frontiers is not None, "escalated without frontiers"
        self.case.escalating(reason)
        call = self.call(reason)
        if self.asked.stream and call.accept is None:
            async with contextlib.aclosing(frontiers.stream(call)) as chunks:
                return await self._pass_on(chunks, reason)
        try:
            reply = await frontiers.complete(call)
        except FrontierError as error:
            self.case.frontier_failed(error)
            return None
        self.case.escalated(reason, reply)
        await self.case.told.bill.settled()
        self._after_frontier(reason, reply, ())
        edge = self.context.edge(self._timings(reply))
        if self.asked.stream:
            usage = reply.body.get("usage")
            return await self._write_stream(pieces_of(reply.body), usage, edge, reply.body)
        return json_reply({**reply.body, "edge": edge})

    async def _pass_on(
        self, chunks: AsyncGenerator[FrontierChunk, None], reason: Reason
    ) -> web.StreamResponse | None:
        """Give a frontier's stream as it comes; the last event waits for the bill."""
        case, told = self.case, self.case.told
        try:
            first = await anext(chunks)
        except FrontierError as error:
            case.frontier_failed(error)
            return None
        told.answered(tier="frontier", reason=str(reason), by=first.frontier)
        stream = self._event_stream()
        await stream.start()
        sent_ms = self._since_ms()
        held: Mapping[str, Any] = first.data
        given: list[Mapping[str, Any]] = [held]
        usage: object = None
        reply = first.reply
        try:
            async for chunk in chunks:
                reply = chunk.reply or reply
                if not chunk.data.get("choices"):
                    usage = chunk.data.get("usage") or usage
                    continue
                await stream.send(held)
                held = chunk.data
                given.append(held)
            if reply is None:
                raise FrontierError(FrontierWhy.CUT, "the frontier's stream had no end")
        except FrontierError as error:
            case.frontier_failed(error)
            told.answered(tier="", reason=str(reason), by="")
            return await stream.fail(error, self.context.edge({"first_sent_ms": sent_ms}))
        case.escalated(reason, reply)
        await told.bill.settled()
        edge = self.context.edge({**self._timings(reply), "first_sent_ms": sent_ms})
        if self.asked.include_usage:
            await stream.send(held)
            head = {name: held.get(name) for name in ("id", "object", "created", "model")}
            bill = usage or reply.body.get("usage")
            held = {**head, "choices": [], "usage": bill}
        await stream.send({**held, "edge": edge})
        self._after_frontier(reason, reply, given)
        return await stream.finish()

    def _after_frontier(
        self, reason: Reason, reply: FrontierReply, chunks: Sequence[Mapping[str, Any]]
    ) -> None:
        self.context.keeps_answers = self._keeps(reason)
        if self.context.keeps_answers:
            self._remember(reply.body, chunks)
        self._resolved()
        self.reply = reply
        chat_judged.watch_escalated(self, reason, reply)
        if self.plan.rules.policy is Policy.SHADOW:
            chat_judged.shadow(self, reply)

    # the cache

    def _look_up(self) -> Hit | None:
        router, told = self.services.router, self.case.told
        directives = parse_cache_control(self.request.headers.get("Cache-Control"))
        info = next((one for one in self.case.infos if one is not None), None)
        default = None if info is None else info.default_params.get("temperature")
        data = self.asked.data
        temperature = data.get("temperature")
        if temperature is None:
            temperature = default
        parameters = {"temperature": temperature, "seed": data.get("seed")}
        self.use = use_for(parameters, directives, ttl_s=router.exact_ttl_s)
        if not router.caches or not (self.use.read or self.use.keep):
            return None
        told.cache = "miss"
        self.question = self._question(info)
        found = router.look_up(self.question, self.use)
        if found is None:
            return None
        told.cache_key = cache_key(self.question).hex()
        if isinstance(found, Hit):
            return found
        self.ticket = found
        return None

    async def _look_similar(self) -> Hit | None:
        """The semantic cache's answer; None also where a fresh one has to check it."""
        router = self.services.router
        if router.semantic is None or self.question is None:
            return None
        self.similar = similar_question(self.question)
        if self.similar is None or not self.use.read:
            return None
        hit = await router.semantic.lookup(self.similar)
        found = hit is not None and not hit.explore
        router.metrics.count("edge_cache_lookups_total", "semantic", "hit" if found else "miss")
        if hit is None or hit.explore:
            return None
        self.case.told.detail = f"similarity {hit.similarity:.3f}"
        return Hit(hit.answer, hit.age_s)

    def _question(self, info: ModelInfo | None) -> Question:
        """What is asked, for whom and of what: another certificate is another question."""
        digest = "frontier:" + ",".join(self.plan.order) if info is None else info.model_digest
        holding = self.case.holdings[0] if self.case.holdings else None
        known = None if holding is None else holding.known
        edge = {
            "endpoint": self.plan.endpoint,
            "policy": str(self.plan.rules.policy),
            "trust": str(self.case.ladder[0].trust) if self.case.ladder else "",
            "certificate": None if known is None else known.digest,
        }
        fields = {**answer_fields(self.asked.data, INERT), "edge": edge}
        return Question("chat", digest, self.case.told.bill.payer.tenant, fields)

    def _keeps(self, reason: Reason) -> bool:
        wanted = self.ticket is not None or self.similar is not None
        return wanted and self.use.keep and reason not in NEVER_KEPT

    def _remember(self, body: Mapping[str, Any], chunks: Sequence[Mapping[str, Any]]) -> None:
        """Keep a whole answer, in the background."""
        if not is_whole(finish_reasons(body)):
            return
        usage = body.get("usage") or {}
        told, tag = self.case.told, self.context.wishes.tag
        answer = Answer(
            body={name: value for name, value in body.items() if name != "edge"},
            pieces=kept_pieces(chunks),
            tokens_in=usage.get("prompt_tokens", 0),
            tokens_out=usage.get("completion_tokens", 0),
            saved_nano=told.bill.cost_nano,
            answered_by=told.answered_by,
            score=told.bill.score(),
            tags=frozenset({tag} if tag else ()),
        )
        router = self.services.router
        if self.ticket is not None:
            router.keep(self.ticket, answer, self.use)
        if self.similar is not None and router.semantic is not None:
            keep = router.semantic.keep(self.similar, answer, ttl_s=self.use.ttl_s)
            router.background("keep-similar", keep)

    async def _from_cache(self, hit: Hit, reason: Reason = Reason.CACHED) -> web.StreamResponse:
        self.own.stop()
        answer, told = hit.answer, self.case.told
        question = self.question
        row = told.bill.cache_row(
            answer,
            model_digest="" if question is None else question.model_digest[:64],
            duration_us=round(self._since_ms() * 1000),
            reason=str(reason),
        )
        self.case.from_cache(reason, row, by=answer.answered_by)
        await told.bill.settled()
        head = {"id": new_id("chatcmpl"), "created": self.services.now_s()}
        edge = self.context.edge(
            {"total_ms": self._since_ms(), "first_sent_ms": self._since_ms(), "age_s": hit.age_s}
        )
        if not self.asked.stream:
            return json_reply({**answer.body, **head, "edge": edge})
        pieces = [dict(piece) for piece in answer.pieces] or pieces_of(answer.body)
        return await self._write_stream(pieces, answer.body.get("usage"), edge, head)

    # writing

    async def _write_stream(
        self,
        pieces: Sequence[Mapping[str, Any]],
        usage: object,
        edge: Mapping[str, object],
        head: Mapping[str, Any],
    ) -> web.StreamResponse:
        """Give chunks that are all there."""
        stream = self._event_stream()
        await stream.start()
        named = {name: head.get(name) for name in ("id", "created")}
        chunks: list[dict[str, Any]] = [{**piece, **named} for piece in pieces]
        if self.asked.include_usage:
            chunks = [{**chunk, "usage": None} for chunk in chunks]
            chunks.append({**chunks[-1], "choices": [], "usage": usage})
        chunks[-1]["edge"] = edge
        for chunk in chunks:
            await stream.send(chunk)
        return await stream.finish()

    def _event_stream(self) -> EventStream:
        timeout_s = self.services.settings.server.write_timeout_s
        return EventStream(self.request, self.context.answer_headers(), timeout_s)

    def _since_ms(self) -> float:
        return round((self.services.clock() - self.context.arrival_s) * 1000, 2)

    def _timings(self, reply: FrontierReply) -> dict[str, object]:
        """Times of an escalated answer; `local_first_token_ms` where a local model tried first."""
        firsts = [one.figures.first_s for one in self.collected.values()]
        local = [first for first in firsts if first is not None]
        arrival_s = self.context.arrival_s
        return {
            "local_first_token_ms": round((min(local) - arrival_s) * 1000, 2) if local else None,
            "frontier_first_token_ms": round(reply.first_token_s * 1000, 2),
            "frontier_ms": round(reply.total_s * 1000, 2),
            "total_ms": self._since_ms(),
            "first_sent_ms": self._since_ms(),
        }

    def _resolved(self) -> None:
        """An answer of the form its caller asked for implies that the task is resolved."""
        if self.asked.form is not None:
            payer = self.case.told.bill.payer
            self.services.router.till.implied(payer, resolved=True, source="schema")
