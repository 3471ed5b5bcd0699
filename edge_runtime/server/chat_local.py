"""A chat that local models answer: streamed as it comes, or collected to be judged first."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from aiohttp import web

from edge_runtime.core import ModelInfo
from edge_runtime.errors import EdgeError, EngineError
from edge_runtime.router.case import fault_of
from edge_runtime.router.contract import Reason
from edge_runtime.router.decide import Keep
from edge_runtime.server import chat_cache, chat_judged, chat_watch
from edge_runtime.server.chat import chat_job
from edge_runtime.server.endings import Given, Live, Seeking
from edge_runtime.server.generation import Job, collect, respond, respond_collected

if TYPE_CHECKING:
    from edge_runtime.server.chat_course import ChatCourse


async def live(course: ChatCourse, rung: int, reason: Reason) -> web.StreamResponse | None:
    """Stream from a model whose answer is kept whatever it is; None when it failed."""
    case = course.case
    step = Keep(rung, reason)
    info = case.info(rung)
    try:
        job = await _job(course, info, scored=False)
        case.announce(step)
        course.context.keeps_answers = chat_cache.keeps(course, reason)
        ending = Live(case, step, partial(chat_cache.remember, course))
        response = await respond(course.request, job, ending)
    except EdgeError as error:
        case.told.answered(tier="", reason="", by="")
        case.told.degraded = False
        _failed(course, rung, error)
        return None
    chat_watch.tell_decided_by(course, sum(job.prompt_lens), None)
    return response


async def collect_and_judge(course: ChatCourse, rung: int) -> None:
    """Let a model answer without giving the answer; judge it."""
    case, asked = course.case, course.asked
    info = case.info(rung)
    holding = case.certificate_at(rung)
    retries = course.plan.schema_retries if asked.form is not None and holding is None else 0
    problem: EngineError | None = None
    for retry in range(retries + 1):
        try:
            job = await _job(course, info, scored=holding is not None)
            job = chat_judged.redrawn(job, retry)
            found = await collect(course.services, course.context, job, Seeking(case, rung))
        except EdgeError as error:
            _failed(course, rung, error)
            return
        work = found.figures.work(course.services.clock())
        problem = chat_judged.problem_of(found, asked.form)
        if problem is None:
            score = chat_judged.score_of(found, holding)
            task = course.plan.task_of(info.name)
            case.told.bill.local(info, work, rung=rung, score=score, task=task)
            case.answered(rung, score)
            course.collected[rung] = found
            return
        case.told.bill.local(info, work, rung=rung, reason=str(Reason.SCHEMA_INVALID))
    assert problem is not None, "no try was made"
    case.failed(rung, Reason.SCHEMA_INVALID, problem)


async def give(course: ChatCourse, step: Keep) -> web.StreamResponse:
    """Give an answer that was collected."""
    found = course.collected[step.rung]
    course.case.announce(step)
    course.context.keeps_answers = chat_cache.keeps(course, step.reason)
    ending = Given(course.case, step, partial(chat_cache.remember, course))
    response = await respond_collected(course.request, found, ending)
    chat_judged.resolved(course)
    chat_watch.watch_kept(course, step, found)
    return response


async def _job(course: ChatCourse, info: ModelInfo, *, scored: bool) -> Job:
    assert course.asked.body is not None
    return await chat_job(
        course.services,
        course.context,
        info,
        course.asked.body,
        cap=course.plan.max_output_tokens,
        scored=scored,
    )


def _failed(course: ChatCourse, rung: int, error: EdgeError) -> None:
    """Book a fault; raise what is the caller's."""
    fault = fault_of(error, late=course.context.late(course.services.clock()))
    if fault is None:
        raise error
    course.case.failed(rung, fault, error)
