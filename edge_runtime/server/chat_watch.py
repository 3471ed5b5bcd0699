"""What the watch is told of chats: kept, escalated, and tried beside a frontier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import structlog

from edge_runtime.core import ModelInfo, RequestClass
from edge_runtime.errors import EdgeError
from edge_runtime.ledger.rows import Purpose, Status
from edge_runtime.router.contract import FrontierReply, Reason
from edge_runtime.router.decide import Keep
from edge_runtime.router.escalate import content_of
from edge_runtime.router.trust import Holding
from edge_runtime.router.watch.contract import Compared, HowToCompare, Sample, Slice
from edge_runtime.server.chat import ChatBody, chat_job
from edge_runtime.server.chat_stream import texts
from edge_runtime.server.endings import Beside
from edge_runtime.server.generation import Collected, collect
from edge_runtime.server.watch_told import task_of, tell_decided

if TYPE_CHECKING:
    from edge_runtime.server.chat_course import ChatCourse

log: Final = structlog.get_logger("edge_runtime.server")


def how_to_compare(info: ModelInfo, course: ChatCourse) -> HowToCompare:
    """When two answers to this request count as the same."""
    escalation = info.escalation
    as_json = escalation is not None and escalation.parser == "json/1"
    return HowToCompare.JSON if as_json or course.asked.form is not None else HowToCompare.TEXT


def _where(course: ChatCourse, task: str, tokens: int) -> Slice:
    payer = course.case.told.bill.payer
    return Slice(task=task, tenant=payer.tenant, prompt_tokens=tokens, text=_asked_text(course))


def _asked_text(course: ChatCourse) -> str:
    content = course.asked.data["messages"][-1].get("content")
    return content if isinstance(content, str) else ""


def tell_decided_by(course: ChatCourse, prompt_tokens: int, kept: int | None) -> None:
    """Tell the watch of a decided question; `kept` is the rung whose answer was sure enough."""
    where = _where(course, task_of(course.plan), prompt_tokens)
    totals = {}
    for rung, found in course.collected.items():
        figures = found.figures
        totals[rung] = sum(figures.prompt_lens) + figures.completion_tokens
    tell_decided(course.case, where, totals, kept)


def tell_scored(course: ChatCourse) -> None:
    """Tell the watch of a question that escalates, where a local model tried it."""
    if course.collected:
        first = next(iter(course.collected.values()))
        tell_decided_by(course, sum(first.figures.prompt_lens), None)


def watch_kept(course: ChatCourse, step: Keep, found: Collected) -> None:
    """Tell the watch of an answer that was kept, and let it draw for an audit."""
    case, watch = course.case, course.services.router.watch
    tokens = sum(found.figures.prompt_lens)
    confident = step.reason is Reason.CONFIDENT
    tell_decided_by(course, tokens, step.rung if confident else None)
    holding, info = case.holdings[step.rung], case.info(step.rung)
    if watch is None or holding.known is None or not confident:
        return
    watch.maybe_audit(
        Sample(
            where=_where(course, holding.known.certificate.task, tokens),
            request_id=case.told.bill.payer.request_id,
            certificate=holding.known.digest,
            model_digest=info.model_digest,
            score=case.scores.get(step.rung),
            answer=texts(found.body())[0],
            how=how_to_compare(info, course),
            read=content_of,
            call=course.call(step.reason),
            may_leave=course.plan.may_leave,
        )
    )


def watch_escalated(course: ChatCourse, reason: Reason, reply: FrontierReply) -> None:
    """Tell the watch of an escalation, and how a local answer that lay there compares."""
    case = course.case
    if not course.collected:  # no local model counted the prompt: the frontier did
        tell_decided_by(course, reply.tokens.tokens_in, None)
    if reason is not Reason.LOW_CONFIDENCE:
        return
    for rung, found in course.collected.items():
        holding = case.holdings[rung]
        score = case.scores.get(rung)
        if holding.known is None or score is None:
            continue
        tokens = sum(found.figures.prompt_lens)
        where = _where(course, holding.known.certificate.task, tokens)
        info, local = case.info(rung), texts(found.body())[0]
        _compare(course, info, holding, where=where, score=score, local=local, reply=reply)


def _compare(
    course: ChatCourse,
    info: ModelInfo,
    holding: Holding | None,
    *,
    where: Slice,
    score: float | None,
    local: str,
    reply: FrontierReply,
) -> None:
    watch = course.services.router.watch
    try:
        frontier = content_of(reply.body)
    except ValueError:
        return
    if watch is None:
        return
    known = None if holding is None else holding.known
    watch.compared(
        Compared(
            where=where,
            request_id=course.case.told.bill.payer.request_id,
            certificate="" if known is None else known.digest,
            model_digest=info.model_digest,
            score=score,
            local=local,
            frontier=frontier,
            how=how_to_compare(info, course),
        )
    )


def shadow(course: ChatCourse, reply: FrontierReply) -> None:
    """Let the first local model try beside the frontier, in the background, and compare."""
    ladder: Sequence[ModelInfo | None] = course.case.infos
    body = course.asked.body
    if not ladder or ladder[0] is None or body is None:
        return
    info = ladder[0]

    async def run() -> None:
        try:
            found = await ask_beside(course, info, body)
        except EdgeError as error:
            log.warning("shadow failed", action="shadow_failed", reason=str(error))
            return
        tokens = sum(found.figures.prompt_lens)
        where = _where(course, course.plan.task_of(info.name), tokens)
        local = texts(found.body())[0]
        _compare(course, info, None, where=where, score=None, local=local, reply=reply)

    course.services.router.background("shadow", run())


async def ask_beside(course: ChatCourse, info: ModelInfo, body: ChatBody) -> Collected:
    """A model's answer for nobody, in the batch class, booked. Raises what went wrong."""
    services, bill = course.services, course.case.told.bill
    cap = course.plan.max_output_tokens
    job = await chat_job(services, course.context, info, body, cap=cap)
    requests = [
        replace(
            one,
            request_id=f"{one.request_id}~beside",
            request_class=RequestClass.BATCH,
            deadline_s=None,
        )
        for one in job.requests
    ]
    found = await collect(services, course.context, replace(job, requests=requests), Beside())
    row = services.router.till.local_row(
        bill.payer,
        info,
        found.figures.work(services.clock()),
        attempt=bill.attempts,
        status=Status.OK,
        reason=str(Reason.SHADOW),
        purpose=Purpose.SHADOW,
    )
    services.router.till.append(row)
    return found
